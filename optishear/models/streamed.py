"""A streamed model, larger than memory: each part has its weights only while it is at work."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel

from optishear.errors import ConfigError
from optishear.models.auto import auto_class
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.folder import ModelFolder
from optishear.models.load import (
    AS_STORED,
    DTYPES,
    LoadedModel,
    check_saved_as,
    device_of,
    open_folder,
)
from optishear.models.never_meta import NeverMeta
from optishear.models.shards import Shards
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup


class Streamed:
    """A model on the meta device whose parts are filled from its files when they are called.

    - `loaded`: the model with its identity. Call it, whole or in part, like one in memory.
    - `device`: where a part is when it is at work.
    - `blocks`: paths of the decoder blocks, in order.
    - `outside`: paths of the modules outside of them that have tensors of their own.
    - `head`: the one of them that makes logits.

    A part is a decoder block as a whole, or one module outside. The token embedding reads only the
    rows that it is asked for. Weights that are never called (a parameter that another module takes)
    stay on the meta device: torch says so when they are used.
    """

    def __init__(self, loaded: LoadedModel, weights: tuple[Path, ...], device: torch.device):
        model = loaded.model
        assert isinstance(model, PreTrainedModel)
        self.loaded, self.device, self._model = loaded, device, model
        self._shards = Shards(model, weights, device, loaded.saved_as)
        prefix, blocks = decoder_blocks(model)
        self.blocks = [f"{prefix}.{index}" for index in range(len(blocks))]
        self._names: dict[str, list[str]] = {path: [] for path in self.blocks}
        for name in self._shards.names:
            block = ".".join(name.split(".")[: prefix.count(".") + 2])
            path = block if block in self._names else name.rpartition(".")[0]
            self._names.setdefault(path, []).append(name)
        self.outside = [path for path in self._names if path not in self.blocks]
        self._refuse_shared_blocks()
        self._open: Counter[str] = Counter()
        for path in self._names:
            _wrap(model.get_submodule(path), self._when_called(path))
        self.head = self._path_of(model.get_output_embeddings())
        self._look_up_rows(model.get_input_embeddings())
        _wrap(model, self._on_device)

    def layout(self) -> ModelLayout:
        """As `layout_of` finds it; reads the whole checkpoint once."""
        try:
            return layout_of(self._model, streamed=True)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:  # what torch says of meta tensors
            first = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ConfigError(
                f"{type(self._model).__name__} cannot be streamed, some of its weights are used "
                f"outside of the module that has them ({first}). Prune it without --stream."
            ) from error

    @contextmanager
    def resident(self, path: str) -> Iterator[None]:
        """This part with its weights for as long as the context is open; nothing that is written
        into them outlasts it."""
        self._open[path] += 1
        try:
            if self._open[path] == 1:
                self._shards.fill(self._names[path])
            yield
        finally:
            self._open[path] -= 1
            if not self._open[path]:
                self._shards.empty(self._names[path])

    def _when_called(self, path: str) -> Callable[..., Any]:
        def call(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with self.resident(path):
                return own(*args, **kwargs)

        return call

    def _on_device(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        table: Any = self._model.get_input_embeddings()
        with NeverMeta(self.device, table.weight, self._row):
            return own(*send_to_device(args, self.device), **send_to_device(kwargs, self.device))

    def _row(self, token: int) -> Tensor | None:
        """Of the token embedding; None where it does not lie in the files as it is in the model."""
        path = self._path_of(self._model.get_input_embeddings())
        rows = self._shards.rows(f"{path}.weight", torch.tensor([token]))
        return None if rows is None else rows[0]

    def _path_of(self, module: nn.Module | None) -> str:
        return next((name for name, m in self._model.named_modules() if m is module), "")

    def _look_up_rows(self, embedding: nn.Module) -> None:
        """The embedding answers from a table of just those tokens that it is asked for."""
        name = self._path_of(embedding)
        if not isinstance(embedding, nn.Embedding) or len(self._names.get(name, ())) != 1:
            return
        [weight] = self._names[name]
        embedding.padding_idx = None  # for training; the short table may end before it
        resident = vars(embedding).pop("forward")

        def call(own: Callable[..., Any], tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
            ids, places = tokens.unique(return_inverse=True)
            rows = None if self._open[name] else self._shards.rows(weight, ids)
            if rows is None:
                return resident(tokens, *args, **kwargs)
            before = embedding.weight
            embedding.weight = nn.Parameter(rows, requires_grad=False)
            try:
                return own(places, *args, **kwargs)
            finally:
                embedding.weight = before

        _wrap(embedding, call)

    def _refuse_shared_blocks(self) -> None:
        for name, told in self._shards.tied.items():
            if any(n.startswith(f"{path}.") for path in self.blocks for n in (name, told)):
                raise ConfigError(
                    f"{name} and {told} are one tensor, and it would be pruned under both names. "
                    f"Untie them (give one a copy) before pruning."
                )


def stream(
    name: str, *, dtype: str = "float32", device: str = "cpu", saved_as: str = AS_STORED
) -> Streamed:
    """The model called `name`, with nothing of it in memory; refuses what `load` refuses.

    That its weights are finite is only seen when they are read.
    """
    wanted = lookup(DTYPES, dtype, kind="dtype")
    check_saved_as(dtype, saved_as)
    place = device_of(device)
    folder = ModelFolder.of(name)
    model, tokenizer = open_folder(folder.path, wanted, device_map={"": "meta"})
    _give_buffers(model, wanted, place)
    loaded = LoadedModel(
        model, tokenizer, name, folder.path, folder.hash(), folder.stored_dtype, saved_as
    )
    return Streamed(loaded, folder.weights, place)


def _give_buffers(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
    """Buffers that no checkpoint has (rotary frequencies), from a twin without weights."""
    with init_empty_weights(include_buffers=False):
        twin = auto_class(model.config).from_config(model.config, dtype=dtype)
    saved = model.state_dict().keys()
    for name, buffer in twin.named_buffers():
        if name not in saved:
            path, _, leaf = name.rpartition(".")
            model.get_submodule(path)._buffers[leaf] = buffer.to(device)


def _wrap(module: nn.Module, call: Callable[..., Any]) -> None:
    """`module.forward(...)` becomes `call(forward, ...)`. On the instance, as accelerate does it:
    whoever stands in for a module replaces this too, and then nothing is read."""
    own = module.forward
    vars(module)["forward"] = lambda *args, **kwargs: call(own, *args, **kwargs)
