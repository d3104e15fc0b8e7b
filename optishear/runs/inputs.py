"""Hashes of what a search reads from this disk: so that a finished run is not shown as the answer
for other files under the same names."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optishear.assets.embedded import EMBEDDED_FOLDER
from optishear.assets.hash_memo import remembered_sha256
from optishear.config import Experiment
from optishear.errors import ConfigError
from optishear.models.catalog import MODELS, is_folder_meant
from optishear.models.folder import TOKENIZERS, ModelFolder
from optishear.records.run_directory import RunDirectory
from optishear.text.files import SUFFIXES
from optishear.text.questions import QuestionSet


MODEL, TOKENIZER, HUB = "model", "tokenizer", "dataset:"
GGUF = ".gguf"
TOKENIZER_FILES = (
    *TOKENIZERS,
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


def inputs_of(experiment: Experiment) -> dict[str, str | None]:
    """{what: hash} of the model's folder or GGUF file, its tokenizer and each text file; None for
    what is not there. What comes from a registry is pinned by its checksum, and what the hub has
    does not lie here under a name of the user's."""
    found: dict[str, str | None] = {}
    if (folder := _model_path(experiment.model)) is not None:
        found |= dict(_of_model(experiment.model, folder))
    for spec in experiment.text_specs.values():
        path = Path(spec.source).expanduser()
        if spec.source.lower().endswith(SUFFIXES) and not spec.source.startswith(HUB):
            found[f"text {spec.source}"] = remembered_sha256(path) if path.is_file() else None
    for name, spec in experiment.question_specs.items():
        try:
            found[f"questions {name}"] = QuestionSet.read(spec).task.hash
        except ConfigError:
            found[f"questions {name}"] = None
    return found


def refuse_changed_inputs(
    directory: RunDirectory, manifest: Mapping[str, Any], experiment: Experiment
) -> str:
    """Raises a `ConfigError` if a finished run read other files than are there now; else says what
    could not be compared, which may be nothing.

    Runs of before this was written down say only of which model they are.
    """
    now = inputs_of(experiment)
    said = manifest.get("inputs")
    if said is None:
        folder = MODEL in now and not experiment.model.lower().endswith(GGUF)
        said = {MODEL: manifest["measure"]["model"]} if folder else {}
    known = {what: (said.get(what), now.get(what)) for what in {**said, **now}}
    changed = [
        f"{_named(what, experiment)} had the hash {old[:16]} and has {new[:16]} now"
        for what, (old, new) in known.items()
        if old and new and old != new
    ]
    if changed:
        raise ConfigError(
            f"{directory.path}: is finished, but {'; '.join(changed)}, so its numbers are of "
            f"something else. Put the old files back to see it as the answer, or search anew with "
            f"another --out."
        )
    unknown = [_named(what, experiment) for what, pair in known.items() if None in pair]
    return f" ({', '.join(unknown)}: not compared)" if unknown else ""


def _model_path(name: str) -> Path | None:
    """Where a model lies that somebody may have changed; None for one of a registry or hub."""
    if name in MODELS and not is_folder_meant(name, Path(name).expanduser()):
        return EMBEDDED_FOLDER if MODELS[name].asset is None else None
    path = Path(name).expanduser()
    looks_like_a_path = path.is_absolute() or name.startswith(".") or path.suffix.lower() == GGUF
    return path if path.exists() or looks_like_a_path else None


def _of_model(name: str, path: Path) -> Iterator[tuple[str, str | None]]:
    if not path.exists():
        yield MODEL, None
    elif path.is_file():
        yield MODEL, remembered_sha256(path)
    else:
        yield MODEL, ModelFolder.of(name).hash(remembered_sha256)
        if path == EMBEDDED_FOLDER:  # its texts are ids already
            return
        files = [path / file for file in sorted(TOKENIZER_FILES) if (path / file).is_file()]
        content = "".join(f"{file.name} {remembered_sha256(file)}\n" for file in files)
        yield TOKENIZER, hashlib.sha256(content.encode()).hexdigest()


def _named(what: str, experiment: Experiment) -> str:
    return f"the {what} of {experiment.model}" if what in (MODEL, TOKENIZER) else f"the {what}"
