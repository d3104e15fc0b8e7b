"""Values and recipes as short text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from optishear.recipe.recipe import Recipe


def number_text(name: str, value: float) -> str:
    if name in ("sparsity", "share_2:4"):
        return f"{100 * value:.2f} %"
    if name.startswith("bytes"):
        return f"{value / 1e6:.2f} MB"
    return f"{value:.4g}"


def how_text(recipe: "Recipe") -> str:
    """Metric and, where not the plain ones, solver, pattern, λ: `wanda, refit, n:4, λ 0.2-0.9`."""
    solver, lambdas = recipe.solver["name"], recipe.quadratic.get("lambda", {}).values()
    parts = [solver] if recipe.metric["name"] == "own" else [_metric(recipe.metric)]
    if recipe.metric["name"] != "own" and solver != "mask":
        parts.append(solver)
    if recipe.pattern != "row":
        parts.append(recipe.pattern)
    if lambdas:
        ends = dict.fromkeys(f"{value:.2g}" for value in (min(lambdas), max(lambdas)))
        parts.append(f"λ {'-'.join(ends)}")
    return ", ".join(parts)


def _metric(metric: "Mapping[str, Any]") -> str:
    settings = [
        f"{key} {value:.3g}" if isinstance(value, float) else str(value)
        for key, value in metric.items()
        if key != "name"
    ]
    return metric["name"] + (f" ({', '.join(settings)})" if settings else "")
