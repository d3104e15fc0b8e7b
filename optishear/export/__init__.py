"""Pruned checkpoints and sparsity profiles, written and verified: WHAT one takes away."""
