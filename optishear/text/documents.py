"""Sources of text: documents in a fixed order, and which of them serve which purpose.

Calibration reads `train`, the search judges recipes on `search`, results come from `evaluation`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


SPLITS = ("train", "search", "evaluation")
EVERY_SPLIT = (*SPLITS, "all")


@dataclass(frozen=True)
class Document:
    """One text that hangs together. `id` names it within its source.

    - `chat`: it is a conversation, and `text` its messages as JSON (`text.conversations`).
    """

    id: str
    text: str
    chat: bool = False


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A named collection of documents, always in the same order.

    - `about`: one line for a listing. `licence`: of the text, as its publisher states it.
    - `streamed`: read over a network, so only as far as is needed.
    - `endless`: too long for anybody to want the whole of it.
    """

    name: str
    about: str
    licence: str
    streamed: bool = False
    endless: bool = False

    @abstractmethod
    def documents(self, split: str, field: str) -> Iterator[Document]:
        """The documents of one of `EVERY_SPLIT`; `field` names the text where records have fields.

        Raises `ConfigError` where the text cannot be had or `field` is missing.
        """

    @abstractmethod
    def identity(self) -> str | None:
        """A hash of all that `documents` reads; None where the text may change under its name."""


def split_of(key: str) -> str:
    """The split of a document in a source without splits of its own, by sha256 of its key.

    The first 8 hex digits, as a fraction of 2**32, below 0.8: train, below 0.9: search, else
    evaluation. It depends on the document alone: adding others moves none.
    """
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if share < 0.8 else "search" if share < 0.9 else "evaluation"


def belongs(key: str, split: str) -> bool:
    """Whether the document with this key is part of `split`; all are part of `all`."""
    return split == "all" or split_of(key) == split
