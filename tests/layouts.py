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
