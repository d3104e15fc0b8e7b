"""Tiny settings of models whose last blocks read the keys and values of earlier ones."""

from typing import Any

from tiny_models import GATED, VOCAB


SHARED_KV = {  # blocks 3 and 4 read what 1 and 2 left, by the kind of their attention
    **GATED,
    "pad_token_id": 0,
    "num_hidden_layers": 5,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    "sliding_window": 5,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
}

SHARING: dict[str, dict[str, Any]] = {
    "gemma4_text": {**SHARED_KV, "global_head_dim": 8},
    "gemma3n_text": {
        **SHARED_KV,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0, 0.0],
    },
}
