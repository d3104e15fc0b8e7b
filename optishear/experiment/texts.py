"""Which text a command means: by name, or the usual one of a model."""

from optishear.text.sources import SOURCES, TextSpec


EMBEDDED = "embedded"


def usual_text(model: str, split: str) -> TextSpec:
    """The text that is used for a model where the user names none."""
    if model == EMBEDDED:
        return TextSpec(EMBEDDED, split, 64 if split == "train" else 128, 256)
    return TextSpec("wikipedia-passages", split, 32, 512)


def text_named(text: str, sequences: int, seq_len: int) -> TextSpec:
    """`SOURCE` or `SOURCE@SPLIT`; a named source's evaluation split, all of anything else."""
    source, at, split = text.rpartition("@")
    if not at:
        source, split = text, "evaluation" if text in SOURCES else "all"
    return TextSpec(source, split, sequences, seq_len)
