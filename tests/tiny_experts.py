"""Tiny settings of models whose experts are stored or multiplied in ways of their own."""

from typing import Any

from tiny_models import GATED, SIZES


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
}
