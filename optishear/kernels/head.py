"""The output head's product in tiles, of which only maximum and sum of exponentials are written."""

from dataclasses import asdict, dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Of logits, tokens x vocab, added up over `depth` hidden dimensions at a time."""

    tokens: int
    vocab: int
    depth: int
    num_warps: int
    num_stages: int

    @property
    def shared_bytes(self) -> int:
        """Of bf16 or fp16 operands under way."""
        return 2 * self.num_stages * self.depth * (self.tokens + self.vocab)


HALF = Tile(128, 256, 64, 8, 3)  # 144 KiB of shared memory, 128 sums a thread
SMALL = Tile(64, 128, 64, 4, 3)  # 72 KiB, for chips that have no more than 99
SINGLE = Tile(64, 64, 32, 4, 2)  # no tensor core multiplies fp32 as IEEE has it


def tile_sums(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """Two fp32 [vocabulary tiles, tokens]: the largest logit, and the sum of exp(logit - it)."""
    if hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16:
        hidden, weight = hidden.float(), weight.float()  # the interpreter multiplies their bits
    tokens, width = hidden.shape
    vocab = len(weight)
    tile = tile or _tile_for(weight)
    tiles = -(-vocab // tile.vocab)
    peak = torch.empty(tiles, tokens, dtype=torch.float32, device=hidden.device)
    mass = torch.empty_like(peak)
    launch = {key: asdict(tile)[key] for key in ("num_warps", "num_stages")}
    _tile_sums[(-(-tokens // tile.tokens), tiles)](
        hidden,
        weight,
        hidden if bias is None else bias,
        peak,
        mass,
        tokens,
        vocab,
        width,
        hidden.stride(0),
        weight.stride(0),
        float(scale),
        BIAS=bias is not None,
        TOKENS=tile.tokens,
        VOCAB=tile.vocab,
        DEPTH=tile.depth,
        **launch,
    )
    return peak, mass


def _tile_for(weight: Tensor) -> Tile:
    if weight.dtype == torch.float32:
        return SINGLE
    if weight.device.type != "cuda":
        return SMALL
    room = torch.cuda.get_device_properties(weight.device).shared_memory_per_block_optin
    return HALF if room >= HALF.shared_bytes else SMALL


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def _tile_sums(
    hidden,
    weight,
    bias,
    peak,
    mass,
    tokens,
    vocab,
    width,
    hidden_stride,
    weight_stride,
    scale,
    BIAS: tl.constexpr,
    TOKENS: tl.constexpr,
    VOCAB: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # Programs that run side by side share a tile of the head, which is read from memory once.
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    word = tl.program_id(1) * VOCAB + tl.arange(0, VOCAB)
    depth = tl.arange(0, DEPTH)
    is_token, is_word = token < tokens, word < vocab
    at_hidden = hidden + token[:, None].to(tl.int64) * hidden_stride + depth[None, :]
    at_weight = weight + word[None, :].to(tl.int64) * weight_stride + depth[:, None]
    logits = tl.zeros((TOKENS, VOCAB), tl.float32)
    for start in range(0, width, DEPTH):
        is_depth = depth < width - start
        h = tl.load(at_hidden, is_token[:, None] & is_depth[None, :], other=0.0)
        w = tl.load(at_weight, is_depth[:, None] & is_word[None, :], other=0.0)
        logits = tl.dot(h, w, logits, input_precision="ieee")
        at_hidden += DEPTH
        at_weight += DEPTH
    if BIAS:
        logits += tl.load(bias + word, is_word, other=0.0).to(tl.float32)[None, :]
    logits = tl.where(is_word[None, :], logits * scale, float("-inf"))
    top = tl.max(logits, 1)
    total = tl.sum(tl.exp(logits - top[:, None]), 1)
    at = tl.program_id(1).to(tl.int64) * tokens + token
    tl.store(peak + at, top, is_token)
    tl.store(mass + at, total, is_token)
