"""Preconditions of a model and a text that meet: one list, for every command that loads.

Each precondition is a function that returns nothing, or raises a `ConfigError`: one sentence of
where, what was found and what to do. Those of a model alone are asked where it is loaded (its files
are whole, dense and finite: `models.load`) and where its layers are found (it is causal:
`models.discover`); those of an experiment alone when its file is read (`config`); that the code's
commit can be named before a run begins (`records.manifest`). `plan` asks all of them.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.finite import refuse_overflow
from optishear.models.head import hidden_states
from optishear.models.load import LoadedModel
from optishear.text.bos import NONE, adds_bos, place_of
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


log = logging.getLogger(__name__)

SPECIAL_ROWS = 8  # at most, that a table of positions has for itself (OPT: 2)
FIRST_TOKENS = 256  # of a text tell whether fp16 is wide enough for it


def positions_suffice(loaded: LoadedModel, text: TokenBatches) -> None:
    """No window is longer than a table of positions: past its end there is nothing to look up."""
    length, rows = text.tokens.shape[1], table_of_positions(loaded.model)
    if rows is not None and length > rows:
        raise ConfigError(
            f"{text.source}: its windows have {length} tokens, but {type(loaded.model).__name__} "
            f"has a table of {rows} positions and none beyond them. Use windows of {rows} or less."
        )


def ids_have_rows(loaded: LoadedModel, text: TokenBatches) -> None:
    """Every token of the text has a row in the embedding; a tokenizer may know more than that."""
    rows = len(cast(Tensor, _embedding(loaded.model).weight))
    if (worst := int(text.tokens.max())) >= rows:
        count = int((text.tokens >= rows).sum())
        raise ConfigError(
            f"{text.source}: {count} of its tokens have ids that the model does not know, up to "
            f"{worst} where its embedding has {rows} rows. {loaded.folder} has another model's "
            f"tokenizer, or tokens were added to it: give it the model's own, or resize the model."
        )


def answers_are_finite(loaded: LoadedModel, text: TokenBatches) -> None:
    """In fp16, the dense model's own hidden states on the beginning of the text; a wider dtype is
    not asked, nor is a model that is streamed: its blocks are looked at when they are proved."""
    parameters = list(loaded.model.parameters())
    if parameters[0].dtype != torch.float16 or any(p.is_meta for p in parameters):
        return
    with torch.no_grad():
        hidden = hidden_states(loaded.model, text.tokens[:1, :FIRST_TOKENS])
    refuse_overflow(loaded.model, hidden, f"its answer to {text.source}")


OF_A_TEXT: tuple[Callable[[LoadedModel, TokenBatches], None], ...] = (
    positions_suffice,
    ids_have_rows,
    answers_are_finite,
)


def check_text(loaded: LoadedModel, text: TokenBatches) -> None:
    """Every precondition, the first that does not hold raised; what is only unwise is warned of."""
    for holds in OF_A_TEXT:
        holds(loaded, text)
    if (unwise := beyond_context(loaded, text)) is not None:
        log.warning("%s", unwise)


def text_for(loaded: LoadedModel, spec: TextSpec) -> TokenBatches:
    """The windows of a text, which the model can read."""
    text = token_batches(spec, loaded.tokenizer)
    check_text(loaded, text)
    if (unwise := without_bos(loaded, spec)) is not None:
        log.warning("%s", unwise)
    return text


def without_bos(loaded: LoadedModel, spec: TextSpec) -> str | None:
    """A sentence where a text has no BOS although the model's tokenizer would add one."""
    if place_of(spec.bos, loaded.tokenizer) != NONE or not adds_bos(loaded.tokenizer):
        return None
    return (
        f"{spec.source}/{spec.split}: has no BOS, which the model's tokenizer puts before whatever "
        f"it is given; some models are far worse without. `bos: auto` (--bos auto) puts one where "
        f"it belongs."
    )


def check_context(model: nn.Module, seq_len: int) -> None:
    """Raises `ConfigError` where windows are longer than what the model was made for."""
    limit = _context(model)
    if limit is not None and seq_len > limit:
        raise ConfigError(
            f"--seq-len {seq_len}: {type(model).__name__} was made for {limit} tokens at most. "
            f"Use --seq-len {limit} or less."
        )


def beyond_context(loaded: LoadedModel, text: TokenBatches) -> str | None:
    """A sentence where windows are longer than what a model without a table was made for."""
    length, limit = text.tokens.shape[1], _context(loaded.model)
    if limit is None or length <= limit:
        return None
    return (
        f"{text.source}: its windows have {length} tokens, {type(loaded.model).__name__} was made "
        f"for {limit} at most and is worse beyond them."
    )


@contextmanager
def known_ids_only(loaded: LoadedModel) -> Iterator[None]:
    """The same as `ids_have_rows` for text that somebody else tokenises while this is open."""
    embedding = _embedding(loaded.model)

    def look(_module: nn.Module, args: tuple[Any, ...]) -> None:
        ids_have_rows(loaded, TokenBatches(args[0].flatten(0, -2), "", "the tasks' text"))

    hook = embedding.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def table_of_positions(model: nn.Module) -> int | None:
    """How many positions the model has in a table, learned or made in advance; None: it has none,
    and computes (rotary, ALiBi) or grows them.

    A table is an embedding other than that of tokens, or a buffer, with a row for every position
    that the configuration names.
    """
    limit = _context(model)
    if limit is None:
        return None
    tokens = _embedding(model)
    tables = [
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not tokens
    ]
    learned = any(limit <= rows <= limit + SPECIAL_ROWS for rows in tables)
    made = any(b.ndim == 2 and len(b) == limit != b.shape[1] for b in model.buffers())
    return limit if learned or made else None


def _context(model: nn.Module) -> int | None:
    config: Any = model.config
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _embedding(model: Any) -> nn.Module:
    return model.get_input_embeddings()
