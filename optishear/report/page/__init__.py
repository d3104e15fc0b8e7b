"""The HTML report: a run's text, tables, figures and data in a single file."""
