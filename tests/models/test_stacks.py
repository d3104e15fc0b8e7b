"""The blocks of a model are those that its text goes through, however large its other parts are."""

from typing import Any

import torch
from tiny_models import ATTENTION, GATED, NO_PADDING, SIZES
from tiny_sharing import SHARING
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto import CONFIG_MAPPING

from optishear.models.discover import decoder_blocks
from optishear.models.stacks import language_stacks


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_a_tower_larger_than_the_language_model_is_not_its_blocks():
    vision = {"depth": 3, "hidden_size": 96, "intermediate_size": 160, "num_heads": 4}
    parts: dict[str, Any] = {
        "text_config": {**GATED, **NO_PADDING},
        "vision_config": {**vision, "out_hidden_size": 24},
    }
    config = CONFIG_MAPPING["qwen2_5_vl"](**parts)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    path, blocks = decoder_blocks(model)
    assert path == "model.language_model.layers"
    assert parameters(model.model.visual.blocks) > parameters(blocks)


def test_a_tower_inside_of_the_decoder_is_not_its_blocks():
    """Phi-4-multimodal keeps its towers beside the embedding of tokens."""
    settings: dict[str, Any] = {**SIZES, **ATTENTION, **NO_PADDING, "intermediate_size": 40}
    config = CONFIG_MAPPING["phi4_multimodal"](**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    path, blocks = decoder_blocks(model)
    towers = model.model.embed_tokens_extend
    assert path == "model.layers"
    assert parameters(towers.audio_embed.encoder.encoders) > parameters(blocks)


def test_all_stacks_of_a_language_model_are_named():
    settings: dict[str, Any] = {**SIZES, **ATTENTION, "intermediate_size": 40}
    config = CONFIG_MAPPING["hrm_text"](**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert len(language_stacks(model)) > 1


def test_a_list_of_mere_matrices_is_no_stack():
    """Gemma-3n has two of them beside its blocks."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            CONFIG_MAPPING["gemma3n_text"](**SHARING["gemma3n_text"])
        )
    assert isinstance(model.model.altup_projections, nn.ModuleList)
    assert [*language_stacks(model)] == ["model.layers"]
