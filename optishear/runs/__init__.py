"""From an experiment's configuration to a finished run, and back from its files."""
