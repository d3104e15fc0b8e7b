"""Figures, tables and the HTML report of runs, and progress in numbers: WHAT a person sees."""
