"""The sections of an experiment's file that stand for themselves: texts, search, memory."""

from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, model_validator

from optishear.search.space_parts import Strict
from optishear.text.bos import AUTO
from optishear.text.questions import QuestionSpec
from optishear.text.sources import TextSpec


class TextConfig(Strict):
    """`sequences` windows of `seq_len` tokens; 0 sequences means all that the text has.

    `seed` draws the windows; the search's where it is not given. `bos`: where a BOS goes, `auto`
    as the model's tokenizer has it. `after`: draws of the same seed whose windows are left out,
    each of so many: what was looked at before.
    """

    later = frozenset({"seed", "bos", "after"})

    source: str
    split: str
    sequences: int = Field(ge=0)
    seq_len: int = Field(ge=2)
    field: str = "text"
    seed: int | None = Field(default=None, ge=0)
    bos: Literal["auto", "none", "text", "window"] = AUTO
    after: tuple[Annotated[int, Field(ge=1)], ...] = ()

    def spec(self, seed: int) -> TextSpec:
        drawn = seed if self.seed is None else self.seed
        return TextSpec(
            self.source,
            self.split,
            self.sequences,
            self.seq_len,
            self.field,
            drawn,
            self.bos,
            self.after,
        )


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


class QuestionsConfig(Strict):
    """A zero-shot task file for `zero_shot_error@NAME`: its first `limit` questions, or all.

    `data` is the folder of its data files, the task file's own where it is not given; `metric` is
    acc_norm where the task file has it, else acc.
    """

    file: str
    data: str = ""
    limit: int | None = Field(default=None, ge=1)
    metric: Literal["acc", "acc_norm", "acc_bytes"] | None = None

    @property
    def spec(self) -> QuestionSpec:
        return QuestionSpec(self.file, self.data, self.limit, self.metric)


class CurvesConfig(Strict):
    """Curves of single layers: each measured at `levels` of its counts, on `tokens` of the search
    text (whole sequences, one at least)."""

    tokens: int = Field(default=256, ge=1)
    levels: int = Field(default=2, ge=1)


class DescentConfig(Strict):
    """What `gradient` among the seeds does: `steps` down the slopes, on `tokens` of the search text
    (whole sequences, one at least)."""

    tokens: int = Field(default=1024, ge=1)
    steps: int = Field(default=8, ge=1)


METHODS, RULES, KNAPSACK, GRADIENT = ("methods", "rules", "knapsack", "gradient")


class SearchConfig(Strict):
    """`evaluations` counts distinct recipes, `rungs` are numbers of search tokens.

    With rungs every recipe is measured on the lowest. When the search is over, the best of those on
    one rung, the share `keep` or one population if that is more, go on to the next; the last, above
    the listed ones, is all search tokens. (evopress: the share of each generation, at once.)

    `variation` `prefix` makes children that begin like a parent, so that less of them is run, and
    `guided` moves sparsity to where curves of single layers say that it costs least.

    `seeds` open the first population: known `methods`, the published `rules` for layer sparsities,
    and what is solved for on few tokens before the search begins: an exact `knapsack` over curves
    of single layers, a descent by `gradient`. The solved ones come first.
    """

    later = frozenset({"rungs", "keep", "variation", "seeds", "curves", "descent"})

    driver: str = "nsga2"
    population: int = Field(default=24, ge=1)
    evaluations: int = Field(default=240, ge=1)
    seed: int = Field(default=0, ge=0)
    rungs: tuple[int, ...] = ()
    keep: float = Field(default=0.25, gt=0, le=1)
    variation: Literal["free", "prefix", "guided"] = "free"
    seeds: tuple[Literal["methods", "rules", "knapsack", "gradient"], ...] = (METHODS, RULES)
    curves: CurvesConfig = CurvesConfig()
    descent: DescentConfig = DescentConfig()


class MemoryConfig(Strict):
    """What a search may hold of what it could compute anew, in bytes or as `500MB`, `2GB`; 0 is
    nothing. No result depends on it, and so no run's hash.

    - `ranks`: how weights rank under metrics that came up before.
    - `prefixes`: hidden states between decoder blocks.
    - `factors`: the factored Hessians of input sites; the last two are held anyhow.
    - `levels`, `levels_on_disk`: solved layers, of those on disk mapped into memory and in all.
    """

    ranks: ByteSize = ByteSize(2 * 10**9)
    prefixes: ByteSize = ByteSize(10**9)
    factors: ByteSize = ByteSize(2 * 10**9)
    levels: ByteSize = ByteSize(4 * 10**9)
    levels_on_disk: ByteSize = ByteSize(20 * 10**9)
