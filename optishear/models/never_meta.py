"""What a streamed model does with weights that are away: they lie on the meta device meanwhile."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NeverMeta(TorchFunctionMode):
    """While it is open, two things that models do outside of the module that has the weights work.

    What is sent to where they are (Llama-4 its tokens, Idefics-3 their embeddings) goes to the
    device where they are at work; on the meta device all numbers would be lost. And one row of the
    table of tokens is read from the files (Gemma-4 puts the padding's where an image will be).
    """

    def __init__(
        self,
        device: torch.device,
        table: Tensor,
        row: Callable[[int], Float[Tensor, " width"] | None],
    ) -> None:
        super().__init__()
        self.device, self.table, self.row = device, table, row

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__getitem__ and args[0] is self.table and self.table.is_meta:
            first, *others = args[1] if isinstance(args[1], tuple) else (args[1],)
            row = self.row(first % len(self.table)) if isinstance(first, int) else None
            if row is not None:
                return row[tuple(others) or ...]
        placed = {name: self._place(value) for name, value in (kwargs or {}).items()}
        return func(*(self._place(value) for value in args), **placed)

    def _place(self, value: Any) -> Any:
        away = isinstance(value, torch.device) and value.type == "meta"
        return self.device if away else value
