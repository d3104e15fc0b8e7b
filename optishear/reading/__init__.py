"""Readers of text, JSON and YAML as plain data; what cannot be read is one sentence."""
