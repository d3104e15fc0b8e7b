"""Held-out perplexity and zero-shot accuracy of finished models: HOW GOOD, at length."""
