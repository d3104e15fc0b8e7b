"""Tiny random causal language models, one of each kind of structure. No downloads, non-square."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING


VOCAB = 53
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SIZES = {"vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 2}
GATED = {**SIZES, **ATTENTION, "intermediate_size": 40}
NO_PADDING = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def make(kind: str, settings: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """A causal LM of `kind`, seeded, in eval mode, with weights large enough to matter."""
    config = CONFIG_MAPPING[kind](**{**NO_PADDING, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


class ListMoE(nn.Module):
    """Mixture of experts in the old style: a list of modules behind a Linear router."""

    def __init__(self, hidden: int, inner: int, experts: int = 3, top: int = 1) -> None:
        super().__init__()
        self.top = top
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(ListExpert(hidden, inner) for _ in range(experts))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.flatten(0, 1)
        weight, chosen = self.gate(flat).softmax(-1).topk(self.top)
        total = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            token, rank = (chosen == index).nonzero(as_tuple=True)
            if len(token):
                total.index_add_(0, token, expert(flat[token]) * weight[token, rank, None])
        return total.view_as(hidden)


class ListExpert(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden, inner, bias=False)
        self.w2 = nn.Linear(inner, hidden, bias=False)
        self.w3 = nn.Linear(hidden, inner, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(torch.nn.functional.silu(self.w1(x)) * self.w3(x))


def list_moe(seed: int = 0) -> PreTrainedModel:
    """Llama with old-style experts, as mixtures of experts were written before transformers 5."""
    model = make("llama", GATED, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for block in model.model.layers:
            block.mlp = ListMoE(24, 20)
    return model.eval()


TINY: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": partial(make, "llama", GATED),
    "mistral": partial(make, "mistral", {**GATED, "sliding_window": 5}),
    "qwen2": partial(make, "qwen2", {**GATED, "tie_word_embeddings": True}),
    "gemma2": partial(make, "gemma2", {**GATED, "query_pre_attn_scalar": 8, "sliding_window": 5}),
    "granite": partial(make, "granite", {**GATED, "logits_scaling": 8.0}),
    "opt": partial(
        make,
        "opt",
        {
            **SIZES,
            "num_attention_heads": 4,
            "ffn_dim": 40,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": 64,
            "do_layer_norm_before": False,
        },
    ),
    "gpt2": partial(
        make,
        "gpt2",
        {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40},
    ),
    "gpt_neox": partial(
        make, "gpt_neox", {**SIZES, "num_attention_heads": 4, "intermediate_size": 40}
    ),
    "falcon": partial(make, "falcon", {**SIZES, "num_attention_heads": 4, "ffn_hidden_size": 40}),
    "mixtral": partial(
        make, "mixtral", {**GATED, "num_local_experts": 3, "num_experts_per_tok": 2}
    ),
    "qwen2_moe": partial(
        make,
        "qwen2_moe",
        {
            **GATED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 28,
        },
    ),
    "gpt_oss": partial(
        make,
        "gpt_oss",
        {
            **GATED,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
        },
    ),
    "jetmoe": partial(
        make,
        "jetmoe",
        {
            **SIZES,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "intermediate_size": 40,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
        },
    ),
    "list_moe": list_moe,
}


def tokens(batch: int = 2, seq: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (batch, seq), generator=generator)
