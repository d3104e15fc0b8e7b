"""A cache of held-out measurements: the same weights are measured on the same text only once.

Runs of one question share the dense model and most of the baselines, and measuring these takes
longer than many searches.
"""

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from optishear.calibration.statistics import Need
from optishear.evaluation.perplexity import HeldOut
from optishear.experiment.prepare import Calibrated
from optishear.models.placement import kind_of_device
from optishear.recipe.recipe import Recipe
from optishear.records.cache import cache_dir
from optishear.records.run_directory import read_json, write_json
from optishear.solvers.methods import needs_of
from optishear.text.tokens import TokenBatches


def known(path: Path) -> HeldOut | None:
    """What was measured before; the very same numbers, since JSON keeps every digit."""
    if not path.exists():
        return None
    data = read_json(path)
    return HeldOut(data["text"], data["seq_len"], tuple(data["nats"]))


def keep(path: Path, found: HeldOut) -> None:
    write_json(path, asdict(found))


def place_of(
    calibrated: Calibrated, recipe: Recipe | None, mode: str, text: TokenBatches, batch_tokens: int
) -> Path:
    """Where the cache has a recipe (None: the dense model) in a mode of applying it on a text.

    In the name is all that the number depends on, up to rounding: threads and batches, too.
    """
    model = calibrated.loaded.model
    parameter = next(model.parameters())
    parts = [
        version("optishear"),
        torch.__version__,
        version("transformers"),
        f"{calibrated.loaded.hash} {parameter.dtype} {kind_of_device(model)}",
        f"{torch.get_num_threads()} threads, batches of {batch_tokens}",
        text.hash,
    ]
    if recipe is not None:
        parts += [calibrated.calibration.hash, str(calibrated.batch_tokens), mode, recipe.key]
        if Need.GRADIENTS in needs_of(recipe):
            samples = {gradients.samples for gradients in calibrated.evidence.gradients.values()}
            parts.append(f"{samples} gradient sequences")
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return cache_dir() / "held_out" / f"{digest}.json"
