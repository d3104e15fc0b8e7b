"""What `optishear evaluate` found as JSON: every number with its error, and what it depends on."""

from collections.abc import Sequence
from typing import Any

from optishear.evaluation.paired import paired_difference
from optishear.evaluation.zero_shot import Tasks, harness_version
from optishear.records.manifest import provenance
from optishear.tools.evaluate import Conditions, Measured


def to_json(rows: Sequence[Measured], on: Conditions) -> dict[str, Any]:
    """All that was measured, each row also against the first, with what it depends on."""
    origin = provenance()
    if on.tasks is not None:
        origin["versions"]["lm_eval"] = harness_version()
    return {
        "first": rows[0].name,
        "dtype": on.dtype,
        "device": on.device,
        "tasks": None if on.tasks is None else _protocol(on.tasks),
        "models": [
            {
                "name": row.name,
                "model_hash": row.model_hash,
                "recipe": row.recipe,
                "mode": row.mode,
                "sparsity": row.sparsity,
                "texts": _texts(row, rows[0]),
                "tasks": _tasks(row, rows[0]),
            }
            for row in rows
        ],
        **origin,
    }


def _protocol(tasks: Tasks) -> dict[str, Any]:
    return {
        "registered": list(tasks.names),
        "local": {task.name: task.hash for task in tasks.local},
        "limit": tasks.limit,
        "batch_size": tasks.batch_size,
        "special_tokens": "as the tokenizer adds them",
    }


def _texts(row: Measured, first: Measured) -> list[dict[str, Any]]:
    """Differences only where both read the same tokens: another tokenizer has other windows."""
    found = []
    for index, own in enumerate(row.texts):
        same = row is not first and row.text_hashes[index] == first.text_hashes[index]
        several = len(own.nats) > 1
        difference = paired_difference(own.nats, first.texts[index].nats) if same else None
        found.append(
            {
                "text": own.text,
                "bos": row.bos[index],
                "hash": row.text_hashes[index],
                "seq_len": own.seq_len,
                "windows": len(own.nats),
                "perplexity": own.perplexity,
                "standard_error": own.perplexity_error if several else None,
                "nats_per_token": own.mean,
                "nats_standard_error": own.error if several else None,
                "minus_first": _difference(difference),
            }
        )
    return found


def _tasks(row: Measured, first: Measured) -> list[dict[str, Any]]:
    firsts = {(score.task, score.metric): score for score in first.tasks}
    return [
        {
            "task": own.task,
            "metric": own.metric,
            "value": own.value,
            "standard_error": own.error,
            "n": own.n,
            "of": own.of,
            "minus_first": _difference(
                None if row is first else own.minus(firsts[own.task, own.metric])
            ),
        }
        for own in row.tasks
    ]


def _difference(found: tuple[float, float] | None) -> dict[str, float | None] | None:
    """Own less the first's; the error of a single pair is not known."""
    if found is None:
        return None
    mean, error = found
    return {"mean": mean, "standard_error": error if error == error else None}
