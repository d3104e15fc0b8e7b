"""What every candidate of a search shares: model, texts, statistics, the rules' profiles."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from optishear.allocation import RULES, LayerView
from optishear.assets.fetch import cache_dir
from optishear.calibration.statistics import LayerStats, Need, stats_of
from optishear.calibration.store import load_or_collect
from optishear.models.discover import layout_of
from optishear.models.load import LoadedModel, load
from optishear.models.weights import read
from optishear.recipe.layout import ModelLayout
from optishear.recipe.profile import Rule
from optishear.records.run_directory import read_json, write_json
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


NEEDS = frozenset({Need.INPUT_SQ})


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A dense model with what its layers saw on the calibration text; statistics by input site."""

    loaded: LoadedModel
    layout: ModelLayout
    calibration: TokenBatches
    stats: Mapping[str, LayerStats]


def calibrate(
    model: str, dtype: str, device: str, text: TextSpec, batch_tokens: int = 2048
) -> Calibrated:
    """Loads the model and collects its statistics, or reads them from the cache."""
    loaded = load(model, dtype=dtype, device=device)
    layout = layout_of(loaded.model)
    calibration = token_batches(text, loaded.tokenizer)
    key = f"{loaded.hash} {dtype} {device} {calibration.hash} {torch.__version__} {batch_tokens}"
    stats = load_or_collect(
        cache_dir() / "statistics",
        key,
        loaded.model,
        layout,
        calibration.batches(max(1, batch_tokens // text.seq_len)),
        NEEDS,
    )
    return Calibrated(loaded, layout, calibration, stats)


def rules_of(calibrated: Calibrated, names: Iterable[str]) -> dict[str, Rule]:
    """The published rules' profiles on this model, kept in the cache: spectra take a while."""
    c = calibrated
    found: dict[str, Rule] = {}
    for name in names:
        identity = f"1 {name} {c.loaded.hash} {c.layout.hash} {c.calibration.hash}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
        path = cache_dir() / "rules" / f"{digest}.json"
        if not path.exists():
            views = [
                LayerView(layer, read(c.loaded.model, layer), stats_of(c.stats, layer))
                for layer in c.layout.layers
            ]
            rule = RULES[name](views)
            write_json(path, {"factor": dict(rule.factor), "offset": dict(rule.offset)})
        # Read back even when just computed, so that a later run has the very same numbers.
        data = read_json(path)
        found[name] = Rule(data["factor"], data["offset"])
    return found
