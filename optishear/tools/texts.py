"""Texts of commands: by name, or the usual one of a model."""

from dataclasses import replace
from pathlib import Path

from optishear.errors import ConfigError
from optishear.recipe.lookup import is_path
from optishear.text.bos import AUTO, check_place
from optishear.text.documents import EVERY_SPLIT
from optishear.text.files import SUFFIXES
from optishear.text.sources import SOURCES, TextSpec


EMBEDDED = "embedded"
HUB = ("c4", "wikitext")  # rows with fields, too


def usual_text(model: str, split: str) -> TextSpec:
    """The text that is used for a model where the user names none."""
    if model == EMBEDDED:
        return TextSpec(EMBEDDED, split, 64 if split == "train" else 128, 256)
    return TextSpec("wikipedia-passages", split, 32, 512)


def held_out_text(
    model: str,
    name: str | None,
    field: str | None,
    sequences: int | None,
    seq_len: int | None,
    bos: str | None,
) -> TextSpec:
    """What options say of a text to measure on: the one of that name, all of it unless `sequences`
    says how much, or for None the model's usual one. `bos` None is `auto`."""
    place = check_place(bos or AUTO, "--bos")
    if name is not None:
        return text_named(name, sequences or 0, seq_len or 512, field=field, bos=place)
    usual = usual_text(model, "evaluation")
    count = usual.sequences if sequences is None else sequences
    return replace(usual, sequences=count, seq_len=seq_len or usual.seq_len, bos=place)


def text_named(
    text: str,
    sequences: int,
    seq_len: int,
    usual: str | None = None,
    field: str | None = None,
    bos: str = AUTO,
) -> TextSpec:
    """`SOURCE` or `SOURCE@SPLIT`, or a file, whose path may have an @ in it. Of a dataset what
    stands after an @ and is no split of ours is its revision.

    `usual`: the split where none is named; None is a named source's evaluation split, all of
    anything else. `field`: where the text is in a record, `text` if None. `bos`: see `text.bos`.
    """
    source, at, split = text.rpartition("@")
    pinned = text.startswith("dataset:") and split not in EVERY_SPLIT
    if not at or pinned or Path(text).expanduser().is_file() or is_path(split, SUFFIXES):
        source, split = text, usual or ("evaluation" if text in SOURCES else "all")
    if field is not None and not _has_fields(source):
        raise ConfigError(
            f"--text-field {field}: {source} is plain text, without rows that have fields."
        )
    return TextSpec(source, split, sequences, seq_len, field or "text", bos=bos)


def _has_fields(source: str) -> bool:
    kinds = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")
    return source.startswith("dataset:") or source in HUB or source.lower().endswith(kinds)
