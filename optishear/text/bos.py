"""BOS: whether windows begin with the token that a model expects before a text, and where it goes.

Some models, Gemma's among them, are far worse without it. Whether a model is one of these is asked
of its tokenizer, which then puts a BOS before whatever it is given.
"""

from collections.abc import Callable
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.lookup import lookup


AUTO, NONE, TEXT, WINDOW = "auto", "none", "text", "window"
PLACES = {
    AUTO: "a BOS at the start of every window where the tokenizer itself adds one, else none",
    NONE: "no BOS",
    TEXT: "one BOS before the text",
    WINDOW: "a BOS at the start of every window",
}


def check_place(bos: str, where: str = "bos") -> str:
    """The same, if it is a key of `PLACES`; a `ConfigError` that begins with `where` if not."""
    try:
        lookup(PLACES, bos, kind="place of a BOS")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return bos


def place_of(bos: str, tokenizer: Callable[..., Any]) -> str:
    """Where the BOS goes: `none`, `text` or `window`; what `auto` means is the tokenizer's to say.

    Raises `ConfigError` where one is asked for and the tokenizer has none.
    """
    if bos == AUTO:
        return WINDOW if adds_bos(tokenizer) else NONE
    if bos != NONE and getattr(tokenizer, "bos_token_id", None) is None:
        raise ConfigError(f"bos {bos}: the model's tokenizer has no BOS token. Leave it out.")
    return bos


def adds_bos(tokenizer: Callable[..., Any]) -> bool:
    """Whether the tokenizer puts its BOS before a text by itself."""
    token = getattr(tokenizer, "bos_token_id", None)
    return token is not None and list(tokenizer("a")["input_ids"])[:1] == [token]
