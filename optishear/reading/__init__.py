"""HOW a file becomes plain data: text, JSON, YAML; what cannot be read is one sentence."""
