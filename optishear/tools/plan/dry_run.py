"""The dry run: a few candidates measured for real, with a journal that is thrown away after."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optishear.recipe.canonical import MASK, chooser_of
from optishear.recipe.metric_forms import OWN
from optishear.recipe.parts import Parts, simplest
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.runs.setup import Setup
from optishear.search.evaluator import Evaluation, Evaluator, MeasureOne, one_by_one
from optishear.search.genes import Gene, Real
from optishear.tools.plan.costs import Measured


DRAWN = 64  # random genomes, which say how often a kind of recipe comes up, and what decoding takes
SEEDS = 4  # of the seeded recipes
EACH, ALONE = 2, 3  # random recipes of each kind that are measured; of the only one
HIGHER = 2  # random recipes on the second rung


@dataclass(frozen=True)
class Sample:
    """What is tried: `recipes` by kind, the seeded ones first; `higher` on the second rung.

    - `shares`: of each kind among random genomes.
    - `real`: a recipe as the space means it of each of its kinds, and the share of these.
    - `decoding`: seconds that one genome takes to become a recipe.
    """

    recipes: tuple[tuple[str, Recipe], ...]
    higher: tuple[tuple[str, Recipe], ...]
    shares: Mapping[str, float]
    real: tuple[tuple[float, Recipe], ...]
    decoding: float


def sample_of(
    setup: Setup, clock: Callable[[], float] = time.monotonic, copied: bool = False
) -> Sample:
    """The first seeds, then random genomes: each recipe once, until its kind was tried enough.

    `copied`: recipes come from a level database, which costs what a mask does; so masks are tried
    in their place, and what is solved is told apart from what is run.
    """
    rng = np.random.default_rng(setup.experiment.search.seed)
    shown = as_mask if copied else lambda recipe: recipe
    genomes = [np.array([_code(gene, rng) for gene in setup.space.genes]) for _ in range(DRAWN)]
    start = clock()
    meant = [setup.space.decode(genome) for genome in genomes]
    decoding = (clock() - start) / DRAWN
    real = {kind_of(recipe): recipe for recipe in meant}
    real_shares = shares_of([kind_of(recipe) for recipe in meant])
    drawn = [shown(recipe) for recipe in meant]
    kinds = [kind_of(recipe) for recipe in drawn]
    shares = shares_of(kinds)
    seeds = [shown(setup.space.decode(genome)) for genome in setup.seeds[:SEEDS]]
    # A kind that no random genome is of says nothing about a search of random ones.
    chosen = {recipe.key: recipe for recipe in seeds if kind_of(recipe) in shares}
    most = EACH if len(shares) > 1 else ALONE
    left = dict.fromkeys(shares, most)
    higher: dict[str, Recipe] = {}
    usual = min(shares, key=lambda kind: (kind != kind_of_solver(MASK), -shares[kind], kind))
    for kind, recipe in zip(kinds, drawn, strict=True):
        if recipe.key in chosen or recipe.key in higher:
            continue
        if left[kind]:
            chosen[recipe.key] = recipe
            left[kind] -= 1
        elif kind == usual and len(higher) < HIGHER:
            higher[recipe.key] = recipe
    whole = tuple((share, real[kind]) for kind, share in real_shares.items())
    return Sample(_with_kinds(chosen), _with_kinds(higher), shares, whole, decoding)


def shares_of(kinds: Sequence[str]) -> dict[str, float]:
    return {kind: kinds.count(kind) / len(kinds) for kind in sorted(set(kinds))}


def _code(gene: Gene, rng: np.random.Generator) -> float:
    """Any of its values, all as likely."""
    if isinstance(gene, Real):
        return rng.uniform(gene.low, gene.high)
    return float(rng.integers(int(gene.low), int(gene.high) + 1))


def _with_kinds(recipes: Mapping[str, Recipe]) -> tuple[tuple[str, Recipe], ...]:
    return tuple((kind_of(recipe), recipe) for recipe in recipes.values())


def kind_of(recipe: Recipe) -> str:
    return ", ".join(dict.fromkeys(kind_of_solver(parts.solver) for parts in recipe.every))


def kind_of_solver(solver: Mapping[str, str]) -> str:
    """`mask`, `refit of mask`, `alps`: what a candidate's cost hangs on most."""
    return solver["name"] + (f" of {chooser_of(solver)}" if solver["name"] == "refit" else "")


def as_mask(recipe: Recipe) -> Recipe:
    """The same counts with weights that only go or stay."""
    roles = [(match, _as_mask(parts)) for match, parts in recipe.roles]
    default = _as_mask(recipe.default)
    return Recipe(default, recipe.drop, {}, simplest(default, roles))  # in the usual order


def _as_mask(parts: Parts) -> Parts:
    metric = {"name": "wanda"} if parts.metric.name == OWN else parts.metric
    return Parts.of(metric, parts.pattern, MASK)


@dataclass(frozen=True)
class DryRun:
    """What was measured: on the lowest rung, in order, and on the one above it.

    - `failures`: why candidates failed; they took their time all the same.
    - `line_bytes`: of one journal line.
    """

    lowest: tuple[Measured, ...]
    higher: tuple[Measured, ...]
    failures: tuple[str, ...]
    line_bytes: float


def dry_run(
    setup: Setup,
    measure: MeasureOne,
    sample: Sample,
    clock: Callable[[], float] = time.monotonic,
) -> DryRun:
    """Measures and records as a search does, in a folder for a moment: no run knows of it."""
    rungs = setup.ladder.rungs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        with Journal(path, setup.identity, setup.layer_names) as journal:
            evaluator = Evaluator(one_by_one(measure), journal)
            lowest, first = timed(evaluator, sample.recipes, rungs[0], clock)
            higher, second = (), ()
            if len(rungs) > 1 and sample.higher:
                # The dense side of the further tokens is paid for by one that climbs.
                list(evaluator([sample.recipes[0][1]], rungs[1]))
                higher, second = timed(evaluator, sample.higher, rungs[1], clock)
        lines = path.read_bytes().splitlines()[1:]
    failed = [e.reason for e in (*first, *second) if e.failed]
    size = sum(len(line) + 1 for line in lines) / len(lines)
    return DryRun(tuple(lowest), tuple(higher), tuple(dict.fromkeys(failed)), size)


def timed(
    evaluate: Callable[[Sequence[Recipe], int], Iterable[Evaluation]],
    recipes: Sequence[tuple[str, Recipe]],
    rung: int,
    clock: Callable[[], float],
) -> tuple[list[Measured], list[Evaluation]]:
    measured, evaluations = [], []
    for kind, recipe in recipes:
        start = clock()
        evaluations += evaluate([recipe], rung)
        measured.append(Measured(kind, rung, clock() - start))
    return measured, evaluations
