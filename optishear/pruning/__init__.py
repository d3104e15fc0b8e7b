"""A RECIPE applied to a MODEL."""
