"""WHAT other tools read and write: masks, sparsity profiles, recipes, metrics."""
