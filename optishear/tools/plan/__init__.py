"""WHAT a search will cost: every check of a search, a dry run of a few candidates, arithmetic."""
