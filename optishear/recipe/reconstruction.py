"""The settings of local reconstruction: what moves the kept weights once a block is solved.

A recipe says `{"name": "block", "epochs": 3, ...}`: the name is the window, the part of the model
whose output is to be that of the dense model. A setting at its usual value is left out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.solver_settings import Setting


BLOCK, HALF = "block", "half"
WINDOWS = (BLOCK, HALF)
PRUNED, DENSE = "pruned", "dense"
INPUTS = (PRUNED, DENSE)


@dataclass(frozen=True)
class ReconstructionSettings:
    """How the kept weights of a window are moved.

    - `window`: a decoder `block`, or each `half` of it: attention, then what comes after.
    - `epochs`: at most so many passes over the sequences that are learned from.
    - `learning_rate`: of AdamW at the first step; it falls linearly to none.
    - `batch`: sequences a step.
    - `held_back`: share of the calibration sequences that are not learned from: they say which
      epoch's weights are kept. With none of them, those that are learned from say it.
    - `inputs`: what goes into a window: what the blocks before make as they are `pruned`, so that
      it also corrects what they lost, or what they made while they were `dense`.
    - `norms`: whether the weights of norms and biases in a window move along.
    - `seed`: of the choice of sequences that are held back, and of their order in an epoch.
    """

    window: str = BLOCK
    epochs: int = 5
    learning_rate: float = 5e-4
    batch: int = 1
    held_back: float = 0.125
    inputs: str = PRUNED
    norms: bool = False
    seed: int = 0

    @classmethod
    def of(cls, said: Mapping[str, Any], where: str = "reconstruct") -> "ReconstructionSettings":
        """As recipes say it. A `ConfigError` for an unknown name or setting, or a bad value."""
        name = said.get("name")
        if name not in WINDOWS:
            raise ConfigError(
                f"{where}: no window is called {name!r}.{did_you_mean(str(name), WINDOWS)} There "
                f"are: {', '.join(WINDOWS)}."
            )
        known = [field.name for field in fields(cls) if field.name != "window"]
        for key, value in said.items():
            if key == "name":
                continue
            if key not in known:
                raise ConfigError(
                    f"{where}: there is no setting {key}.{did_you_mean(key, known)} There are: "
                    f"{', '.join(known)}."
                )
            _check(key, value, f"{where}: {key}")
        numbers = {key: value for key, value in said.items() if key != "name"}
        return cls(str(name), **numbers)

    @classmethod
    def parsed(cls, text: str, where: str) -> "ReconstructionSettings":
        """`block:epochs=10:inputs=dense`, as command lines say it."""
        name, *words = text.split(":")
        pairs = [word.partition("=") for word in words]
        said = {key: _read(value) for key, _, value in pairs}
        if len(said) < len(words):
            raise ConfigError(f"{where}: {text!r} says a setting twice. Leave one of them out.")
        return cls.of({"name": name, **said}, where)

    def to_json(self) -> dict[str, Any]:
        """As recipes say it: what is not as usual."""
        usual = asdict(USUAL)
        said = {k: v for k, v in asdict(self).items() if k != "window" and v != usual[k]}
        return {"name": self.window, **said}


USUAL = ReconstructionSettings()
NUMBERS = {
    "epochs": Setting(USUAL.epochs, 1, 10_000, "passes over the sequences that are learned from"),
    "learning_rate": Setting(USUAL.learning_rate, 1e-9, 1.0, "of AdamW at the first step"),
    "batch": Setting(USUAL.batch, 1, 65_536, "sequences a step"),
    "held_back": Setting(USUAL.held_back, 0.0, 0.9, "share of the sequences that decide"),
    "seed": Setting(USUAL.seed, 0, 2**63 - 1, "of what is held back, and of the others' order"),
}


def _read(value: str) -> Any:
    """A number or a truth value, or the text itself, for others to refuse."""
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _check(key: str, value: Any, where: str) -> None:
    if key == "inputs" and value not in INPUTS:
        raise ConfigError(
            f"{where} is {value!r}.{did_you_mean(str(value), INPUTS)} There are: "
            f"{', '.join(INPUTS)}."
        )
    if key == "norms" and not isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}, expected true or false.")
    if key in NUMBERS:
        NUMBERS[key].check(value, where)
