"""Canonical recipes: the simplest that does the same, so that what is alike is tried once."""

from collections.abc import Mapping
from typing import Any

from optishear.recipe.metric_forms import OWN, canonical_metric, reads_inputs
from optishear.recipe.pattern import Pattern
from optishear.recipe.quadratic import canonical_quadratic, damping_of, uses_gradients
from optishear.recipe.recipe import Recipe
from optishear.recipe.solver_settings import without_usual


MASK = {"name": "mask"}
CHOOSES_ITSELF = ("sparsegpt", "alps")  # solvers that no metric has a say in


def canonical_recipe(
    metric: Mapping[str, Any],
    drop: Mapping[str, int],
    pattern: Pattern,
    solver: Mapping[str, Any],
    quadratic: Mapping[str, Any],
) -> Recipe:
    """One recipe for all combinations that give every layer the same weights.

    - Where the solver chooses by itself the metric is `own`.
    - A refit of ALPS is ALPS, which ends in one.
    - `mask` moves no weight and so reads no damping, and no λ either if its metric reads no inputs.
    """
    solver = canonical_solver(solver)
    quadratic = canonical_quadratic(quadratic.get("lambda", {}), damping_of(quadratic))
    metric = metric_under(solver, metric)
    if metric["name"] != OWN:
        metric = canonical_metric(metric, pattern, row_inputs=uses_gradients(quadratic))
    if solver == MASK:
        quadratic = canonical_quadratic(quadratic.get("lambda", {}) if reads_inputs(metric) else {})
    return Recipe(metric, drop, pattern.text, solver, quadratic)


def canonical_solver(solver: Mapping[str, Any]) -> dict[str, Any]:
    """With its `of` spelt out, and without settings at their usual values. Unknown names and
    settings stay, for others to refuse."""
    solver = without_usual(solver)
    if solver.get("name") != "refit":
        return solver
    if solver.get("of") == "alps":
        return {key: value for key, value in solver.items() if key != "of"} | {"name": "alps"}
    return {**solver, "of": solver.get("of", "mask")}


def chooser_of(solver: Mapping[str, Any]) -> Any:
    """The solver that says which weights are kept: a refit's is the one it follows."""
    return solver.get("of", "mask") if solver.get("name") == "refit" else solver.get("name")


def metric_under(solver: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, Any]:
    """The metric, or `own` where the solver chooses by itself."""
    return {"name": OWN} if chooser_of(solver) in CHOOSES_ITSELF else dict(metric)
