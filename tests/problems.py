"""Small layers with everything a solver may ask of them: correlated inputs, never square."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.recipe.pattern import Row
from optishear.solvers.base import LayerProblem
from optishear.solvers.moonshot import blended, blended_stats, reconstruction


ROWS, WIDTH, SAMPLES = 12, 40, 3


class SmallLayer:
    """Weights, inputs and gradients of one layer; `kind` names what is special about them."""

    def __init__(self, kind="plain", rows=ROWS, width=WIDTH, seed=0, tokens=200):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        tokens = {"rank_deficient": width // 2, "one_token": 1}.get(kind, tokens)
        x = normal(tokens, width) @ normal(width, width) * torch.logspace(0, -1.5, width)
        if kind == "dead_inputs":
            x[:, [0, 7, width - 1]] = 0
        if kind == "bfloat16":
            x = x.bfloat16().float()
        self.weight = normal(rows, width).to(
            torch.bfloat16 if kind == "bfloat16" else torch.float32
        )
        self.x = x
        self.stats = LayerStats.of(tokens, 4, InputSq(x.square().sum(0)), Gram(x.T @ x))
        g = normal(rows, SAMPLES, width) * x.square().sum(0).sqrt()
        self.gradients = LayerGradients((g / g.abs().max()).half(), g.abs().max().expand(SAMPLES))

    def quadratic(self, lam=1.0, damping=0.01):
        if lam == 1:
            return reconstruction(self.stats, damping)
        return blended(self.weight, self.stats, self.gradients, lam, damping)

    def other_target(self):
        """A target that is neither the weight nor far from it."""
        generator = torch.Generator().manual_seed(7)
        return self.weight.float() + 0.3 * torch.randn(self.weight.shape, generator=generator)

    def problem(self, drop, pattern=None, lam=1.0, damping=0.01, target=None):
        stats = self.stats
        if lam != 1:
            stats = blended_stats(self.weight, stats, self.gradients, lam)
        quadratic, weight = self.quadratic(lam, damping), self.weight if target is None else target
        return LayerProblem(weight, drop, pattern or Row(), lambda: stats, lambda: quadratic)

    def drifted(self, by=0.3):
        """(x of the dense stream, mean of (x - x') x'^T in fp64); x' is the layer's own x."""
        pruned = self.x.double()
        noise = torch.randn(pruned.shape, generator=torch.Generator().manual_seed(3)).double()
        dense = pruned * 1.1 + by * noise * pruned.square().mean(0).sqrt()
        return dense, (dense - pruned).T @ pruned / len(pruned)

    def row_hessians(self, quadratic):
        """[rows, in, in] in fp64: what each row's changes cost, spelled out."""
        shared = quadratic.shared.matrix.double()
        hessians = shared.expand(len(self.weight), -1, -1).clone()
        if quadratic.row_term is not None:
            whole = slice(0, len(self.weight))
            term = quadratic.row_term.rows(whole, self.weight.device).double()
            hessians += term.mT @ term
        return hessians


KINDS = ("plain", "rank_deficient", "one_token", "dead_inputs", "bfloat16")


def tied_scores(rows, columns, *, seed=0, dtype=torch.float32):
    """Few distinct numbers, zeros of both signs among them."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-40, 40, (rows, columns), generator=generator)
    return (whole * torch.tensor([0.25, -0.25])[whole % 2]).to(dtype)


def operations(run):
    """How often each of torch's operations runs but for mere views: what a routine does, whatever
    the machine."""

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            counted[func._opname] += not func.is_view
            return func(*args, **(kwargs or {}))

    counted = Counter()
    with Counting():
        run()
    return counted
