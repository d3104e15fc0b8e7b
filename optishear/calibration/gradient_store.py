"""Takes a model's per-sequence gradients once for one content, and maps them from disk after that.

They are as many times the model's size as there are sequences, so they are never in memory: each
weight's gradient goes to disk while the backward pass is still at the weights before it.
"""

import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from optishear.calibration.gradients import LayerGradients
from optishear.errors import ConfigError, StorageError
from optishear.models.placement import input_device
from optishear.models.weights import Place, place_of, read
from optishear.recipe.layout import Layer, ModelLayout


log = logging.getLogger(__name__)

FORMAT = "1"
NUMBERS, INDEX = "gradients.f16", "index.json"
TOP = 15  # a sample's largest number is stored below 2**TOP; fp16 ends just below 2**16
SMALLEST = -126  # the exponent of the smallest normal number of fp32, in which scales are kept


@dataclass(frozen=True, eq=False)
class GradientStore:
    """The gradients of every prunable layer, by its name.

    - `layers`: their numbers stay on disk until they are used; read-only, like the dense weights.
    - `bytes`: of the files in `folder`.
    - `seconds`: what collecting them took, whenever that was.
    """

    layers: Mapping[str, LayerGradients]
    folder: Path
    bytes: int
    seconds: float
    samples: int


def load_or_collect_gradients(
    cache: Path,
    key: str,
    model: nn.Module,
    layout: ModelLayout,
    tokens: Int[Tensor, "samples seq"],
    notice: Callable[[str], None] | None = None,
) -> GradientStore:
    """G_s = dL_s / dW of each sequence s and prunable W, from `cache` where it was done before.

    L_s is the mean over a sequence's tokens of the loss of the next one. `key` says which weights;
    layout and tokens are added here. A damaged folder is collected anew, with a warning. `notice`
    is told how large the files will be before they are made, and how long it took after.
    """
    folder = folder_of(cache, key, layout, tokens)
    try:
        if folder.exists():
            try:
                return _load(folder)
            except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
                log.warning("%s is damaged (%s): collecting its gradients anew.", folder, error)
                with suppress(FileNotFoundError):  # another process may be removing it, too
                    shutil.rmtree(folder)
        _refuse(model, layout, tokens)
        cache.mkdir(parents=True, exist_ok=True)
        _refuse_full_disk(cache, layout, len(tokens))
        size = gradient_bytes(layout, len(tokens))
        told = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
        if notice:
            notice(f"collecting gradients of {len(tokens)} sequences: {told} on disk")
        with tempfile.TemporaryDirectory(prefix=folder.name, dir=cache) as beside:
            inner = Path(beside) / "store"  # has usual permissions, which a temporary one has not
            inner.mkdir()
            seconds = _write(inner, model, layout, tokens)
            try:
                os.replace(inner, folder)
            except OSError:
                if not folder.exists():  # otherwise another process was faster: theirs are the same
                    raise
        if notice:
            notice(f"collected gradients of {len(tokens)} sequences in {seconds:.1f} s")
        return _load(folder)
    except OSError as error:
        raise StorageError(
            f"Gradients could not be kept in {folder} ({error}). Free some space there, choose "
            f"another cache folder, or use fewer gradient sequences than {len(tokens)}."
        ) from error


def folder_of(
    cache: Path, key: str, layout: ModelLayout, tokens: Int[Tensor, "samples seq"]
) -> Path:
    """Where these gradients lie, if they are there."""
    ids = tokens.cpu().contiguous().numpy().astype("<i8").tobytes()
    seen = hashlib.sha256(repr(tuple(tokens.shape)).encode() + ids).hexdigest()
    wanted = [FORMAT, key, layout.hash, seen, len(tokens)]
    return cache / hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:32]


def gradient_bytes(layout: ModelLayout, samples: int) -> int:
    """Of their numbers in fp16."""
    return 2 * layout.total * samples


def _refuse(model: nn.Module, layout: ModelLayout, tokens: Int[Tensor, "samples seq"]) -> None:
    if model.training:
        raise ConfigError(
            f"{type(model).__name__} is in training mode, so dropout would make its gradients "
            f"random. Call `model.eval()` first."
        )
    if len(tokens) < 1 or tokens.shape[1] < 2:
        raise ConfigError(
            f"Gradients need a sequence of two tokens at least, one to predict from the other, "
            f"not tokens of shape {tuple(tokens.shape)}."
        )
    for layer in layout.layers:
        read(model, layer)  # a layout of another model is refused


def _refuse_full_disk(cache: Path, layout: ModelLayout, samples: int) -> None:
    needed, free = gradient_bytes(layout, samples), shutil.disk_usage(cache).free
    if free < needed:
        raise StorageError(
            f"Gradients of {samples} sequences take {needed:,} bytes in fp16, and {cache} has "
            f"{free:,} bytes free. Use fewer gradient sequences ({needed // samples:,} bytes "
            f"each), free some space, or choose another cache folder."
        )


def _write(
    folder: Path, model: nn.Module, layout: ModelLayout, tokens: Int[Tensor, "samples seq"]
) -> float:
    """Collects into `folder`; the seconds that took. Data is on the disk itself when it returns,
    for a size that is right is all that is looked at later."""
    start = time.monotonic()
    with open(folder / NUMBERS, "xb", buffering=0) as handle:
        file = _File(handle.fileno(), layout, len(tokens))
        _collect(model, layout, tokens, file)
        os.fsync(handle.fileno())
    seconds = time.monotonic() - start
    index = {
        "format": FORMAT,
        "samples": len(tokens),
        "seconds": seconds,
        "layers": {
            layer.name: {
                "shape": [layer.out_features, len(tokens), layer.in_features],
                "offset": file.offsets[layer.name],
                "scale": file.scales[layer.name],
            }
            for layer in layout.layers
        },
    }
    with open(folder / INDEX, "x", encoding="utf-8") as handle:
        json.dump({**index, "sha256": _checksum(index)}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    if silent := [name for name, scales in file.scales.items() if not any(scales)]:
        log.warning(
            "%d of %d layers have no gradient from any of %d sequences, so the Taylor loss lets "
            "them go for nothing: %s%s. For experts, use more gradient sequences.",
            *(len(silent), len(layout.layers), len(tokens), ", ".join(silent[:8])),
            ", …" if len(silent) > 8 else "",
        )
    return seconds


class _File:
    """The flat fp16 file of all layers, one after another, each [out, samples, in].

    Rows are written with `pwrite`, not through a memory map: on a full disk that is an error,
    where a map would end the process with SIGBUS. What nobody writes stays zero.
    """

    def __init__(self, handle: int, layout: ModelLayout, samples: int) -> None:
        self.handle, self.samples, self.sample = handle, samples, 0
        self.offsets: dict[str, int] = {}  # in numbers, not bytes
        end = 0
        for layer in layout.layers:
            self.offsets[layer.name] = end
            end += layer.size * samples
        self.scales = {layer.name: [0.0] * samples for layer in layout.layers}
        os.truncate(handle, 2 * end)

    def write(self, name: str, gradient: Float[Tensor, "out in"]) -> None:
        """This sample's gradient of the layer, as scale * fp16 with a power of two for scale.

        Dividing by it rounds nothing, so bf16 gradients are stored as they are down to 2**-29 of
        the largest, and fp32 ones to 11 bits.
        """
        g = gradient.float()
        peak = torch.linalg.vector_norm(g, math.inf).item()
        if not math.isfinite(peak):
            raise ConfigError(
                f"Layer {name}: its gradient on calibration sequence {self.sample} is not finite. "
                f"Load the model in bf16 or fp32 if it overflows in fp16."
            )
        if peak == 0:
            return
        scale = 2.0 ** max(math.frexp(peak)[1] - TOP, SMALLEST)
        self.scales[name][self.sample] = scale
        rows = (g / scale).half().contiguous().cpu().numpy()
        step = 2 * rows.shape[1]
        offset = 2 * self.offsets[name] + step * self.sample
        for row in rows:
            if os.pwrite(self.handle, row, offset) != step:
                raise OSError("the disk took only a part of a row")
            offset += step * self.samples


def _collect(
    model: nn.Module, layout: ModelLayout, tokens: Int[Tensor, "samples seq"], file: _File
) -> None:
    """One forward and backward a sequence; flags and gradients of the model are given back.

    The loss is taken from the model's own logits, whatever its head does to them, in fp32. Of one
    sequence they are 1 GB at 2,048 tokens and a vocabulary of 128k, about four times that with
    the softmax and its gradient: little beside a model of that kind.
    """
    layers: dict[nn.Parameter, list[tuple[Layer, Place]]] = {}
    for layer in layout.layers:
        place = place_of(model, layer.name)
        layers.setdefault(place.parameter, []).append((layer, place))

    def keep(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert isinstance(parameter, nn.Parameter)
        assert gradient is not None
        for layer, place in layers[parameter]:
            file.write(layer.name, place.view(gradient))

    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    hooks = []
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(parameter in layers)
            parameter.grad = None
        hooks = [p.register_post_accumulate_grad_hook(keep) for p in layers]
        device = input_device(model)
        with torch.enable_grad():
            for file.sample, sequence in enumerate(tokens.to(device)):
                logits = model(sequence[None], use_cache=False).logits[0, :-1]
                F.cross_entropy(logits.float(), sequence[1:].long()).backward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient


def _load(folder: Path) -> GradientStore:
    """What `_write` wrote, its numbers mapped; an error where a file is not as it was written."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index.pop("sha256") != _checksum(index):
        raise ValueError("the checksum of its index differs")
    entries = {name: (torch.Size(e["shape"]), e) for name, e in index["layers"].items()}
    size = 2 * sum(shape.numel() for shape, _ in entries.values())
    with open(folder / NUMBERS, "rb") as handle:
        found = os.fstat(handle.fileno()).st_size
        if found != size:
            raise ValueError(f"{NUMBERS} has {found:,} bytes, not {size:,}")
        # Read-only, for a map that may be written to counts as memory, and is refused when large.
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        numbers = torch.frombuffer(mapped, dtype=torch.float16)
    layers = {
        name: LayerGradients(
            numbers[e["offset"] : e["offset"] + shape.numel()].view(shape),
            torch.tensor(e["scale"], dtype=torch.float32),
        )
        for name, (shape, e) in entries.items()
    }
    return GradientStore(
        layers, folder, size + (folder / INDEX).stat().st_size, index["seconds"], index["samples"]
    )


def _checksum(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
