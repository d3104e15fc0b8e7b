"""What each lever on the kept weights costs, in seconds a block.

    python bench_block.py --device cuda --out results/bench_block_gpu   # as of Llama-3.1-8B
    python bench_block.py --device cpu --shapes smollm2-135m --out results/bench_block
    python bench_block.py --device cpu --shapes tiny        # a smoke run, in seconds

The first of two decoder blocks with random weights, since the last of a model hands nothing on.
Calibrated on random tokens, which take time as others do and say nothing of what a lever is worth:
128 x 2,048 in bf16, or 16 x 512 in fp32 where the block is small. Levers take turns; medians over
the rounds after a first one that warms up. Beside each stands what it takes in units of the bare
forward pass of the block over all these tokens, and of the method without it; and on a GPU the most
memory held beside model and tokens. The proof that blocks can be run apart, once a model, is in
every time.
"""

import argparse
import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from bench_common import machine, markdown
from help_text import first_line
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from optishear.models.blocks import BlockRunner
from optishear.models.discover import layout_of
from optishear.models.weights import working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.recipe.layout import ModelLayout
from optishear.recipe.patterns import Patterns
from optishear.recipe.profile import Bounds, project
from optishear.recipe.quadratic import QuadraticSettings
from optishear.recipe.recipe import BY_SITE, Recipe
from optishear.recipe.reconstruction import HALF, ReconstructionSettings
from optishear.solvers.methods import METHODS


LLAMA: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 500_000.0}  # fmt: skip
SMOLLM2: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
           "num_key_value_heads": 3, "head_dim": 64}  # fmt: skip
TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
LARGE = "llama-3.1-8b"


@dataclass(frozen=True)
class Shapes:
    """Of a block, what it is calibrated on, and in which type."""

    words: str
    config: dict[str, Any]
    sequences: int
    length: int
    dtype: torch.dtype


SHAPES = {
    LARGE: Shapes("Shapes of Llama-3.1-8B", LLAMA, 128, 2048, torch.bfloat16),
    "smollm2-135m": Shapes("Shapes of SmolLM2-135M", SMOLLM2, 16, 512, torch.float32),
    "tiny": Shapes("Tiny shapes", TINY, 4, 8, torch.float32),
}
SHIFT = QuadraticSettings(target_shift=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", choices=SHAPES, default=LARGE)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--epochs", type=int, default=1, help="of reconstruction")
    parser.add_argument("--methods", default="optima,alps")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--batch", type=int, default=4, help="sequences a forward pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for summary.md")
    given = parser.parse_args()
    if given.device == "cpu" and given.shapes == LARGE:
        parser.error("without a GPU that takes days: choose other --shapes")
    torch.set_num_threads(given.threads)
    shapes, frame = SHAPES[given.shapes], measured(given)
    lines = [
        "# Seconds a block: what each lever on the kept weights costs",
        "",
        f"{shapes.words}, {str(shapes.dtype).removeprefix('torch.')}, random weights and tokens; "
        f"{shapes.sequences} x {shapes.length} tokens, {given.batch} sequences a pass; "
        f"{given.sparsity:.0%}; median of {given.rounds} rounds. `plain`: as published. "
        f"Reconstruction: {given.epochs} epochs, a sequence a step.",
        "",
        markdown(frame),
        "",
        *machine(torch.device(given.device), torch.get_num_threads(), mpax=False),
        "",
    ]
    print("\n".join(lines))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def measured(given: argparse.Namespace) -> pd.DataFrame:
    device = torch.device(given.device)
    model, batches = model_of(given, device), tokens_of(given, device)
    layout = layout_of(model)
    levers = {
        (method, lever): recipe
        for method in given.methods.split(",")
        for lever, recipe in levers_of(method, layout, given).items()
    }
    forward = [forward_seconds(model, batches, device) for _ in range(given.rounds + 1)]
    times: dict[tuple[str, str], list[float]] = {key: [] for key in levers}
    most = dict.fromkeys(levers, 0)
    for _ in range(given.rounds + 1):
        for key, recipe in levers.items():
            seconds, held = block_seconds(model, layout, recipe, batches, device)
            times[key].append(seconds)
            most[key] = max(most[key], held)
    floor = median(forward[1:])
    rows = [row_of("the bare forward pass", "", floor, floor, math.nan, 0)]
    for (method, lever), seconds in times.items():
        plain = median(times[method, "plain"][1:])
        held = most[method, lever]
        rows.append(row_of(method, lever, median(seconds[1:]), floor, plain, held))
    return pd.DataFrame(rows)


def row_of(
    method: str, lever: str, seconds: float, floor: float, plain: float, held: int
) -> dict[str, object]:
    return {
        "method": method,
        "lever": lever,
        "seconds": seconds,
        "times_a_forward_pass": seconds / floor,
        "times_plain": seconds / plain,
        "most_gigabytes": held / 1e9,
    }


def levers_of(method: str, layout: ModelLayout, given: argparse.Namespace) -> dict[str, Recipe]:
    """One lever at a time, and all that cost something together."""
    named, sparsity = METHODS[method], float(given.sparsity)
    targets = dict.fromkeys(layout.sizes, sparsity)
    patterns = Patterns.over(named.pattern)
    drop = project(targets, layout, patterns, Bounds(), round(sparsity * layout.total))
    plain = named.recipe(layout, drop, patterns)
    shifted = named.recipe(layout, drop, patterns, settings=SHIFT)
    block, half = (ReconstructionSettings(window, given.epochs) for window in ("block", HALF))
    return {
        "plain": plain,
        "order=site": replace(plain, order=BY_SITE),
        "shift=0.5": shifted,
        "shift=0.5, order=site": replace(shifted, order=BY_SITE),
        "reconstruct=block": replace(plain, reconstruct=block),
        "reconstruct=half": replace(plain, reconstruct=half),
        "all with block": replace(shifted, order=BY_SITE, reconstruct=block),
    }


def model_of(given: argparse.Namespace, device: torch.device) -> nn.Module:
    config = LlamaConfig(
        **SHAPES[given.shapes].config,
        num_hidden_layers=2,
        vocab_size=1024,  # neither embedding nor head is timed
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=SHAPES[given.shapes].dtype).eval()
    return model.requires_grad_(False)


def tokens_of(given: argparse.Namespace, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = SHAPES[given.shapes]
    tokens = torch.randint(1024, (shapes.sequences, shapes.length), generator=generator)
    return list(tokens.to(device).split(given.batch))


def forward_seconds(model: nn.Module, batches: list[Tensor], device: torch.device) -> float:
    """Of all tokens through the first block, into hidden states that are kept."""
    runner = BlockRunner(model, batches)
    wait(device)
    start = time.perf_counter()
    runner.advance()
    wait(device)
    return time.perf_counter() - start


class _Enough(Exception):
    """The first block is done. Private, so nobody else's error is swallowed."""


def block_seconds(
    model: nn.Module,
    layout: ModelLayout,
    recipe: Recipe,
    batches: list[Tensor],
    device: torch.device,
) -> tuple[float, int]:
    """Of the first block with all that it hands on, and the bytes held beside what was there."""

    def enough(_block: int, _blocks: int) -> None:
        raise _Enough

    with working_weights(model, layout) as working:
        source = InMemory(model, working, layout)
        before = restarted_memory(device)
        start = time.perf_counter()
        with suppress(_Enough):
            apply_by_block(source, recipe, batches, progress=enough)
        wait(device)
        return time.perf_counter() - start, most_memory(device) - before


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def restarted_memory(device: torch.device) -> int:
    """Bytes that are held now; from here on the most is noted. Of a CPU nothing is known."""
    if device.type != "cuda":
        return 0
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def most_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


if __name__ == "__main__":
    main()
