"""YAML files (safe loader) and `key=value` changes -> `Experiment`; every mistake one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from optishear.config.experiment import Experiment
from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean
from optishear.search.space_file import SpaceSpec
from optishear.search.space_parts import Strict


@dataclass(frozen=True)
class Shipped:
    """Files that come with the package: found in the checkout, or inside the installed wheel."""

    folder: str

    @property
    def path(self) -> Path:
        package = Path(__file__).resolve().parents[1]
        inside = package / "shipped" / self.folder
        return inside if inside.is_dir() else package.parent / self.folder

    def find(self, name: str) -> Path:
        """A path as it is, or the shipped file of that name; `ConfigError` lists what there is."""
        if name.endswith((".yaml", ".yml")) and Path(name).exists():
            return Path(name)
        shipped = {path.stem: path for path in sorted(self.path.glob("*.yaml"))}
        stem = Path(name).name.removesuffix(".yaml").removesuffix(".yml")
        if stem in shipped:
            return shipped[stem]
        what = self.folder.replace("_", " ").rstrip("s")
        raise ConfigError(
            f"{name}: there is no such file and no shipped {what} of that name."
            f"{did_you_mean(stem, shipped)} Shipped are: {', '.join(shipped)}."
        )


EXPERIMENTS = Shipped("experiments")
SEARCH_SPACES = Shipped("search_spaces")


def load_experiment(name: str, settings: Sequence[str] = ()) -> Experiment:
    """The experiment in a YAML file (or a shipped one by name), with `key=value` changes on top.

    Raises `ConfigError` that names the file, the key, what was found and what is expected.
    """
    path = EXPERIMENTS.find(name)
    data = {"name": path.stem, **_yaml(path)}
    for setting in settings:
        _set(data, setting)
    space = data.get("space")
    if isinstance(space, str):
        where = SEARCH_SPACES.find(space)
        data["space"] = _parse(SpaceSpec, _yaml(where), str(where))
    elif space is not None:
        data["space"] = _parse(SpaceSpec, space, f"{path}: space")
    return _parse(Experiment, data, str(path))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(data).__name__}.")
    return data


def _set(data: dict[str, Any], setting: str) -> None:
    """`search.seed=3` -> data["search"]["seed"] = 3, the value read as YAML."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write it as key=value, for instance search.seed=3.")
    *parents, last = key.strip().split(".")
    place: Any = data
    for parent in parents:
        if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
            place = place[int(parent)]
            continue
        if isinstance(place, dict) and isinstance(place.get(parent), str) and parent == "space":
            # A named space that is changed becomes an inline one.
            place[parent] = _yaml(SEARCH_SPACES.find(place[parent]))
        if not isinstance(place, dict):
            raise ConfigError(f"--set {setting}: there is nothing called {parent!r} inside.")
        place = place.setdefault(parent, {})
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is not readable as YAML: {error}") from None
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"--set {setting}: there is nothing called {last!r} inside.")


def _parse(kind: Any, data: Any, where: str) -> Any:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(kind, error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _sentence(kind: Any, error: ValidationError) -> str:
    """The first mistake, and how many more there are."""
    first, *more = error.errors()
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        known = _fields_at(kind, first["loc"][:-1])
        text = f"{key}: unknown key.{did_you_mean(str(first['loc'][-1]), known)}"
        text += f" There are: {', '.join(known)}." if known else ""
    elif first["type"] == "missing":
        text = f"{key}: is missing."
    else:
        text = f"{key}: {first['msg']}, found {first['input']!r}."
    return text + (f" ({len(more)} more mistakes.)" if more else "")


def _fields_at(kind: Any, place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the model that lies at this place of another."""
    for part in place:
        if isinstance(part, int):
            continue
        annotation = kind.model_fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if _is_model(a)]
        if not inner:
            return []
        kind = inner[0]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Strict)
