"""Loads a dense model ready for pruning: checked, frozen, in eval mode, with its identity."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.catalog import quiet_transformers
from optishear.models.folder import ModelFolder
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.storage import Storage


logger = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A dense model and where it came from. Nobody writes to its weights.

    - `hash`: of its files, see `ModelFolder.hash`.
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
    place = device_of(device)
    folder = ModelFolder.of(name)
    model, tokenizer = open_folder(folder.path, wanted)
    refuse_non_finite(dict(model.named_parameters()), folder.path)
    return LoadedModel(
        model.to(place), tokenizer, name, folder.path, folder.hash(), folder.stored_dtype
    )


def open_folder(folder: Path, dtype: torch.dtype, **more: Any) -> tuple[Any, Any]:
    """Model and tokenizer as transformers makes them, nothing missing; `more` is for
    `from_pretrained`."""
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
                **more,
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
    return model.requires_grad_(False).eval(), tokenizer


def device_of(device: str) -> torch.device:
    """The torch device of that name; a `ConfigError` where there is none."""
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


def refuse_non_finite(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """A `ConfigError` if a weight in memory is NaN or infinite."""
    bad = {name: count for name, tensor in tensors.items() if (count := _non_finite(tensor))}
    if bad:
        first = next(iter(bad))
        raise ConfigError(
            f"{folder}: {sum(bad.values())} weights in {len(bad)} parameters are NaN or infinite "
            f"as {str(tensors[first].dtype).removeprefix('torch.')}, the first {bad[first]} in "
            f"{first!r}. Mend the checkpoint, or load it with a wider dtype."
        )


def _non_finite(tensor: Tensor) -> int:
    """How many numbers are NaN or infinite. The extremes tell whether there are any without a copy
    of the tensor, which may be a large part of the memory."""
    if not tensor.numel() or not tensor.is_floating_point():
        return 0
    if all(bool(end.isfinite()) for end in tensor.aminmax()):
        return 0
    return int((~tensor.isfinite()).sum())
