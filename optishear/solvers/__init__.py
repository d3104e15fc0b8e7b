"""Solvers of one layer: from scores to exact masks, and to new weights. They know no model."""
