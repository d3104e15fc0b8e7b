"""Small layouts without any tensors; layers are never square."""

from optishear.recipe.layout import Layer, ModelLayout


def small_layout(blocks=3, scale=1):
    """Two layers a block, 6x8 and 5x12 times `scale`."""
    layers = []
    for block in range(blocks):
        for role, out, in_ in (("attn.q", 6, 8), ("mlp.down", 5, 12)):
            name = f"blocks.{block}.{role}"
            layers.append(Layer(name, block, role, out * scale, in_ * scale, name))
    return ModelLayout(tuple(layers))


def llama_layout(blocks=30):
    """The shapes of SmolLM2-135M: grouped keys and values, a gated MLP; three sizes of layers."""
    roles = {
        "self_attn.q_proj": (576, 576),
        "self_attn.k_proj": (192, 576),
        "self_attn.v_proj": (192, 576),
        "self_attn.o_proj": (576, 576),
        "mlp.gate_proj": (1536, 576),
        "mlp.up_proj": (1536, 576),
        "mlp.down_proj": (576, 1536),
    }
    layers = []
    for block in range(blocks):
        for role, (out, in_) in roles.items():
            name = f"layers.{block}.{role}"
            layers.append(Layer(name, block, role, out, in_, name))
    return ModelLayout(tuple(layers))
