"""Texts: sources, their splits, token windows, and keeping calibration, search, held-out apart."""
