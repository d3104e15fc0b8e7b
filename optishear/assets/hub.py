"""The Hugging Face Hub: names with a revision, the commits they stand for, what its errors mean.

All requests are huggingface_hub's own; where they go and what is kept where is its settings'
(HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN).
"""

import logging
import re
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

from optishear.errors import ConfigError


logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([^\s@:]+))?")
PAGE = re.compile(r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)|hf:/)/+(.+)", re.I)

ANSWER = 10.0
"""Seconds for the Hub to say which commit a name stands for; huggingface_hub itself waits for ever.
A network that drops everything shows here."""


@dataclass(frozen=True)
class Repository:
    """A model or dataset of the Hub by name; `revision`: a branch, tag or commit, None the usual.

    As text it is what users write: ORG/NAME[@REVISION], of a dataset with `dataset:` before it.
    """

    kind: Kind
    id: str
    revision: str | None = None

    def __str__(self) -> str:
        named = f"dataset:{self.id}" if self.kind == "dataset" else self.id
        return named if self.revision is None else f"{named}@{self.revision}"

    @property
    def page(self) -> str:
        """Where a reader accepts terms and looks for spellings."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


@dataclass(frozen=True)
class Commit:
    """What a name stands for. `revision`: for huggingface_hub, which then asks no second time.

    - `told`: the Hub said so now; else it is what was last known here, and the Hub is not there.
    """

    hash: str
    revision: str
    told: bool


def repository(kind: Kind, name: str) -> Repository | None:
    """The repository that somebody means; None where this is no ORG/NAME[@REVISION]."""
    found = NAME.fullmatch(name)
    return None if found is None else Repository(kind, found[1], found[2])


def refuse_page(name: str, kind: Kind) -> None:
    """A `ConfigError` with the id where the address of a page was pasted."""
    found = PAGE.fullmatch(name.strip())
    if found is None:
        return
    parts = [part for part in re.split(r"[?#]", found[1])[0].split("/") if part] or [name]
    theirs: Kind = "dataset" if parts[0] == "datasets" else "model"
    if parts[0] in ("datasets", "models"):
        parts = parts[1:]
    id, rest = "/".join(parts[:2]), parts[2:]
    if len(rest) > 1 and rest[0] in ("tree", "blob", "resolve") and rest[1] != "main":
        id += f"@{rest[1]}"
    if theirs == kind:
        give = f"dataset:{id}" if kind == "dataset" else id
        raise ConfigError(f"{name}: is the address of a page. Give the {kind}'s id: {give}")
    give = f"dataset:{id} is how it is named as a text" if theirs == "dataset" else id
    raise ConfigError(f"{name}: is the page of a {theirs}, not of a {kind}; {give}.")


def commit_of(repo: Repository) -> Commit:
    """The commit that this name stands for. Where the Hub is not there, the last one known here.

    Raises `ConfigError` where it can not be told or does not exist.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        return _asked(repo)
    except OfflineModeIsEnabled as error:
        return _last_known(repo, error)
    except (httpx.TransportError, HfHubHTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise explained(repo, error) from error  # it is there, and says no
        known = _last_known(repo, error)
        logger.warning(
            "%s: the Hub could not be asked (%s); going on with the last commit known here, %s",
            repo,
            said(error),
            known.hash,
        )
        return known
    except ValueError as error:  # names that no repository can have
        raise explained(repo, error) from error


@cache
def _asked(repo: Repository) -> Commit:
    """Once in a process: calibration and search, dense and pruned are of one commit, whatever is
    pushed in between. An error is not remembered."""
    from huggingface_hub import HfApi

    info = HfApi().repo_info(repo.id, repo_type=repo.kind, revision=repo.revision, timeout=ANSWER)
    return _revision(repo, lambda **_: info)


def _last_known(repo: Repository, error: Exception) -> Commit:
    from huggingface_hub.errors import RevisionResolutionError

    try:
        return _revision(repo, None)
    except RevisionResolutionError:
        raise explained(repo, error) from error


def _revision(repo: Repository, answer: object | None) -> Commit:
    """By huggingface_hub, which writes down what it is told and so knows it without the Hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    if answer is not None:
        vars(api)["repo_info"] = answer  # was asked already, with a limit of time
    resolve = partial(api.resolve_revision, local_files_only=answer is None)
    found = resolve(repo.id, repo_type=repo.kind, revision=repo.revision)
    return Commit(found.resolved, found, answer is not None)


def explained(repo: Repository, error: BaseException) -> ConfigError:
    """What an error of huggingface_hub, or of a library over it, means and what to do."""
    from huggingface_hub import constants, errors, get_token
    from huggingface_hub.utils import httpx

    cause = _cause(error, errors.HfHubHTTPError) or error
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    log_in = "`hf auth login`, or a token in HF_TOKEN"
    if isinstance(cause, errors.GatedRepoError) and status == 403:
        why = (
            f"its terms are not accepted by the account of your token (403). Accept them at "
            f"{repo.page} (some owners answer by hand), then run the same command again."
        )
    elif isinstance(cause, errors.GatedRepoError):
        why = (
            f"is gated ({status}). Accept its terms at {repo.page}, then log in as the account "
            f"that did: {log_in}."
        )
    elif isinstance(cause, errors.RevisionNotFoundError):
        why = f"has no revision {repo.revision!r}. Give a branch, tag or commit of {repo.page}."
    elif isinstance(cause, errors.RepositoryNotFoundError):
        private = (
            f"or it is private and needs {log_in}"
            if get_token() is None
            else "or the account of your token may not see it"
        )
        why = f"the Hugging Face hub has no such {repo.kind}, {private}. See to the spelling."
    elif status == 401:
        why = f"the Hugging Face hub does not know your token (401). Make another: {log_in}."
    elif status == 403:
        why = (
            f"your token may not read it ({said(cause)}). Give it the right to read gated "
            f"repositories, or another one: {log_in}."
        )
    elif status == 429:
        why = f"the Hugging Face hub is asked too often (429). Wait some minutes, or {log_in}."
    elif status is not None and status >= 500:
        why = f"the Hugging Face hub fails ({said(cause)}). Run the same command again later."
    elif status is not None:
        why = (
            f"{constants.ENDPOINT} refuses it ({said(cause)}). See to HF_ENDPOINT and to proxies, "
            f"if it is no Hugging Face hub that answers."
        )
    elif constants.HF_HUB_OFFLINE or _cause(error, errors.OfflineModeIsEnabled) is not None:
        why = (
            f"is not in the cache of the Hugging Face hub ({constants.HF_HUB_CACHE}), or not all "
            f"of it, and HF_HUB_OFFLINE forbids to ask. Run once without it."
        )
    else:
        first = _cause(error, httpx.TransportError) or error
        why = (
            f"could not be had from the Hugging Face hub ({said(first)}). See to the connection; "
            f"what has come is kept."
        )
    return ConfigError(f"{repo}: {why}")


def said(error: BaseException) -> str:
    """Class and first line of what an error says, without any token: an odd one is repeated by the
    HTTP client, and addresses of files are signed."""
    from huggingface_hub import get_token

    line = next(iter(str(error).strip().splitlines()), "no reason given")
    if (token := get_token()) is not None:
        line = line.replace(token, "TOKEN")
    line = re.sub(r"Bearer [^'\"]*", "Bearer TOKEN", line)
    line = re.sub(r"hf_\w{6,}", "TOKEN", line)
    line = re.sub(r"\?[^\s'\"]*(Signature|token)=[^\s'\"]*", "?…", line, flags=re.I)
    return f"{type(error).__name__}: {line}"


def is_of_the_hub(error: BaseException) -> bool:
    """Whether it came of a request, not of what was answered."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    return any(_cause(error, kind) is not None for kind in (httpx.HTTPError, OfflineModeIsEnabled))


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first of this kind among an error and those that it was raised from."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
