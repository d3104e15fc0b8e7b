"""What a change of the weights costs, as a recipe says it: plain reconstruction, what the loss
hears of it, or MOONSHOT's mix.

`{"name": "reconstruction"}`, `{"name": "guided", "groups": number}` or `{"name": "moonshot",
"lambda": {layer: number in [0, 1]}}`, each with those `QuadraticSettings` that are not the usual
ones. Layers that `lambda` does not name have 1. An entry for roles says `guided: number`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean


RECONSTRUCTION, GUIDED, MOONSHOT = "reconstruction", "guided", "moonshot"
MOST_GROUPS = 4  # of a layer's rows that have a guided quadratic of their own
USUAL_DAMPING = 0.01  # of the mean diagonal: SparseGPT's and ALPS's own
AUTO = "auto"  # a damping that each layer is given by what was held back from it
DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # from which
ONLY_PLAIN = (
    f"damping is {AUTO!r}, which is chosen by the plain reconstruction error, and the "
    f"layer's cost is another. Give a number for its damping."
)
ONLY_CENTRED = (
    f"centred is of the plain reconstruction error at a damping that is given: it goes with no "
    f"target_shift, guided, lambda or damping {AUTO!r}. Leave one of them out."
)


@dataclass(frozen=True)
class QuadraticSettings:
    """How a layer's quadratic is made, whatever is mixed into it.

    - `damping`: added to the diagonal, relative to its mean; or `auto`.
    - `target_shift`: how far the layer's target goes from its own weight, 0, to the one with which
      it makes of its pruned inputs what the dense layer makes of the dense ones, 1.
    - `guided`: in how many groups of rows tokens count as the loss hears them; 0: all alike.
    - `centred`: whether the biases of layers that have one make up for the mean of what is pruned.
    """

    damping: float | str = USUAL_DAMPING
    target_shift: float = 0.0
    guided: int = 0
    centred: bool = False

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "QuadraticSettings":
        """Those of a mapping that says more, checked already; 1 and 1.0 are one number."""
        if said.get("name") == GUIDED:
            said = {**said, "guided": said.get("groups", 1)}
        found: dict[str, Any] = {key: said[key] for key in QUADRATIC_KEYS if key in said}
        for key in _RANGES:
            if isinstance(found.get(key), int):
                found[key] = float(found[key])
        return cls(**found)

    def but(self, said: Mapping[str, Any]) -> "QuadraticSettings":
        """These, but for what a mapping says otherwise."""
        return QuadraticSettings.of({**self.to_json(), **said})

    @property
    def unusual(self) -> dict[str, Any]:
        """As files say it: what is not the usual."""
        usual = USUAL.to_json()
        return {key: value for key, value in self.to_json().items() if value != usual[key]}

    @property
    def auto(self) -> bool:
        """Whether damping is chosen layer by layer."""
        return self.damping == AUTO

    @property
    def as_numbers(self) -> "QuadraticSettings":
        """1 and 1.0 are one damping; to 6 decimals."""
        damping = self.damping if self.auto else round(float(self.damping), 6)
        return replace(self, damping=damping, target_shift=round(float(self.target_shift), 6))

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in QUADRATIC_KEYS}

    @classmethod
    def check(cls, said: Mapping[str, Any], where: str) -> None:
        """Raises a `ConfigError` for a number out of its range."""
        for key, about in _RANGES.items():
            value = said.get(key, 0)
            if (key, value) == ("damping", AUTO):
                continue
            if not _is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f"{where}: {key} is {value!r}, expected {about} in [0, 1].")
        _check_groups("guided", said.get("guided", 0), 0, where)
        if not isinstance(said.get("centred", False), bool):
            raise ConfigError(f"{where}: centred is {said['centred']!r}, expected true or false.")


USUAL = QuadraticSettings()
QUADRATIC_KEYS = tuple(field.name for field in fields(QuadraticSettings))
_RANGES = {
    "damping": f"{AUTO!r} or a fraction of the mean diagonal",
    "target_shift": "a share of the whole shift",
}


_OWN: dict[str, set[str]] = {MOONSHOT: {"lambda"}, GUIDED: {"groups"}}


def canonical_quadratic(
    lambdas: Mapping[str, float], settings: QuadraticSettings = USUAL
) -> dict[str, Any]:
    """The quadratic with these λ by layer; λ = 1 everywhere is plain reconstruction."""
    return quadratic_spec(canonical_lambdas(lambdas), settings)


def canonical_lambdas(lambdas: Mapping[str, float]) -> dict[str, float]:
    """Rounded to 6 decimals, without those of plain layers."""
    mixed = {name: round(float(value), 6) for name, value in lambdas.items()}
    return {name: value for name, value in mixed.items() if value != 1}


def quadratic_spec(lambdas: Mapping[str, float], settings: QuadraticSettings) -> dict[str, Any]:
    """As files say it."""
    unusual = settings.unusual
    if lambdas:
        return {"name": MOONSHOT, "lambda": dict(lambdas), **unusual}
    if groups := unusual.pop("guided", 0):
        return {"name": GUIDED, "groups": groups, **unusual}
    return {"name": RECONSTRUCTION, **unusual}


def check_quadratic(spec: Mapping[str, Any], where: str, layers: Iterable[str] = ()) -> None:
    """Raises a `ConfigError` for an unknown name or setting, or a number out of its range.

    `layers`, where given, are the names that `lambda` may use.
    """
    name, names = spec.get("name"), (RECONSTRUCTION, GUIDED, MOONSHOT)
    if name not in names:
        raise ConfigError(
            f"{where}: no quadratic is called {name!r}.{did_you_mean(str(name), names)} "
            f"There are: {', '.join(names)}."
        )
    if name == MOONSHOT and spec.get("guided"):
        raise ConfigError(
            f"{where}: is guided, and mixes a Taylor loss in, which is of the same gradients. "
            f"Leave one of them out."
        )
    settings = {"name", *QUADRATIC_KEYS} - {"guided"} | _OWN.get(name, set())
    for key in spec:
        if key not in settings:
            raise ConfigError(f"{where}: {name!r} has no setting {key!r}.")
    if name == GUIDED:
        _check_groups("groups", spec.get("groups", 1), 1, where)
    QuadraticSettings.check(spec, where)
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


def _check_groups(key: str, value: Any, least: int, where: str) -> None:
    if type(value) is not int or not least <= value <= MOST_GROUPS:
        raise ConfigError(
            f"{where}: {key} is {value!r}, expected a number of row groups, {least} to "
            f"{MOST_GROUPS}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
