"""Recipes as plain data: WHAT to do to a model. Layouts, patterns, profiles, keys. No torch."""
