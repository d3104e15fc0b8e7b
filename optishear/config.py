"""YAML (safe loader) -> `Experiment`, strict, checked before a model is loaded. The only parser."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from optishear.allocation import RULES
from optishear.errors import ConfigError
from optishear.metrics import make_metric
from optishear.objectives import make_objective
from optishear.recipe.lookup import did_you_mean, lookup
from optishear.search.drivers import DRIVERS, check_budget
from optishear.search.genes import Choice, Gene
from optishear.search.pick import Pick, parse_pick
from optishear.search.space_file import SpaceSpec, Strict
from optishear.search.sparsity_genes import GROUPINGS
from optishear.solvers.methods import METHODS
from optishear.text.disjoint import refuse_overlap
from optishear.text.sources import TextSpec


class TextConfig(Strict):
    """`sequences` windows of `seq_len` tokens; 0 sequences means all that the text has."""

    source: str
    split: str
    sequences: int = Field(ge=0)
    seq_len: int = Field(ge=2)
    field: str = "text"

    def spec(self, seed: int) -> TextSpec:
        return TextSpec(self.source, self.split, self.sequences, self.seq_len, self.field, seed)


class TextsConfig(Strict):
    """Three disjoint purposes; held-out evaluation may use several texts."""

    calibration: TextConfig
    search: TextConfig
    evaluation: tuple[TextConfig, ...]

    @model_validator(mode="before")
    @classmethod
    def _one_evaluation(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("evaluation"), dict):
            data = {**data, "evaluation": [data["evaluation"]]}
        return data


class SearchConfig(Strict):
    driver: str = "nsga2"
    population: int = Field(default=24, ge=1)
    evaluations: int = Field(default=240, ge=1)
    seed: int = Field(default=0, ge=0)


class Experiment(Strict):
    """One question put to one model: everything that its answer depends on."""

    name: str = Field(pattern=r"^[\w.-]*\w[\w.-]*$")
    model: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    threads: int | None = Field(default=None, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    text: TextsConfig
    space: SpaceSpec
    objectives: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    search: SearchConfig = SearchConfig()
    pick: str = ""
    baselines: tuple[str, ...] = ("magnitude", "wanda")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_space(cls, data: Any) -> Any:
        """Objectives and pick follow from the space where the file does not name them."""
        if not isinstance(data, dict) or not isinstance(data.get("space"), SpaceSpec):
            return data
        space: SpaceSpec = data["space"]
        free = space.resolved_budget is None
        usual = ("sparsity", "reconstruction") if free else ("reconstruction", "kl")
        objectives = data.get("objectives") or space.objectives or usual
        pick = data.get("pick") or ("knee" if "sparsity" in objectives else "lowest:kl")
        record = [*(data.get("record") or ()), "sparsity", "bytes"]
        if pick.startswith("lowest:"):
            record.append(pick.removeprefix("lowest:"))
        record = [name for name in dict.fromkeys(record) if name not in objectives]
        return {**data, "objectives": objectives, "pick": pick, "record": record}

    @model_validator(mode="after")
    def _known_names(self) -> "Experiment":
        for name in self.quantities:
            make_objective(name)
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"objectives: one is named twice: {', '.join(self.objectives)}.")
        for name in self.baselines:
            lookup(METHODS, name, kind="method")
        lookup(DRIVERS, self.search.driver, kind="driver")
        by = self.space.sparsity.by
        if by not in (known := [*GROUPINGS, *RULES]):
            raise ConfigError(
                f"space.sparsity.by: no {by!r}.{did_you_mean(by, known)} "
                f"There are: {', '.join(known)}."
            )
        _check_metrics(self.space)
        for name in self.parsed_pick.quantities:
            if name not in self.quantities:
                raise ConfigError(
                    f"pick {self.pick!r}: {name!r} is not measured."
                    f"{did_you_mean(name, self.quantities)} Add it to record; measured are: "
                    f"{', '.join(self.quantities)}."
                )
        check_budget(
            self.search.driver,
            self.search.population,
            self.search.evaluations,
            len(self.objectives),
        )
        refuse_overlap(self.text_specs)
        return self

    @property
    def quantities(self) -> tuple[str, ...]:
        """All that is measured of a candidate: the objectives first."""
        return (*self.objectives, *self.record)

    @property
    def parsed_pick(self) -> Pick:
        return parse_pick(self.pick)

    @property
    def text_specs(self) -> dict[str, TextSpec]:
        texts = self.text
        specs = {"calibration": texts.calibration, "search": texts.search}
        for number, text in enumerate(texts.evaluation, start=1):
            specs["evaluation" if len(texts.evaluation) == 1 else f"evaluation {number}"] = text
        return {purpose: text.spec(self.search.seed) for purpose, text in specs.items()}

    @property
    def hash(self) -> str:
        """Of the resolved configuration: where the run lies, and what a rerun finds."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Shipped:
    """Files that come with the package: found in the checkout, or inside the installed wheel."""

    folder: str

    @property
    def path(self) -> Path:
        package = Path(__file__).resolve().parent
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
    return list(kind.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Strict)


def _check_metrics(space: SpaceSpec) -> None:
    """Every value that a gene may take is one that its metric accepts."""
    for index, template in enumerate(space.templates()):
        start = {k: v.value(v.low) if isinstance(v, Gene) else v for k, v in template.items()}
        make_metric(start, f"space.metric.{index}")
        for key, gene in template.items():
            if not isinstance(gene, Gene):
                continue
            values = gene.options if isinstance(gene, Choice) else (gene.low, gene.high)
            for value in values:
                make_metric({**start, key: value}, f"space.metric.{index}")
