"""Models: loading, finding layers, reading and replacing weights, running blocks, the head."""
