"""Windows of perplexity tables: one text cut into equal lengths, each read on its own.

The text is tokenised as a whole and cut into windows that do not overlap; a rest shorter than a
window is left out. A window's first token is context only, the others are predicted from what
stands before them in the window, and the mean runs over all predicted tokens. So it is in the
code of GPTQ, SparseGPT and Wanda, which leave the BOS to the tokenizer: Llama's puts one before the
text (`text`), many others none (`none`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from optishear.errors import ConfigError
from optishear.recipe.lookup import lookup
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


BOS = {
    "none": "no BOS",
    "text": "one BOS before the text",
    "window": "a BOS at the start of every window",
}


def windows(spec: TextSpec, tokenizer: Callable[..., Any], bos: str = "none") -> TokenBatches:
    """The windows of `spec`, all `spec.seq_len` tokens long, with BOS tokens where `bos` says.

    Raises `ConfigError` for an unknown `bos`, and where the tokenizer has no BOS token.
    """
    words = lookup(BOS, bos, kind="place of a BOS")
    if bos == "none":
        return token_batches(spec, tokenizer)
    token = getattr(tokenizer, "bos_token_id", None)
    if token is None:
        raise ConfigError(f"--bos {bos}: the model's tokenizer has no BOS token. Leave --bos out.")
    if bos == "text":
        cut = token_batches(spec, tokenizer, lead=token)
        return TokenBatches(cut.tokens, cut.hash, f"{cut.source}, {words}", cut.commit)
    if spec.seq_len < 3:
        raise ConfigError("--bos window: needs windows of 3 tokens or more, one of them the BOS.")
    cut = token_batches(replace(spec, seq_len=spec.seq_len - 1), tokenizer)
    lead = torch.full((len(cut.tokens), 1), token, dtype=cut.tokens.dtype)
    return TokenBatches.of(
        torch.cat([lead, cut.tokens], dim=1),
        f"{cut.source}, {words}, so {spec.seq_len} in all",
        cut.commit,
    )


def check_context(model: nn.Module, seq_len: int) -> None:
    """Raises `ConfigError` where windows are longer than what the model was made for."""
    config: Any = model.config
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and seq_len > limit:
        raise ConfigError(
            f"--seq-len {seq_len}: {type(model).__name__} was made for {limit} tokens at most. "
            f"Use --seq-len {limit} or less."
        )
