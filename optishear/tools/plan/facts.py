"""Facts of a plan: model, space and run before anything is measured."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import fsum, log10
from typing import Any

from optishear.config import Experiment
from optishear.config.sections import GRADIENT, KNAPSACK
from optishear.models.coverage import Coverage
from optishear.models.placement import devices_of
from optishear.objectives import make_objective
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Key, memo_of, read_journal, refuse_other_measure
from optishear.records.packed import is_there
from optishear.records.run_directory import RunDirectory
from optishear.runs.inputs import refuse_changed_inputs
from optishear.runs.prepare import Prepared
from optishear.runs.results import finished
from optishear.runs.setup import Setup
from optishear.search.evaluator import Evaluation
from optishear.search.genes import Choice, Gene, Integer
from optishear.search.loop import run
from optishear.search.options import options_of


@dataclass(frozen=True)
class Role:
    """The layers of one role; `shapes` as `out x in`, each once."""

    role: str
    layers: int
    shapes: tuple[str, ...]
    weights: int


@dataclass(frozen=True)
class ModelFacts:
    """`parameters` are all of the model's, `weights` those that may be pruned."""

    name: str
    hash: str
    dtype: str
    device: str
    blocks: int
    layers: int
    weights: int
    parameters: int
    roles: tuple[Role, ...]
    coverage: Coverage


@dataclass(frozen=True)
class Genes:
    """Genes of one kind that decide one thing; `range` is what each may be."""

    decide: str
    kind: str
    count: int
    range: str


@dataclass(frozen=True)
class SpaceFacts:
    """`log10_genomes` of the discrete genes together, `continuous` genes besides. `seeds` are known
    methods, before which come those that are `solved` for first."""

    genes: tuple[Genes, ...]
    log10_genomes: float
    continuous: int
    pattern: str
    budget: float | None
    objectives: tuple[str, ...]
    driver: str
    population: int
    evaluations: int
    rungs: tuple[int, ...]
    seed: int
    seeds: tuple[Recipe, ...]
    solved: tuple[str, ...]


@dataclass(frozen=True)
class RunFacts:
    """The run that is there already.

    - `status`: none, unfinished or finished.
    - `evaluations`: in its journal, by rung.
    - `answered`: by rung how many questions of the search its own and other runs' journals answer
      before the first that none does.
    """

    path: str
    status: str
    finished: str = ""
    evaluations: Mapping[int, int] = field(default_factory=dict)
    answered: Mapping[int, int] = field(default_factory=dict)

    @property
    def known(self) -> dict[int, int]:
        """By rung how many evaluations will not be measured again."""
        own, others = self.evaluations, self.answered
        return {rung: max(own.get(rung, 0), others.get(rung, 0)) for rung in {**own, **others}}


def model_facts(prepared: Prepared) -> ModelFacts:
    layout, model = prepared.layout, prepared.loaded.model
    parameter = next(model.parameters())
    roles = []
    for role in layout.roles:
        layers = [layer for layer in layout.layers if layer.role == role]
        shapes = dict.fromkeys(f"{x.out_features} x {x.in_features}" for x in layers)
        roles.append(Role(role, len(layers), tuple(shapes), sum(x.size for x in layers)))
    return ModelFacts(
        prepared.loaded.name,
        prepared.loaded.hash,
        str(parameter.dtype).removeprefix("torch."),
        ", ".join(map(str, devices_of(model))),
        layout.blocks,
        len(layout.layers),
        layout.total,
        prepared.loaded.parameters,
        tuple(roles),
        prepared.coverage,
    )


def space_facts(setup: Setup, seeded: bool = True) -> SpaceFacts:
    """`seeded`: the setup has its statistics, without which there are no seeds of rules."""
    space, settings = setup.space, setup.experiment.search
    by = space.layers.by
    parts = (
        ("which metric, and its settings", space.metric.genes),
        (f"layer sparsities by {by}", space.layers.genes),
        ("which solver, and its settings", space.solver.genes),
        ("MOONSHOT's λ", space.quadratic.genes),
        *((f"metric and solver of {role.match}", role.genes) for role in space.roles),
    )
    counts = [options_of(gene) for gene in space.genes]
    seeds = setup.seeds[: settings.population] if seeded else ()
    return SpaceFacts(
        tuple(group for decide, genes in parts for group in _grouped(decide, genes)),
        fsum(log10(count) for count in counts if count is not None),
        counts.count(None),
        space.layers.patterns.text,
        space.sparsity,
        setup.experiment.objectives,
        settings.driver,
        settings.population,
        settings.evaluations,
        setup.ladder.rungs,
        settings.seed,
        tuple(space.decode(genome) for genome in seeds),
        tuple(name for name in (KNAPSACK, GRADIENT) if name in settings.seeds),
    )


def _grouped(decide: str, genes: Sequence[Gene]) -> list[Genes]:
    """One row for all genes of one kind and range."""
    rows: dict[tuple[str, str], int] = {}
    for gene in genes:
        rows[_gene_row(gene)] = rows.get(_gene_row(gene), 0) + 1
    return [Genes(decide, kind, count, among) for (kind, among), count in rows.items()]


def _gene_row(gene: Gene) -> tuple[str, str]:
    match gene:
        case Choice(_, options):
            return "choice", f"one of {len(options)}"
        case Integer(_, low, high):
            return "integer", f"{low} to {high}"
        case _:
            return "real", f"{gene.low:g} to {gene.high:g}"


def run_facts(directory: RunDirectory, experiment: Experiment) -> RunFacts:
    """What can be told without a model. Raises the `ConfigError` of a finished run that is one of
    other files than are there now."""
    manifest, _ = finished(directory)  # one that is damaged is gone on with
    path = str(directory.path)
    if manifest is not None:
        refuse_changed_inputs(directory, manifest, experiment)
        return RunFacts(path, "finished", manifest["finished"])
    return RunFacts(path, "unfinished" if is_there(directory.journal) else "none")


def counted(facts: RunFacts, directory: RunDirectory, setup: Setup) -> RunFacts:
    """The same with the evaluations of its journal. Raises the `ConfigError` of one that a search
    could not go on with."""
    counts: dict[int, int] = {}
    for _, rung in _own(directory, setup):
        counts[rung] = counts.get(rung, 0) + 1
    return replace(facts, evaluations=counts)


def _own(directory: RunDirectory, setup: Setup) -> dict[Key, Mapping[str, Any]]:
    if not is_there(directory.journal):
        return {}
    header, entries, _ = read_journal(directory.journal)
    if header is not None:
        wanted = {"measure": setup.identity, "layers": setup.layer_names}
        refuse_other_measure(directory.journal, header, wanted)
    return {(entry["key"], entry["rung"]): entry for entry in entries}


class _Unknown(Exception):
    """No journal knows the answer. Private, so nobody else's error is swallowed."""


def answered(directory: RunDirectory, setup: Setup) -> dict[int, int]:
    """By rung how many questions of the search its own and other runs' journals answer before the
    first that none does: the search itself, run on what is known."""
    known = memo_of(directory.siblings(), setup.identity, setup.layer_names)
    known |= _own(directory, setup)
    counts: dict[int, int] = {}

    def evaluate(recipes: Sequence[Recipe], rung: int) -> Iterator[Evaluation]:
        for recipe in recipes:
            if (entry := known.get((recipe.key, rung))) is None:
                raise _Unknown
            counts[rung] = counts.get(rung, 0) + 1
            yield Evaluation(recipe, rung, entry["values"], entry["reason"])

    objectives = setup.experiment.objectives
    maximise = [make_objective(name).maximise for name in objectives]
    most = setup.experiment.search.evaluations
    # Where seeds are solved for, or slopes read, a run of it needs more than candidates' journals.
    with suppress(_Unknown):
        if known and not setup.experiment.solves:
            driver = setup.driver(setup.unsolved)
            run(setup.space, driver, evaluate, most, objectives, maximise, setup.ladder)
    return counts
