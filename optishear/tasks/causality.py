"""Whether a model is causal: seen on a few tokens, for no configuration can be trusted with it.

Where a position sees the tokens after it, it sees the very one that it is to predict: perplexity,
KL and every choice made by them would be of something else than a language model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from optishear.errors import ConfigError


PROBE_TOKENS = 8
LEAST = 1e-5  # of a hidden state's norm, fp32: above rounding, below what one token seen leaves
TIMES = 8.0  # what two rows that are the same may differ by, on this device and in this dtype


def probe(vocabulary: int) -> Int[Tensor, "4 seq"]:
    """A text; the same with another last token; with another second half; and once more."""
    text = torch.arange(PROBE_TOKENS)[None].repeat(4, 1)
    text[1, -1:] += max(1, vocabulary // 2)
    text[2, PROBE_TOKENS // 2 :] += max(1, vocabulary // 2)
    return text % vocabulary


def refuse_bidirectional(model: nn.Module, hidden: Float[Tensor, "4 seq width"]) -> None:
    """A `ConfigError` if the hidden states of `probe` tell of tokens that come later.

    All rows are of one forward pass, and so equal bit for bit as far as they begin alike, but where
    a kernel does not treat all rows alike (experts, atomic sums): the row that is there twice shows
    how much that is. Numbers that are not finite tell nothing.
    """
    rows = hidden.float()
    noise = _moved(rows[3], rows[0]).max()
    tolerance = TIMES * noise + max(LEAST, torch.finfo(hidden.dtype).eps / 2)
    for changed, begin in ((1, PROBE_TOKENS - 1), (2, PROBE_TOKENS // 2)):
        moved = _moved(rows[changed, :begin], rows[0, :begin])
        if bool((moved > tolerance).any()):
            raise ConfigError(
                f"{type(model).__name__} is not causal: when later tokens change, so does what it "
                f"makes of {int((moved > tolerance).sum())} of the {begin} tokens before them (by "
                f"up to {moved.max().item():.1e} of its norm), so it does not predict the next "
                f"token. Use a causal language model, not an encoder such as BERT."
            )


def _moved(after: Float[Tensor, "seq width"], before: Float[Tensor, "seq width"]) -> Tensor:
    return (after - before).norm(dim=-1) / before.norm(dim=-1)
