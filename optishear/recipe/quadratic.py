"""What a change of the weights costs, as a recipe says it: plain reconstruction, or MOONSHOT's mix.

`{"name": "reconstruction"}` or `{"name": "moonshot", "lambda": {layer: number in [0, 1]}}`, either
with a relative `damping` where it is not the usual one. Layers that `lambda` does not name have 1.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean


RECONSTRUCTION, MOONSHOT = "reconstruction", "moonshot"
USUAL_DAMPING = 0.01  # of the mean diagonal: SparseGPT's and ALPS's own


def canonical_quadratic(
    lambdas: Mapping[str, float], damping: float = USUAL_DAMPING
) -> dict[str, Any]:
    """The quadratic with these λ by layer; λ = 1 everywhere is plain reconstruction."""
    return quadratic_spec(canonical_lambdas(lambdas), damping)


def canonical_lambdas(lambdas: Mapping[str, float]) -> dict[str, float]:
    """Rounded to 6 decimals, without those of plain layers."""
    mixed = {name: round(float(value), 6) for name, value in lambdas.items()}
    return {name: value for name, value in mixed.items() if value != 1}


def quadratic_spec(lambdas: Mapping[str, float], damping: float) -> dict[str, Any]:
    """As files say it."""
    spec: dict[str, Any] = {"name": MOONSHOT if lambdas else RECONSTRUCTION}
    if lambdas:
        spec["lambda"] = dict(lambdas)
    return spec if damping == USUAL_DAMPING else {**spec, "damping": damping}


def damping_of(spec: Mapping[str, Any]) -> float:
    return spec.get("damping", USUAL_DAMPING)


def check_quadratic(spec: Mapping[str, Any], where: str, layers: Iterable[str] = ()) -> None:
    """Raises a `ConfigError` for an unknown name or setting, or a number out of its range.

    `layers`, where given, are the names that `lambda` may use.
    """
    name, names = spec.get("name"), (RECONSTRUCTION, MOONSHOT)
    if name not in names:
        raise ConfigError(
            f"{where}: no quadratic is called {name!r}.{did_you_mean(str(name), names)} "
            f"There are: {', '.join(names)}."
        )
    settings = ("name", "lambda", "damping") if name == MOONSHOT else ("name", "damping")
    for key in spec:
        if key not in settings:
            raise ConfigError(f"{where}: {name!r} has no setting {key!r}.")
    damping = spec.get("damping", USUAL_DAMPING)
    if not _is_number(damping) or not 0 <= damping <= 1:
        raise ConfigError(
            f"{where}: damping is {damping!r}, expected a fraction of the mean diagonal in [0, 1]."
        )
    lambdas = spec.get("lambda", {})
    if not isinstance(lambdas, Mapping):
        raise ConfigError(f"{where}: lambda is {lambdas!r}, expected numbers by layer name.")
    known = set(layers)
    for layer, value in lambdas.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ConfigError(f"{where}: lambda of {layer} is {value!r}, it must lie in [0, 1].")
        if known and layer not in known:
            raise ConfigError(
                f"{where}: lambda names a layer {layer!r} that the model lacks."
                f"{did_you_mean(layer, known)} Was the recipe made for another model?"
            )


def blended_layers(layout: ModelLayout, roles: str | Sequence[str]) -> list[str]:
    """Names of the layers whose roles are mixed: `attention`, `all`, or roles by name.

    A reader's notes say that the MOONSHOT paper mixes the attention layers only. A role counts as
    attention if a part of its path is named so (`attn`, `attention`).
    """
    if roles == "all":
        chosen = set(layout.roles)
    elif roles == "attention":
        chosen = {role for role in layout.roles if re.search("attn|attention", role)}
    else:
        chosen = {roles} if isinstance(roles, str) else set(roles)
    for role in chosen:
        if role not in layout.roles:
            raise ConfigError(
                f"MOONSHOT roles: the model has no {role!r}.{did_you_mean(role, layout.roles)} "
                f"There are: attention, all, or any of {', '.join(layout.roles)}."
            )
    if not chosen:
        raise ConfigError(
            f"MOONSHOT roles: no role of this model is named attention. Use all, or name some of "
            f"{', '.join(layout.roles)}."
        )
    return [layer.name for layer in layout.layers if layer.role in chosen]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
