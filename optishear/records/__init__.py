"""WHAT stays on disk: the journal, the manifest, the names inside a run directory. No torch."""
