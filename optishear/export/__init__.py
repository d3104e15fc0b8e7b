"""WHAT one takes away: recipes, sparsity profiles, pruned checkpoints."""
