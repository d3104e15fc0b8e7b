"""The search: genes, drivers, the loop and the front. WHICH recipe next. No torch, no models."""
