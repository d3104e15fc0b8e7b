"""Checks of a checkpoint folder against its recipe, one a question, with what was found.

Each function answers one question: about the files (`files`), about the model that transformers
makes of them (`model`), about that beside the dense model (`dense`). Nothing is raised for what is
wrong: it is what is looked for.
"""
