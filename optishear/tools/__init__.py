"""What one does with models and finished runs: prune, verify, evaluate, transfer, plan, export."""
