"""Tools for models and finished runs: prune, verify, evaluate, transfer, plan, export, import."""
