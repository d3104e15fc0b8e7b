"""The modules of a model in the order in which other tools meet them, without its weights."""

import torch
from torch import nn

from optishear.errors import ConfigError
from optishear.models.catalog import folder_of, quiet_transformers


def linear_modules(model: str) -> list[str]:
    """Names of the `nn.Linear` modules of a model by name, folder or Hub id, as `named_modules()`
    orders them. Built on the meta device from its config.json: no weights are read."""
    import transformers

    folder = folder_of(model)
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(folder, **safe)
            built = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ConfigError(
            f"{folder}: transformers {transformers.__version__} cannot build it "
            f"({type(error).__name__}: {first}). See to its config.json."
        ) from error
    return [name for name, module in built.named_modules() if isinstance(module, nn.Linear)]
