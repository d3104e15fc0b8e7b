"""The plan of a search, WHAT it will cost: every check, a dry run of candidates, arithmetic."""
