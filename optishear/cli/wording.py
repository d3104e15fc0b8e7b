"""Values and recipes as short text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from optishear.recipe.parts import Parts
    from optishear.recipe.recipe import Recipe


def number_text(name: str, value: float) -> str:
    if name in ("sparsity", "share_2:4"):
        return f"{100 * value:.2f} %"
    if name.startswith("bytes"):
        return f"{value / 1e6:.2f} MB"
    return f"{value:.4g}"


def how_text(recipe: "Recipe") -> str:
    """Metric and, where not the plain ones, solver, pattern, λ: `wanda, refit, n:4, λ 0.2-0.9`;
    after them what roles have otherwise, `; mlp.up_proj: ria, n:4`."""
    said, lambdas = _parts(recipe.default), recipe.lambdas.values()
    if lambdas:
        ends = dict.fromkeys(f"{value:.2g}" for value in (min(lambdas), max(lambdas)))
        said += f", λ {'-'.join(ends)}"
    alike: dict[Parts, list[str]] = {}
    for match, parts in recipe.roles:
        alike.setdefault(parts, []).append(match)
    others = [f"{', '.join(roles)}: {_parts(parts)}" for parts, roles in alike.items()]
    return "; ".join([said, *others])


def _parts(parts: "Parts") -> str:
    metric, solver, pattern = parts.metric, parts.solver.name, parts.pattern.text
    said = [solver] if metric.name == "own" else [_metric(metric)]
    if metric.name != "own" and solver != "mask":
        said.append(solver)
    return ", ".join(said if pattern == "row" else [*said, pattern])


def _metric(metric: "Mapping[str, Any]") -> str:
    settings = [
        f"{key} {value:.3g}" if isinstance(value, float) else str(value)
        for key, value in metric.items()
        if key != "name"
    ]
    return metric["name"] + (f" ({', '.join(settings)})" if settings else "")
