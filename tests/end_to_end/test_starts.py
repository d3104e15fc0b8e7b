"""Where a search starts: what is solved for first, in which order, and that it is paid for once."""

import json

import numpy as np
import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder

from optishear.config import load_experiment
from optishear.config.sections import CurvesConfig
from optishear.errors import ConfigError, NumericalError
from optishear.pipeline import Measure
from optishear.records.journal import Journal, read_journal
from optishear.records.run_directory import RunDirectory
from optishear.runs.search import search
from optishear.runs.setup import set_up, threads
from optishear.runs.starts import curve_recipes, starts_of
from optishear.runs.watcher import Silent
from optishear.search.curves import curves_of


TOKENS, STEPS = 64, 3
ALL = ["methods", "rules", "knapsack", "gradient"]
FEW = {
    "population": 8,
    "evaluations": 8,
    "seeds": ALL,
    "curves": {"tokens": TOKENS},
    "descent": {"tokens": TOKENS, "steps": STEPS},
}
BLOCKS = {"sparsity": {"by": "block", "low": 0.2, "high": 0.9, "budget": 0.6}}
SPACES = {
    "blocks": BLOCKS,
    "layers": {"sparsity": {"by": "layer", "low": 0.0, "high": 0.9, "budget": 0.6}},
    "levels": {
        "sparsity": {"by": "layer", "steps": 8, "low": 0.25, "high": 0.75, "budget": 0.5},
        "solver": {"name": "refit", "of": "mask"},
    },
    "curve": {"sparsity": {"by": "curve", "low": 0.2, "high": 0.9, "width": 0.2, "budget": 0.6}},
    "n of 4": {
        "pattern": "n:4",
        "sparsity": {"by": "layer", "low": 0.0, "high": 0.75, "budget": 0.5},
    },
    "2:4 in attention": {
        "sparsity": {"by": "layer", "low": 0.2, "high": 0.9, "budget": 0.55},
        "roles": {"self_attn.*": {"pattern": "2:4"}},
    },
    "metric and solver": {
        "metric": {"name": "power", "alpha": {"real": [0.5, 2.0]}},
        "solver": [{"name": "mask"}, {"name": "refit", "of": "mask"}],
        "sparsity": {"by": "block", "low": 0.2, "high": 0.9, "budget": 0.6},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("llama", tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def planned(model, tmp_path):
    """An experiment on the tiny model, with these settings of its search beside the usual few."""

    def plan(space=BLOCKS, more=None, **changes):
        path = tmp_path / "starts.yaml"
        wanted = {
            **EMBEDDED,
            "model": model,
            "space": space,
            "objectives": ["kl"],
            "baselines": ["wanda"],
            "search": {**FEW, **(more or {})},
            **changes,
        }
        path.write_text(yaml.safe_dump(wanted))
        return load_experiment(str(path))

    return plan


def entries(path):
    return read_journal(path)[1]


def as_measured(path):
    """A journal without what a clock said."""
    header, found, _ = read_journal(path)
    return header, [{k: v for k, v in entry.items() if k != "seconds"} for entry in found]


def least(found, objective="kl"):
    return min((e for e in found if e["values"]), key=lambda entry: entry["values"][objective])


@pytest.fixture
def measured(monkeypatch):
    """What is really measured, in order: `kl` of a recipe, or its slopes."""
    seen, call, slopes = [], Measure.__call__, Measure.slope_parts

    def counted(self, recipe, rung):
        seen.append(("value", recipe.key, rung))
        return call(self, recipe, rung)

    def counted_slopes(self, objective, recipe, rung, *more):
        seen.append(("slopes", recipe.key, rung))
        return slopes(self, objective, recipe, rung, *more)

    monkeypatch.setattr(Measure, "__call__", counted)
    monkeypatch.setattr(Measure, "slope_parts", counted_slopes)
    return seen


class Notes(Silent):
    def __init__(self):
        self.texts = []

    def stage(self, text):
        self.texts.append(text)


@pytest.mark.parametrize("name", SPACES)
def test_the_first_population_opens_with_what_is_solved_for_and_meets_the_budget(
    name, planned, tmp_path
):
    plan = planned(SPACES[name])
    run = search(plan, tmp_path / "r", Silent())
    with threads(1):
        setup = set_up(plan, Silent())
    space, first = setup.space, entries(run.directory.journal)
    curves = curves_of(entries(run.directory.curves), setup.layer_names, "kl")
    knapsack = first[0]["key"]
    descent = least(entries(run.directory.descent))["key"]
    known = [space.decode(row) for row in setup.seeds]
    expected = list(dict.fromkeys([knapsack, descent, *(recipe.key for recipe in known)]))
    assert [entry["key"] for entry in first[: len(expected)]] == expected[: len(first)]

    sizes = space.layers.layout.sizes
    for entry in first[:2]:
        drop = dict(zip(setup.layer_names, entry["drop"], strict=True))
        owed = space.budget - sum(drop.values())
        steps = {"levels": 8, "n of 4": 4}
        # Levels meet it from below, less than any layer's step away.
        most = min(sizes.values()) // steps[name] if name in steps else 1
        assert 0 <= owed < most
        if name == "2:4 in attention":
            attention = [layer for layer in sizes if ".self_attn." in layer]
            assert all(drop[layer] == sizes[layer] // 2 for layer in attention)
            assert len(attention) == 8

    solved = dict(zip(setup.layer_names, first[0]["drop"], strict=True))
    others = [recipe.drop for recipe in (*known, space.decode(setup.base))]
    assert curves.total(solved) < min(map(curves.total, others))


def test_a_curve_is_measured_from_the_highest_count_to_the_lowest_but_never_at_none(planned):
    with threads(1):
        setup = set_up(planned(SPACES["layers"]), Silent())
        fixed = set_up(planned(SPACES["2:4 in attention"]), Silent())
        stuck = set_up(planned({"pattern": "n:4", "sparsity": {"by": "layer", "high": 0.2}},
                               {"seeds": ["knapsack"]}), Silent())  # fmt: skip

    def counts(setup, levels):
        found = {}
        for recipe in curve_recipes(setup.space, setup.space.decode(setup.base), levels):
            [(name, count)] = [(n, c) for n, c in recipe.drop.items() if c]
            found.setdefault(name, []).append(count)
        return found

    layers = {layer.name: layer for layer in setup.space.layers.layout.layers}
    for levels in (1, 2, 4):
        for name, found in counts(setup, levels).items():
            size, step = layers[name].size, layers[name].out_features
            shares = [0.9 * (number + 1) / levels for number in range(levels)]  # and 0 for nothing
            assert found == pytest.approx([share * size for share in shares], abs=1.5 * step)
        for name, found in counts(fixed, levels).items():
            if name.split(".")[3] == "self_attn":
                assert found == [layers[name].size // 2]
                continue
            shares = np.linspace(0.9, 0.2, levels)[::-1]  # both ends, or the highest alone
            size, step = layers[name].size, layers[name].out_features
            assert found == pytest.approx(list(shares * size), abs=1.5 * step)
    assert counts(stuck, 4) == {}  # no layer may lose a quarter of its weights


def test_without_a_budget_ten_splits_are_solved_for_the_middle_first(planned, tmp_path):
    space = {"sparsity": {"by": "block", "low": 0.2, "high": 0.8}}
    more = {"seeds": ["knapsack"], "population": 10, "evaluations": 10}
    plan = planned(space, more, objectives=["sparsity", "kl"])
    run = search(plan, tmp_path / "r", Silent())
    sparsities = [entry["values"]["sparsity"] for entry in entries(run.directory.journal)[:10]]
    evenly = np.linspace(0.2, 0.8, 12)[1:-1]
    assert sorted(sparsities) == pytest.approx(evenly, abs=0.01)
    away = np.abs(np.array(sparsities) - 0.5)
    assert (np.diff(away) > -0.02).all()
    assert away[0] < 0.05


def test_the_gradient_alone_starts_at_the_first_known_method(planned, tmp_path):
    run = search(planned(more={"seeds": ["gradient", "methods"]}), tmp_path / "r", Silent())
    with threads(1):
        setup = set_up(planned(), Silent())
    descent, first = entries(run.directory.descent), entries(run.directory.journal)
    uniform = setup.space.decode(setup.base).key
    assert len(descent) == STEPS + 1
    assert descent[0]["key"] == uniform
    assert not run.directory.curves.exists()
    assert [entry["key"] for entry in first[:2]] == [least(descent)["key"], uniform]


def test_an_experiment_that_solves_for_nothing_has_no_such_journals(planned, tmp_path):
    run = search(planned(more={"seeds": ["methods", "rules"]}), tmp_path / "r", Silent())
    there = {path.name for path in run.directory.path.glob("*.jsonl")}
    assert there == {"journal.jsonl"}
    dumped = run.manifest["experiment"]["search"]
    assert not {"seeds", "variation"} & set(dumped)
    assert run.manifest["search_tokens"] == 8 * 128


GRADIENT = {"driver": "gradient", "population": 2, "evaluations": 6}


class Struck(BaseException):
    """The process is gone."""


def strike(monkeypatch, name, after):
    """Dies when that journal has so many entries and the next is there as a value only."""
    append = Journal.append

    def fall(self, *evaluation):
        if self.path.name == name and len(self.entries) == after:
            raise Struck
        return append(self, *evaluation)

    monkeypatch.setattr(Journal, "append", fall)


@pytest.fixture(scope="module")
def unbroken(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    wanted = {
        **EMBEDDED,
        "model": model,
        "space": BLOCKS,
        "objectives": ["kl"],
        "baselines": ["wanda"],
        "search": {**FEW, **GRADIENT},
    }
    (folder / "starts.yaml").write_text(yaml.safe_dump(wanted))
    return search(load_experiment(str(folder / "starts.yaml")), folder / "r", Silent())


JOURNALS = ("curves", "descent", "slopes", "journal")


@pytest.mark.parametrize(
    ("journal", "after"), [("curves", 5), ("descent", 2), ("slopes", 3), ("journal", 3)]
)
def test_a_killed_search_ends_as_the_unbroken_one_and_measures_nothing_twice(
    journal, after, planned, unbroken, measured, tmp_path, monkeypatch
):
    plan = planned(more=GRADIENT)
    with monkeypatch.context() as patch:
        strike(patch, f"{journal}.jsonl", after)
        with pytest.raises(Struck):
            search(plan, tmp_path / "r", Silent())
    [folder] = tmp_path.glob("r/*/*")
    torn = folder / f"{journal}.jsonl"
    torn.write_bytes(torn.read_bytes()[:-7])
    before = sum(len(entries(path)) for path in folder.glob("*.jsonl"))
    measured.clear()
    run = search(plan, tmp_path / "r", Silent())
    whole = sum(len(entries(getattr(unbroken.directory, name))) for name in JOURNALS)
    assert len(measured) == len(set(measured)) == whole - before
    for name in JOURNALS:
        paths = [getattr(one.directory, name) for one in (run, unbroken)]
        assert as_measured(paths[0]) == as_measured(paths[1]), name
    for name in ("front", "evaluation"):
        files = [getattr(one.directory, name).read_bytes() for one in (run, unbroken)]
        assert files[0] == files[1]
    assert run.manifest["search_tokens"] == unbroken.manifest["search_tokens"]


def test_the_manifest_counts_the_tokens_of_all_that_led_to_the_front(unbroken):
    layers = len(unbroken.front.layout.layers)
    points, candidates = layers * CurvesConfig().levels, GRADIENT["evaluations"]
    known = len(entries(unbroken.directory.slopes))
    assert candidates - GRADIENT["population"] <= known <= candidates
    slopes = 3 * ((STEPS + 1) * TOKENS + known * 128)
    assert unbroken.manifest["search_tokens"] == points * TOKENS + candidates * 128 + slopes
    beside = ("journal", "curves", "descent", "slopes")
    places = [getattr(unbroken.directory, name) for name in beside]
    spent = sum(e["seconds"] for place in places if place.exists() for e in entries(place))
    assert unbroken.manifest["seconds"] == pytest.approx(spent, abs=0.1)


def test_what_another_run_has_solved_for_is_not_measured_again(
    planned, measured, unbroken, tmp_path
):
    results = unbroken.directory.path.parents[1]
    plan = planned(more={**GRADIENT, "evaluations": 8}, name="beside")
    run = search(plan, results, Silent())
    for name in ("curves", "descent"):
        own, other = (getattr(one.directory, name) for one in (run, unbroken))
        assert [e["key"] for e in entries(own)] == [e["key"] for e in entries(other)]
        assert all(entry["memo"] for entry in entries(own))
        assert [e.get("slopes") for e in entries(own)] == [e.get("slopes") for e in entries(other)]
    new = [e for p in ("slopes", "journal") for e in entries(getattr(run.directory, p))]
    assert len(measured) == sum("memo" not in entry for entry in new) <= 5
    alone = search(plan, tmp_path / "alone", Silent())
    assert run.manifest["search_tokens"] == alone.manifest["search_tokens"]
    assert run.directory.front.read_bytes() == alone.directory.front.read_bytes()


@pytest.mark.parametrize("driver", ["gradient", "knapsack"])
def test_drivers_that_solve_climb_a_ladder(driver, planned, tmp_path):
    more = {
        "driver": driver,
        "population": 3,
        "evaluations": 9,
        "rungs": [64],
        "seeds": ["methods"],
    }
    run = search(planned(SPACES["layers"], more), tmp_path / "r", Silent())
    found = entries(run.directory.journal)
    low, high = ([e["key"] for e in found if e["rung"] == rung] for rung in (64, 128))
    top = set(high) - {row["recipe"] for row in run.evaluation if row["name"] == "wanda"}
    assert len(low) == 9
    assert 3 <= len(high) <= 4
    extra = 0
    if driver == "gradient":
        slopes = entries(run.directory.slopes)
        assert {entry["rung"] for entry in slopes} == {64}
        assert [e["key"] for e in slopes] == low[: len(slopes)]
        extra = 3 * 64 * len(slopes)
    else:
        extra = TOKENS * len(entries(run.directory.curves))
    climbed = [entry.recipe.key for entry in run.front.entries]
    assert set(climbed) <= set(high)
    assert run.manifest["search_tokens"] in {
        extra + 64 * (9 - number) + 128 * number for number in (len(top), len(high))
    }


def failing(monkeypatch, fails):
    """Values of recipes that this says of cannot be measured."""
    call = Measure.__call__

    def measure(self, recipe, rung):
        if fails({name: count for name, count in recipe.drop.items() if count}):
            raise NumericalError("the layer has no answer")
        return call(self, recipe, rung)

    monkeypatch.setattr(Measure, "__call__", measure)


def test_a_layer_whose_curve_has_no_point_ends_the_search_in_a_sentence(
    planned, tmp_path, monkeypatch
):
    with threads(1):
        [name, *_] = set_up(planned(), Silent()).layer_names
    failing(monkeypatch, lambda dropped: [*dropped] == [name])
    with pytest.raises(ConfigError) as error:
        search(planned(), tmp_path / "r", Silent())
    said = str(error.value)
    assert said.startswith(f"{name}: pruned alone it failed at every level of its curve (the layer")
    assert "leave out what goes by curves" in said


def test_a_curve_with_a_gap_is_said_and_gone_on_with(planned, tmp_path, monkeypatch):
    with threads(1):
        setup = set_up(planned(), Silent())
    layer = setup.space.layers.layout.layers[0]
    failing(monkeypatch, lambda dropped: dropped.get(layer.name, 0) > 0.8 * layer.size)
    notes = Notes()
    run = search(planned(), tmp_path / "r", notes)
    told = [text for text in notes.texts if "curve of" in text]
    assert told == [f"the curve of {layer.name} has a gap: the layer has no answer"]
    assert sum(e["values"] is None for e in entries(run.directory.curves)) == 1


def test_a_gradient_search_whose_slopes_all_fail_still_looks_around(planned, tmp_path, monkeypatch):
    def none(*_):
        raise NumericalError("no slope is finite")

    monkeypatch.setattr(Measure, "slope_parts", none)
    run = search(planned(more=GRADIENT), tmp_path / "r", Silent())
    for name in ("descent", "slopes"):
        found = entries(getattr(run.directory, name))
        assert {entry["reason"] for entry in found} == {"no slope is finite"}
        assert len(found) >= 2
    first = entries(run.directory.journal)
    assert run.manifest["evaluations"] == GRADIENT["evaluations"]
    assert run.manifest["ended"] == "the evaluation budget is spent"
    assert all(entry["values"] for entry in first)


def test_processes_of_one_study_start_at_what_was_solved_for(planned, tmp_path):
    more = {"driver": "tpe", "population": 4, "evaluations": 6}
    runs = [
        search(planned(more=more), tmp_path / name, Silent(), str(tmp_path / "study.log"))
        for name in ("one", "two")
    ]
    first = entries(runs[0].directory.journal)
    curves = [as_measured(run.directory.curves) for run in runs]
    assert curves[0] == curves[1]
    with threads(1):
        setup = set_up(planned(more=more), Silent())
        starts = starts_of(setup, None, RunDirectory(runs[0].directory.path), Silent())
    solved = [setup.space.decode(row).key for row in starts.genomes[:4]]
    assert [entry["key"] for entry in first[:4]] == solved
    assert json.loads(runs[1].directory.manifest.read_text())["status"] == "finished"
