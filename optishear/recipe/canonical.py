"""Canonical recipes: the simplest that does the same, so that what is alike is tried once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optishear.recipe.layout import Layer
from optishear.recipe.metric_forms import OWN, canonical_metric, reads_inputs
from optishear.recipe.parts import Parts, simplest
from optishear.recipe.quadratic import QuadraticSettings, canonical_lambdas
from optishear.recipe.recipe import BY_BLOCK, Recipe
from optishear.recipe.solver_settings import without_usual


MASK = {"name": "mask"}
CHOOSES_ITSELF = ("sparsegpt", "alps")  # solvers that no metric has a say in


def canonical_recipe(recipe: Recipe, layers: Sequence[Layer] = ()) -> Recipe:
    """One recipe for all that give every layer the same weights; `layers` are those of the model,
    which has a say where roles differ.

    - Where the solver chooses by itself the metric is `own`.
    - A refit of ALPS is ALPS, which ends in one.
    - `mask` of an unshifted target moves no weight and so reads no damping, and is not guided and
      reads no λ either if its metric reads no inputs.
    - Where nothing reads inputs, it is all the same in which order they are read.
    - What most roles have is the default, in a tie what the first of them has; the other roles are
      named one by one.
    """
    if recipe.roles:
        role_of = {layer.name: layer.role for layer in layers}
        said = {layer.role: recipe.at(layer) for layer in layers}
    else:
        role_of, said = {}, {"": recipe.default}
    lambdas = canonical_lambdas(recipe.lambdas)
    parts = {role: canonical_parts(own, bool(lambdas)) for role, own in said.items()}
    heard = {n: lam for n, lam in lambdas.items() if _hears(parts[role_of.get(n, "")])}
    if lambdas and not heard:
        parts = {role: canonical_parts(own, False) for role, own in said.items()}
    every = list(parts.values())
    default = max(dict.fromkeys(every), key=every.count)  # the first of those that come as often
    order = recipe.order if any(map(_hears, every)) else BY_BLOCK
    entries = simplest(default, list(parts.items()))
    return replace(recipe, default=default, lambdas=heard, roles=entries, order=order)


def canonical_parts(parts: Parts, row_inputs: bool) -> Parts:
    """`row_inputs`: whether each output row has inputs of its own, as where λ is mixed."""
    solver = canonical_solver(parts.solver)
    metric = metric_under(solver, parts.metric)
    if metric["name"] != OWN:
        of_rows = row_inputs or parts.quadratic.guided > 1
        metric = canonical_metric(metric, parts.pattern, row_inputs=of_rows)
    quadratic = parts.quadratic.as_numbers
    if solver == MASK and not quadratic.target_shift:
        guided = quadratic.guided if reads_inputs(metric) else 0
        quadratic = QuadraticSettings(guided=guided, centred=quadratic.centred)
    return Parts.of(metric, parts.pattern, solver, quadratic)


def _hears(parts: Parts) -> bool:
    """Whether what the layer reads, and so λ, has a say."""
    quadratic = parts.quadratic
    moves = parts.solver != MASK or bool(quadratic.target_shift) or quadratic.centred
    return moves or reads_inputs(parts.metric)


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
