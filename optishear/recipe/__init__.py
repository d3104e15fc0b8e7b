"""WHAT to do to a model, as plain data: layouts, patterns, profiles, recipes. No torch."""
