"""Preparation that all candidates share: model, texts, statistics, the rules' profiles."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optishear.allocation import READS_INPUTS, RULES, LayerView
from optishear.calibration.gradient_samples import CollectGradients
from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.held_back import cut
from optishear.calibration.origin import SEQUENTIAL, Around, Origin
from optishear.calibration.parts import CollectParts, parts_of
from optishear.calibration.statistics import (
    NONE,
    InputSq,
    Kinds,
    LayerStats,
    Need,
    stats_of,
    summed,
    unread,
)
from optishear.calibration.store import load_or_collect, load_or_make, too_large
from optishear.calibration.token_weight_samples import CollectSquares
from optishear.calibration.token_weight_store import load_or_collect_weights
from optishear.calibration.token_weights import UNGUIDED, Guide, guide_of
from optishear.errors import ConfigError
from optishear.models.coverage import Coverage, coverage_of
from optishear.models.device_map import DeviceMap
from optishear.models.discover import layout_of
from optishear.models.load import AS_STORED, LoadedModel, load
from optishear.models.placement import kind_of_device, refuse_offloaded
from optishear.models.weights import biased_layers, read
from optishear.pruning.around import statistics_around
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import PruneLayers, prune
from optishear.recipe.layout import ModelLayout
from optishear.recipe.profile import Rule
from optishear.recipe.recipe import Recipe
from optishear.recipe.rule_settings import parse_rule
from optishear.records.atomic import replace_file
from optishear.records.cache import OTHER_CACHE, code_of, kept
from optishear.runs.keys import gradients_key, rule_key, statistics_key, token_weights_key
from optishear.runs.preconditions import text_for
from optishear.tasks import Samples
from optishear.text.bos import place_of
from optishear.text.sources import TextSpec


log = logging.getLogger(__name__)

BATCH_TOKENS = 2048  # of calibration text in one forward call, at least one sequence
GRADIENT_SEQUENCES = 16  # of the calibration text, each one sample of the empirical Fisher


@dataclass(frozen=True, eq=False)
class Prepared:
    """A dense model and its calibration samples, about which nothing was collected yet.

    - `parts`: of the calibration sequences, each summed up on its own, and then added.
    - `place`: where the weights are while they are at work; empty where the model has them itself.
    - `around`: a recipe whose model is what statistics are of; None is the dense one.
    """

    loaded: LoadedModel
    layout: ModelLayout
    calibration: Samples
    batch_tokens: int
    parts: int = 1
    place: str = ""
    around: Around | None = None

    @property
    def batches(self) -> list[Any]:
        """The calibration samples as one forward call takes them: whole ones, at least one."""
        return self.calibration.batches_of_units(self.batch_tokens)

    @property
    def coverage(self) -> Coverage:
        """How much of the model's blocks can be pruned."""
        return coverage_of(self.loaded.model, self.layout)

    def probe(self, units: int) -> Any:
        """The beginning of its calibration data, on which two models are held to each other."""
        return self.calibration.task.beginning(self.calibration.batch, units)

    def origin(self, text: TextSpec, mode: str | None, samples: int | None) -> Origin:
        """What files say of whatever is found or made with this; `text` is the calibration's.

        `samples`: so many sequences were asked to give a gradient; None where nothing reads them.
        """
        sequences = len(self.calibration)
        around = None if mode == SEQUENTIAL else self.around
        return Origin(
            model=self.loaded.name,
            model_hash=self.loaded.hash,
            dtype=self.loaded.dtypes,
            device=self.place or kind_of_device(self.loaded.model),
            calibration=replace(text, bos=place_of(text.bos, self.loaded.tokenizer)),
            calibration_hash=self.calibration.hash,
            batch_tokens=self.batch_tokens,
            calibration_parts=1 if mode == SEQUENTIAL else self.parts,  # block by block: all in one
            gradient_sequences=None if samples is None else min(samples, sequences),
            mode=mode,
            around=around,
            code=code_of("levels" if around is None else "statistics_around"),
            model_commit=self.loaded.commit,
            calibration_commit=self.calibration.commit,
        )

    @property
    def of_dense(self) -> "Prepared":
        """The same with statistics of the dense model."""
        return Prepared(
            self.loaded, self.layout, self.calibration, self.batch_tokens, self.parts, self.place
        )

    @property
    def input_stats(self) -> Mapping[str, LayerStats]:
        """What the layers of the dense model read, at least as sums of squares."""
        return self.of_dense.calibrate(frozenset({InputSq})).data.stats

    def statistics_file(
        self, needs: frozenset[Need], guided: Mapping[str, int] = NONE
    ) -> Path | None:
        """Where these statistics lie, if they are there; None where they are too large to keep."""
        kinds = summed(needs)
        if too_large(self.layout, kinds, guided):
            return None
        return statistics_key(self, kinds, guided).path

    def guide(
        self,
        recipe: Recipe,
        notice: Callable[[str], None] | None = None,
        collect: CollectSquares | None = None,
    ) -> Guide:
        """The token weights of the layers that this recipe guides, from the dense model or the
        cache. `collect` None takes them in this process."""
        groups, found = recipe.row_groups(self.layout.layers), {}
        for number in sorted(set(groups.values())):
            place = token_weights_key(self, number).path
            if notice is not None and not place.exists():
                notice(f"weighing the tokens of {len(self.calibration)} sequences")
            model, samples = self.loaded.model, self.calibration.batch
            found[number] = load_or_collect_weights(
                place, model, self.layout, samples, number, collect
            )
        return guide_of(groups, found, len(self.calibration)) if groups else UNGUIDED

    def calibrate(
        self,
        needs: frozenset[Need],
        gradient_sequences: int = GRADIENT_SEQUENCES,
        notice: Callable[[str], None] | None = None,
        collect: CollectParts | None = None,
        collect_gradients: CollectGradients | None = None,
        guide: Guide = UNGUIDED,
        prune_layers: PruneLayers = prune,
    ) -> "Calibrated":
        """Collects what `needs` names of the dense model (statistics of what `around` makes of it),
        or reads it from the cache.

        Gradients are those of the first `gradient_sequences` calibration sequences; `notice` is
        told how much they take on disk, and how long it took. `collect` sums up the parts of the
        sequences, `collect_gradients` takes the gradients; None does it in this process. `guide`
        has the token weights of guided layers, `prune_layers` solves those of `around`.
        """
        model, gradients, stats = self.loaded.model, {}, unread(self.layout.layers)
        if LayerGradients in needs:
            refuse_offloaded(model, "MOONSHOT, or whatever else reads gradients,")
        wanted = summed(needs)
        if wanted and self.around is not None:
            stats = self._stats_around(self.around, wanted, guide, notice, prune_layers)
        elif wanted:
            batches, held_back = cut(self.batches, wanted)
            stats = load_or_collect(
                self.statistics_file(wanted, guide.groups),
                model,
                self.layout,
                parts_of(batches, self.parts),
                wanted,
                collect,
                guide,
                parts_of(held_back, self.parts),
            )
        if LayerGradients in needs:
            samples = self.calibration.batch[:gradient_sequences]
            gradients = load_or_collect_gradients(
                gradients_key(self, gradient_sequences).path,
                model,
                self.layout,
                samples,
                notice,
                collect_gradients,
            ).layers
        return Calibrated(
            self.loaded,
            self.layout,
            self.calibration,
            self.batch_tokens,
            self.parts,
            self.place,
            self.around,
            data=CalibrationData(
                stats,
                gradients,
                biased=biased_layers(model, self.layout),
                around=self.around is not None,
            ),
        )

    def _stats_around(
        self,
        around: Around,
        wanted: Kinds,
        guide: Guide,
        notice: Callable[[str], None] | None,
        prune_layers: PruneLayers,
    ) -> dict[str, LayerStats]:
        if guide.weights:
            raise ConfigError(
                f"A guided recipe weighs the tokens of the dense model, and statistics are around "
                f"the recipe {around.recipe.key}. Leave guided or around out."
            )
        model, layout = self.loaded.model, self.layout

        def make() -> dict[str, LayerStats]:
            dense = self.of_dense.calibrate(
                frozenset({LayerGradients} if around.gradient_sequences else ()),
                around.gradient_sequences or 0,
                notice,
            )
            if notice is not None:
                notice(f"pruning around {around.recipe.key}, block by block")
            return statistics_around(
                model,
                layout,
                around.recipe,
                self.batches,
                wanted,
                dense.data.gradients,
                prune_layers=prune_layers,
            )

        return load_or_make(self.statistics_file(wanted), model, layout, wanted, make)


@dataclass(frozen=True, eq=False)
class Calibrated(Prepared):
    """A dense model with what its layers saw on the calibration text."""

    data: CalibrationData = field(kw_only=True)

    @property
    def gradient_sequences(self) -> int | None:
        """How many there are gradients of; None where there are none."""
        return next((g.samples for g in self.data.gradients.values()), None)

    @property
    def input_stats(self) -> Mapping[str, LayerStats]:
        return self.data.stats if self.around is None else super().input_stats


def prepare(
    model: str,
    dtype: str,
    device: str,
    text: TextSpec,
    batch_tokens: int = BATCH_TOKENS,
    parts: int = 1,
    device_map: DeviceMap = "",
    saved_as: str = AS_STORED,
    around: Around | None = None,
) -> Prepared:
    """Loads the model and cuts its calibration text. Raises a `ConfigError` where `around` is no
    recipe of this model."""
    loaded = load(model, dtype=dtype, device=device, device_map=device_map, saved_as=saved_as)
    layout = layout_of(loaded.model)
    if around is not None:
        around.check(layout)
    prepared = Prepared(loaded, layout, text_for(loaded, text), batch_tokens, parts, around=around)
    warn_of_little(prepared)
    return prepared


def warn_of_little(prepared: Prepared) -> None:
    """Says what was left out, where that is much of the model's blocks."""
    if (warning := prepared.coverage.warning) is not None:
        log.warning("%s", warning)


def rule_of(prepared: Prepared, text: str) -> Rule:
    """A published rule's profile on this model, kept in the cache: spectra take a while.

    `text`: its name, and its settings where they are not as usual (`parse_rule`).
    """
    p, chosen = prepared, parse_rule(text, "rule of layer sparsities")
    name, path = chosen.name, rule_key(prepared, text).path
    if (rule := kept(path, _read_rule)) is not None:
        return rule
    stats = p.input_stats if name in READS_INPUTS else unread(p.layout.layers)
    views = [
        LayerView(layer, read(p.loaded.model, layer), stats_of(stats, layer))
        for layer in p.layout.layers
    ]
    rule = RULES[name](views, chosen.values)
    content = {"factor": dict(rule.factor), "offset": dict(rule.offset)}
    replace_file(path, json.dumps(content).encode(), OTHER_CACHE)
    return _read_rule(path)  # so that a later run has the very same numbers


def _read_rule(path: Path) -> Rule:
    data = json.loads(path.read_text(encoding="utf-8"))
    return Rule(data["factor"], data["offset"])
