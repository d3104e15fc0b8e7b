"""A run as one page that explains itself: text, tables, figures and their data in a single file."""
