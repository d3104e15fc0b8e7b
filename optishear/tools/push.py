"""A pruned checkpoint, or a run's recipe, as a new repository of the Hugging Face Hub."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optishear.assets.hub import Repository, repository, said
from optishear.calibration.origin import read_recipe, write_recipe
from optishear.errors import ConfigError
from optishear.export.card import Card, Quality
from optishear.export.place import HASHES_FILE, RECIPE_FILE, REPORT_FILE, refuse_changed
from optishear.export.profiles import write_profile
from optishear.reading.json_data import json_in
from optishear.reading.shapes import Shape, shaped
from optishear.reading.texts import text_of
from optishear.reading.yaml_data import yaml_of
from optishear.records.cache import library_version
from optishear.runs.results import Run, open_run


CARD, DENSE_CARD = "README.md", "README.dense.md"
OF_RUN = ("recipe.json", "profile.csv", "profile.json")
KEPT_BY_THE_HUB = {".gitattributes"}  # in a repository that is new


@dataclass(frozen=True)
class Push:
    """What a push brings: `files` by their names in the repository, where they lie or as bytes."""

    to: Repository
    files: Mapping[str, Path | bytes]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in sorted(self.files.items())
        }


def pushed_from(place: Path, to: str, pick: str | None = None) -> Push:
    """What a push of this folder or run would bring. Nothing is asked of the Hub.

    Raises `ConfigError` where it is neither, or a file is not as it was when it was checked.
    """
    repo = repository("model", to)
    if repo is None or repo.revision is not None:
        raise ConfigError(f"--to-hub {to}: is no name of a repository. Write ORG/NAME.")
    if (place / RECIPE_FILE).is_file():
        if pick is not None:
            raise ConfigError("--pick: a checkpoint was made of one recipe. Leave it out.")
        return _of_checkpoint(place, repo)
    if (place / "config.json").is_file():
        raise ConfigError(
            f"{place}: has no {RECIPE_FILE}, so nobody knows how it was pruned. Give a folder that "
            f"`optishear prune` wrote, or a run."
        )
    return _of_run(open_run(place), repo, pick)


def push(what: Push) -> str:
    """Makes the repository, private, with one commit; returns its address. Never writes into one
    that holds something already."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import httpx

    api, id = HfApi(), what.to.id
    try:
        api.create_repo(id, private=True, exist_ok=True)
        there = sorted(set(api.list_repo_files(id)) - KEPT_BY_THE_HUB)
        if there:
            raise ConfigError(
                f"--to-hub {id}: holds {there[0]} already, and nothing is written over. Name a "
                f"repository that is empty or not there."
            )
        operations = [CommitOperationAdd(name, content) for name, content in what.files.items()]
        made = api.create_commit(id, operations, commit_message="Pruned by optishear")
    except (httpx.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of hf_xet
        raise ConfigError(
            f"--to-hub {id}: could not be pushed ({said(error)}). See to the connection, and to a "
            f"token that may write there (`hf auth login`, or HF_TOKEN); then run it again."
        ) from error
    return made.commit_url


def _of_checkpoint(folder: Path, repo: Repository) -> Push:
    refuse_changed(folder)
    recipe, origin = read_recipe(folder / RECIPE_FILE)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }
    dense = None
    if (own := files.pop(CARD, None)) is not None:
        assert isinstance(own, Path)
        files[DENSE_CARD], dense = own, _front_matter(own)
        lines = (folder / HASHES_FILE).read_text(encoding="utf-8").splitlines()
        moved = [line.replace(f"  {CARD}", f"  {DENSE_CARD}") for line in lines]
        files[HASHES_FILE] = "".join(f"{line}\n" for line in moved).encode()
    card = Card(
        repo.id,
        recipe,
        origin,
        _sparsity(folder / REPORT_FILE),
        str(library_version("optishear")),
        weights=True,
        dense_card=dense,
        dense_file=None if own is None else DENSE_CARD,
    )
    return Push(repo, {**files, CARD: card.text.encode()}, card.text)


def _of_run(run: Run, repo: Repository, pick: str | None) -> Push:
    front = run.front
    recipe = front.pick(pick).recipe
    with tempfile.TemporaryDirectory() as folder:
        written = [Path(folder) / name for name in OF_RUN]
        write_recipe(written[0], recipe, front.origin)
        for path in written[1:]:
            write_profile(path, recipe, front.layout)
        files: dict[str, Path | bytes] = {path.name: path.read_bytes() for path in written}
    card = Card(
        repo.id,
        recipe,
        front.origin,
        front.layout.sparsity(recipe.drop),
        str(library_version("optishear")),
        weights=False,
        quality=_quality(run, recipe.key),
    )
    return Push(repo, {**files, CARD: card.text.encode()}, card.text)


def _quality(run: Run, key: str) -> list[Quality]:
    """Of the dense model and of this recipe, one-shot and block by block; nothing where only
    another one of the front was measured on held-out text."""
    rows = [row for row in run.evaluation if row["recipe"] in (None, key)]
    found = [
        Quality(row["name"], {t: (of["perplexity"], of["error"]) for t, of in row["texts"].items()})
        for row in rows
    ]
    return found if len(found) > 1 else []


class _Layer(Shape):
    size: int
    kept: int


def _sparsity(reports: Path) -> float:
    """Of all prunable weights, by what the checkpoint says of each layer."""
    data, where = json_in(reports), str(reports)
    if not isinstance(data, list) or not data:
        raise ConfigError(f"{where}: is no list of layers. Prune again into another folder.")
    layers = [shaped(_Layer, each, f"{where}: entry {n}") for n, each in enumerate(data)]
    return 1 - sum(layer.kept for layer in layers) / sum(layer.size for layer in layers)


def _front_matter(card: Path) -> dict[str, Any]:
    """The fields at the top of a model card; none where it has no such part."""
    _, *parts = re.split(r"^---[ ]*$", text_of(card), maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 2 or not text_of(card).startswith("---"):
        return {}
    data = yaml_of(parts[0], f"{card}: the part between the lines ---")
    return data if isinstance(data, dict) else {}
