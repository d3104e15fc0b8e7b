"""WHICH recipe next: genes, drivers and the front they find. No torch, no models."""
