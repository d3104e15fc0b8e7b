"""Tiny random multimodal models: a language model, and a tower for images that is larger."""

from typing import Any

import torch
from tiny_models import GATED, NO_PADDING
from transformers import AutoModelForImageTextToText
from transformers.models.auto import CONFIG_MAPPING


TOWER = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_heads": 4}
TOWER |= {"intermediate_size": 80, "image_size": 16, "patch_size": 4, "depth": 3}
TEXT = {**GATED, **NO_PADDING}
WRAPPERS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text_config": {
            **{key: value for key, value in TEXT.items() if key != "head_dim"},
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [1, 1, 1],  # half of a head, which is 24 / 4
            },
        },
        "vision_config": {**TOWER, "out_hidden_size": 24},
    },
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral"},
        "vision_config": {**TOWER, "model_type": "pixtral"},
    },
    "llava": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**TOWER, "model_type": "clip_vision_model"},
    },
}


def make_wrapper(kind: str, vocabulary: int) -> Any:
    """Seeded, in eval mode, with weights large enough to matter."""
    settings = WRAPPERS[kind]
    text = {**settings["text_config"], "vocab_size": vocabulary}
    config = CONFIG_MAPPING[kind](**{**settings, "text_config": text})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
    return model.eval()
