"""Models of the Hugging Face Hub: what of a repository is fetched, and whether it can be pruned."""

import logging
import re
import time
from functools import cache
from pathlib import Path

from optishear.assets.hub import Commit, Repository, commit_of, explained, said
from optishear.errors import ConfigError
from optishear.records.atomic import NO_SPACE, storage_errors


logger = logging.getLogger(__name__)

FILES = (
    "*.json", "*.safetensors", "tokenizer.model", "spiece.model", "*.txt", "*.jinja",
    "*.md", "LICEN[SC]E*", "NOTICE*",
)  # fmt: skip
"""What a model is made of, and what a pruned one takes along of it. No code, no pickles."""

LEFT = ("*/*", "consolidated*")
"""The same weights once more as their makers' own code reads them; and what lies in folders."""

TRIES = 3
"""huggingface_hub goes on by itself after a stall, but not after a connection that was reset."""

PAUSE = 1.0

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")


@cache
def fetched(repo: Repository) -> Path:
    """The folder with this model, in huggingface_hub's cache; asked once in a process.

    Raises `ConfigError` where there is no such thing, it cannot be had, or has no weights that may
    be read; `StorageError` where the disk is full.
    """
    from huggingface_hub import constants

    commit = commit_of(repo)
    with storage_errors(Path(constants.HF_HUB_CACHE), "set HF_HOME to a folder on another disk"):
        folder = _downloaded(repo, commit)
    _refuse_weightless(repo, folder, commit)
    return folder


def commit_in(folder: Path) -> str | None:
    """The commit whose files a folder holds: huggingface_hub calls it so; None elsewhere."""
    name = folder.name
    in_cache = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", name)
    return name if in_cache else None


def _downloaded(repo: Repository, commit: Commit) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import httpx

    for attempt in range(1, TRIES + 1):
        try:
            folder = huggingface_hub.snapshot_download(
                repo.id,
                revision=commit.revision,
                allow_patterns=list(FILES),
                ignore_patterns=list(LEFT),
                local_files_only=not commit.told,
            )
            return Path(folder)
        except MemoryError:
            raise
        except Exception as error:  # HTTP, the Hub's own and Xet's share no class of error
            if _of_the_disk(error):
                raise
            if not isinstance(error, httpx.TransportError) or attempt == TRIES:
                raise explained(repo, error) from error
            logger.warning("%s: the download broke off (%s); going on", repo, said(error))
            time.sleep(PAUSE)
    raise AssertionError("the last attempt returns or raises")


def _of_the_disk(error: Exception) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):  # these have numbers, too
        return False
    return getattr(error, "errno", None) is not None or NO_SPACE in str(error)


def _refuse_weightless(repo: Repository, folder: Path, commit: Commit) -> None:
    """A `ConfigError` that says what there is in the place of safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(repo.id, revision=commit.hash)
    except CachedRepoTreeNotFoundError:  # a cache of before there were listings
        tree = []
    names = sorted(file.path for file in tree if "/" not in file.path)
    if own := [name for name in names if name.startswith("consolidated")]:
        raise ConfigError(
            f"{repo}: has its weights only as {own[0]}, in its maker's own layout, which "
            f"transformers does not read. Give a repository with model.safetensors."
        )
    if pickled := [name for name in names if name.endswith(PICKLES)]:
        raise ConfigError(
            f"{repo}: has no safetensors weights, only {pickled[0]}, which is not fetched: a "
            f"pickle can run any code when it is read. Look for a conversion among "
            f"{repo.page}/discussions and give it as {repo.id}@refs/pr/NUMBER, or give another "
            f"repository of the model."
        )
    if gguf := [name for name in names if name.endswith(".gguf")]:
        raise ConfigError(
            f"{repo}: has GGUF files only ({gguf[0]}). Download one and give its path."
        )
    raise ConfigError(
        f"{repo}: has no safetensors weights beside its config.json. See to {repo.page}."
    )
