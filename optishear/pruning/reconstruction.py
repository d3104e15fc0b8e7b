"""Local reconstruction: kept weights of a window are moved until it does what the dense one did.

    min over theta of  sum_t |B_theta(x'_t) - B_dense(x_t)|^2 / sum_t |B_dense(x_t)|^2

with theta the weights that are not zero; those that are stay zero. A solver minimises the error of
one matrix; a window holds several of them and what is not linear between, so this can make good
what each of them lost.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import ConfigError
from optishear.models.finite import not_finite
from optishear.pruning.movable import Movable, Moving
from optishear.recipe.reconstruction import ReconstructionSettings


BETAS, CLIP = (0.9, 0.95), 1.0  # as reconstructions of pruned models are usually run
ROUNDING = 16  # times the epsilon of the hidden states: an error of the window that is none
PATIENCE = 2  # epochs in a row that bring nothing new end it


class Window(ABC):
    """A part of a model that calibration sequences go through, one by one.

    - `name`: in the words of a report.
    - `sequences`: how many there are.
    """

    name: str
    sequences: int

    @abstractmethod
    def output(self, sequence: int) -> Float[Tensor, "..."]:
        """What it makes of a sequence with the weights that it has now, recorded for a backward
        pass where gradients are enabled."""

    @abstractmethod
    def target(self, sequence: int) -> Float[Tensor, "..."]:
        """What the dense one made of it."""


@dataclass(frozen=True)
class WindowReport:
    """What a reconstruction gained.

    - `before`, `after`: relative squared error of what the window makes, on the sequences that
      decide; never more after than before.
    - `learned`, `decided`: so many sequences were learned from, and decided on when to stop.
    - `losses`: the same after each epoch that was run.
    - `best`: the epoch whose weights were kept; 0 is the start.
    """

    window: str
    before: float
    after: float
    learned: int
    decided: int
    best: int
    losses: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def reconstruct(
    window: Window,
    weights: Sequence[Movable],
    settings: ReconstructionSettings,
    number: int = 0,
) -> WindowReport:
    """Moves the weights to those of the best epoch, the start among them.

    `number`: of the window in the model; with the seed it says in which order sequences come. Which
    of them are held back is the same in all windows of a model. Raises a `ConfigError` where what
    the window makes at the start is not finite.

    Memory beside the model: the numbers that move in fp32 with their gradients and two moments,
    where they began and were best, and what one sequence leaves for the backward pass.
    """
    learned, decide = split(window.sequences, settings.held_back, settings.seed)
    judge = _Judge(window, decide)
    before = judge.error()
    if not math.isfinite(before):
        raise ConfigError(not_finite(f"What {window.name} makes once its layers are pruned"))
    if judge.is_rounding(before) or not weights:
        return WindowReport(window.name, before, before, len(learned), len(decide), 0)
    moving = Moving(weights)
    losses, notes, best, kept = [], [], 0, moving.copy()
    with moving.recorded():
        steps = _Steps(window, moving, learned, judge.missed(before), settings, number)
        for epoch in range(1, settings.epochs + 1):
            error = judge.error() if steps.epoch() else math.nan
            if not math.isfinite(error):
                notes.append(f"epoch {epoch} came to numbers that are not finite")
                break
            losses.append(error)
            if error < min([before, *losses[:-1]]):
                best, kept = epoch, moving.copy()
            elif epoch - best >= PATIENCE:
                break
    moving.give_back(kept)
    if not best:
        notes.append(
            f"no epoch brought the error below that of the start ({before:.3g}), whose weights "
            f"stay; a learning rate below {settings.learning_rate:g} may"
        )
    after = losses[best - 1] if best else before
    told = tuple(f"reconstruction: {note}" for note in notes)
    return WindowReport(
        window.name, before, after, len(learned), len(decide), best, tuple(losses), told
    )


def notes_of(windows: Sequence[WindowReport]) -> list[str]:
    """What the user should know of all of them: what they gained, and where that is nothing."""
    if not windows:
        return []
    first, better = windows[0], [window for window in windows if window.best]
    told = f"reconstruction: {len(better)} of {len(windows)} windows are nearer to the dense model"
    if better:
        before = math.fsum(window.before for window in better) / len(better)
        after = math.fsum(window.after for window in better) / len(better)
        told += (
            f", their error on {first.decided} sequences that decide {after:.3g} instead of "
            f"{before:.3g} on average"
        )
    return [told, *(f"{window.window}: {note}" for window in windows for note in window.notes)]


def split(sequences: int, held_back: float, seed: int) -> tuple[list[int], list[int]]:
    """(those that are learned from, those that decide), rising; the same ones if none are held
    back."""
    everyone = list(range(sequences))
    if held_back == 0:
        return everyone, everyone
    count = max(1, round(held_back * sequences))
    if count >= sequences:
        raise ConfigError(
            f"reconstruct: {count} of {sequences} calibration sequences are to be held back, and "
            f"none is left to learn from. Give more sequences, or hold back 0."
        )
    chosen = torch.randperm(sequences, generator=torch.Generator().manual_seed(_seed(seed, -1)))
    held = sorted(chosen[:count].tolist())
    return [index for index in everyone if index not in held], held


def _seed(seed: int, number: int) -> int:
    """Another for each window of each seed."""
    return (seed * 1_000_003 + number + 1) % 2**63


class _Judge:
    """The relative squared error on some sequences, with the weights that the window has."""

    def __init__(self, window: Window, sequences: Sequence[int]) -> None:
        self.window, self.sequences = window, sequences
        self.size = math.fsum(_square(_wide(window.target(index))) for index in sequences)
        self._rounding = (ROUNDING * torch.finfo(window.target(sequences[0]).dtype).eps) ** 2

    @torch.no_grad()
    def error(self) -> float:
        missed = math.fsum(_square(_missed(self.window, index)) for index in self.sequences)
        if self.size == 0:
            return math.inf if missed else 0.0
        return missed / self.size

    def is_rounding(self, error: float) -> bool:
        """Whether so little says nothing of the weights: sequences alone are rounded otherwise than
        in a batch."""
        return error <= self._rounding

    def missed(self, error: float) -> float:
        """The squares of a sequence at this error, on average."""
        return error * self.size / len(self.sequences)


class _Steps:
    """Epochs of AdamW over the sequences that are learned from, in an order drawn anew each time.

    - `usual`: the squares that a sequence misses at the start. The loss is relative to it, so that
      neither the norm at which gradients are clipped nor AdamW's smallest denominator depends on
      how large a model's hidden states are.
    """

    def __init__(
        self,
        window: Window,
        moving: Moving,
        learned: Sequence[int],
        usual: float,
        settings: ReconstructionSettings,
        number: int,
    ) -> None:
        self.window, self.moving, self.learned, self.usual = window, moving, learned, usual
        self.batch, self.rate = settings.batch, settings.learning_rate
        self.order = torch.Generator().manual_seed(_seed(settings.seed, number))
        self.done, self.of = 0, settings.epochs * math.ceil(len(learned) / settings.batch)
        self.optimiser = torch.optim.AdamW(
            moving.numbers, self.rate, BETAS, weight_decay=0.0, foreach=False
        )

    def epoch(self) -> bool:
        """Whether all its gradients were finite; it ends at the first that is not."""
        order = torch.randperm(len(self.learned), generator=self.order).tolist()
        for start in range(0, len(order), self.batch):
            chosen = [self.learned[index] for index in order[start : start + self.batch]]
            self.optimiser.zero_grad()
            for index in chosen:
                with torch.enable_grad():
                    squares = _missed(self.window, index).square().sum()
                    self.moving.add_gradients(squares / (self.usual * len(chosen)))
            if not self.moving.clip(CLIP):
                return False
            self.optimiser.param_groups[0]["lr"] = self.rate * (1 - self.done / self.of)
            self.optimiser.step()
            self.moving.write()
            self.done += 1
        return True


def _missed(window: Window, sequence: int) -> Tensor:
    return _wide(window.output(sequence)) - _wide(window.target(sequence))


def _wide(numbers: Tensor) -> Tensor:
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def _square(numbers: Tensor) -> float:
    return numbers.square().sum(dtype=torch.float64).item()
