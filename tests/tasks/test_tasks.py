"""A task of one's own, the stub of docs/tasks.md: all that runs batches runs its batches."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_models import TINY
from torch import nn

from optishear.calibration.collect import collect
from optishear.calibration.gradient_samples import sequence_by_sequence
from optishear.calibration.statistics import InputSq
from optishear.errors import ConfigError
from optishear.evaluation.perplexity import held_out
from optishear.models.load import LoadedModel
from optishear.pipeline import MeasurementSettings, Memory, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.tasks import CAUSAL_LM, TASKS, Samples, task_of


PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
FEATURES, WIDTH, INNER, CLASSES = 7, 12, 20, 5


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, hidden):
        return hidden + self.down(self.up(hidden).relu())


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows):
        hidden = self.embed(rows)
        for block in self.blocks:
            hidden = block(hidden)
        return self.classifier(hidden)


@pytest.fixture
def rows_task():
    [block] = [
        b
        for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "class Rows(Task)" in b
    ]
    exec(compile(block, "docs/tasks.md", "exec"), {"__name__": "docs"})
    yield TASKS["rows"]
    del TASKS["rows"]


class Line:
    """A classifier with rows to calibrate and to search on."""

    def __init__(self, task):
        @dataclass(frozen=True, eq=False)
        class Labelled(Samples):
            rows: torch.Tensor
            hash: str
            source: str

            @property
            def batch(self):
                return self.rows

            def first(self, count):
                return Labelled(self.batch[:count], self.hash, self.source)

        Labelled.task = task
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = Classifier().eval()
        self.calibration, self.search = (
            Labelled(
                torch.cat(
                    [
                        torch.randn(24, FEATURES, generator=generator),
                        torch.randint(0, CLASSES, (24, 1), generator=generator).float(),
                    ],
                    1,
                ),
                purpose,
                purpose,
            )
            for purpose in ("calibration", "search")
        )
        self.layout = ModelLayout(
            tuple(
                Layer(f"blocks.{b}.{role}", b, role, out, into, f"blocks.{b}.{role}")
                for b in range(2)
                for role, out, into in (("up", INNER, WIDTH), ("down", WIDTH, INNER))
            )
        )
        self.stats = collect(
            self.model, self.layout, self.calibration.batches(10), frozenset({InputSq})
        )

    def recipe(self, share):
        drop = {name: int(share * size) for name, size in self.layout.sizes.items()}
        return Recipe.of({"name": "wanda"}, drop, "layer")

    def measured(self, recipes, prefixes=0):
        loaded = LoadedModel(self.model, None, "stub", Path("nowhere"), "hash", torch.float32)
        by = MeasurementSettings(("kl", "perplexity", "reconstruction"), 10, rungs=(10,))
        said = []
        data = CalibrationData(self.stats)
        with measure_on(
            loaded,
            self.layout,
            data,
            self.search,
            by,
            Memory(prefixes=prefixes),
            notice=said.append,
        ) as measure:
            values = [measure(recipe, rung) for recipe in recipes for rung in (10, 24)]
            pruned = self.model(self.search.batch[:, :-1]).clone()
        assert not said  # prefixes were proved to be of use
        return values, pruned


@pytest.fixture
def line(rows_task):
    return Line(rows_task)


def test_statistics_are_of_what_the_layers_of_any_task_read(line):
    hidden = line.model.embed(line.calibration.batch[:, :-1])
    torch.testing.assert_close(
        line.stats["blocks.0.up"][InputSq].total, hidden.square().sum(0), rtol=1e-5, atol=1e-5
    )
    assert line.stats["blocks.0.up"].sequences == 24


def test_candidates_are_measured_by_what_the_head_says_of_each_row(line):
    dense = line.model(line.search.batch[:, :-1]).detach()
    [_, values], pruned = line.measured([line.recipe(0.5)])
    p, q = dense.log_softmax(-1), pruned.log_softmax(-1)
    assert values["kl"] == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-4)
    nats = F.cross_entropy(pruned, line.search.batch[:, -1].long())
    assert values["perplexity"] == pytest.approx(nats.exp().item(), rel=1e-4)
    assert values["reconstruction"] == pytest.approx((pruned - dense).norm().item(), rel=1e-4)


def test_prefixes_of_any_task_are_reused_bit_for_bit(line):
    recipes = [line.recipe(0.5), line.recipe(0.3), line.recipe(0.5)]
    assert line.measured(recipes, prefixes=10**6)[0] == line.measured(recipes)[0]


def test_held_out_loss_and_gradients_are_those_of_its_samples(line):
    with torch.no_grad():
        logits = line.model(line.search.batch[:, :-1])
    wanted = F.cross_entropy(logits, line.search.batch[:, -1].long(), reduction="none")
    assert held_out(line.model, line.search, 10).nats == pytest.approx(wanted.tolist(), rel=1e-4)
    found = {}

    def keep(number, name, sample):
        found[number, name] = sample

    sequence_by_sequence(line.model, line.layout)(line.calibration.batch[:3], keep)
    loss = TASKS["rows"].loss(line.model, line.calibration.batch[2:3])
    [gradient] = torch.autograd.grad(loss, [line.model.blocks[1].up.weight])
    kept = found[2, "blocks.1.up"]
    torch.testing.assert_close(kept.numbers.float() * kept.scale, gradient, rtol=1e-2, atol=1e-4)


def test_rungs_and_refusals_are_in_the_tasks_words(line):
    by = MeasurementSettings(("kl",), 10, rungs=(25,))
    loaded = LoadedModel(line.model, None, "stub", Path("nowhere"), "hash", torch.float32)
    data = CalibrationData(line.stats)
    with pytest.raises(ConfigError, match="25 is no number of whole rows of 1 rows among the 24"):
        with measure_on(loaded, line.layout, data, line.search, by):
            pass
    with pytest.raises(ConfigError, match="a batch of 0 rows"):
        list(line.search.batches(0))


def test_a_model_says_which_task_is_its_own(line):
    assert task_of(line.model) is TASKS["rows"]
    assert task_of(TINY["llama"]()) is CAUSAL_LM
    with pytest.raises(ConfigError, match="has no output head"):
        task_of(nn.Linear(3, 2))


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_has_words_and_its_name(name):
    task = TASKS[name]
    assert task.name == name
    assert task.samples
    assert task.unit_name


def test_targets_of_a_language_model_are_the_tokens_that_follow():
    tokens = torch.tensor([[3, 1, 4], [1, 5, 9]])
    assert CAUSAL_LM.targets(tokens).tolist() == [[1, 4, -1], [5, 9, -1]]
    said = list(CAUSAL_LM.predictions(torch.zeros(2, 3, 8), tokens))
    assert [targets.tolist() for _, targets in said] == [[1, 4], [5, 9]]
    assert CAUSAL_LM.beginning(tokens, 2).tolist() == [[3, 1]]
    with pytest.raises(ConfigError, match="two tokens at least"):
        CAUSAL_LM.refuse_without_loss(tokens[:, :1])
