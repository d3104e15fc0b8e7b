"""Token windows: a fixed set of equally long ones, of what a text says.

The documents of a split are tokenised one by one and strung together with blank lines between;
the stream is cut into consecutive windows that do not overlap, a rest shorter than a window is left
out, and a seeded choice of them is the data. So it is in the code of GPTQ, SparseGPT and Wanda,
which leave the BOS to the tokenizer: Llama's puts one before the text, many others none.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from optishear.errors import ConfigError
from optishear.records.atomic import whole_file
from optishear.records.cache import OTHER_CACHE, kept, key
from optishear.tasks import CAUSAL_LM, Samples
from optishear.text.bos import NONE, PLACES, TEXT, WINDOW, place_of
from optishear.text.conversations import conversation_ids
from optishear.text.documents import Document, Source
from optishear.text.hub import HubSource
from optishear.text.packaged import Embedded, vocabulary_hash
from optishear.text.sources import TextSpec, drawn_as, source_of


logger = logging.getLogger(__name__)

BETWEEN = "\n\n"
"""What stands between two documents of a stream; a conversation ends as its template has it."""

POOL = 4
"""A streamed source is read until there are this many times the windows wanted to choose from."""

CACHED_FROM = 200_000
"""Tokens from which on a stream is kept on disk: shorter ones take under a second or two. What came
over a network is kept whatever its length, so that the next run needs none."""

DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class TokenBatches(Samples):
    """Fixed token windows and where they come from. Two are the same data if `hash` is equal.

    - `hash`: sha256 of shape and ids, 16 hex digits.
    - `source`: for a reader, e.g. `sotu/train, 16 of 3366 windows of 512 tokens, seed 0`.
    - `commit`: of a dataset of the hub, the one that was read.
    """

    task = CAUSAL_LM

    tokens: Int[Tensor, "n seq"]
    hash: str
    source: str
    commit: str | None = None

    @classmethod
    def of(
        cls, tokens: Int[Tensor, "n seq"], source: str, commit: str | None = None
    ) -> "TokenBatches":
        """These windows with their hash; ids are kept as int64 on the CPU."""
        tokens = tokens.to(device="cpu", dtype=torch.int64).contiguous()
        content = repr(tuple(tokens.shape)).encode() + tokens.numpy().astype("<i8").tobytes()
        return cls(tokens, hashlib.sha256(content).hexdigest()[:16], source, commit)

    @property
    def batch(self) -> Int[Tensor, "n seq"]:
        return self.tokens

    def first(self, count: int) -> "TokenBatches":
        return TokenBatches.of(self.tokens[:count], self.source, self.commit)


def token_batches(spec: TextSpec, tokenizer: Callable[..., Any]) -> TokenBatches:
    """The windows that `spec` asks for, as `tokenizer` (a transformers one) writes them.

    No special tokens are added, but for a BOS where `spec.bos` says. The choice is uniform
    without replacement, drawn from a generator made of (seed, source, split), and kept in the order
    of the text. A file is the source that its content makes it, whatever its name. Of a streamed
    source the choice is among the first `POOL` times as many windows.
    Raises `ConfigError` where the text cannot be had or is too short, and for a BOS that the
    tokenizer lacks.
    """
    source, bos, commit = source_of(spec.source), place_of(spec.bos, tokenizer), None
    where, length = f"{source.name}/{spec.split}", spec.seq_len - (bos == WINDOW)
    if length < 2:
        raise ConfigError(
            f"{where}: windows of {spec.seq_len} tokens, one of them the BOS, have nothing that is "
            f"predicted from another. Use longer ones."
        )
    if source.endless and spec.sequences == 0:
        raise ConfigError(f"{where}: has no end; say how many sequences (0 means all).")
    if isinstance(source, HubSource):
        source = source.settled()
        commit = source.commit and source.commit.hash
    before = sum(spec.after)
    limit = None
    if source.streamed and spec.sequences:
        limit = POOL * (before + spec.sequences) * length
    stream = _stream(source, spec, tokenizer, limit)
    if len(stream) == 0:
        raise ConfigError(f"{where}: holds no text. Use another split or another source.")
    token: Any = getattr(tokenizer, "bos_token_id", None)
    if bos == TEXT:
        stream = np.concatenate([np.array([token], dtype=stream.dtype), stream])
    found = len(stream) // length
    wanted = spec.sequences or found - before
    if found - before < max(wanted, 1):
        earlier = f" after {before} drawn before" if before else ""
        raise ConfigError(
            f"{where}: its {len(stream)} tokens make {found} windows of {length}, but "
            f"{max(wanted, 1)} were asked for{earlier}. Ask for fewer or shorter sequences, or use "
            f"another split or a longer text."
        )
    windows = stream[: found * length].reshape(found, length)
    tokens = torch.from_numpy(windows[_drawn(spec, source, found, wanted)].astype(np.int64))
    if bos == WINDOW:
        tokens = torch.cat([torch.full((wanted, 1), token), tokens], dim=1)
    earlier = f" after {' and '.join(map(str, spec.after))}" if spec.after else ""
    words = f", {PLACES[bos]}" if bos != NONE else ""
    return TokenBatches.of(
        tokens,
        f"{where}, {wanted} of {found} windows of {spec.seq_len} tokens{earlier}, seed {spec.seed}"
        f"{words}",
        commit,
    )


def _drawn(spec: TextSpec, source: Source, found: int, wanted: int) -> Int[np.ndarray, " wanted"]:
    """Indices of windows, rising: draw after draw from what the ones before have left, the last."""
    purpose = hashlib.sha256(f"{spec.seed}|{drawn_as(source)}|{spec.split}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(purpose[:8], "big"))
    left, chosen = np.arange(found), np.arange(0)
    for count in (*spec.after, wanted):
        chosen = np.sort(generator.choice(len(left), size=count, replace=False))
        chosen, left = left[chosen], np.delete(left, chosen)
    return chosen


def tokenizer_hash(tokenizer: Callable[..., Any]) -> str | None:
    """sha256 of all that decides how text becomes ids; None for a tokenizer that cannot tell it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    told = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    if template := getattr(tokenizer, "chat_template", None):
        told |= {"chat_template": template, "special": str(tokenizer.special_tokens_map)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _stream(
    source: Source, spec: TextSpec, tokenizer: Callable[..., Any], limit: int | None
) -> np.ndarray:
    """All token ids of a split in order, or the first `limit`; from the cache where they can be."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if (
        isinstance(source, Embedded)
        and backend is not None
        and vocabulary_hash(backend.to_str()) == source.vocabulary()
    ):
        return source.stored(spec.split)
    identity, writer = source.identity(), tokenizer_hash(tokenizer)
    if identity is None or writer is None:
        return _tokenised(source, spec, tokenizer, limit)
    told = {"source": identity, "tokenizer": writer, "split": spec.split, "field": spec.field}
    cached = key("tokens", {**told, "limit": limit}).path
    if (stream := kept(cached, partial(np.load, allow_pickle=False))) is not None:
        return stream
    stream = _tokenised(source, spec, tokenizer, limit)
    if len(stream) >= CACHED_FROM or isinstance(source, HubSource):
        with whole_file(cached, OTHER_CACHE) as half:
            np.save(half, stream, allow_pickle=False)
    return stream


def _tokenised(
    source: Source, spec: TextSpec, tokenizer: Callable[..., Any], limit: int | None
) -> np.ndarray:
    pieces: list[np.ndarray] = []
    length = 0
    between = _ids(tokenizer, [BETWEEN])[0]
    documents = source.documents(spec.split, spec.field)
    last: Document | None = None
    while some := list(islice(documents, DOCUMENTS_AT_ONCE)):
        for document, ids in zip(some, _written(tokenizer, some), strict=True):
            if last is not None and not (last.chat or document.chat):
                pieces.append(between)
                length += len(between)
            pieces.append(ids)
            length += len(ids)
            last = document
        if limit is not None and length >= limit:
            break
    stream = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    return stream[:limit]


def _written(tokenizer: Callable[..., Any], documents: Sequence[Document]) -> Iterator[np.ndarray]:
    """Token ids of each of these: of conversations as the chat template has them."""
    plain = iter(_ids(tokenizer, [each.text for each in documents if not each.chat]))
    for each in documents:
        yield conversation_ids(tokenizer, each) if each.chat else next(plain)


def _ids(tokenizer: Callable[..., Any], texts: list[str]) -> list[np.ndarray]:
    if not texts:
        return []
    told = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    )  # not verbose: a text longer than the model's context is cut into windows here
    return [np.asarray(ids, dtype=np.int32) for ids in told["input_ids"]]
