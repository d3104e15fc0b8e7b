"""Loads a dense model ready for pruning: checked, frozen, in eval mode, with its identity.

Whatever could be wrong with a checkpoint is looked at before transformers sees it, because it
would fill what is missing with random numbers and only note it in a log.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optishear.errors import ConfigError
from optishear.models.catalog import folder_of, quiet_transformers
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.storage import Storage


logger = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}

STORED: dict[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""What safetensors calls the floating types of a dense checkpoint."""

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A dense model and where it came from. Nobody writes to its weights.

    - `hash`: sha256 over config.json and the weight files in order of name, 16 hex digits; the
      version of transformers that wrote config.json is left out of it.
    - `stored_dtype`: of most numbers in the checkpoint, whatever the model was loaded as.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    folder: Path
    hash: str
    stored_dtype: torch.dtype

    def storage(self, layout: ModelLayout) -> Storage:
        """What the size of a pruned checkpoint depends on, beside the recipe."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return Storage(parameters - layout.total, self.stored_dtype.itemsize)


def load(name: str, *, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """The causal language model called `name` (see `catalog.folder_of`), ready to be pruned.

    Experts of a mixture are computed one by one (transformers' "eager" experts), so that what
    each of them sees can be watched. Raises `ConfigError`, naming the file and what to do, where
    the name, type, device or checkpoint cannot be used; `StorageError` where the disk is full.
    """
    wanted = lookup(DTYPES, dtype, kind="dtype")
    place = _device(device)
    folder = folder_of(name)
    config = _config(folder)
    weights = _weight_files(folder)
    stored = _stored_dtype(weights)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ConfigError(f"{folder}: has no tokenizer ({', '.join(TOKENIZERS)}). Add its files.")
    model, tokenizer = _from_folder(folder, wanted)
    _refuse_non_finite(model, folder, dtype)
    model.requires_grad_(False)
    model.eval()
    return LoadedModel(model.to(place), tokenizer, name, folder, _hash(config, weights), stored)


def _from_folder(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    import transformers

    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                experts_implementation="eager",
                output_loading_info=True,
                **safe,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each architecture and tokenizer of transformers has its own kinds
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ConfigError(
            f"{folder}: transformers {transformers.__version__} cannot load it "
            f"({type(error).__name__}: {first}). See to its config.json and tokenizer files; "
            f"models that bring code of their own are not run."
        ) from error
    model, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise ConfigError(
            f"{folder}: its weight files lack {len(missing)} of the tensors that config.json calls "
            f"for, the first {missing[0]!r}. Download it again."
        )
    if told["unexpected_keys"]:
        extra = sorted(told["unexpected_keys"])
        logger.warning("%s: %d unused tensors, the first %s", folder, len(extra), extra[0])
    return model, tokenizer


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: is missing. A model folder holds config.json, safetensors weights and "
            f"tokenizer files, as `save_pretrained` writes them."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is not the configuration of a model ({type(error).__name__}: {error}). "
            f"Download or write it again."
        ) from error
    if config.get("quantization_config"):
        raise ConfigError(
            f"{path}: this {kind} checkpoint is quantised. Give the dense one it was made from."
        )
    return config


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the checkpoint, sorted by name."""
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            shards = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{index}: is not an index of shards ({error}). Get it again."
            ) from error
        for shard in shards:
            if not (folder / shard).is_file():
                raise ConfigError(f"{folder / shard}: this shard is missing. Download it again.")
        return [folder / shard for shard in shards]
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise ConfigError(
            f"{folder}: has its weights only as a pickle ({pickled[0]}), which can run any code "
            f"when read. Save the model again with transformers, which writes safetensors."
        )
    raise ConfigError(f"{folder}: has no model.safetensors. Put the weights there.")


def _stored_dtype(weights: list[Path]) -> torch.dtype:
    """The type of most numbers in the files, from their headers; refuses files that are cut off."""
    from safetensors import SafetensorError, safe_open

    numbers: dict[str, int] = {}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(key)
                    size = int(torch.Size(part.get_shape()).numel())
                    numbers[part.get_dtype()] = numbers.get(part.get_dtype(), 0) + size
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: is damaged or cut off ({error}). Get it again.") from error
    found = max(numbers, key=lambda kind: numbers[kind], default="nothing")
    if found not in STORED:
        raise ConfigError(
            f"{weights[0]}: its weights are stored as {found}, which is not dense floating point "
            f"({', '.join(sorted(STORED))}). Give the model it was made from."
        )
    return STORED[found]


def _device(device: str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"No device is called {device!r}; write cpu, cuda or cuda:1.") from error
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise ConfigError(
                f"Device {device!r}: torch {torch.__version__} sees {count} CUDA devices here. Use "
                f"cpu, or install a torch built for CUDA on a machine that has one."
            )
    elif place.type != "cpu":
        raise ConfigError(f"Device {device!r} is not supported; write cpu, cuda or cuda:1.")
    return place


def _refuse_non_finite(model: nn.Module, folder: Path, dtype: str) -> None:
    bad = {n: int((~p.isfinite()).sum()) for n, p in model.named_parameters()}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        first = next(iter(bad))
        raise ConfigError(
            f"{folder}: {sum(bad.values())} weights in {len(bad)} parameters are NaN or infinite "
            f"as {dtype}, the first {bad[first]} in {first!r}. Mend the checkpoint, or load it "
            f"with a wider dtype."
        )


def _hash(config: dict[str, Any], weights: list[Path]) -> str:
    told = {key: value for key, value in config.items() if key != "transformers_version"}
    total = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for path in weights:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
