"""WHAT can be had from a package registry: models and text that others have published there."""
