"""The figures of curves and of how they add up: whole, and nothing in them collides."""

import warnings

import pytest
from curved_run import RISE, curved_run, curves_for, write_curves
from drawable_run import MIXTURE, finish, layout_of, make_run
from layouts import llama_layout, small_layout
from pictures import pictured, refuse_collisions, refuse_cut_off, words

from optishear.errors import ConfigError
from optishear.objectives import make_objective
from optishear.recipe.layout import ModelLayout
from optishear.records.run_directory import read_json
from optishear.report.curve_figures import curve_figures
from optishear.report.figures import draw_figures
from optishear.report.measured_curves import UNITS
from optishear.report.style import paper_style
from optishear.runs.results import Run
from optishear.search.curves import Curves


BOTH = ["curves", "additivity"]
LAYOUTS = {
    "two roles": (small_layout(blocks=2, scale=4), 9),
    "thirty blocks of a llama": (llama_layout(), 4),
    "many roles, and experts": (layout_of(12, MIXTURE, experts=3), 4),
    "one block, one level": (llama_layout(blocks=1), 1),
    "one layer": (ModelLayout(llama_layout(blocks=1).layers[:1]), 1),
}


def drawn(run, title="layer_sparsity · HuggingFaceTB/SmolLM2-135M"):
    with paper_style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        return {name: pictured(figure) for name, figure in curve_figures(run, title).items()}


def told(picture):
    return " ".join(text for text, _ in picture[1]).replace("\n", " ")


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_cut_off_and_no_two_texts_collide(tmp_path, name):
    layout, levels = LAYOUTS[name]
    run = curved_run(tmp_path / "r", layout, levels=levels, candidates=6)
    pictures = drawn(run)
    assert list(pictures) == BOTH
    for figure, (pixels, texts) in pictures.items():
        refuse_cut_off(figure, pixels)
        refuse_collisions(figure, pixels, texts)


def test_a_panel_a_role_and_what_was_measured(tmp_path):
    picture = drawn(curved_run(tmp_path / "r", llama_layout(blocks=3)))["curves"]
    for role in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert role in told(picture)
    assert "kl (nats/token)" in told(picture)
    assert "One layer pruned and all others dense, on 512 tokens." in told(picture)


def test_how_far_costs_add_up_is_told_below_the_points(tmp_path):
    picture = drawn(curved_run(tmp_path / "r"))["additivity"]
    assert "recipes (8)" in told(picture)
    assert f"measured / sum {RISE:.2f} (median)." in told(picture)


def test_values_that_are_not_positive_are_counted(tmp_path):
    layout = small_layout(blocks=2, scale=4)
    run, points = curved_run(tmp_path / "r", layout), dict(curves_for(layout).points)
    run.curves.unlink()
    first = next(iter(points))
    points[first] = ((4, -1e-9), *points[first])
    write_curves(run, layout, Curves(points))
    assert "1 of 17 values are not positive and not shown." in told(drawn(run)["curves"])


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_where_no_value_is_positive_the_picture_is_empty_and_says_so(tmp_path, value):
    layout = small_layout(blocks=2, scale=4)
    run = curved_run(tmp_path / "r", layout)
    run.curves.unlink()
    write_curves(run, layout, Curves(dict.fromkeys(layout.sizes, ((4, value),))))
    pictures = drawn(run)
    assert "4 of 4 values are not positive" in told(pictures["curves"])
    assert "no sum is positive" not in told(pictures["curves"])


def test_of_too_few_recipes_there_is_no_additivity(tmp_path):
    assert list(drawn(curved_run(tmp_path / "r", candidates=2))) == ["curves"]


def test_a_run_without_curves_has_none(tmp_path):
    assert drawn(make_run(tmp_path / "r", candidates=3)) == {}


def test_a_search_s_figures_are_these_too(tmp_path):
    run = finish(make_run(tmp_path / "r", candidates=5, blocks=2))
    layout = ModelLayout.from_json(read_json(run.front)["layout"])
    write_curves(run, layout, curves_for(layout))
    names = [path.name for path in draw_figures(run)]
    assert {"front.png", "curves.png", "curves.svg"} <= set(names)
    assert "additivity.png" not in names  # its recipes are not pruned as the curves
    assert "curves" in Run(run).figures()
    text = " ".join(words(run.figures / "curves.svg"))
    assert "quickstart · embedded" in text


def test_damaged_curves_are_named(tmp_path):
    run = make_run(tmp_path / "r", candidates=3)
    run.curves.write_bytes(b"[]\n")
    with pytest.raises(ConfigError, match=r"curves\.jsonl"):
        draw_figures(run)


def test_the_units_are_the_objectives_own():
    for name, unit in UNITS.items():
        assert make_objective({"kl_top": "kl_top@64"}.get(name, name)).unit == unit
