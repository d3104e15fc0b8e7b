"""The modules of a model in the order in which other tools meet them, without its weights."""

from torch import nn

from optishear.models.catalog import folder_of
from optishear.models.folder import empty_model


def linear_modules(model: str) -> list[str]:
    """Names of the `nn.Linear` modules of a model by name, folder or Hub id, as `named_modules()`
    orders them. Built on the meta device from its config.json: no weights are read."""
    built = empty_model(folder_of(model))
    return [name for name, module in built.named_modules() if isinstance(module, nn.Linear)]
