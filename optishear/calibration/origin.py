"""The origin of a recipe or checkpoint: on what it was found or made, beside it in its file.

The only writer and the only reader of `made_with`: of fronts, exported recipes, pruned folders.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from optishear.assets.hub import repository
from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.recipe import MADE_WITH, Recipe
from optishear.records.cache import KINDS
from optishear.records.run_directory import write_json
from optishear.text.bos import NONE
from optishear.text.sources import TextSpec


ONE_SHOT, SEQUENTIAL = "one-shot", "sequential"


@dataclass(frozen=True)
class TransferredFrom:
    """The recipe that was carried over from another model, and the run that had found it."""

    run: str | None = None
    recipe: str | None = None
    model: str | None = None
    model_hash: str | None = None


@dataclass(frozen=True)
class ImportedFrom:
    """The foreign file that a recipe was read from."""

    file: str
    kind: str


@dataclass(frozen=True)
class Around:
    """A recipe that was applied block by block, with statistics of its model in the place of the
    dense one's.

    - `gradient_sequences`: so many of the calibration text gave it gradients; None if it reads
      none.
    """

    recipe: Recipe
    gradient_sequences: int | None = None

    @property
    def text(self) -> str:
        """All that statistics depend on with it, and so whatever is made from them: the version of
        the code, too, since nothing can be `made_from` what is made of solved layers itself."""
        read, code = self.gradient_sequences, KINDS["statistics_around"].version
        gradients = f", gradients of {read} sequences" if read else ""
        return f"{self.recipe.key}{gradients}, code {code}"

    def check(self, layout: ModelLayout) -> None:
        """Raises a `ConfigError` unless it is a recipe of this model."""
        try:
            self.recipe.check(layout)
        except ConfigError as error:
            raise ConfigError(f"around: {error}") from None


@dataclass(frozen=True)
class Origin:
    """What weights depend on beside the recipe. None is what nobody wrote down or nothing read.

    - `model`, `model_hash`: the dense model by name, and its content.
    - `dtype`, `device`: in which and on what kind of which its weights were at work. `save_dtype`:
      of a checkpoint, the type that was asked for in its files, or `stored`.
    - `calibration`: the text, with the seed that its windows were drawn with; its hash is of the
      windows as token ids. `batch_tokens` of them went through the model at once, and
      `calibration_parts` were summed up on their own: both decide last bits.
    - `gradient_sequences`: so many of the calibration text's gave a gradient.
    - `mode`: `one-shot`, statistics of the dense model, or `sequential`, block by block.
    - `around`: one-shot with statistics of the model as a recipe prunes it, in its place.
    - `code`: versions of what collects and solves (`records.cache`): other code, other weights.
    - `run`: hash of the experiment that found the recipe.
    - `found_with`: of a checkpoint, what the file of its recipe said of itself.
    - `model_commit`, `calibration_commit`: what the names stood for on the Hugging Face hub, where
      they are of there. The hashes say the same of the content; these are what can be asked for.
    """

    model: str | None = None
    model_hash: str | None = None
    dtype: str | None = None
    device: str | None = None
    calibration: TextSpec | None = None
    calibration_hash: str | None = None
    batch_tokens: int | None = None
    calibration_parts: int | None = None
    gradient_sequences: int | None = None
    mode: str | None = None
    around: Around | None = None
    code: str | None = None
    run: str | None = None
    transferred_from: TransferredFrom | None = None
    imported: ImportedFrom | None = None
    save_dtype: str | None = None
    found_with: "Origin | None" = None
    model_commit: str | None = None
    calibration_commit: str | None = None

    @property
    def pinned_model(self) -> str | None:
        """The dense model's name, of the hub at the commit that was read, so that it can be had
        again."""
        repo = repository("model", self.model) if self.model and self.model_commit else None
        return self.model if repo is None else f"{repo.id}@{self.model_commit}"

    def to_json(self) -> dict[str, Any]:
        """As files hold it: what is None or an empty list is left out."""
        return _without_nothing(_said(self))

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Origin":
        """What a file says; older ones say less. `where` names it in a `ConfigError`."""
        return _read(cls, data, f"{where}: {MADE_WITH}")

    def lacks(self, *names: str) -> list[str]:
        """Those of the fields that nobody wrote down."""
        return [name for name in names if getattr(self, name) is None]

    def differs(self, now: "Origin", *names: str) -> list[str]:
        """Those of the fields that both state, each another thing; without `around` it is the
        dense model that statistics were of."""
        pairs = {name: (getattr(self, name), getattr(now, name)) for name in names}
        stated = {n: pair for n, pair in pairs.items() if None not in pair or n == "around"}
        return [name for name, pair in stated.items() if pair[0] != pair[1]]

    def elsewhere(self, now: "Origin") -> str | None:
        """A sentence where a recipe that was found here is applied to another model or with other
        calibration text: wanted where it is transferred, and never to be done without a word."""
        parts = []
        if self.differs(now, "model_hash"):
            parts.append(
                f"on {self.model or 'a model'} with the hash {self.model_hash}, and is applied to "
                f"{now.model} with {now.model_hash}"
            )
        if self.differs(now, "calibration_hash"):
            parts.append(
                f"with the calibration tokens {self.calibration_hash} ({_told(self.calibration)}), "
                f"and is applied with {now.calibration_hash} ({_told(now.calibration)})"
            )
        return f"the recipe was found {'; '.join(parts)}" if parts else None


BYTES = (
    "model_hash",
    "dtype",
    "device",
    "save_dtype",
    "calibration_hash",
    "batch_tokens",
    "calibration_parts",
    "gradient_sequences",
    "mode",
    "around",
    "code",
)
"""What a checkpoint's bytes depend on, beside its recipe; names and paths are not among it."""


def write_recipe(path: Path, recipe: Recipe, origin: Origin) -> None:
    """The recipe as `optishear prune --recipe` reads it, with its origin."""
    write_json(path, {**recipe.to_json(), MADE_WITH: origin.to_json()})


def read_recipe(path: Path) -> tuple[Recipe, Origin]:
    """The recipe in a JSON file and what it says of its origin, which may be nothing."""
    recipe, said = Recipe.read_with_origin(path)
    return recipe, Origin.from_json(said, str(path))


def _told(text: TextSpec | None) -> str:
    if text is None:
        return "of a text that is not known"
    return f"{text.source}/{text.split}, {text.sequences} x {text.seq_len}, seed {text.seed}"


def _said(value: Any) -> Any:
    """Dataclasses of ours as objects, a recipe as its file has it."""
    if isinstance(value, Recipe):
        return value.to_json()
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return {field.name: _said(getattr(value, field.name)) for field in fields(value)}


def _without_nothing(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nothing(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if value is not None and value != ()
    }


def _read(cls: type, data: Any, where: str) -> Any:
    """A dataclass of ours from JSON; every field is checked against its annotation."""
    names = [field.name for field in fields(cls)]
    needed = [field.name for field in fields(cls) if field.default is MISSING]
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: is {type(data).__name__}, not an object. Write the file anew.")
    for key in data:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(key, names)}")
    if missing := [name for name in needed if name not in data]:
        raise ConfigError(f"{where}: does not say {missing[0]}. Write the file anew.")
    hints = get_type_hints(cls)
    given = {key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return cls(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(kind: Any, value: Any, where: str) -> Any:
    kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    plain = next(kind for kind in kinds if kind is not type(None))
    if value is None and type(None) in kinds:
        return None
    if get_origin(plain) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: is {value!r}, not a list. Write the file anew.")
        return tuple(_value(get_args(plain)[0], each, where) for each in value)
    if plain is Recipe:
        return Recipe.from_json(value, where)
    if plain is TextSpec and isinstance(value, dict):
        value = {"bos": NONE, **value}  # as it was when files did not say
    if is_dataclass(plain):
        return _read(plain, value, where)  # type: ignore[arg-type]
    if type(value) is not plain:
        raise ConfigError(f"{where}: is {value!r}, not {plain.__name__}. Write the file anew.")
    return value
