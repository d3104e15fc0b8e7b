"""Tiny settings of models whose experts are stored or multiplied in ways of their own."""

from typing import Any

import torch
from tiny_models import GATED, SIZES, make
from transformers import PreTrainedModel


LATENT = {"q_lora_rank": 12, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}

EXPERTS: dict[str, dict[str, Any]] = {
    # All experts see all tokens, those that were not routed to them as zeros.
    "llama4_text": {
        **GATED,
        "num_local_experts": 3,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 44,
    },
    # Three experts, and two that are the identity: slices that nothing reads. Two blocks, each of
    # two layers.
    "longcat_flash": {
        **SIZES,
        **LATENT,
        "num_attention_heads": 4,
        "head_dim": 4,
        "v_head_dim": 8,
        "num_hidden_layers": 4,
        "n_routed_experts": 3,
        "zero_expert_num": 2,
        "moe_topk": 2,
        "ffn_hidden_size": 40,
        "expert_ffn_hidden_size": 20,
    },
    # In the first block a table says by its id which experts a token goes to.
    "deepseek_v4": {
        **SIZES,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "q_lora_rank": 12,
        "o_lora_rank": 12,
        "o_groups": 2,
        "qk_rope_head_dim": 4,
        "index_head_dim": 8,
        "index_n_heads": 2,
        "index_topk": 4,
        "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["hash_moe", "moe"],
        "moe_intermediate_size": 40,
        "n_routed_experts": 3,
        "num_experts_per_tok": 2,
        "sliding_window": 5,
        "max_position_embeddings": 128,
    },
}


def make_experts(kind: str, **changes: Any) -> PreTrainedModel:
    """The same as a model, its tables such that all experts have tokens."""
    model = make(kind, {**EXPERTS[kind], **changes})
    for name, table in model.named_buffers():
        if name.endswith("tid2eid"):
            first = torch.arange(len(table))[:, None]
            table.copy_((first + torch.arange(table.shape[1])) % 3)
    return model
