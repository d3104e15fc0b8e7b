"""Collection of statistics: one pass over calibration samples, one set of sums an input site."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optishear.calibration.expert_inputs import ExpertInputs, eager_experts
from optishear.calibration.statistics import (
    Kinds,
    LayerStats,
    Statistic,
    by_site,
    plain_kinds,
    weighted_kinds,
)
from optishear.calibration.token_weights import UNGUIDED, Guide
from optishear.errors import ConfigError
from optishear.models.finite import not_finite
from optishear.models.head import hidden_states
from optishear.models.weights import view_of
from optishear.recipe.layout import Layer, ModelLayout
from optishear.tasks import Batch


def collect(
    model: nn.Module,
    layout: ModelLayout,
    batches: Iterable[Batch],
    needs: Kinds,
    guide: Guide = UNGUIDED,
) -> dict[str, LayerStats]:
    """Statistics by input site, each collected once; the pass ends before the output head.

    All positions of all batches count: cut the tokens to one length, do not pad. Every expert
    has to see some tokens, for without statistics nothing can be said about its weights.
    """
    found = sums_of(model, layout, batches, needs, guide)
    check(found)
    return found


@torch.no_grad()
def sums_of(
    model: nn.Module,
    layout: ModelLayout,
    batches: Iterable[Batch],
    needs: Kinds,
    guide: Guide = UNGUIDED,
) -> dict[str, LayerStats]:
    """The same of a part of the tokens, unchecked: an expert may see none of a part. `guide` is of
    just these."""
    sequences = 0
    with collecting(model, layout.layers, needs, guide) as collected:
        for batch in batches:
            sequences += len(batch)
            hidden_states(model, batch)
    return collected.sums(sequences)


@contextmanager
def collecting(
    model: nn.Module, layers: Sequence[Layer], needs: Kinds, guide: Guide = UNGUIDED
) -> Iterator["RunningSums"]:
    """Sums up whatever passes these layers' input sites while the context is open; for those that
    are guided also weighted, by the token weights in their order.

    The model is run by the caller, whole or in part. Fused experts are computed one after another
    meanwhile: what one of them reads can be seen in no other way.
    """
    sites = by_site(layers)
    views = {site: view_of(model, site) for site in sites}
    sums = {site: _Sums(sites[site], view.device, needs, guide) for site, view in views.items()}
    experts = {site: view for site, view in views.items() if view.expert is not None}
    found = RunningSums(sums)
    with ExitStack() as stack:
        for site in [site for site in sums if site not in experts]:
            hook = model.get_submodule(site).register_forward_pre_hook(
                partial(found.read, site), with_kwargs=True
            )
            stack.callback(hook.remove)
        if experts:
            stack.enter_context(eager_experts(model))
            add = {site: sums[site].add for site in experts}
            stack.enter_context(ExpertInputs(experts, add))
        yield found


class _AllRead(Exception):
    """Ends a forward pass once all sites have read it. Private, so nobody else's error is taken."""


class RunningSums:
    """The running sums of one `collecting`."""

    def __init__(self, sums: Mapping[str, "_Sums"]) -> None:
        self._sums = sums
        self._reads = dict.fromkeys(sums, 0)  # by site, in the last pass
        self._stop = False

    def read(
        self, site: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """A module's pre-hook: this site reads the first of its arguments."""
        self._sums[site].add((args[0] if args else next(iter(kwargs.values()))).flatten(0, -2))
        self._reads[site] += 1
        if self._stop and all(self._reads.values()):
            raise _AllRead

    @contextmanager
    def one_pass(self, *, stop: bool) -> Iterator[None]:
        """One forward pass in here; with `stop` it ends where every site has read: what comes
        after is for nobody. Only for a model of which `each_read_once` has been seen to hold."""
        self._reads, self._stop = dict.fromkeys(self._sums, 0), stop
        try:
            yield
        except _AllRead:
            pass
        finally:
            self._stop = False

    @property
    def each_read_once(self) -> bool:
        """Whether every site read once in the last pass. Experts' reads are not counted, for which
        of them read depends on the tokens: never with them."""
        return all(count == 1 for count in self._reads.values())

    @contextmanager
    def dense_stream(self) -> Iterator[None]:
        """What passes while this is open is read by the dense model. It waits for what the pruned
        one reads of the same tokens, which has to pass next."""
        for total in self._sums.values():
            total.dense = []
        try:
            yield
        finally:
            for total in self._sums.values():
                total.waiting, total.dense = total.dense, None

    def stats(self, sequences: int) -> dict[str, LayerStats]:
        """The sums by input site, now that `sequences` were run. Checked: all seen, all finite."""
        found = self.of_part(sequences)
        check(found)
        return found

    def of_part(self, sequences: int) -> dict[str, LayerStats]:
        """The same of a part of the tokens, of which an expert may have seen none."""
        found = self.sums(sequences)
        most = max(total.tokens for total in found.values())
        for site, total in self._sums.items():
            if total.waiting is not None and total.tokens < most:
                raise _unpaired(site)
        return found

    def sums(self, sequences: int) -> dict[str, LayerStats]:
        """The same, unchecked."""
        return {site: total.stats(sequences) for site, total in self._sums.items()}


class _Sums:
    """Running sums at one site, each in the type that its kind asks for. All leave as fp32."""

    def __init__(
        self, layers: Sequence[Layer], device: torch.device, kinds: Kinds, guide: Guide
    ) -> None:
        self.site, self.tokens = layers[0].site, 0
        self.dense: list[Tensor] | None = None  # what is read now, where it is of the dense stream
        self.waiting: list[Tensor] | None = None  # what was, where there are two streams
        width, weights = layers[0].in_features, guide.weights
        self.totals = _Totals(plain_kinds(kinds, layers, weights), width, device)
        self.guided = {
            layer.name: _Weighted(weights[layer.name], weighted_kinds(kinds), width, device)
            for layer in layers
            if layer.name in weights
        }

    def add(self, inputs: Float[Tensor, "tokens in"]) -> None:
        if self.dense is not None:
            self.dense.append(inputs.to(torch.float32, copy=True))
            return
        x = inputs.float()
        dense = x if self.waiting is None else self._partner_of(x)
        for weighted in self.guided.values():
            weighted.observe(self.tokens, x, dense)
        self.tokens += len(x)
        self.totals.observe(x, dense)

    def _partner_of(self, x: Float[Tensor, "tokens in"]) -> Float[Tensor, "tokens in"]:
        dense = self.waiting.pop(0) if self.waiting else None
        if dense is None or dense.shape != x.shape:
            raise _unpaired(self.site)
        return dense

    def stats(self, sequences: int) -> LayerStats:
        of = partial(LayerStats.of, self.tokens, sequences)
        guided = {
            name: tuple(of(*totals.found) for totals in weighted.groups)
            for name, weighted in self.guided.items()
        }
        return replace(of(*self.totals.found), guided=guided)


class _Totals:
    """One running sum a kind."""

    def __init__(self, kinds: Kinds, width: int, device: torch.device) -> None:
        self.sums = {
            kind: torch.zeros(kind.shape(width), dtype=kind.summed_in, device=device)
            for kind in sorted(kinds, key=lambda kind: kind.name)
        }

    def observe(self, x: Float[Tensor, "tokens in"], dense: Float[Tensor, "tokens in"]) -> None:
        for kind, total in self.sums.items():
            kind.observe(total, x, dense)

    @property
    def found(self) -> list[Statistic]:
        return [kind(total.float()) for kind, total in self.sums.items()]


class _Weighted:
    """The sums for the row groups of one layer. What they sum is quadratic in a token's rows, which
    therefore are scaled by the root of its weight."""

    def __init__(
        self,
        weights: Float[Tensor, "tokens groups"],
        kinds: Kinds,
        width: int,
        device: torch.device,
    ) -> None:
        self.roots = weights.to(device).sqrt()
        self.groups = [_Totals(kinds, width, device) for _ in range(weights.shape[1])]

    def observe(
        self, seen: int, x: Float[Tensor, "tokens in"], dense: Float[Tensor, "tokens in"]
    ) -> None:
        """The tokens after the first `seen`."""
        roots = self.roots[seen : seen + len(x)]
        if len(roots) != len(x):
            raise ValueError(f"{len(x)} tokens after {seen} of {len(self.roots)} that have weights")
        for totals, root in zip(self.groups, roots.T, strict=True):
            scaled = x * root[:, None]
            totals.observe(scaled, scaled if dense is x else dense * root[:, None])


def _unpaired(site: str) -> ConfigError:
    return ConfigError(
        f"Layer {site}: the dense model and the pruned one do not read the same tokens there (an "
        f"expert's are routed), so that the two cannot be compared. Choose a method whose "
        f"statistics are of one of them."
    )


def check(sums: Mapping[str, LayerStats]) -> None:
    """Raises a `ConfigError` where an input saw none of the tokens, or what is not finite."""
    sequences = max(total.sequences for total in sums.values())  # every site counts all of them
    if not sequences:
        raise ConfigError("Calibration got no tokens at all. Give it at least one sequence.")
    unseen = [site for site, total in sums.items() if not total.tokens]
    if unseen:
        raise ConfigError(
            f"{len(unseen)} of {len(sums)} layer inputs saw none of the tokens of {sequences} "
            f"sequences: {', '.join(unseen[:8])}{', …' if len(unseen) > 8 else ''}. "
            f"For experts, use more calibration tokens; where no expert of a module is reached, "
            f"optishear/calibration/expert_inputs.py does not know the way it multiplies."
        )
    for site, total in sums.items():
        if not all(each.finite for each in total.sums.values()):
            raise ConfigError(not_finite(f"Layer {site}: its input over the calibration tokens"))
