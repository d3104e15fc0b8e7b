"""Which text a command means: by name, or the usual one of a model."""

from pathlib import Path

from optishear.recipe.lookup import is_path
from optishear.text.files import SUFFIXES
from optishear.text.sources import SOURCES, TextSpec


EMBEDDED = "embedded"


def usual_text(model: str, split: str) -> TextSpec:
    """The text that is used for a model where the user names none."""
    if model == EMBEDDED:
        return TextSpec(EMBEDDED, split, 64 if split == "train" else 128, 256)
    return TextSpec("wikipedia-passages", split, 32, 512)


def text_named(text: str, sequences: int, seq_len: int, usual: str | None = None) -> TextSpec:
    """`SOURCE` or `SOURCE@SPLIT`, or a file, whose path may have an @ in it.

    `usual`: the split where none is named; None is a named source's evaluation split, all of
    anything else.
    """
    source, at, split = text.rpartition("@")
    if not at or Path(text).expanduser().is_file() or is_path(split, SUFFIXES):
        source, split = text, usual or ("evaluation" if text in SOURCES else "all")
    return TextSpec(source, split, sequences, seq_len)
