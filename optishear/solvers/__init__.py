"""WHAT a layer becomes: from scores to exact masks, and to new weights."""
