"""What a search cost: tokens, which no machine and nothing that was known changes; and seconds."""

from collections.abc import Iterator, Sequence
from typing import Any

from optishear.records.journal import read_journal
from optishear.records.run_directory import RunDirectory
from optishear.search.evaluator import Evaluator
from optishear.search.loop import Found
from optishear.search.slopes import PASSES


def search_tokens(found: Found, directory: RunDirectory) -> int:
    """All search tokens that went through the model until the front was known, by forward passes;
    or would have, had no journal known any of it.

    Each candidate counts with the highest rung that it reached, for it goes on where it stopped;
    each point of a curve with its tokens; slopes, on the way of the search and before it, with
    `PASSES` times their tokens. Kept prefixes run fewer blocks of many of these, of curves above
    all, and are counted as if they had run all. Not counted is what is no search token (statistics,
    objectives' own data), nor what comes after the front: finalists, baselines, held-out text.
    """
    tokens = sum(evaluation.rung for evaluation in found.evaluations.values())
    return tokens + sum(passes * entry["rung"] for passes, entry in _beside(directory))


def seconds(evaluators: Sequence[Evaluator], directory: RunDirectory) -> float:
    """Seconds of measuring: of candidates, baselines and finalists, of curves and slopes."""
    entries = [entry for one in evaluators for entry in one.journal.entries.values()]
    entries += [entry for _, entry in _beside(directory)]
    return round(sum(entry["seconds"] for entry in entries), 1)


def _beside(directory: RunDirectory) -> Iterator[tuple[int, dict[str, Any]]]:
    """What was measured beside candidates, each with the forward passes that it is worth."""
    beside = {directory.curves: 1, directory.descent: PASSES, directory.slopes: PASSES}
    for path, passes in beside.items():
        if path.exists():
            for entry in read_journal(path)[1]:
                yield passes, entry
