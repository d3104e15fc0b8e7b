"""Pruning of a whole model: a recipe applied to it, one-shot, block by block or from levels."""
