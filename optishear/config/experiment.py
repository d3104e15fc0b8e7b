"""The experiment: one question put to one model, checked before that is loaded."""

import hashlib
import json
from functools import partial
from itertools import combinations
from typing import Any, Literal

from pydantic import Field, model_validator

from optishear.allocation import RULES
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import ONE_SHOT, SEQUENTIAL
from optishear.calibration.statistics import InputSq, Need
from optishear.config.baselines import parse_baseline
from optishear.config.reach import check_space, needs_of_space
from optishear.config.sections import (
    GRADIENT,
    KNAPSACK,
    MemoryConfig,
    QuestionsConfig,
    SearchConfig,
    TextsConfig,
)
from optishear.config.together import TOGETHER
from optishear.errors import ConfigError, ConfigErrors, collect_errors
from optishear.models.device_map import check_device_map
from optishear.objectives import make_objective
from optishear.objectives.slopes import can_be_split
from optishear.recipe.lookup import did_you_mean, lookup
from optishear.recipe.recipe import Recipe
from optishear.recipe.storage import SIZES
from optishear.search.drivers import DRIVERS, DriverEntry, check_budget, check_seed, check_variation
from optishear.search.pick import Pick, parse_pick
from optishear.search.space_file import SpaceSpec
from optishear.search.space_parts import Strict
from optishear.search.sparsity_genes import GROUPINGS
from optishear.text.disjoint import refuse_overlap
from optishear.text.questions import QuestionSpec
from optishear.text.sources import TextSpec


ZERO_SHOT = "zero_shot_error"  # the objective that asks `questions`
ASIDE = ("memory", "hypothesis", "workers", "ray_address")  # no part of what is asked


class Experiment(Strict):
    """One question put to one model: everything that its answer depends on, and `memory`.

    - `hypothesis`: the question in words, for reports; in a file its first comment.
    - `workers`: model replicas that measure candidates, on Ray if more than one; `threads` is what
      each of them has. `ray_address`: of a running cluster. Neither changes a result at equal
      threads, and so no run's hash.
    - `device_map`: the model is spread over devices as transformers and accelerate do it; `device`
      says nothing then.
    - `calibration_parts`: so many runs of calibration sequences are summed up each on its own, and
      then added: workers share them. Another number changes last bits.
    - `mode`: of pruning candidates: `one-shot`, each layer with statistics of the dense model, or
      `sequential`, block by block, many times as dear and what `optishear prune` does.
    - `around`: a recipe, in a file of experiments the path of one: candidates are pruned with
      statistics of the model as this recipe prunes it, block by block, and it opens the search.
    - `finalists`: so many of the best are applied block by block and measured again, and the pick
      is made of these; 0 picks of what was measured one-shot.
    - `questions`: zero-shot task files by the names that `zero_shot_error@NAME` calls them by.
    - `gradient_sequences`: of the calibration text, each one sample of the Fisher term; read only
      where something needs gradients.
    """

    later = frozenset(
        {
            "gradient_sequences",
            "compile",
            "cuda_graphs",
            "memory",
            "workers",
            "ray_address",
            "calibration_parts",
            "device_map",
            "questions",
            "mode",
            "finalists",
            "around",
        }
    )

    name: str = Field(pattern=r"^[\w.-]*\w[\w.-]*$")
    hypothesis: str = ""
    model: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    device_map: str | dict[str, int | str] = ""
    threads: int | None = Field(default=None, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    text: TextsConfig
    space: SpaceSpec
    objectives: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    questions: dict[str, QuestionsConfig] = Field(default={})
    search: SearchConfig = SearchConfig()
    pick: str = ""
    baselines: tuple[str, ...] = ("magnitude", "wanda")
    gradient_sequences: int = Field(default=16, ge=1)
    compile: bool = False
    cuda_graphs: bool = False
    memory: MemoryConfig = MemoryConfig()
    calibration_parts: int = Field(default=1, ge=1)
    mode: Literal["one-shot", "sequential"] = ONE_SHOT
    finalists: int = Field(default=0, ge=0)
    around: dict[str, Any] | None = None
    workers: int = Field(default=1, ge=1)
    ray_address: str = ""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_space(cls, data: Any) -> Any:
        """Objectives and pick follow from the space where the file does not name them."""
        if not isinstance(data, dict) or not isinstance(data.get("space"), SpaceSpec):
            return data
        space: SpaceSpec = data["space"]
        free = space.resolved_budget is None
        usual = ("sparsity" if free else "centred_reconstruction", "kl")
        objectives = data.get("objectives") or space.objectives or usual
        pick = data.get("pick") or ("knee" if "sparsity" in objectives else "lowest:kl")
        record = [*(data.get("record") or ()), "sparsity", "bytes"]
        if pick.startswith("lowest:") and pick.removeprefix("lowest:") not in SIZES:
            record.append(pick.removeprefix("lowest:"))
        record = [name for name in dict.fromkeys(record) if name not in objectives]
        return {**data, "objectives": objectives, "pick": pick, "record": record}

    @model_validator(mode="after")
    def _sound(self) -> "Experiment":
        """All that is wrong together, as `ConfigErrors`."""
        mistakes: list[str] = []
        for name in self.quantities:
            with collect_errors(mistakes):
                make_objective(name)
        for name in self.baselines:
            with collect_errors(mistakes):
                parse_baseline(name)
        checks = (
            self._distinct_objectives,
            self._questions_asked,
            self._known_grouping,
            self._known_space,
            self._pick_of_what_is_measured,
            self._possible_search,
            self._possible_rungs,
            self._possible_graphs,
            self._possible_device_map,
            *(partial(check, self) for check in TOGETHER),
        )
        for check in checks:
            with collect_errors(mistakes):
                check()
        with collect_errors(mistakes):
            for pair in combinations(self.text_specs.items(), 2):
                with collect_errors(mistakes):
                    refuse_overlap(dict(pair))
        if mistakes:
            raise ConfigErrors(mistakes)
        return self

    def _distinct_objectives(self) -> None:
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"objectives: one is named twice: {', '.join(self.objectives)}.")

    def _questions_asked(self) -> None:
        """Every set that an objective names is there, and every set that is there is named."""
        asked = [
            name.partition("@")[2] for name in self.quantities if name.startswith(f"{ZERO_SHOT}@")
        ]
        for name in asked:
            if name not in self.questions:
                there = f" There are: {', '.join(self.questions)}." if self.questions else ""
                raise ConfigError(
                    f"objective {ZERO_SHOT}@{name}: questions has no {name!r}."
                    f"{did_you_mean(name, self.questions)}{there} Write questions: {{{name}: "
                    f"{{file: TASK.yaml, limit: 200}}}}."
                )
        if idle := [name for name in self.questions if name not in asked]:
            raise ConfigError(
                f"questions.{idle[0]}: nothing asks them. Add {ZERO_SHOT}@{idle[0]} to objectives "
                f"or record, or take them out."
            )

    def _known_grouping(self) -> None:
        by = self.space.sparsity.by
        if by.partition(":")[0] not in (known := [*GROUPINGS, *RULES]):
            raise ConfigError(
                f"space.sparsity.by: no {by!r}.{did_you_mean(by, known)} "
                f"There are: {', '.join(known)}."
            )

    def _known_space(self) -> None:
        check_space(self.space)
        self._enough_gradients()

    def _pick_of_what_is_measured(self) -> None:
        for name in self.parsed_pick.quantities:
            if name not in (*self.quantities, *SIZES):
                raise ConfigError(
                    f"pick {self.pick!r}: {name!r} is not measured."
                    f"{did_you_mean(name, self.quantities)} Add it to record; measured are: "
                    f"{', '.join(self.quantities)}."
                )

    def _possible_search(self) -> None:
        settings = self.search
        check_budget(
            settings.driver, settings.population, settings.evaluations, len(self.objectives)
        )
        check_seed(settings.driver, settings.seed)
        check_variation(settings.driver, settings.variation)

    def _possible_rungs(self) -> None:
        """What the file alone can tell; with `sequences: 0` the text decides the total."""
        rungs, text = self.search.rungs, self.text.search
        total = text.sequences * text.seq_len
        for rung in rungs:
            if rung % text.seq_len or rung < 1 or (total and rung >= total):
                raise ConfigError(
                    f"search.rungs: {rung} is no number of whole sequences of {text.seq_len} "
                    f"tokens below all of them{f' ({total})' if total else ''}. Choose multiples "
                    f"of text.search.seq_len; the last rung, all search tokens, is not listed."
                )
        if list(rungs) != sorted(set(rungs)):
            raise ConfigError(
                f"search.rungs: {list(rungs)} do not ascend. List each number of tokens once, "
                f"the smallest first."
            )

    def _possible_graphs(self) -> None:
        if self.cuda_graphs and (self.compile or not self.device.startswith("cuda")):
            why = "compile is true" if self.compile else f"device is {self.device!r}"
            raise ConfigError(
                f"cuda_graphs is true, but {why}. Graphs are for a CUDA device and blocks that are "
                f"not compiled: set one of them otherwise."
            )

    def _possible_device_map(self) -> None:
        if not self.device_map:
            return
        check_device_map(self.device_map)
        others = {
            f"device is {self.device!r}": self.device != "cpu",
            "compile is true": self.compile,
            "cuda_graphs is true": self.cuda_graphs,
            f"workers is {self.workers}": self.workers > 1,
            f"ray_address is {self.ray_address!r}": bool(self.ray_address),
        }
        if why := next((text for text, wrong in others.items() if wrong), None):
            raise ConfigError(
                f"device_map is given, but {why}. A model that is spread over devices is one "
                f"process's, runs as it is, and device_map alone says where: take out one of them."
            )

    def _enough_gradients(self) -> None:
        wanted, given = self.gradient_sequences, self.text.calibration.sequences
        if self.needs_gradients and 0 < given < wanted:
            raise ConfigError(
                f"gradient_sequences is {wanted}, but text.calibration has {given} sequences. "
                f"Lower the one or raise the other."
            )

    @property
    def quantities(self) -> tuple[str, ...]:
        """All that is measured of a candidate: the objectives first."""
        return (*self.objectives, *self.record)

    @property
    def driver(self) -> DriverEntry:
        """What the table of drivers says of the search's."""
        return lookup(DRIVERS, self.search.driver, kind="driver")

    @property
    def slope_objective(self) -> str:
        """The quantity whose slopes and curves are taken: kl where it is measured, else the first
        that can be split between layers; empty where none can."""
        smooth = [name for name in self.quantities if can_be_split(make_objective(name))]
        return "kl" if "kl" in smooth else next(iter(smooth), "")

    @property
    def solves(self) -> bool:
        """Whether something is measured on few tokens before the search, or slopes within it."""
        return self.driver.slopes or self.needs_curves or GRADIENT in self.search.seeds

    @property
    def needs_curves(self) -> bool:
        """Whether anything of the search goes by curves of single layers."""
        search = self.search
        return self.driver.curves or search.variation == "guided" or KNAPSACK in search.seeds

    @property
    def reads(self) -> frozenset[Need]:
        """What everything in reach, candidates and baselines, reads of the calibration text."""
        needs = needs_of_space(self.space)
        if "taylor" in self.quantities:
            needs |= {LayerGradients}
        baselines = map(parse_baseline, self.baselines)
        shifted = self.mode == SEQUENTIAL or self.around is not None
        return needs.union(*(x.needs for x in baselines if shifted or not x.method.only_by_block))

    @property
    def around_recipe(self) -> Recipe | None:
        """What is searched around, if anything."""
        return None if self.around is None else Recipe.from_json(self.around, "around")

    @property
    def needs(self) -> frozenset[Need]:
        """What is collected of it before the first candidate; block by block the rest is summed up
        as each recipe is applied."""
        reads = self.reads
        return reads & {InputSq, LayerGradients} if self.mode == SEQUENTIAL else reads

    @property
    def needs_gradients(self) -> bool:
        return LayerGradients in self.needs

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
    def question_specs(self) -> dict[str, QuestionSpec]:
        return {name: told.spec for name, told in self.questions.items()}

    @property
    def hash(self) -> str:
        """Of the resolved configuration: where the run lies, and what a rerun finds."""
        decides = self.model_dump(mode="json", exclude={*ASIDE})
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
