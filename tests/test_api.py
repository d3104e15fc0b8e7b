"""The page for notebooks (docs/api.md), run from top to bottom, and what it promises."""

import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.figure
import pytest
from drawable_run import make_run
from made_up_run import begin, go_on

import optishear
from optishear.cli.progress import LiveWatcher
from optishear.records.run_directory import read_json
from optishear.report.progress import goal_of
from optishear.runs.results import recipe_at
from optishear.runs.watcher import Callbacks, Watchers


PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's blocks leave, all run in order in an empty folder."""
    names = {"__name__": "docs"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("api"))
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, "docs/api.md", "exec"), names)
        yield SimpleNamespace(**names)


def test_the_callback_is_called_once_a_recipe(page):
    table = page.run.evaluations()
    assert page.losses == table["value.kl"].dropna().tolist()[: len(page.losses)]
    assert len(page.losses) == 16


def test_the_frame_has_counts_values_sizes_and_parts_of_every_recipe(page):
    frame, front = page.front, page.run.front
    assert frame.index.tolist() == [entry.recipe.key for entry in front.entries]
    assert frame.index[frame.picked].tolist() == [front.pick().recipe.key]
    for entry in front.entries:
        row = frame.loc[entry.recipe.key]
        assert row.kl == entry.values["kl"]
        assert row.metric == entry.recipe.default.metric.name
        assert row.dropped / front.layout.total == pytest.approx(row.sparsity)
        assert row["bytes"] < row["bytes_dense"]
        assert 0 <= row["sparsity.block.0"] < 1


def test_figures_are_objects_and_no_file_is_written(tmp_path):
    run = optishear.Run(make_run(tmp_path / "run", candidates=20))
    before = sorted(tmp_path.rglob("*"))
    figures = run.figures()
    assert {"front", "profile", "convergence", "heatmap"} <= set(figures)
    assert all(isinstance(figure, matplotlib.figure.Figure) for figure in figures.values())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_figure_drawn_from_python_can_be_changed_and_saved(page):
    assert page.axes.get_title() == "my title"


def test_the_folder_has_the_recipe_that_was_picked(page):
    assert page.made.sparsity == pytest.approx(page.best.values["sparsity"])
    assert page.result.perplexity > 1
    assert page.best.values["sparsity"] >= 0.5


def test_in_memory_and_in_the_folder_are_the_same_numbers(page):
    assert page.result.nats == page.found.nats


def test_a_second_watcher_hears_all_that_the_first_hears(tmp_path):
    directory = begin(tmp_path)
    terminal = LiveWatcher(goal_of(read_json(directory.manifest)["experiment"]))
    heard = []
    second = Callbacks(
        evaluated=lambda found, evaluation, total: heard.append((found.asked, total)),
        stage=heard.append,
    )
    found = go_on(directory, Watchers(terminal, second))
    terminal.close()
    assert heard[0] == "searching"
    assert heard[1:] == [(number, 60) for number in range(1, found.asked + 1)]
    assert terminal.progress.state().asked == found.asked


def test_watchers_pass_every_call_on_and_callbacks_take_only_what_they_want():
    told = []
    all_of_them = Callbacks(
        levels=lambda *values: told.append(("levels", *values)),
        pruned=lambda *values: told.append(("pruned", *values)),
    )
    both = Watchers(all_of_them, Callbacks(), all_of_them)
    both.levels(1, 2, 0.5)
    both.pruned(3, 4)
    both.stage("nobody asked for it")
    assert told == [("levels", 1, 2, 0.5)] * 2 + [("pruned", 3, 4)] * 2


def test_a_tracker_of_the_page_is_a_watcher(page):
    tracker = page.Tracker()
    tracker.evaluated(
        SimpleNamespace(asked=1), SimpleNamespace(values={"kl": 0.5}, failed=False), 9
    )
    assert tracker.logged == [{"step": 1, "kl": 0.5}]


def test_no_name_of_the_page_is_also_a_folder_of_the_package():
    """A module that is imported takes the place of a function of its name."""
    modules = {module.name for module in pkgutil.iter_modules(optishear.__path__)}
    assert modules.isdisjoint(optishear.__all__)


def test_every_public_name_is_there_and_on_the_page():
    text = PAGE.read_text()
    for name in optishear.__all__:
        assert getattr(optishear, name).__name__ == name
        assert re.search(rf"\b{name}\b", text), name


def test_a_run_in_a_recipe_files_place_is_what_it_picks(page):
    front = page.run.front
    assert recipe_at(page.run.directory.path) == (front.pick().recipe, front.origin)


def test_a_packed_run_is_as_good_as_its_folder():
    [packed] = (PAGE.parents[1] / "results" / "embedded_60").glob("*.tar.xz")
    front = optishear.open_run(packed.parent).front
    assert recipe_at(packed) == recipe_at(packed.parent) == (front.pick().recipe, front.origin)


def test_a_front_without_recipes_is_an_empty_frame(page):
    assert replace(page.run.front, entries=()).to_frame().empty
