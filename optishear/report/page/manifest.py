"""The part of a manifest that only pages read."""

from pydantic import Field

from optishear.reading.shapes import Shape
from optishear.records.run_files import ExperimentPart, Manifest, SearchPart, TextPart, TextsPart


class _Search(SearchPart):
    seed: int


class _Text(TextPart):
    source: str
    split: str


class _Texts(TextsPart):
    calibration: _Text
    search: _Text
    evaluation: list[_Text] | _Text


class _Named(Shape):
    name: str


class _Sparsity(Shape):
    by: str = "uniform"
    budget: float | None = None


class _Moonshot(Shape):
    by: str = "global"


class _Space(Shape):
    pattern: str
    metric: list[_Named] = Field(default_factory=list)
    solver: list[_Named] | None = None
    sparsity: _Sparsity | None = None
    moonshot: _Moonshot | None = None


class _Experiment(ExperimentPart):
    dtype: str
    device: str
    text: _Texts
    space: _Space
    record: list[str]
    search: _Search
    baselines: list[str]
    hypothesis: str = ""
    finalists: int = 0


class PageManifest(Manifest):
    experiment: _Experiment


class FinishedManifest(PageManifest):
    finished: str
    ended: str
