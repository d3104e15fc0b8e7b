"""Runs: from an experiment's configuration to its finished files, and back from these."""
