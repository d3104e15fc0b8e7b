"""Loading of a dense model for pruning: checked, frozen, in eval mode, with its identity."""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.auto import auto_class_of
from optishear.models.catalog import quiet_transformers
from optishear.models.device_map import DeviceMap, check_device_map, devices_in, placed
from optishear.models.discover import decoder_blocks
from optishear.models.folder import ModelFolder, empty_model
from optishear.models.hub import commit_in
from optishear.models.placement import (
    offload_folder,
    refuse_offloaded,
    refuse_parted,
    values,
)
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

SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

AS_STORED = "stored"  # every tensor is written in the type that it has in the dense files


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A dense model and where it came from. Nobody writes to its weights.

    - `hash`: of its files, see `ModelFolder.hash`.
    - `stored_dtype`: of most numbers in the checkpoint, whatever the model was loaded as.
    - `saved_as`: the type to which all weights were rounded, or `AS_STORED`.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    folder: Path
    hash: str
    stored_dtype: torch.dtype
    saved_as: str = AS_STORED

    @property
    def commit(self) -> str | None:
        """Of the hub, where the files are from there."""
        return commit_in(self.folder)

    @property
    def identity(self) -> str:
        """Of its weights: the files', and what they were rounded to."""
        return self.hash if self.saved_as == AS_STORED else f"{self.hash} as {self.saved_as}"

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
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: DeviceMap = "",
    saved_as: str = AS_STORED,
) -> LoadedModel:
    """The causal language model called `name`, ready to be pruned (see `catalog.folder_of`).

    With a `device_map` transformers and accelerate spread it over devices, and `device` says
    nothing. Experts of a mixture are computed one by one (transformers' "eager" experts), so that
    what each of them sees can be watched. `saved_as`: the model is the one that a checkpoint saved
    in this type holds. Raises `ConfigError`, naming the file and what to do,
    where the name, type, device or checkpoint cannot be used; `StorageError` where the disk is
    full.
    """
    wanted = lookup(DTYPES, dtype, kind="dtype")
    check_saved_as(dtype, saved_as)
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
    if saved_as != AS_STORED:
        refuse_offloaded(model, f"To round all weights to {saved_as}")
        for weight, tensor in model.state_dict().items():
            tensor.copy_(as_saved(weight, tensor, saved_as))
    if not device_map:
        model.to(device_of(device))
    return LoadedModel(
        model, tokenizer, name, folder.path, folder.hash(), folder.stored_dtype, saved_as
    )


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

    with _explained(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **SAFE)
    return open_model(folder, dtype, **more), tokenizer


def open_model(folder: Path, dtype: torch.dtype, **more: Any) -> Any:
    """The model alone, a wrapper where config.json is one's."""
    with _explained(folder):
        loaded: Any = auto_class_of(folder).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            experts_implementation="eager",
            output_loading_info=True,
            **SAFE,
            **more,
        )
    model, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise ConfigError(
            f"{folder}: its weight files lack {len(missing)} of the tensors that config.json calls "
            f"for, the first {missing[0]!r}. Download it again."
        )
    if told["unexpected_keys"]:
        extra = sorted(told["unexpected_keys"])
        logger.warning(
            "%s: %d tensors that %s does not know, the first %s; pruning carries them over",
            folder,
            len(extra),
            type(model).__name__,
            extra[0],
        )
    return model.requires_grad_(False).eval()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Whatever transformers cannot load becomes a `ConfigError` that says why."""
    import transformers

    try:
        with quiet_transformers():
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each architecture and tokenizer of transformers has its own kinds
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ConfigError(
            f"{folder}: transformers {transformers.__version__} cannot load it "
            f"({type(error).__name__}: {first}). See to its config.json and tokenizer files; "
            f"models that bring code of their own are not run."
        ) from error


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


def check_saved_as(dtype: str, saved_as: str) -> None:
    """A `ConfigError` where a checkpoint cannot be computed in the one and saved in the other."""
    if saved_as == AS_STORED:
        return
    lookup({**DTYPES, AS_STORED: None}, saved_as, kind="dtype to save in")
    if {dtype, saved_as} == {"bfloat16", "float16"}:
        raise ConfigError(
            f"--save-dtype {saved_as}: {dtype} does not hold its numbers. Compute in it too, or in "
            f"float32."
        )


def as_saved(name: str, tensor: Tensor, saved_as: str) -> Tensor:
    """A tensor of the model rounded to what a checkpoint saved in this type has of it."""
    if saved_as == AS_STORED or not tensor.is_floating_point():
        return tensor
    saved = tensor.to(DTYPES[saved_as])
    refuse_too_large(name, tensor, saved)
    return saved.to(tensor.dtype)


def refuse_too_large(name: str, tensor: Tensor, saved: Tensor) -> None:
    """A `ConfigError` where a number became infinite when it was brought to the type saved in."""
    if (count := _non_finite(saved)) and not _non_finite(tensor):
        dtype = str(saved.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{name}: {count} of its numbers are too large for {dtype}, in which they are to be "
            f"saved. Give a wider --save-dtype."
        )


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
