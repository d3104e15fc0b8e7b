"""Text from Hugging Face datasets, by data files alone: a dataset's own code is never run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optishear.errors import ConfigError
from optishear.text.documents import SPLITS, Document, Source, belongs
from optishear.text.files import document_of, text_field


THEIRS = {"train": "train", "search": "validation", "evaluation": "test"}
"""What our splits are called in a dataset that has all three."""


@dataclass(frozen=True, kw_only=True)
class WikiText(Source):
    """WikiText-2 by the usual protocol: a split is one text, its lines joined by blank lines.

    Merity et al. 2016 (arXiv 1609.07843); `"\\n\\n".join(dataset["text"])` as in GPTQ's and Wanda's
    evaluation. Their tokenizers put a BOS before the text where the model has one; ours do not.
    """

    path: str = "Salesforce/wikitext"
    config: str | None = "wikitext-2-raw-v1"

    def identity(self) -> None:
        return None

    def documents(self, split: str, field: str) -> Iterator[Document]:
        for part in SPLITS if split == "all" else (split,):
            rows = load(self.path, self.config, split=THEIRS[part], streaming=False)
            text = "\n\n".join(text_field(row, field, self.name) for row in rows)
            if text.strip():
                yield Document(f"{self.name}/{THEIRS[part]}", text)


@dataclass(frozen=True, kw_only=True)
class C4(Source):
    """C4, English. Evaluation is its validation set; train and search share its train set by URL.

    Raffel et al. 2019 (arXiv 1910.10683). Read in its own order from the start, as a stream.
    """

    path: str = "allenai/c4"
    config: str | None = "en"

    def identity(self) -> None:
        return None

    def documents(self, split: str, field: str) -> Iterator[Document]:
        if split in ("evaluation", "all"):
            yield from self._rows("validation", field)
        if split != "evaluation":
            for document in self._rows("train", field):
                if belongs(document.id, split):
                    yield document

    def _rows(self, theirs: str, field: str) -> Iterator[Document]:
        for row in load(self.path, self.config, split=theirs, streaming=True):
            yield document_of(str(row.get("url")), row, field, self.name)


@dataclass(frozen=True, kw_only=True)
class HubDataset(Source):
    """Any dataset, as `dataset:ORG/NAME[:CONFIG]`, streamed.

    One with splits called train, validation and test keeps them, validation being our search.
    Of any other one all splits are read in order and parted by sha256 of each text.
    """

    path: str
    config: str | None

    def identity(self) -> None:
        return None

    def documents(self, split: str, field: str) -> Iterator[Document]:
        whole = load(self.path, self.config, split=None, streaming=True)
        own = set(THEIRS.values()) <= set(whole)
        asked = [THEIRS[split]] if own and split != "all" else list(whole)
        for part in asked:
            for number, row in enumerate(reading(whole[part], self.name)):
                where = f"{self.name}, split {part}, row {number}"
                document = document_of(f"{part}:{number}", row, field, where)
                if own or belongs(document.text, split):
                    yield document


def load(path: str, config: str | None, *, split: str | None, streaming: bool) -> Any:
    """What `datasets.load_dataset` gives, rows where split is given; it fails as `ConfigError`."""
    import datasets

    try:
        loaded = datasets.load_dataset(path, config, split=split, streaming=streaming)
    except Exception as error:  # a network and a dozen file formats share no class of error
        raise _unreachable(path, error) from error
    return loaded if split is None else reading(loaded, path)


def reading(rows: Any, path: str) -> Iterator[dict[str, Any]]:
    """The rows one by one; a connection that breaks on the way is a `ConfigError`."""
    try:
        yield from rows
    except Exception as error:  # as in `load`; what the reader of these rows raises is not caught
        raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"The dataset {path!r} could not be read ({type(error).__name__}: {error}). See to its "
        f"name and the connection, or use `wikipedia-passages`, `sotu`, or a file of your own."
    )


def hub_dataset(name: str) -> HubDataset:
    """The source behind `dataset:ORG/NAME[:CONFIG]`. Nothing is read yet."""
    path, _, config = name.removeprefix("dataset:").partition(":")
    if not path:
        raise ConfigError(f"{name!r} names no dataset; write dataset:ORG/NAME or with :CONFIG.")
    return HubDataset(
        name=name,
        about="a dataset of the Hugging Face hub",
        licence="see its card",
        streamed=True,
        path=path,
        config=config or None,
    )
