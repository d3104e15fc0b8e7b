"""The output head: how hidden states become logits, checked on the model, and a forward without it.

Dense references are kept as hidden states: at a 128k vocabulary they are 30 times smaller than
logits, and where the head is linear many a norm over logits needs no logit at all.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.finite import refuse_overflow
from optishear.models.placement import device_at, input_device, value_at
from optishear.tasks import Batch, task_of


LOUD = 50.0  # logits of this size tell a soft-capped head (30 in Gemma2) from a linear one
GRAM_ROWS = 1024
LOGITS_AT_ONCE = 2**23  # elements of [rows, vocabulary]: 32 MiB in fp32
LOGITS_ON_A_GPU = 2**28  # 1 GiB: each product reads the whole head, whatever the rows


class _Stop(Exception):
    """Ends a forward pass at the output head. Private, so nobody else's error is swallowed."""


@dataclass(frozen=True, eq=False)
class Head:
    """logits = cap(scale * (h W^T + b)), with cap(z) = softcap * tanh(z / softcap) or nothing.

    `weight` is the model's own tensor, not a copy: it is never pruned. One that is offloaded is
    brought in once and stays.
    """

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def linear(self) -> bool:
        """Whether differences of logits are linear in differences of hidden states."""
        return self.softcap is None

    @property
    def rows_at_once(self) -> int:
        """Rows whose logits should exist at a time, so that a large vocabulary fits."""
        return max(1, logits_at_once(self.weight.device) // len(self.weight))

    @cached_property
    def gram(self) -> Float[Tensor, "hidden hidden"]:
        """scale^2 W^T W in fp32: ||dh W^T||^2 = dh G dh^T without a logit. Linear heads only.

        Products of 1,024 vocabulary rows in fp32, summed in fp64. Relative error for 49,152 x 576:
        fp32 alone 2.4e-7, so 4.2e-8, all fp64 2.9e-8 but twice as slow (on a CPU).
        """
        return (self.scale**2 * self._products()).float()

    @cached_property
    def centred_gram(self) -> Float[Tensor, "hidden hidden"]:
        """The same of W less its mean row: dh G dh^T is the norm of a logit change whose mean over
        the vocabulary is taken off. Linear heads only."""
        total, vocabulary = self._products(), len(self.weight)
        mean = self.weight.sum(0, dtype=torch.float64) / vocabulary
        return (self.scale**2 * (total - vocabulary * mean.outer(mean))).float()

    @cached_property
    def longest_row(self) -> Float[Tensor, ""]:
        """max_v scale ||W_v||: with ||h||, the most that a logit without bias can be."""
        norms = [torch.linalg.vector_norm(w.float(), dim=1) for w in self.weight.split(GRAM_ROWS)]
        return torch.cat(norms).amax() * abs(self.scale)

    @cached_property
    def largest_bias(self) -> Float[Tensor, ""]:
        none = torch.zeros((), device=self.weight.device)
        return none if self.bias is None else self.bias.float().abs().amax() * abs(self.scale)

    def _products(self) -> Float[Tensor, "hidden hidden"]:
        """W^T W, summed in fp64."""
        if not self.linear:
            raise ValueError("A soft-capped head has no Gram matrix: its logits are not linear.")
        width = self.weight.shape[1]
        total = torch.zeros(width, width, dtype=torch.float64, device=self.weight.device)
        for rows in self.weight.split(GRAM_ROWS):
            total += rows.float().T @ rows.float()
        return total

    def squared_norm(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """||scale * h W^T||_F^2 by the Gram matrix, in fp64. Linear heads only, bias left out."""
        return _quadratic_form(hidden, self.gram)

    def centred_squared_norm(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """The same, less every row's mean over the vocabulary."""
        return _quadratic_form(hidden, self.centred_gram)

    def logits(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """The model's logits in fp32, whatever dtype the model computes in.

        Scale and cap go into the hidden states: [rows, vocabulary] is too large to be walked
        over for a constant.
        """
        scale = self.scale if self.softcap is None else self.scale / self.softcap
        bias = None if self.bias is None else self.bias.float() * scale
        raw = F.linear(hidden.float() * scale, self.weight.float(), bias)
        return raw if self.softcap is None else raw.tanh_().mul_(self.softcap)

    def logits_at(
        self, hidden: Float[Tensor, "rows hidden"], entries: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """One logit for each row, in fp32, and none of the others made. Linear heads only."""
        if not self.linear:
            raise ValueError("A soft-capped head's logits are made by `logits`, all of them.")
        rows = F.embedding(entries, self.weight).float()
        said = (hidden.float() * self.scale * rows).sum(-1)
        return said if self.bias is None else said + self.bias[entries].float() * self.scale


def _quadratic_form(
    hidden: Float[Tensor, "rows hidden"], gram: Float[Tensor, "hidden hidden"]
) -> Float[Tensor, ""]:
    """sum over rows of h G h^T, in fp64; by rounding it may come out a little below zero."""
    hidden = hidden.float()
    return ((hidden @ gram) * hidden).sum(dtype=torch.float64)


def logits_at_once(device: torch.device) -> int:
    """Elements of [rows, vocabulary] that should exist at a time."""
    return LOGITS_AT_ONCE if device.type == "cpu" else LOGITS_ON_A_GPU


def hidden_states(model: nn.Module, batch: Batch) -> Float[Tensor, "*rows hidden"]:
    """What goes into the output head: final norm and output projection done, no logit computed.
    It is on the head's device.

    The forward is the model's own, stopped by a hook on its head; so it is right where the
    bare body's output is not what the head reads (MiniCPM3 scales in between).
    """
    if model.training:
        raise ConfigError(
            f"{type(model).__name__} is in training mode, so dropout would make every measurement "
            f"random. Call `model.eval()` first."
        )
    caught: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else next(iter(kwargs.values())))
        raise _Stop

    task = task_of(model)
    head = _head_module(model)
    hook = head.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        task.logits(model, _on_device(model, batch))
    except _Stop:
        pass
    finally:
        hook.remove()
    if not caught or caught[0].shape[:-1] != task.rows(batch):
        found = f"got {tuple(caught[0].shape)}" if caught else "was never called"
        raise ConfigError(
            f"{type(model).__name__}: for {task.unit_name} of shape {tuple(batch.shape)} its "
            f"output head {found}. Use a model that answers every position ({task.name})."
        )
    place = device_at(head, "weight")
    return caught[0] if place.type == "meta" else caught[0].to(place)  # meta: a streamed model


@torch.no_grad()
def find_head(model: nn.Module, batch: Batch) -> Head:
    """The form of the model's output head, fitted and then verified on one small batch.

    The batch's hidden states are played to the head once more with growing loudness: the small
    logits of an untrained model would pass for linear below any soft cap.
    """
    module = _head_module(model)
    weight = value_at(module, "weight")
    bias = None if module._parameters.get("bias") is None else value_at(module, "bias")
    hidden, rows = hidden_states(model, batch), task_of(model).rows(batch)
    if hidden.shape[-1] != weight.shape[1]:
        raise ConfigError(
            f"{type(model).__name__}: hidden states are {hidden.shape[-1]} wide, but the output "
            f"head's weight is {tuple(weight.shape)}. Its output head is not a matrix product."
        )
    loudest = F.linear(hidden.float(), weight.float()).abs().max().item()
    gain = max(1.0, LOUD / max(loudest, 1e-6)) ** torch.linspace(
        0, 1, rows.numel(), device=hidden.device
    )
    hidden = hidden * gain.reshape(*rows, 1).to(hidden.dtype)
    logits = _logits_of(model, batch, hidden).to(hidden.device).flatten(0, -2).double()
    hidden = hidden.flatten(0, -2)

    plain = Head(weight, bias)
    raw = plain.logits(hidden).double()
    config: Any = getattr(model, "config", None)
    softcap = config and getattr(config.get_text_config(), "final_logit_softcapping", None)
    heads = [plain, Head(weight, bias, _ratio(logits, raw))]
    if softcap is not None:
        free = logits.abs() < 0.9 * softcap  # elsewhere atanh only magnifies rounding
        uncapped = softcap * torch.atanh(logits[free] / softcap)
        heads += [Head(weight, bias, 1.0, float(softcap))]
        heads += [Head(weight, bias, _ratio(uncapped, raw[free]), float(softcap))]
    misses = [
        ((head.logits(hidden).double() - logits).norm() / logits.norm()).item() for head in heads
    ]
    refuse_overflow(model, logits, "its logits")
    # A bf16 head rounds its result up to four times (product, scale, tanh, cap).
    tolerance = max(1e-4, 2 * torch.finfo(weight.dtype).eps)
    for head, miss in zip(heads, misses):
        if miss <= tolerance:
            return head
    raise ConfigError(
        f"{type(model).__name__}: its logits are neither W h + b, nor a constant times it, nor "
        f"soft-capped by the config's final_logit_softcapping ({softcap}); the nearest of these "
        f"misses by {min(misses):.1e} of their norm, {tolerance:.1e} allowed. "
        f"Teach optishear/models/head.py this form of head."
    )


def _head_module(model: nn.Module) -> nn.Module:
    found = task_of(model).head_of(model)
    assert found is not None
    return found


def _on_device(model: nn.Module, batch: Batch) -> Batch:
    place = input_device(model)
    return batch if place.type == "meta" else batch.to(place)  # a streamed model sees to it


def _logits_of(
    model: nn.Module, batch: Batch, hidden: Float[Tensor, "*rows hidden"]
) -> Float[Tensor, "*rows vocab"]:
    """The model's own logits, were `hidden` its final hidden states: here a hook does answer."""
    hook = _head_module(model).register_forward_pre_hook(lambda _module, _args: (hidden,))
    try:
        return task_of(model).logits(model, _on_device(model, batch))
    finally:
        hook.remove()


def _ratio(numerator: Float[Tensor, "..."], denominator: Float[Tensor, "..."]) -> float:
    """The constant c with numerator = c * denominator, in the least-squares sense."""
    return ((numerator * denominator).sum() / denominator.square().sum()).item()
