"""YAML files (safe loader) and `key=value` changes -> `Experiment`; every mistake one sentence."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optishear.config.experiment import Experiment
from optishear.config.places import located, located_change
from optishear.errors import ConfigError, ConfigErrors, collect_errors
from optishear.reading.texts import text_of
from optishear.reading.yaml_data import yaml_of
from optishear.recipe.lookup import did_you_mean, is_path
from optishear.recipe.recipe import Recipe
from optishear.search.space_file import SpaceSpec
from optishear.search.space_parts import RoleSpec, Strict


SUFFIXES = (".yaml", ".yml")
MEANING = "whether names are known, numbers go together and texts overlap: some keys are wrong"


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
        """The file at this path, or else the shipped one of this name; `ConfigError` for neither.

        What is written as a path is one: it is never answered by a shipped file of the same name.
        """
        path = Path(name).expanduser()
        if path.is_file():
            return path
        shipped = {path.stem: path for path in sorted(self.path.glob("*.yaml"))}
        if name in shipped:
            return shipped[name]
        what = self.folder.replace("_", " ").rstrip("s")
        if is_path(name, SUFFIXES):
            stem, is_folder = path.stem, path.is_dir()
            there = "is a folder, not a file" if is_folder else "there is no such file"
            hint = f" The shipped {what} of that name is `{stem}`." if stem in shipped else ""
            raise ConfigError(
                f"{name}: {there} (looked in {path.absolute().parent}); see to the path.{hint}"
            )
        raise ConfigError(
            f"{name}: there is no such file and no shipped {what} of that name."
            f"{did_you_mean(name, shipped)} Shipped are: {', '.join(shipped)}."
        )


EXPERIMENTS = Shipped("experiments")
SEARCH_SPACES = Shipped("search_spaces")


def load_experiment(name: str, settings: Sequence[str] = ()) -> Experiment:
    """The experiment in a YAML file (or a shipped one by name), with `key=value` changes on top.

    Raises `ConfigErrors` with everything that is wrong: each names the file, the key, what was
    found and what is expected.
    """
    found = load_experiments(name, settings)
    if len(found) > 1:
        raise ConfigError(
            f"{EXPERIMENTS.find(name)}: vary makes {len(found)} runs of it. `optishear search` "
            f"runs them all; for one of them copy the file without vary."
        )
    return found[0]


def load_experiments(name: str, settings: Sequence[str] = ()) -> list[Experiment]:
    """The runs of an experiment file: one, or as many as its `vary` makes.

    `vary` is a list of mappings from dotted keys to lists of values; each mapping makes every
    combination of its values, on top of the file, and `settings` come last.
    """
    path = EXPERIMENTS.find(name)
    data = {"name": path.stem, **located(_yaml(path), path.parent)}
    data.setdefault("hypothesis", _first_comment(path))
    runs = {}
    for changes in _combinations(data.pop("vary", None), str(path)):
        found = _experiment(deepcopy(data), changes, settings, path)
        runs[found.hash] = found
    return list(runs.values())


def _combinations(vary: Any, where: str) -> list[dict[str, Any]]:
    if vary is None:
        return [{}]
    if not isinstance(vary, list) or not all(
        isinstance(grid, dict) and all(isinstance(v, list) and v for v in grid.values())
        for grid in vary
    ):
        raise ConfigError(
            f"{where}: vary is a list of mappings from keys to lists of values, for instance "
            f"[{{search.driver: [nsga2, random], search.seed: [0, 1, 2]}}]."
        )
    return [
        dict(zip(grid, values, strict=True)) for grid in vary for values in product(*grid.values())
    ]


def _experiment(
    data: dict[str, Any], changes: dict[str, Any], settings: Sequence[str], path: Path
) -> Experiment:
    mistakes: list[str] = []
    for key, value in changes.items():
        with collect_errors(mistakes):
            value = located_change(key, value, path.parent)
            _put(data, key, value, f"{path}: vary {key}")
    for setting in settings:
        with collect_errors(mistakes):
            _set(data, setting)
    of_space: list[str] = []
    with collect_errors(of_space):
        data |= _space(data.get("space"), path)
    if of_space:
        data["space"] = SpaceSpec()  # so that the other keys can be checked beside a sound one
    mistakes += of_space
    with collect_errors(mistakes):
        data |= _around(data.pop("around", None), path)
    unchecked = [MEANING] if of_space else []
    try:
        found = _parse(Experiment, data, str(path))
        if not mistakes:
            return found
    except ConfigErrors as error:
        # What an experiment means hangs on its space, and is told of a sound one only.
        mistakes += error.mistakes if error.unchecked or not of_space else ()
        unchecked = unchecked or error.unchecked
    raise ConfigErrors(mistakes, unchecked)


def _space(space: Any, path: Path) -> dict[str, SpaceSpec]:
    """The `space` key of an experiment file read; nothing where it has none."""
    if isinstance(space, str):
        where = SEARCH_SPACES.find(space)
        return {"space": _parse(SpaceSpec, _yaml(where), str(where))}
    return {} if space is None else {"space": _parse(SpaceSpec, space, f"{path}: space")}


def _around(said: Any, path: Path) -> dict[str, Any]:
    """The `around` key of an experiment read, where it has one: the path of a recipe, or one."""
    if said is None:
        return {}
    if isinstance(said, dict):
        return {"around": said}
    if not isinstance(said, str):
        raise ConfigError(f"{path}: around: is {said!r}, expected the path of a recipe's file.")
    place = Path(said).expanduser()
    if place.is_dir():
        raise ConfigError(
            f"{path}: around: {said} is a folder, expected a recipe's file. Of a run `--around` "
            f"takes what it picks."
        )
    try:
        return {"around": Recipe.read(place).to_json()}
    except ConfigError as error:
        raise ConfigError(f"{path}: around: {error}") from None


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml_of(text_of(path), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(data).__name__}.")
    return data


def _first_comment(path: Path) -> str:
    """What an experiment file opens with: its hypothesis, without the word and the hashes."""
    lines = takewhile(lambda line: line.startswith("#"), text_of(path).splitlines())
    text = " ".join(line.lstrip("#").strip() for line in lines).strip()
    text = text.removeprefix("Hypothesis:").strip()
    return text[:1].upper() + text[1:]


def _set(data: dict[str, Any], setting: str) -> None:
    """`search.seed=3` -> data["search"]["seed"] = 3, the value read as YAML."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write it as key=value, for instance search.seed=3.")
    _put(data, key.strip(), yaml_of(text, f"--set {setting}"), f"--set {setting}")


def _put(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """data["search"]["seed"] = value for the key `search.seed`."""
    *parents, last = _split(key)
    place: Any = data
    for parent in parents:
        if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
            place = place[int(parent)]
            continue
        if isinstance(place, dict) and isinstance(place.get(parent), str) and parent == "space":
            # A named space that is changed becomes an inline one.
            place[parent] = _yaml(SEARCH_SPACES.find(place[parent]))
        if not isinstance(place, dict):
            raise ConfigError(f"{where}: there is nothing called {parent!r} inside.")
        place = place.setdefault(parent, {})
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"{where}: there is nothing called {last!r} inside.")


def _split(key: str) -> list[str]:
    """At its dots, but for those of a pattern of roles: `space.roles.mlp.*.pattern` has four."""
    parts = key.split(".")
    if parts[:2] != ["space", "roles"] or len(parts) < 4:
        return parts
    fields = [i for i in range(3, len(parts)) if parts[i] in RoleSpec.model_fields]
    end = fields[0] if fields else len(parts)
    return [*parts[:2], ".".join(parts[2:end]), *parts[end:]]


def _parse(kind: Any, data: Any, where: str) -> Any:
    """`ConfigErrors` of the keys, which leave their meaning unchecked, or else of the meaning."""
    mistakes: list[str] = []
    unchecked = []
    try:
        with collect_errors(mistakes):
            return kind.model_validate(data)
    except ValidationError as error:
        mistakes, unchecked = [_sentence(kind, one) for one in error.errors()], [MEANING]
    raise ConfigErrors([f"{where}: {mistake}" for mistake in mistakes], unchecked)


def _sentence(kind: Any, mistake: Any) -> str:
    """One of pydantic's findings in our words."""
    key = ".".join(str(part) for part in mistake["loc"]) or "the file"
    if mistake["type"] == "extra_forbidden":
        known = _fields_at(kind, mistake["loc"][:-1])
        text = f"{key}: unknown key.{did_you_mean(str(mistake['loc'][-1]), known)}"
        return text + (f" There are: {', '.join(known)}." if known else "")
    if mistake["type"] == "missing":
        return f"{key}: is missing."
    return f"{key}: {mistake['msg']}, found {mistake['input']!r}."


def _fields_at(kind: Any, place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the model that lies at this place of another."""
    for part in place:
        if part not in kind.model_fields:  # an index, or a key of a mapping
            continue
        annotation = kind.model_fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if _is_model(a)]
        if not inner:
            return []
        kind = inner[0]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Strict)
