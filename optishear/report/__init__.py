"""WHAT a person sees: the front, the profile and the progress of a run, fit for a paper."""
