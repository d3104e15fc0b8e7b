"""What the pages in docs/ show is run, so that it stays true."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from problems import SmallLayer
from small_experiment import EMBEDDED
from tiny_models import TINY, tokens

from optishear.calibration.statistics import STATISTICS
from optishear.config import load_experiment
from optishear.metrics import METRICS, Metric
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import working_weights
from optishear.objectives import OBJECTIVES
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import prune
from optishear.recipe.parts import Parts
from optishear.recipe.pattern import PATTERNS, Row
from optishear.recipe.recipe import Recipe
from optishear.runs.preconditions import text_for
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.search.drivers import DRIVERS
from optishear.solvers.methods import CHOOSERS, solver_of
from optishear.tasks import TASKS
from optishear.text.sources import SOURCES, TextSpec


DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLES = {
    "loudness": METRICS,
    "odd": PATTERNS,
    "fourth": STATISTICS,
    "top_one": OBJECTIVES,
    "pangram_loss": OBJECTIVES,
    "multiplication": SOURCES,
    "rows": TASKS,
    "climber": DRIVERS,
    "rescaled": CHOOSERS,
}


@pytest.fixture
def extended():
    """The examples of extending.md and tasks.md, in their tables for the length of a test."""
    text = "".join((DOCS / page).read_text() for page in ("extending.md", "tasks.md"))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == len(TABLES)
    for block in blocks:
        exec(compile(block, "docs/extending.md", "exec"), {"__name__": "docs"})
    yield
    for name, table in TABLES.items():
        del table[name]


TABLE = {"source": "multiplication", "split": "search", "sequences": 2, "seq_len": 64}


def test_the_examples_of_extending_search_together(extended, tmp_path):
    path = tmp_path / "extended.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                **EMBEDDED,
                "text": {**EMBEDDED["text"], "search": TABLE},
                "space": {
                    "pattern": "odd",
                    "metric": {"name": "loudness", "alpha": {"real": [0.5, 2.0]}},
                    "solver": [{"name": "mask"}, {"name": "rescaled"}],
                    "sparsity": {"by": "block", "budget": 0.3},
                },
                "objectives": ["top_one"],
                "record": ["pangram_loss"],
                "pick": "lowest:top_one",
                "search": {"driver": "climber", "population": 4, "evaluations": 12},
            }
        )
    )
    run = search(load_experiment(str(path)), tmp_path, Silent())
    table = text_for(load("embedded"), TextSpec("multiplication", "search", 2, 64))
    assert " times " in load("embedded").tokenizer.decode(table.tokens[0])
    assert run.manifest["measure"]["search"] == table.hash
    best = run.front.pick()
    assert best.recipe.default.metric.name == "loudness"
    assert 0 < best.values["top_one"] < 1
    assert best.values["pangram_loss"] > 0
    assert best.recipe.default.pattern.text == "odd"
    assert best.values["sparsity"] == pytest.approx(0.3, abs=1e-6)


def test_the_statistic_of_extending_is_collected_for_a_metric_that_names_it(extended, monkeypatch):
    fourth = STATISTICS["fourth"]

    class Rare(Metric):
        needs = frozenset({fourth})

        def score(self, weight, stats):
            return weight.abs().float() * stats.per_token(fourth).pow(0.25)

    monkeypatch.setitem(METRICS, "rare", dataclass(frozen=True)(Rare))
    model, batch, read, seen = TINY["llama"](), tokens(), [], []
    layout = layout_of(model)
    site = layout.layers[0].site
    recipe = Recipe.of({"name": "rare"}, {x.name: x.size // 2 for x in layout.layers}, "row")

    def noting(layers, working, data, recipe):
        seen.append(data.stats)
        yield from prune(layers, working, data, recipe)

    with working_weights(model, layout) as working:
        hook = model.get_submodule(site).register_forward_pre_hook(lambda _, x: read.append(x[0]))
        model(batch, use_cache=False)
        hook.remove()
        apply_by_block(InMemory(model, working, layout), recipe, [batch], prune_layers=noting)
    want = read[0].double().flatten(0, -2).pow(4).sum(0)
    torch.testing.assert_close(seen[0][site][fourth].total.double(), want)
    assert seen[0][site].found.keys() == {"fourth"}


def test_the_solver_of_extending_does_what_it_says(extended):
    problem = SmallLayer().problem(100, Row(), 1.0)
    parts = Parts.of({"name": "magnitude"}, "row", {"name": "rescaled"})
    solution = solver_of(parts).solve(problem)
    assert int((~solution.keep).sum()) == 100
    torch.testing.assert_close(solution.weight.norm(dim=1), problem.weight.norm(dim=1))


PAGES = sorted([DOCS.parent / "README.md", *DOCS.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, part = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if part:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert part in {anchor(title) for title in titles}, link


def anchor(title):
    """As code hosts make it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_index_names_every_page():
    index = (DOCS / "README.md").read_text()
    others = [page.name for page in DOCS.glob("*.md") if page.name != "README.md"]
    assert not [name for name in others if f"({name})" not in index]


def test_a_page_serves_one_reader():
    assert not [page.name for page in PAGES if len(page.read_text().splitlines()) > 250]
