"""HOW GOOD, at length, once a model is finished: held-out text that no search has seen."""
