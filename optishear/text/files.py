"""Text from the user's own files: .txt, .jsonl and .parquet."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.json_data import json_of
from optishear.reading.texts import BOM, decoded, text_of
from optishear.text.conversations import messages_of
from optishear.text.documents import Document, Source, belongs


SUFFIXES = (".txt", ".jsonl", ".parquet")
FEWEST_BLOCKS = 10
OTHER_FIELD = "--text-field NAME, or `field: NAME` beside `source` in an experiment file"


@dataclass(frozen=True, kw_only=True)
class LocalFile(Source):
    """One file. Its documents are split by sha256 of their *text*: equal texts are never parted.

    A .txt file as `all` is one document, the whole text as it is (the usual protocol of perplexity
    tables); for a named split its documents are the blocks between blank lines, or the non-empty
    lines where there are fewer than 10 such blocks. In .jsonl and .parquet a row is a document.
    """

    path: Path

    def identity(self) -> str:
        """Of the content, whatever the file is called; a byte order mark is no part of it."""
        with self.path.open("rb") as file:
            if self._is_table or file.read(len(BOM)) != BOM:
                file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def _is_table(self) -> bool:
        return self.path.suffix.lower() == ".parquet"

    def documents(self, split: str, field: str) -> Iterator[Document]:
        read = {".txt": self._text, ".jsonl": self._json_lines, ".parquet": self._parquet}
        try:
            for document in read[self.path.suffix.lower()](split, field):
                if belongs(document.text, split):
                    yield document
        except UnicodeDecodeError as error:  # in a Parquet file, whose texts are bytes
            raise ConfigError(f"{self.path}: is not UTF-8 text ({error}). Convert it.") from error
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read ({error.strerror}).") from error

    def _text(self, split: str, field: str) -> Iterator[Document]:
        text = text_of(self.path)
        blocks = [text] if text.strip() else []
        if split != "all":
            blocks = [block for block in re.split(r"\n\s*\n", text) if block.strip()]
            if len(blocks) < FEWEST_BLOCKS:
                blocks = [line for line in text.splitlines() if line.strip()]
        for number, block in enumerate(blocks):
            yield Document(self._id(number), block)

    def _json_lines(self, split: str, field: str) -> Iterator[Document]:
        with self.path.open("rb") as lines:
            for number, content in enumerate(lines, start=1):
                content = content.removeprefix(BOM) if number == 1 else content
                if line := decoded(content, str(self.path), number).strip():
                    where = f"{self.path}, line {number}"
                    row = json_of(line, where, numbers=False)
                    yield document_of(self._id(number), row, field, where)

    def _parquet(self, split: str, field: str) -> Iterator[Document]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as table:
                if field not in table.schema_arrow.names:
                    text_field(dict.fromkeys(table.schema_arrow.names), field, str(self.path))
                number = 0
                for batch in table.iter_batches(columns=[field]):
                    for row in batch.to_pylist():
                        number += 1
                        where = f"{self.path}, row {number}"
                        yield document_of(self._id(number), row, field, where)
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"{self.path}: is not a whole Parquet file ({error}). Write it anew."
            ) from error

    def _id(self, position: int) -> str:
        return f"{self.path.name}:{position}"


def document_of(name: str, row: Any, field: str, where: str) -> Document:
    """The text under `field` of one record, or the conversation, where it is a list of messages;
    `ConfigError` where it is neither."""
    if isinstance(row, dict) and isinstance(row.get(field), list):
        return Document(name, messages_of(row[field], f"{where}: field {field!r}"), chat=True)
    return Document(name, text_field(row, field, where))


def text_field(row: Any, field: str, where: str) -> str:
    """The text under `field` of one record; `ConfigError` where it is missing or is no text."""
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: is {type(row).__name__}, not an object with named fields.")
    if field not in row:
        raise ConfigError(
            f"{where}: has no field {field!r}. It has: {', '.join(sorted(row)) or 'none'}. Name "
            f"the one with the text: {OTHER_FIELD}."
        )
    if row[field] is None:
        raise ConfigError(
            f"{where}: field {field!r} is null, where text should be. Leave such rows out of "
            f"the file, or write an empty text there."
        )
    if not isinstance(row[field], str):
        raise ConfigError(
            f"{where}: field {field!r} is {type(row[field]).__name__}, neither text nor a list of "
            f"messages. Name another ({OTHER_FIELD}), or write it as text."
        )
    return row[field]


def local_file(name: str) -> LocalFile:
    """The file at path `name`. Raises `ConfigError` where there is none or its kind is unknown."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{name}: text is read from {', '.join(SUFFIXES)} files; convert it.")
    if not path.is_file():
        raise ConfigError(f"{name}: there is no such file (looked in {path.absolute().parent}).")
    return LocalFile(name=path.name, about="a file of yours", licence="yours to know", path=path)
