"""EvoPress's sparsity configurations: one line a layer, `name: level`.

Sieberling et al. 2024 (arXiv 2410.14649), as its code has it: level l of a layer of n weights is
the entry of a database that drops s + l * step / n of it, with s and step (`--sparsity`,
`--weights_diff` of its prune.py) the same for all layers, and l an integer. The file says neither
s nor step, and its reader takes no comments. So both are written beside it, into FILE.json.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optishear.errors import ConfigError
from optishear.interchange.profiles import (
    Deviation,
    check_names,
    deviation,
    refuse_fused_experts,
)
from optishear.reading.json_data import json_in
from optishear.recipe.layout import ModelLayout
from optishear.recipe.pattern import Pattern
from optishear.recipe.profile import check_sparsity
from optishear.recipe.recipe import Recipe
from optishear.records.atomic import replace_file
from optishear.records.run_directory import write_json


FORMAT = "optishear-evopress/1"
USUAL_LEVELS = 8  # on either side of s: EvoPress's own number
COARSE = 0.01  # a deviation of which a user is told what helps
NOISE = 1e-9  # of a level: what is no further from a whole one is that one


@dataclass(frozen=True)
class Grid:
    """What an EvoPress database is made with: level l drops sparsity * n + l * step weights."""

    sparsity: float
    step: int

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "EvoPress sparsity")
        if self.step < 1:
            raise ConfigError(f"EvoPress level step {self.step}: it is at least one weight.")

    def ends(self, size: int) -> tuple[int, int]:
        """Lowest and highest level at which a layer of this size still is between 0 and 1."""
        return (
            -math.floor(self.sparsity * size / self.step + NOISE),
            math.floor((1 - self.sparsity) * size / self.step + NOISE),
        )

    def dropped(self, size: int, level: int) -> float:
        """Weights, not rounded yet."""
        return self.sparsity * size + level * self.step


@dataclass(frozen=True)
class Levels:
    """A recipe's profile on a grid; `most` is how many levels the database needs on a side."""

    grid: Grid
    levels: Mapping[str, int]
    deviation: Deviation

    @property
    def most(self) -> int:
        return max(USUAL_LEVELS, *map(abs, self.levels.values()))

    @property
    def notes(self) -> tuple[str, ...]:
        grid = self.grid
        finer = abs(self.deviation.by) > COARSE
        return (
            f"levels of {grid.step:,} weights around {grid.sparsity:.6g}: {self.deviation}",
            f"the database they mean: prune.py --sparsity {grid.sparsity!r} "
            f"--weights_diff {grid.step} --num_levels {self.most}",
            "EvoPress solves every level with SparseGPT: metric, pattern, solver and λ of the "
            "recipe are not in the file",
            *(["a smaller --level-step comes nearer, with more levels"] if finer else []),
        )


def levels_of(recipe: Recipe, layout: ModelLayout, step: int | None = None) -> Levels:
    """The profile in steps of so many weights around its own mean.

    Rounded to largest remainders, so that the levels add up to 0 and the sparsity stays what it is,
    as in an EvoPress search. `step` None is the smallest with which all layers are within
    `USUAL_LEVELS` levels.
    """
    refuse_fused_experts(layout, "EvoPress")
    sparsity = layout.sparsity(recipe.drop)
    apart = [recipe.drop[layer.name] - sparsity * layer.size for layer in layout.layers]
    if step is None:
        step = max(1, math.ceil(max(map(abs, apart)) / USUAL_LEVELS - NOISE))
    grid = Grid(sparsity, step)
    ends = [grid.ends(layer.size) for layer in layout.layers]
    levels = _balanced([distance / step for distance in apart], ends)
    named = dict(zip(layout.sizes, levels, strict=True))
    got = {name: grid.dropped(layout.sizes[name], level) for name, level in named.items()}
    return Levels(grid, named, deviation(recipe.drop, got, layout))


def _balanced(exact: Sequence[float], ends: Sequence[tuple[int, int]]) -> list[int]:
    """Whole numbers within their ends that add up to 0, by largest remainders, ties to the first.

    All that is left over goes where there is room; where there is none the sum is not 0.
    """
    levels = [
        min(max(math.floor(value + NOISE), low), high)
        for value, (low, high) in zip(exact, ends, strict=True)
    ]
    while left := -sum(levels):
        one = 1 if left > 0 else -1
        room = [i for i, (low, high) in enumerate(ends) if low <= levels[i] + one <= high]
        if not room:
            break
        levels[max(room, key=lambda i: one * (exact[i] - levels[i]))] += one
    return levels


def write_levels(path: Path, levels: Levels) -> list[Path]:
    """The file as EvoPress reads it, and beside it what its levels mean."""
    text = "".join(f"{name}: {level}\n" for name, level in levels.levels.items())
    replace_file(path, text.encode())
    says = {
        "format": FORMAT,
        "sparsity": levels.grid.sparsity,
        "weights_diff": levels.grid.step,
        "num_levels": levels.most,
    }
    write_json(grid_file(path), says)
    return [path, grid_file(path)]


def grid_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_grid(path: Path, sparsity: float | None, step: int | None) -> Grid:
    """What the levels of this file mean: as the caller says, else as the file beside it says."""
    beside = grid_file(path)
    says = {"sparsity": sparsity, "weights_diff": step}
    if None in says.values() and beside.is_file():
        found = json_in(beside, "Write it again.")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ConfigError(f"{beside}: is not what `optishear export --format evopress` writes.")
        says = {key: found.get(key) if value is None else value for key, value in says.items()}
    of, by = says["sparsity"], says["weights_diff"]
    if (
        not isinstance(of, int | float)
        or not isinstance(by, int)
        or isinstance(of, bool)
        or isinstance(by, bool)
    ):
        raise ConfigError(
            f"{path}: EvoPress levels mean nothing by themselves. Give the --sparsity and the "
            f"--weights-diff with which the database was made (prune.py's --sparsity and "
            f"--weights_diff)."
        )
    return Grid(float(of), by)


def parse_levels(text: str, where: str) -> dict[str, int]:
    """`name: level` a line. A name may come once."""
    levels: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, level = (part.strip() for part in line.rpartition(":"))
        if not colon or not name or not re.fullmatch(r"[+-]?[0-9]{1,15}", level):
            raise ConfigError(
                f"{where}: line {number} is {line.strip()[:60]!r}, expected `layer name: level` "
                f"with a whole number."
            )
        if name in levels:
            raise ConfigError(f"{where}: line {number} names {name!r} for the second time.")
        levels[name] = int(level)
    return levels


def drops_of(
    levels: Mapping[str, int], grid: Grid, layout: ModelLayout, pattern: Pattern, where: str
) -> tuple[dict[str, int], Deviation]:
    """Weights to drop by layer, the nearest that the pattern can drop."""
    check_names(levels, layout, where)
    wanted, drop = {}, {}
    for layer in layout.layers:
        level, (low, high) = levels[layer.name], grid.ends(layer.size)
        wanted[layer.name] = grid.dropped(layer.size, level)
        pattern.check(layer)
        step = pattern.step(layer)
        drop[layer.name] = step * round(wanted[layer.name] / step)
        if not low <= level <= high or drop[layer.name] >= layer.size:
            raise ConfigError(
                f"{where}: level {level} of {layer.name} would drop "
                f"{wanted[layer.name]:.0f} of its {layer.size} weights: with a sparsity of "
                f"{grid.sparsity:g} and a step of {grid.step} it has levels {low} to {high}."
            )
    return drop, deviation(wanted, drop, layout)
