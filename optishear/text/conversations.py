"""Conversations: messages in rows of data, written as the model's own chat template has them."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from optishear.errors import ConfigError
from optishear.text.documents import Document


EXAMPLE = '{"role": "user", "content": "Hello"}'


def messages_of(said: list[Any], where: str) -> str:
    """The messages of one conversation as JSON: role and content of each, and nothing else.

    Raises `ConfigError` where one is no message.
    """
    if not said:
        raise ConfigError(f"{where} is a conversation without messages. Leave such rows out.")
    for number, message in enumerate(said):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise ConfigError(
                    f"{where}: message {number} has no {key!r} that is a text. A conversation is a "
                    f"list of messages such as {EXAMPLE}."
                )
    return json.dumps([{key: message[key] for key in ("role", "content")} for message in said])


def conversation_ids(tokenizer: Callable[..., Any], document: Document) -> np.ndarray:
    """Token ids of a whole conversation. Raises `ConfigError` for a tokenizer without a template,
    and where the template refuses it."""
    apply: Any = getattr(tokenizer, "apply_chat_template", None)
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"{document.id}: is a conversation, and the model's tokenizer has no chat template. "
            f"Use an instructed model, or name a field with plain text."
        )
    from jinja2 import TemplateError

    try:
        ids = apply(json.loads(document.text), tokenize=True, return_dict=False)
    except TemplateError as error:
        raise ConfigError(
            f"{document.id}: the model's chat template refuses this conversation ({error}). Leave "
            f"it out, or put its messages in the order that the model knows."
        ) from None
    return np.asarray(ids, dtype=np.int32)
