"""Tiny models as folders with the embedded tokenizer, in several shards."""

from functools import cache

import torch
from safetensors import safe_open
from tiny_models import TINY, make
from transformers import AutoTokenizer

from optishear.models.catalog import folder_of


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(folder_of("embedded"))


def tiny_folder(name, place, dtype=torch.float32, shards="40KB", **changes):
    """A model of this architecture; `shards`: how large a file may be."""
    kind, settings = TINY[name].args
    model = make(kind, {**settings, "vocab_size": len(tokenizer()), **changes})
    return folder_with(model.to(dtype), place, shards)


def folder_with(model, place, shards="40KB"):
    """This model, which has as many tokens as the embedded tokenizer, in a folder."""
    model.save_pretrained(place, max_shard_size=shards)
    tokenizer().save_pretrained(place)
    return place


def tensors_of(folder):
    """All tensors in the safetensors files, by name."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found
