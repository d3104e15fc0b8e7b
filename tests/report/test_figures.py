"""The figures of made-up runs: whole, equal from run to run, and nothing in them collides."""

import json
import os
import shutil
import sys
import warnings
from subprocess import run as run_process
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from drawable_run import BOTH, MIXTURE, make_run
from matplotlib.image import imread
from pictures import pictured, refuse_collisions, refuse_cut_off, words

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.records.run_directory import RunDirectory, read_json, write_json
from optishear.report import figures
from optishear.report.figures import draw_figures, make_figures
from optishear.report.front_figure import extent
from optishear.report.profile_figure import short_names, sparsities
from optishear.report.run_view import read_run
from optishear.report.style import Quantity, paper_style


ALWAYS = ("front", "profile", "convergence", "heatmap")
FIGURES = (*ALWAYS, "parallel", "importance")
# Too few evaluations succeeded to tell importance from chance, or nothing varied at all.
WITHOUT = {
    "eighty blocks of a mixture": {"importance"},
    "one evaluation of one block": {"parallel", "importance"},
    "one point on the front": {"importance"},
}

# Each is there for what no other has; forty evaluations are the fewest that importance is told of.
RUNS = {
    "two objectives": {"candidates": 60},
    "an unfinished run": {"baselines": False, "candidates": 45},
    "thirty blocks": {
        "blocks": 30,
        "candidates": 40,
        "title": ("owl-alpha-70", "meta-llama/Llama-2-7b-hf"),
    },
    # All of its six evaluations are on the front.
    "eighty blocks of a mixture": {"blocks": 80, "roles": MIXTURE, "experts": 3, "candidates": 6},
    "failures, extremes and a long pick": {
        "failing": 14,
        "wild": 3,  # one of them failed
        "candidates": 80,
        "far": 90,
        "pick": "sparsity>=50%,reconstruction<=40",
        "blocks": 12,
    },
    "three objectives": {"objectives": (*BOTH, "kl"), "failing": 5},
    "four objectives": {"objectives": (*BOTH, "kl", "perplexity"), "wild": 2, "candidates": 50},
    "two errors at one sparsity": {
        "far": 12,
        "candidates": 60,
        "same_sparsity": True,
        "objectives": ("reconstruction", "kl"),
    },
    "one objective": {"objectives": ("kl",), "same_sparsity": True, "failing": 6},
    "one evaluation of one block": {"blocks": 1, "candidates": 1, "baselines": False},
    "one point on the front": {"same_sparsity": True, "failing": 3, "candidates": 40},
    "errors over decades": {"far": 12, "objectives": ("kl", "sparsity"), "decades": 3},
}


def of_run(name):
    """One of them alone."""
    return pytest.mark.parametrize("made", [name], indirect=True)


@pytest.fixture(scope="module", params=RUNS)
def made(request, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"), **RUNS[request.param])


@pytest.fixture(scope="module")
def drawn(made):
    with paper_style():
        return make_figures(read_run(made))


@pytest.fixture
def expected(request):
    without = WITHOUT.get(request.node.callspec.params["made"], set())
    return [name for name in FIGURES if name not in without]


@pytest.fixture(scope="module")
def pictures(drawn):
    with paper_style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        return {name: pictured(figure) for name, figure in drawn.items()}


def told(pictures, name):
    return " ".join(text for text, _ in pictures[name][1]).replace("\n", " ")


class TestEveryRun:
    def test_each_figure_is_a_picture_of_which_nothing_is_cut_off(self, pictures, expected):
        assert list(pictures) == expected
        for name, (pixels, _) in pictures.items():
            refuse_cut_off(name, pixels)

    def test_no_two_texts_overlap_and_all_are_on_the_page(self, pictures):
        for name, (pixels, texts) in pictures.items():
            assert len(texts) > 5
            refuse_collisions(name, pixels, texts)

    @of_run("an unfinished run")
    def test_an_unfinished_run_has_no_baselines(self, pictures):
        assert "pick knee" in told(pictures, "front")
        assert "magnitude" not in told(pictures, "front")

    @of_run("failures, extremes and a long pick")
    def test_what_lies_outside_the_axes_is_told(self, pictures):
        notes = told(pictures, "front")
        assert "2 candidates lie outside the axes (furthest: reconstruction" in notes
        assert "Drawn at the edge, but beyond it: magnitude (reconstruction" in notes
        scale = told(pictures, "convergence")
        assert "Extreme values left out of the scale: reconstruction (2)." in scale

    @pytest.mark.parametrize("made", ["one objective", "eighty blocks of a mixture"], indirect=True)
    def test_each_figure_is_written_as_that_picture_and_as_a_drawing(
        self, made, drawn, pictures, expected, monkeypatch
    ):
        monkeypatch.setattr(figures, "make_figures", lambda view: drawn)
        paths = draw_figures(made)
        names = [f"{name}.{kind}" for name in expected for kind in ("png", "svg")]
        assert [path.name for path in paths] == names
        assert sorted(made.figures.iterdir()) == sorted(paths)
        for path, (pixels, _) in zip(paths[::2], pictures.values(), strict=True):
            assert np.array_equal(np.rint(255 * imread(path)[..., :3]), pixels)
        for path in paths[1::2]:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
            assert len(words(path)) > 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with failures and all its figures, for all who only read them or draw a copy again."""
    title = ("cheap $1 a $2 run", "org/model_name")
    run = make_run(tmp_path_factory.mktemp("whole") / "r", candidates=30, failing=3, title=title)
    draw_figures(run)
    return run


def contents(run):
    return {path.name: path.read_bytes() for path in run.figures.iterdir()}


def copied(run, folder):
    """The same run, its figures not yet drawn."""
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns(run.figures.name))
    return RunDirectory(folder)


class TestFiles:
    def test_the_same_run_gives_the_same_bytes_in_another_process(self, whole, tmp_path):
        other = copied(whole, tmp_path / "other")
        program = (
            "import sys; from pathlib import Path\n"
            "from optishear.records.run_directory import RunDirectory\n"
            "from optishear.report.figures import draw_figures\n"
            "heavy = {'matplotlib', 'pymoo', 'torch', 'transformers'}\n"
            "print(*sorted(heavy & set(sys.modules)))\n"
            "draw_figures(RunDirectory(Path(sys.argv[1])))\n"
            "never = {'matplotlib.pyplot', 'torch', 'transformers'}\n"
            "print(*sorted(never & set(sys.modules)))\n"
        )
        shown = run_process(
            [sys.executable, "-W", "error", "-c", program, str(other.path)],
            env={**os.environ, "PYTHONHASHSEED": "7", "MPLBACKEND": "module://of_a_notebook"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip

        assert shown.stdout == "\n\n", "imported what it should not"
        assert contents(other) == contents(whole)

    def test_figures_drawn_again_replace_the_old_ones_whatever_the_caller_s_settings(
        self, whole, tmp_path
    ):
        run = copied(whole, tmp_path / "r")
        run.figures.mkdir()
        (run.figures / "front.png").write_bytes(b"old")
        with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "pink"}):
            before = dict(matplotlib.rcParams)
            draw_figures(run)
            assert dict(matplotlib.rcParams) == before
        assert contents(run) == contents(whole)

    def test_values_of_another_rung_are_not_shown(self, whole, tmp_path):
        run = copied(whole, tmp_path / "r")
        lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
        other = {"rung": 512, "values": {"sparsity": 0.9}, "reason": ""}
        rough = [line | other for line in lines[1:]]
        with run.journal.open("a") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in rough)
        view, alone = read_run(run), read_run(whole)
        assert view.evaluations.equals(alone.evaluations)
        assert (view.outcomes, view.found) == (alone.outcomes, alone.found)
        assert np.array_equal(view.front.candidates, alone.front.candidates)


class TestWhatIsSaid:
    def test_experiment_model_pick_and_its_values(self, whole):
        run = whole
        text = words(run.figures / "front.svg")
        picked = read_json(run.front)["picked"]
        values = next(e["values"] for e in read_json(run.front)["entries"] if e["key"] == picked)
        for name in (*ALWAYS, "parallel"):
            assert "cheap $1 a $2 run" in " ".join(words(run.figures / f"{name}.svg"))
        assert any(f"sparsity {100 * values['sparsity']:.1f} %" in line for line in text)
        assert "magnitude" in text
        assert "wanda" in text
        assert "sparsity (% of prunable weights)" in text

    def test_failures_are_counted(self, whole):
        assert "failed (3)" in words(whole.figures / "convergence.svg")
        assert "3 evaluations failed." in words(whole.figures / "front.svg")

    def test_the_reference_point_stands_on_the_axis(self, whole):
        label = " ".join(words(whole.figures / "convergence.svg"))
        assert "reference 1.1 in each" in label


class TestErrors:
    def test_a_search_that_has_not_finished_has_no_figures_yet(self, tmp_path):
        with pytest.raises(ConfigError, match=r"front\.json"):
            draw_figures(RunDirectory(tmp_path))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "optishear-front/9"}, "optishear-front/1"),
            ({"picked": "nobody"}, "'nobody' is none of its"),
        ],
    )
    def test_a_front_that_is_not_ours_is_refused(self, tmp_path, change, message):
        run = make_run(tmp_path, candidates=5)
        write_json(run.front, read_json(run.front) | change)
        with pytest.raises(ConfigError, match=message):
            draw_figures(run)

    def test_a_front_without_its_journal_is_refused(self, tmp_path):
        run = make_run(tmp_path, candidates=5)
        whole = run.journal.read_text().splitlines(keepends=True)
        run.journal.write_text(whole[0])
        with pytest.raises(ConfigError, match="were not evaluated here"):
            draw_figures(run)
        run.journal.unlink()
        with pytest.raises(ConfigError, match="is not there"):
            draw_figures(run)


class TestExtent:
    error, share = Quantity("kl", "nats", False), Quantity("sparsity", "fraction of weights", True)

    def test_a_few_extreme_candidates_are_left_out_and_the_front_never_is(self):
        usual = np.linspace(10.0, 20.0, 97)
        candidates = np.array([*usual, 5e3, 1e5, 2e6])
        assert extent(self.error, candidates, np.array([10.0, 15])) == (10.0, 20.0, False)
        assert extent(self.error, candidates, np.array([10.0, 2e6])) == (10.0, 2e6, True)

    def test_without_extremes_all_is_shown(self):
        values = np.linspace(0.3, 0.7, 50)
        assert extent(self.share, values, values[:2]) == (0.3, 0.7, False)

    def test_only_positive_errors_over_more_than_one_and_a_half_decades_are_logarithmic(self):
        assert extent(self.error, np.geomspace(1.0, 40, 30), np.ones(1))[2]
        assert not extent(self.error, np.geomspace(1.0, 25, 30), np.ones(1))[2]
        assert not extent(self.error, np.array([0.0, 1, 10, 90]), np.zeros(1))[2]
        assert not extent(self.share, np.geomspace(0.01, 0.9, 30), np.full(1, 0.9))[2]


class TestProfile:
    def test_experts_count_by_their_size_and_a_missing_role_is_nan(self):
        layers = (
            Layer("a.0", 0, "experts.up", 2, 3, "a"),
            Layer("a.1", 0, "experts.up", 6, 3, "a"),
            Layer("b", 0, "q", 4, 3, "b"),
            Layer("c", 1, "q", 4, 6, "c"),
        )
        roles, mean = sparsities(ModelLayout(layers), {"a.0": 6, "a.1": 0, "b": 9, "c": 6})
        np.testing.assert_allclose(roles, [[0.25, np.nan], [0.75, 0.25]])
        np.testing.assert_allclose(mean, [15 / 36, 0.25])

    def test_roles_are_named_by_as_little_as_tells_them_apart(self):
        roles = ("self_attn.q_proj", "mlp.experts.up", "mlp.shared.up", "up", "router")
        assert short_names(roles) == ("q_proj", "experts.up", "shared.up", "up", "router")


def test_a_power_of_ten_stands_in_the_label_where_no_legend_hides_it():
    from matplotlib.figure import Figure

    from optishear.report.front_figure import scale_axis
    from optishear.report.style import Quantity

    axes = Figure().subplots()
    scale_axis(axes, "y", Quantity("taylor", "nats²", False), (4.5e-4, 6e-4, False))
    axes.figure.draw_without_rendering()
    assert r"10^{-4}" in axes.get_ylabel()
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert "5" in [label.get_text() for label in axes.get_yticklabels()]
