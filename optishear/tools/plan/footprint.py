"""Bytes that a search will hold in memory and leave on disk, from sizes that are known before."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from optishear.calibration.gradient_file import gradient_bytes
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import SEQUENTIAL
from optishear.calibration.statistics import (
    reads_dense,
    statistics_bytes,
)
from optishear.config.sections import MemoryConfig
from optishear.models.head import find_head, logits_at_once
from optishear.models.placement import devices_of
from optishear.models.weights import view_of
from optishear.pipeline import HEAD_UNITS
from optishear.recipe.canonical import CHOOSES_ITSELF
from optishear.records.cache import cache_dir
from optishear.records.run_directory import RunDirectory
from optishear.runs.levels import wanted_levels
from optishear.runs.setup import Setup
from optishear.search.options import meanings_of
from optishear.solvers.ranks import rank_bytes
from optishear.tools.plan.backward import bytes_of_slopes
from optishear.tools.plan.by_block import bytes_by_block
from optishear.tools.plan.costs import visits
from optishear.tools.plan.hessians import factored_bytes, trial_bytes
from optishear.tools.plan.levels import Levels, bytes_of


ACTIVATIONS = 4  # of a block's widest layer, its inputs and outputs, alive at a time
LOGITS = 3  # chunks alive at a time: logits, what is made of them, the dense side's
AT_WORK = 3  # times a layer in fp32: scores, mask and what a solver makes of it
LEFTOVERS = 3_000_000  # bytes of front, comparison and figures
FULL = 0.9  # of what is free: from here on it is said to be close
PYTHON = "Python and its libraries"


@dataclass(frozen=True)
class Held:
    """One thing in memory. `mapped`: from a file, and given back when memory is short."""

    what: str
    bytes: int
    mapped: bool = False


@dataclass(frozen=True)
class Room:
    """What is needed of a memory or a disk, and what it has free."""

    where: str
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def warning(self, advice: str) -> str | None:
        """Why that is too much, or close to it; None where it is neither."""
        if self.needed <= FULL * self.free:
            return None
        how = "nearly all of" if self.fits else "more than"
        return (
            f"{self.where}: about {size_text(self.needed)} will be needed, {how} the "
            f"{size_text(self.free)} that are free. {advice}"
        )


def size_text(size: int | float) -> str:
    """`1.2 GB`, `340 MB`, `12.3 kB`: three digits, powers of 1,000."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size:.0f} B"


def memory_of(setup: Setup, python: int) -> list[Held]:
    """What the search holds at its fullest, by item; `python`: of the process without the model.

    Caches count at their limit, or at all that they could hold if that is less.
    """
    experiment, c, layout = setup.experiment, setup.calibrated, setup.calibrated.layout
    model = c.loaded.model
    own = next(model.parameters()).element_size()
    search = setup.samples["search"]
    head = find_head(model, search.task.beginning(search.batch, HEAD_UNITS))
    vocabulary, hidden = head.weight.shape
    batch = max(experiment.batch_tokens, search.units_each)
    at_once = logits_at_once(head.weight.device)
    widest = max(layer.in_features + layer.out_features for layer in layout.layers)
    # Of the dense side: hidden states, the slope of the KL in fp32, the head's Gram matrix.
    dense_side = search.units * hidden * (own + 4) + 4 * hidden**2
    found = [
        Held(PYTHON, python),
        Held("dense model", dense_bytes(setup)),
        Held("working copy of the prunable weights", own * (layout.total - away_of(setup))),
        Held("statistics", statistics_bytes(layout, experiment.needs)),
        Held("dense side of the search tokens", dense_side),
        Held("activations of one batch", ACTIVATIONS * batch * widest * own),
        Held("a chunk of logits in fp32", LOGITS * 4 * min(at_once, batch * vocabulary)),
        Held("a layer at work in fp32", AT_WORK * 4 * max(layout.sizes.values())),
        Held("ranks (memory.ranks)", ranks_bytes(setup)),
        Held("prefixes (memory.prefixes)", prefixes_bytes(setup, hidden * own)),
    ]
    if experiment.mode == SEQUENTIAL:
        by_block = bytes_by_block(setup, hidden * own, own)
        found += [Held(what, size) for what, size in by_block.items()]
    slopes = bytes_of_slopes(setup, hidden * own, own)
    found += [Held(what, size) for what, size in slopes.items()]
    layers, needs, room = layout.layers, experiment.needs, int(experiment.memory.factors)
    found += [
        Held("factored Hessians (memory.factors)", factored_bytes(layers, needs, room)),
        Held("Hessians at dampings on trial", trial_bytes(layers, needs)),
    ]
    if LayerGradients in experiment.needs:
        samples = min(experiment.gradient_sequences, len(c.calibration))
        found.append(Held("gradients, mapped", gradient_bytes(layout, samples), mapped=True))
    if reads_dense(experiment.needs):
        states = c.calibration.units * hidden * own
        found.append(Held("dense hidden states of the calibration text", states))
    if levels := wanted_levels(setup.experiment, setup.space):
        kept = min(experiment.memory.levels, bytes_of(levels, own))
        found.append(Held("solved layers (memory.levels), mapped", kept, mapped=True))
    return [item for item in found if item.bytes]


def dense_bytes(setup: Setup) -> int:
    """Of all parameters; offloaded ones are elsewhere."""
    parameters = setup.calibrated.loaded.model.parameters()
    return sum(p.numel() * p.element_size() for p in parameters if not p.is_meta)


def away_of(setup: Setup, disk_only: bool = False) -> int:
    """How many prunable weights are offloaded: to where candidates' weights are, too."""
    model, layers = setup.calibrated.loaded.model, setup.calibrated.layout.layers
    found = [(layer.size, view_of(model, layer.name).offloaded) for layer in layers]
    return sum(size for size, away in found if away and (away.on_disk or not disk_only))


def ranks_bytes(setup: Setup) -> int:
    """Of every metric that can come again, as far as `memory.ranks` allows; block by block none is
    kept."""
    if setup.experiment.mode == SEQUENTIAL:
        return 0
    space, limit = setup.space, int(setup.experiment.memory.ranks)
    layers, most, total = setup.calibrated.layout.layers, setup.experiment.search.evaluations, 0
    for genes in space.every:
        if all(template["name"] in CHOOSES_ITSELF for template in genes.solver.templates):
            continue
        own = [layer for layer in layers if space.at(layer).match == genes.match]
        meanings = meanings_of(genes.metric)
        count = most if meanings is None or space.quadratic.genes else min(meanings, most)
        total += count * rank_bytes(own, space.layers.patterns)
    return min(limit, total)


def prefixes_bytes(setup: Setup, token: int) -> int:
    """States of `token` bytes a token after each block of each candidate, as many as fit; none
    where not even one of all sequences does, or none is ever reused."""
    experiment = setup.experiment
    state = setup.samples["search"].units * token
    never = setup.measurement_settings.no_prefixes
    slots = 0 if never else experiment.memory.prefixes // state
    candidates = experiment.search.evaluations * setup.calibrated.layout.blocks
    return min(slots, candidates) * state


def memory_room(setup: Setup, held: Sequence[Held]) -> Room:
    """All that stays, against what this process could have where the model runs. What is offloaded
    to CPU memory from GPUs is not compared."""
    devices = devices_of(setup.calibrated.loaded.model)
    needed = sum(item.bytes for item in held if not item.mapped)
    if devices[0].type == "cuda":
        python = sum(item.bytes for item in held if item.what == PYTHON)
        free = sum(torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d) for d in devices)
        where = " and ".join(map(str, devices))
        return Room(f"memory of {where}", needed - python, free)
    own = psutil.Process().memory_info().rss
    return Room("memory", needed, psutil.virtual_memory().available + own)


def memory_advice(held: Sequence[Held], limits: MemoryConfig) -> str:
    """What would help most."""
    largest = max(held, key=lambda item: 0 if item.mapped else item.bytes)
    caches = [
        f"memory.{name}" for name in ("ranks", "prefixes", "factors") if getattr(limits, name)
    ]
    lower = " and ".join(caches) or "batch_tokens"
    return (
        f"The largest part is: {largest.what}, {size_text(largest.bytes)}. Lower {lower}, or use "
        f"a smaller dtype."
    )


def disk_rooms(
    setup: Setup, levels: Levels | None, line_bytes: float, directory: RunDirectory
) -> list[tuple[Room, str]]:
    """What is still to be written to the cache and to the run's directory, and advice for each."""
    settings, out = setup.experiment.search, directory.path.parent.parent
    lines = sum(visits(setup.ladder, settings.evaluations, settings.population).values())
    database = 0 if levels is None else levels.bytes_lacking
    own = next(setup.calibrated.loaded.model.parameters()).element_size()
    database += own * away_of(setup, disk_only=True)
    run = round(line_bytes * lines) + LEFTOVERS
    free = "Free some space there, or choose another place with"
    return [
        (Room(f"disk of {cache_dir()}", database, _free(cache_dir())), f"{free} OPTISHEAR_CACHE."),
        (Room(f"disk of {out}", run, _free(out)), f"{free} --out."),
    ]


def over_limit(setup: Setup, levels: Levels | None) -> str | None:
    """Why the level database would end the search half-way; None where it would not."""
    limit, folder = int(setup.experiment.memory.levels_on_disk), cache_dir() / "levels"
    total = bytes_at(folder) + (0 if levels is None else levels.bytes_lacking)
    if levels is None or total <= limit:
        return None
    return (
        f"memory.levels_on_disk is {size_text(limit)}, but with all levels of this search "
        f"{folder} would hold {size_text(total)}. Raise it, use fewer sparsity.steps or closer "
        f"bounds, or remove folders of other measures there."
    )


def bytes_at(place: Path) -> int:
    """Of a file, or of all files in a folder; 0 where there is neither."""
    if place.is_file():
        return place.stat().st_size
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def _free(place: Path) -> int:
    """Bytes free where `place` is, or would be made."""
    there = place.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
