"""A model's folder checked before transformers sees it; no tensor is read.

Whatever could be wrong with a checkpoint is found here, because transformers would fill what is
missing with random numbers and only note it in a log.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from optishear.assets.fetch import sha256_of
from optishear.errors import ConfigError
from optishear.models.auto import auto_class
from optishear.models.catalog import folder_of, quiet_transformers


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
class ModelFolder:
    """A checkpoint that may be loaded.

    - `weights`: its safetensors files, sorted by name.
    - `stored_dtype`: of most numbers in them. `numbers`: how many there are.
    """

    path: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    stored_dtype: torch.dtype
    numbers: int

    @classmethod
    def of(cls, name: str) -> "ModelFolder":
        """The folder of the model called `name`; a `ConfigError` names the file and what to do."""
        path = folder_of(name)
        config, weights = _config(path), _weight_files(path)
        stored, numbers = _stored_dtype(weights)
        if not any((path / file).is_file() for file in TOKENIZERS):
            raise ConfigError(f"{path}: has no tokenizer ({', '.join(TOKENIZERS)}). Add its files.")
        return cls(path, config, tuple(weights), stored, numbers)

    def hash(self, sha256: Callable[[Path], str] = sha256_of) -> str:
        """sha256 over config.json and the weight files in order of name, 16 hex digits; the
        version of transformers that wrote config.json is left out of it. `sha256` of a file's
        bytes: by default every byte is read."""
        told = {key: value for key, value in self.config.items() if key != "transformers_version"}
        total = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for path in self.weights:
            total.update(bytes.fromhex(sha256(path)))
        return total.hexdigest()[:16]


def empty_model(folder: Path) -> nn.Module:
    """The model of a folder on the meta device, made from its config.json: no weights are read."""
    import transformers

    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(folder, **safe)
            return auto_class(config).from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ConfigError(
            f"{folder}: transformers {transformers.__version__} cannot build it "
            f"({type(error).__name__}: {first}). See to its config.json."
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(kind := config["model_type"], str):
            raise TypeError(f"model_type is {kind!r}")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: is missing. A model folder holds config.json, safetensors weights and "
            f"tokenizer files, as `save_pretrained` writes them."
        ) from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: is not the configuration of a model ({type(error).__name__}: {error}). "
            f"Download or write it again."
        ) from error
    if _quantised(config):
        raise ConfigError(
            f"{path}: this {kind} checkpoint is quantised. Give the dense one it was made from."
        )
    return config


def _quantised(config: Any) -> bool:
    """Whether it has a quantisation, for the whole model or, nested, for one of its parts."""
    if isinstance(config, dict):
        return bool(config.get("quantization_config")) or any(map(_quantised, config.values()))
    return isinstance(config, list) and any(map(_quantised, config))


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the checkpoint, sorted by name."""
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            shards = sorted(set(shards_by_tensor(index).values()))
        except ValueError as error:
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


def shards_by_tensor(index: Path) -> dict[str, str]:
    """Names of tensors with the files, beside `index`, that have them; `ValueError` for no such
    index."""
    try:
        where = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(where, dict) or not where:
        raise ValueError("its weight_map names no tensors")
    for name in where.values():
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ValueError(f"{name!r} is no file beside it")
    return where


def _stored_dtype(weights: list[Path]) -> tuple[torch.dtype, int]:
    """The type of most numbers in the files, from their headers, and how many numbers there are;
    refuses files that are cut off, and weights that are no dense floating point: counts and masks
    may be integers, but weights that are were packed by a quantisation, whatever config.json says.
    """
    numbers: dict[str, int] = {}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(key)
                    if part.get_dtype() not in STORED and _is_weight(key, part.get_dtype()):
                        raise ConfigError(
                            f"{path}: {key} is stored as {part.get_dtype()}, which is not dense "
                            f"floating point ({', '.join(sorted(STORED))}). Give the model that it "
                            f"was made from."
                        )
                    size = int(torch.Size(part.get_shape()).numel())
                    numbers[part.get_dtype()] = numbers.get(part.get_dtype(), 0) + size
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: is damaged or cut off ({error}). Get it again.") from error
    floating = {kind: count for kind, count in numbers.items() if kind in STORED}
    if not floating:
        raise ConfigError(f"{weights[0]}: holds no weights at all. Get it again.")
    found = max(floating, key=lambda kind: floating[kind])
    return STORED[found], sum(numbers.values())


def _is_weight(key: str, kind: str) -> bool:
    """Small floats (FP8, FP4) and complex numbers are nothing else; integers are by their name."""
    return kind[0] in "FC" or "weight" in key.rpartition(".")[2]
