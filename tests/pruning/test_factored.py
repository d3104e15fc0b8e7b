"""How many factored Hessians are held, and that nothing depends on it."""

import weakref

import pytest
import torch
from problems import SmallLayer

from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.factored import LEAST, Factored, held_bytes
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.hessian import most_bytes
from optishear.solvers.methods import solver_of


SITES, WIDTH = 5, 16
SMALL = {
    f"{n}.{name}": SmallLayer(rows=8, width=WIDTH, seed=n) for n in range(SITES) for name in "qk"
}
LAYERS = [Layer(name, int(name[0]), name[2:], 8, WIDTH, f"{name[0]}.q") for name in SMALL]
DROP = dict.fromkeys(SMALL, 64)
ALPS = Recipe.of({"name": "own"}, DROP, "layer", {"name": "alps"})
SPARSEGPT = Recipe.of({"name": "own"}, DROP, "layer", {"name": "sparsegpt"})


def data(room=0):
    stats = {layer.site: SMALL[layer.site].stats for layer in LAYERS}
    return CalibrationData(stats, factored=Factored(room))


def solve(known, layers=LAYERS, recipe=SPARSEGPT):
    return [
        solver_of(recipe.at(layer)).solve(known.problem(layer, SMALL[layer.name].weight, recipe))
        for layer in layers
    ]


@pytest.fixture
def alive(monkeypatch):
    """How many quadratics were in memory each time that one had been made."""
    from optishear.pruning import calibration_data as module

    living, counts, make = weakref.WeakSet(), [], module.reconstruction

    def watched(*args):
        living.add(made := make(*args))
        counts.append(len(living))
        return made

    monkeypatch.setattr(module, "reconstruction", watched)
    return counts


def test_a_prune_of_many_sites_holds_the_factors_of_the_last_two(alive):
    known = data()
    solve(known, recipe=ALPS)
    assert len(alive) == SITES  # layers of a site share one
    assert max(alive) == len(known.factored) == LEAST


def test_what_is_held_changes_no_bit():
    for few, all_of_them in zip(solve(data(), recipe=ALPS), solve(data(10**9), recipe=ALPS)):
        assert torch.equal(few.weight, all_of_them.weight)
        assert torch.equal(few.keep, all_of_them.keep)
        assert few.cost == all_of_them.cost


def test_two_sites_that_take_turns_are_factored_once_each(alive):
    known = data()
    turns = [LAYERS[i] for i in (0, 2, 1, 3, 0, 2)]
    assert [layer.site for layer in turns] == ["0.q", "1.q"] * 3
    solve(known, turns)
    assert len(alive) == 2


def test_a_search_with_room_for_all_factors_nothing_twice(alive):
    known = data(SITES * most_bytes(WIDTH))
    solve(known)
    solve(known)
    assert len(alive) == SITES


def test_room_is_never_overdrawn():
    known = data(4 * most_bytes(WIDTH) + 100)
    solve(known)
    assert len(known.factored) == 4


def test_on_its_way_elsewhere_evidence_takes_its_room_and_no_factors():
    known = data(10**9)
    solve(known)
    for moved in (known.to("cpu"), known.only(LAYERS[:2])):
        assert len(moved.factored) == 0
        assert moved.factored.room == 10**9


def test_no_factor_is_more_than_a_plan_counts():
    hessian = SmallLayer().quadratic().shared
    for factor in ("inverse", "inverse_upper", "scaled_eigen"):
        getattr(hessian, factor)
    tensors = [
        tensor
        for value in vars(hessian).values()
        for tensor in (value if isinstance(value, tuple) else (value,))
        if isinstance(tensor, torch.Tensor) and tensor.ndim == 2
    ]
    assert sum(tensor.nbytes for tensor in tensors) == most_bytes(40)


@pytest.mark.parametrize(
    ("room", "held"), [(0, 30**2 + 20**2), (24 * 1500, 1500), (10**9, 30**2 + 20**2 + 3 * 10**2)]
)
def test_a_plan_counts_the_largest_two_or_what_fits(room, held):
    assert held_bytes([10, 30, 10, 20, 10], room) == 24 * held
