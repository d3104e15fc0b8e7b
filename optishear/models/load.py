"""Loads a dense model ready for pruning: checked, frozen, in eval mode, with its identity."""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.catalog import quiet_transformers
from optishear.models.device_map import DeviceMap, check_device_map, devices_in, placed
from optishear.models.discover import decoder_blocks
from optishear.models.folder import ModelFolder, empty_model
from optishear.models.placement import offload_folder, refuse_parted, values
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.storage import Storage
from optishear.records.atomic import storage_errors
from optishear.records.cache import OTHER_CACHE


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

    @property
    def dtypes(self) -> str:
        """Those that its numbers have now, whatever they are stored in: one, or several with +."""
        found = {str(p.dtype).removeprefix("torch.") for p in self.model.parameters()}
        return "+".join(sorted(found))

    @property
    def parameters(self) -> int:
        """How many numbers there are, tied weights counted once: offloaded ones are two tensors."""
        tied: Any = getattr(self.model, "all_tied_weights_keys", {})
        return sum(p.numel() for name, p in self.model.named_parameters() if name not in tied)

    def storage(self, layout: ModelLayout) -> Storage:
        """What the size of a pruned checkpoint depends on, beside the recipe."""
        return Storage(self.parameters - layout.total, self.stored_dtype.itemsize)


def load(
    name: str, *, dtype: str = "float32", device: str = "cpu", device_map: DeviceMap = ""
) -> LoadedModel:
    """The causal language model called `name`, ready to be pruned (see `catalog.folder_of`).

    With a `device_map` transformers and accelerate spread it over devices, and `device` says
    nothing. Experts of a mixture are computed one by one (transformers' "eager" experts), so that
    what each of them sees can be watched. Raises `ConfigError`, naming the file and what to do,
    where the name, type, device or checkpoint cannot be used; `StorageError` where the disk is
    full.
    """
    wanted = lookup(DTYPES, dtype, kind="dtype")
    if device_map:
        check_device_map(device_map)
    for each in (device, *devices_in(device_map)):
        device_of(each)
    folder = ModelFolder.of(name)
    if device_map:
        model, tokenizer = _spread(folder, wanted, device_map)
    else:
        model, tokenizer = open_folder(folder.path, wanted)
    refuse_non_finite(values(model), folder.path)
    if not device_map:
        model.to(device_of(device))
    return LoadedModel(model, tokenizer, name, folder.path, folder.hash(), folder.stored_dtype)


def _spread(folder: ModelFolder, dtype: torch.dtype, device_map: DeviceMap) -> tuple[Any, Any]:
    """The model as accelerate places it. What transformers writes of weights on disk (it reads most
    from the checkpoint itself) lies in a folder that goes with the model."""
    if not isinstance(device_map, str):
        device_map = placed(device_map, empty_model(folder.path))
    with storage_errors(offload_folder(), OTHER_CACHE):
        offload_folder().mkdir(parents=True, exist_ok=True)
        written = tempfile.mkdtemp(dir=offload_folder())
    try:
        model, tokenizer = open_folder(
            folder.path, dtype, device_map=device_map, offload_folder=written
        )
    except BaseException:
        shutil.rmtree(written, ignore_errors=True)
        raise
    weakref.finalize(model, shutil.rmtree, written, ignore_errors=True)
    refuse_parted(decoder_blocks(model)[1])
    return model, tokenizer


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


def refuse_non_finite(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """A `ConfigError` if a weight is NaN or infinite; one tensor after the other is looked at."""
    bad: dict[str, tuple[int, torch.dtype]] = {}
    for name, tensor in tensors:
        if count := _non_finite(tensor):
            bad[name] = count, tensor.dtype
    if bad:
        first = next(iter(bad))
        count, dtype = bad[first]
        raise ConfigError(
            f"{folder}: {sum(count for count, _ in bad.values())} weights in {len(bad)} parameters "
            f"are NaN or infinite as {str(dtype).removeprefix('torch.')}, the first {count} in "
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
