"""WHICH words, and for what: sources, their splits, token windows, and keeping purposes apart."""
