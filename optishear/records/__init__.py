"""Files that stay: journal, manifest, cache, names inside a run directory. No torch."""
