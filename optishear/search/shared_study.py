"""One Optuna study that several processes search together, in a storage that all of them reach.

The storage is Optuna's own: it hands out trials, and the study's attributes hold what became of
every recipe, so that what one process has measured all others know. Nothing here is deterministic:
who asks first gets the next trial.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from optishear.errors import ConfigError
from optishear.reading.json_data import json_of
from optishear.reading.shapes import Shape, shaped
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Key
from optishear.search.driver import Driver
from optishear.search.evaluator import MeasureAll, Outcome
from optishear.search.optuna_driver import OptunaDriver, quiet


MEASURE, OUTCOME = "measure", "outcome "


class SharedStudy(Mapping[Key, Mapping[str, Any]]):
    """The outcomes of all processes by recipe and rung, read anew each time: a memo that grows.

    - `name`: of the study; all processes of one search give the same.
    - `measure`: all that outcomes depend on beside the recipe. A study of another measure is
      refused with a `ConfigError` that says what differs.
    - `most`: recipes in all. Each process stops when there are so many, so that at the end there
      may be more, by one a process.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        objectives: int,
        measure: Mapping[str, Any],
        most: int,
    ) -> None:
        self.most = most
        with quiet():
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[StudyDirection.MINIMIZE] * objectives,
                load_if_exists=True,
            )
            found = self.study.user_attrs.setdefault(MEASURE, dict(measure))
            self.study.set_user_attr(MEASURE, found)
        if differing := [k for k in {**found, **measure} if found.get(k) != measure.get(k)]:
            key = differing[0]
            raise ConfigError(
                f"--study: the study {name!r} is of another measure: its {key} is "
                f"{found.get(key)!r}, here it is {measure.get(key)!r}. All processes must have the "
                f"same model, texts, versions and threads; or choose another storage."
            )

    def join(self, driver: Driver) -> None:
        """Makes the driver ask this study, and end when it holds all that is to be measured."""
        if not isinstance(driver, OptunaDriver):
            raise ConfigError(
                "--study needs a driver of Optuna's: set search.driver to tpe, optuna-nsga2, "
                "optuna-nsga3, qmc or random."
            )
        driver.join(self.study, lambda: len(self) >= self.most)

    def publishing(self, measure: MeasureAll) -> MeasureAll:
        """The same, and every outcome is told to all."""

        def measure_all(recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
            by_key = {recipe.key: recipe for recipe in recipes}
            for key, outcome in measure(recipes, rung):
                with quiet():
                    data = {**outcome, "recipe": by_key[key].to_json()}
                    self.study.set_user_attr(f"{OUTCOME}{rung} {key}", json.dumps(data))
                yield key, outcome

        return measure_all

    def recipes(self, rung: int) -> list[Recipe]:
        """All that somebody has measured on this rung."""
        return [
            Recipe.from_json(data["recipe"], f"recipe {key} of the shared study")
            for (key, on), data in self._outcomes().items()
            if on == rung
        ]

    def __getitem__(self, key: Key) -> Mapping[str, Any]:
        return self._outcomes()[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._outcomes())

    def __len__(self) -> int:
        return len(self._outcomes())

    def _outcomes(self) -> dict[Key, dict[str, Any]]:
        with quiet():
            attributes = self.study.user_attrs
        found = {}
        for name, text in attributes.items():
            if name.startswith(OUTCOME):
                rung, key = name.removeprefix(OUTCOME).split()
                found[key, int(rung)] = _outcome(text, key)
        return found


class _Outcome(Shape):
    values: dict[str, float] | None
    reason: str
    seconds: float
    recipe: dict[str, Any]


def _outcome(text: Any, key: str) -> dict[str, Any]:
    where, mend = f"recipe {key} of the shared study", "Begin another study."
    data = json_of(str(text), where, mend)
    shaped(_Outcome, data, where, mend)
    return data
