"""The final choice of a search: its finalists, measured block by block, and the pick among them."""

from collections.abc import Sequence
from dataclasses import replace

from optishear.errors import ConfigError
from optishear.objectives import make_objective
from optishear.objectives.size import Bytes, Sparsity, SparsityGap
from optishear.records.journal import Journal, memo_of
from optishear.records.run_directory import RunDirectory
from optishear.runs.results import Entry, Front
from optishear.runs.setup import Setup
from optishear.runs.watcher import Watcher
from optishear.search.evaluator import Evaluation, Evaluator
from optishear.search.finalists import Finalist, Finalists
from optishear.search.loop import Found


SAME = (Sparsity, Bytes, SparsityGap)  # in both modes, since counts are exact


def final_choice(
    setup: Setup, front: Front, found: Found, directory: RunDirectory, watcher: Watcher
) -> tuple[Front, Evaluator]:
    """The front with its finalists, of which its own pick is made from now on; and what has
    measured them.

    The model's working weights must be free. What a killed run has measured is in a journal of its
    own, since block by block is another measure; other runs' journals of that are asked, too.
    """
    quantities, most = setup.experiment.quantities, setup.experiment.finalists
    everything = [Entry(e.recipe, {n: (e.values or {})[n] for n in quantities}) for e in found.good]
    chosen = finalists_of(front, everything, most)
    setup = setup.by_block
    identity, layers = setup.identity, setup.layer_names
    samples = setup.samples["search"].units
    watcher.stage(f"measuring {len(chosen)} finalists block by block")
    memo = memo_of(
        [*directory.siblings(directory.finalists.name), *directory.siblings()], identity, layers
    )
    with Journal(directory.finalists, identity, layers) as journal:
        with setup.measuring(None, watcher.stage) as measure:
            evaluator = Evaluator(measure, journal, memo)
            known: dict[str, Evaluation] = {}
            for evaluation in evaluator([entry.recipe for entry in chosen], samples):
                known[evaluation.recipe.key] = evaluation
                watcher.stage(f"finalist {len(known)} of {len(chosen)} is measured block by block")
    measured = [_finalist(entry, known[entry.recipe.key], quantities) for entry in chosen]
    quantity = compared_in(front, quantities)
    return replace(front, finalists=picked_of(front, measured, quantity)), evaluator


def finalists_of(front: Front, everything: Sequence[Entry], most: int) -> list[Entry]:
    """The entries that the front's own pick takes one after the other: of the front first, and
    when that is used up of all others that were measured, as it is after one where there is a
    single objective. Fewer than `most` where the pick allows no more."""
    on_front = {entry.recipe.key for entry in front.entries}
    others = [entry for entry in everything if entry.recipe.key not in on_front]
    chosen = front.in_turn(front.entries, most)
    chosen += front.in_turn(others, most - len(chosen))
    if not chosen:
        front.choose([front.row(entry) for entry in everything])  # which says why there is none
    return chosen


def picked_of(front: Front, measured: Sequence[Finalist], quantity: str) -> Finalists:
    """The one of these that the front's own pick takes by their values block by block."""
    good = [one for one in measured if one.by_block is not None]
    if not good:
        raise ConfigError(
            f"None of the {len(measured)} finalists could be applied block by block, so there is "
            f"no pick. The first failure: {measured[0].reason}"
        )
    rows = [front.row(Entry(one.recipe, one.by_block or {})) for one in good]
    try:
        index = front.choose(rows)
    except ConfigError as error:
        raise ConfigError(f"Of {len(good)} finalists, measured block by block: {error}") from None
    return Finalists(quantity, tuple(measured), good[index].recipe.key)


def compared_in(front: Front, quantities: Sequence[str]) -> str:
    """The quantity in which the two modes are compared: the first that the pick goes by, or else
    the first objective, of those that are not the same in both."""
    names = [name for name in (*front.goes_by(), *quantities) if name in quantities]
    return next((name for name in names if not isinstance(make_objective(name), SAME)), names[0])


def _finalist(entry: Entry, evaluation: Evaluation, quantities: Sequence[str]) -> Finalist:
    values = evaluation.values
    own = None if values is None else {name: values[name] for name in quantities}
    return Finalist(entry.recipe, entry.values, own, evaluation.reason)
