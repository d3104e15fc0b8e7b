"""What the GPU benchmark measures on: shapes, a random model of them, and how a time is taken."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor


GB, TFLOP = 1e9, 1e12


@dataclass(frozen=True)
class Shapes:
    """A decoder of `blocks` blocks, as its prunable matrices and its head see it."""

    hidden: int
    inner: int
    key: int
    heads: int
    blocks: int
    vocab: int
    tokens: int
    square: int
    copied: int

    @property
    def block(self) -> dict[str, tuple[int, int]]:
        h, i, k = self.hidden, self.inner, self.key
        return {
            "q": (h, h), "k": (k, h), "v": (k, h), "o": (h, h),
            "gate": (i, h), "up": (i, h), "down": (h, i),
        }  # fmt: skip


LLAMA = Shapes(4096, 14336, 1024, 32, 32, 128256, 2048, 8192, 2**31)
SMOLLM2 = Shapes(576, 1536, 192, 9, 30, 49152, 2048, 8192, 2**31)
TINY = Shapes(8, 12, 4, 2, 1, 70, 16, 32, 2**10)


@dataclass(frozen=True)
class Row:
    """One measurement. `rate` is in `unit`, `share` of the ceiling called `ceiling`.

    `right` is None where nothing was to be checked; `met` where nothing was promised.
    """

    part: str
    what: str
    ms: float | None = None
    rate: float | None = None
    unit: str = ""
    share: float | None = None
    ceiling: str = ""
    right: bool | None = None
    aim: str = ""
    met: bool | None = None
    note: str = ""


@dataclass
class Bench:
    """Where and on what to measure. `ceilings`: bytes or operations a second, by name."""

    device: torch.device
    shapes: Shapes
    repeats: int
    ends: float
    ceilings: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def seconds(self, run: Callable[[], Any], repeats: int = 0, warm_up: int = 2) -> float:
        """The median of some runs, after the first ones. Waits for the device before and after."""
        times = []
        repeats, warm_up = (repeats or self.repeats, warm_up) if self.on_gpu else (1, 0)
        for number in range(warm_up + repeats):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            if number >= warm_up:
                times.append(time.perf_counter() - start)
        return median(times)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def normal(self, *shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
        """bf16."""
        generator = torch.Generator(self.device).manual_seed(seed)
        made = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
        return made.normal_(0, scale, generator=generator)

    def promise(self, aim: str, met: bool) -> dict[str, Any]:
        """What a row says of its aim: nothing where times mean nothing."""
        return {"aim": aim, "met": met} if self.on_gpu else {}

    def row(
        self,
        part: str,
        what: str,
        seconds: float,
        amount: float = 0,
        ceiling: str = "",
        **rest: Any,
    ) -> Row:
        """`amount`: bytes where the ceiling is `copy`, else operations."""
        if not amount:
            return Row(part, what, seconds * 1e3, **rest)
        unit, size = ("GB/s", GB) if ceiling == "copy" else ("TFLOP/s", TFLOP)
        limit = self.ceilings.get(ceiling)
        share = amount / seconds / limit if limit else None
        return Row(part, what, seconds * 1e3, amount / seconds / size, unit, share, ceiling, **rest)


def random_model(bench: Bench) -> tuple[Any, Any, dict[str, Any]]:
    """A Llama with random weights on the device, its layout and statistics of random inputs."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from optishear.calibration.statistics import InputSq, LayerStats
    from optishear.models.discover import layout_of
    from optishear.models.load import LoadedModel

    shapes = bench.shapes
    width = shapes.hidden // shapes.heads
    config = LlamaConfig(
        hidden_size=shapes.hidden,
        intermediate_size=shapes.inner,
        num_hidden_layers=shapes.blocks,
        num_attention_heads=shapes.heads,
        num_key_value_heads=shapes.key // width,
        head_dim=width,
        vocab_size=shapes.vocab,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with bench.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.requires_grad_(False)
    layout = layout_of(model)
    stats = {
        layer.site: LayerStats.of(
            1, 1, InputSq(bench.normal(layer.in_features, seed=number).float().square().add_(0.1))
        )
        for number, layer in enumerate(layout.layers)
    }
    where = Path("random")
    return LoadedModel(model, None, "random", where, "random", torch.bfloat16), layout, stats


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
