"""Files of other tools, read and written: masks, sparsity profiles, recipes, metrics."""
