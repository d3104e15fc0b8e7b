"""Genes as YAML writes them in a metric or solver: `{choice: [a, b]}`, `{real: [low, high]}`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optishear.errors import ConfigError
from optishear.recipe.quadratic import QuadraticSettings
from optishear.search.genes import Choice, Gene, Integer, Real, values_of


def parse_templates(kind: str, data: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """`kind` is metric or solver: the key under which the file lists these names and settings."""
    if not data:
        raise ConfigError(f"{kind}: at least one is needed.")
    return tuple(_template(f"{kind}.{index}", template) for index, template in enumerate(data))


def parse_setting(prefix: str, key: str, value: Any) -> Any:
    """A setting of the quadratic: a value as it is, `{choice: …}` and `{real: …}` as a gene called
    by prefix and key. Raises a `ConfigError` for what it cannot be, or become."""
    name = f"{prefix}{key}"
    found = _gene(name, value) if isinstance(value, Mapping) else value
    for end in values_of(found):
        QuadraticSettings.check({key: end}, prefix.rstrip(".") or "space")
    return found


def _template(where: str, data: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data.get("name"), str):
        raise ConfigError(f"{where}: has no name.")
    prefix = f"{where}.{data['name']}"
    return {
        key: _gene(f"{prefix}.{key}", value) if isinstance(value, dict) else value
        for key, value in data.items()
    }


def _gene(name: str, data: Mapping[str, Any]) -> Gene:
    kinds: tuple[Literal["choice", "real", "integer"], ...] = ("choice", "real", "integer")
    if len(data) != 1 or next(iter(data)) not in kinds:
        raise ConfigError(
            f"{name}: a gene is one of {{choice: [a, b, ...]}}, {{real: [low, high]}}, "
            f"{{integer: [low, high]}}; found {dict(data)}."
        )
    kind, values = next(iter(data.items()))
    if not isinstance(values, list | tuple) or len(values) < 1:
        raise ConfigError(f"{name}: {kind} needs a list of values, found {values!r}.")
    if kind == "choice":
        if len(set(map(str, values))) < len(values):
            raise ConfigError(f"{name}: choice lists an option twice.")
        return Choice(name, tuple(values))
    numbers = isinstance(values, list | tuple) and all(
        isinstance(v, int if kind == "integer" else int | float) and not isinstance(v, bool)
        for v in values
    )
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise ConfigError(f"{name}: {kind} needs [low, high] with low < high, found {values!r}.")
    return Integer(name, *values) if kind == "integer" else Real(name, *map(float, values))
