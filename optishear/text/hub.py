"""Text from Hugging Face datasets, by data files alone: a dataset's own code is never run."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optishear.assets.hub import (
    Commit,
    Repository,
    commit_of,
    explained,
    is_of_the_hub,
    refuse_page,
    said,
)
from optishear.errors import ConfigError
from optishear.records.cache import library_version
from optishear.text.documents import SPLITS, Document, Source, belongs
from optishear.text.files import document_of, text_field


THEIRS = {"train": "train", "search": "validation", "evaluation": "test"}
"""What our splits are called in a dataset that has all three."""

DATASET = re.compile(
    r"(?P<path>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^\s@:]+))?(?::(?P<config>.+))?"
)
ELSE = "Or use `wikipedia-passages`, `sotu`, or a file of your own."


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """A dataset as it is at one commit, which never changes; or in a folder here, which may.

    - `revision`: a branch, tag or commit that the user wants; None the usual.
    - `commit`: what that stands for, once somebody asked (`settled`).
    """

    path: str
    config: str | None
    revision: str | None = None
    commit: Commit | None = None

    @property
    def repository(self) -> Repository | None:
        """On the hub; None where it is a folder here."""
        here = Path(self.path).expanduser().is_dir()
        return None if here else Repository("dataset", self.path, self.revision)

    def settled(self) -> "HubSource":
        """The same with its commit, so that all of a text is of one. Raises `ConfigError` where
        that cannot be told."""
        repo = self.repository
        if repo is None or self.commit is not None:
            return self
        try:
            return replace(self, commit=commit_of(repo))
        except ConfigError as error:
            raise ConfigError(f"{error} {ELSE}") from error

    def identity(self) -> str | None:
        """Of a settled one: who reads it, how, and the commit."""
        if self.commit is None:
            return None
        reader = {"as": type(self).__name__, "datasets": library_version("datasets")}
        told = {**reader, "path": self.path, "config": self.config, "commit": self.commit.hash}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def load(self, split: str | None) -> Any:
        """What `datasets.load_dataset` gives, rows where split is given; it fails as `ConfigError`.

        `datasets` falls back on whatever commit it has kept where the hub does not answer; here
        that is an error, for it would be another text under this one's name.
        """
        import datasets

        if self.commit is not None and not self.commit.told and self.streamed:
            raise ConfigError(
                f"{self.name}: these windows of it are not in the cache, and the Hugging Face hub "
                f"cannot be asked. Run once with a connection. {ELSE}"
            )
        revision = None if self.commit is None else self.commit.hash
        try:
            builder = datasets.load_dataset_builder(self.path, self.config, revision=revision)
            if revision not in (None, builder.hash):
                raise ConfigError(
                    f"{self.name}: the hub cannot be asked for commit {revision} of it, and the "
                    f"cache of `datasets` has {builder.hash}. Run with a connection. {ELSE}"
                )
            if self.streamed:
                loaded = builder.as_streaming_dataset(split=split)
            else:
                builder.download_and_prepare()
                loaded = builder.as_dataset(split=split)
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # a network and a dozen file formats share no class of error
            raise self.unreadable(error) from error
        return loaded if split is None else self.reading(loaded)

    def reading(self, rows: Any) -> Iterator[dict[str, Any]]:
        """The rows one by one; a connection that breaks on the way is a `ConfigError`."""
        try:
            yield from rows
        except Exception as error:  # as in `load`; what is raised over a row is not caught
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> ConfigError:
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub import HfApi
        from huggingface_hub.utils import httpx

        repo = self.repository
        if repo is not None and isinstance(error, DatasetNotFoundError):
            try:
                HfApi().auth_check(repo.id, repo_type="dataset")  # which of all that it means?
            except httpx.HTTPError as why:
                error = why
        if repo is not None and is_of_the_hub(error):
            return ConfigError(f"{explained(repo, error)} {ELSE}")
        return ConfigError(
            f"The dataset {self.path!r} could not be read ({said(error)}). See to its name, its "
            f"configuration and its files. {ELSE}"
        )


@dataclass(frozen=True, kw_only=True)
class WikiText(HubSource):
    """WikiText-2 by the usual protocol: a split is one text, its lines joined by blank lines.

    Merity et al. 2016 (arXiv 1609.07843); `"\\n\\n".join(dataset["text"])` as in GPTQ's and Wanda's
    evaluation. Their tokenizers put a BOS before the text where the model has one; ours do not.
    """

    path: str = "Salesforce/wikitext"
    config: str | None = "wikitext-2-raw-v1"

    def documents(self, split: str, field: str) -> Iterator[Document]:
        for part in SPLITS if split == "all" else (split,):
            rows = self.settled().load(THEIRS[part])
            text = "\n\n".join(text_field(row, field, self.name) for row in rows)
            if text.strip():
                yield Document(f"{self.name}/{THEIRS[part]}", text)


@dataclass(frozen=True, kw_only=True)
class C4(HubSource):
    """C4, English. Evaluation is its validation set; train and search share its train set by URL.

    Raffel et al. 2019 (arXiv 1910.10683). Read in its own order from the start, as a stream.
    """

    path: str = "allenai/c4"
    config: str | None = "en"

    def documents(self, split: str, field: str) -> Iterator[Document]:
        if split in ("evaluation", "all"):
            yield from self._rows("validation", field)
        if split != "evaluation":
            for document in self._rows("train", field):
                if belongs(document.id, split):
                    yield document

    def _rows(self, theirs: str, field: str) -> Iterator[Document]:
        for row in self.settled().load(theirs):
            yield document_of(str(row.get("url")), row, field, self.name)


@dataclass(frozen=True, kw_only=True)
class HubDataset(HubSource):
    """Any dataset, as `dataset:ORG/NAME[@REVISION][:CONFIG]`, streamed.

    One with splits called train, validation and test keeps them, validation being our search.
    Of any other one all splits are read in order and parted by sha256 of each text.
    """

    @property
    def unpinned(self) -> str:
        """Its name whatever its revision: a pin to what was read anyway changes no window."""
        return f"dataset:{self.path}" + (f":{self.config}" if self.config else "")

    def documents(self, split: str, field: str) -> Iterator[Document]:
        whole = self.settled().load(None)
        own = set(THEIRS.values()) <= set(whole)
        asked = [THEIRS[split]] if own and split != "all" else list(whole)
        for part in asked:
            for number, row in enumerate(self.reading(whole[part])):
                where = f"{self.name}, split {part}, row {number}"
                document = document_of(f"{part}:{number}", row, field, where)
                if own or belongs(document.text, split):
                    yield document


def hub_dataset(name: str) -> HubDataset:
    """The source behind `dataset:ORG/NAME[@REVISION][:CONFIG]`. Nothing is read yet."""
    told = name.removeprefix("dataset:")
    refuse_page(told, "dataset")
    found = DATASET.fullmatch(told)
    if found is not None and not Path(told).is_dir():
        path, revision, config = found.groups()
    else:
        (path, _, config), revision = told.partition(":"), None
    if not path:
        raise ConfigError(
            f"{name!r} names no dataset; write dataset:ORG/NAME, with @REVISION and :CONFIG where "
            f"these are wanted."
        )
    return HubDataset(
        name=name,
        about="a dataset of the Hugging Face hub",
        licence="see its card",
        streamed=True,
        path=path,
        config=config or None,
        revision=revision,
    )
