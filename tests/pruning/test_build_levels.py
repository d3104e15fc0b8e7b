"""A store built from a space's levels answers for every recipe, and is never built twice."""

import numpy as np
import pytest
import torch
from layouts import small_layout
from problems import SmallLayer

from optishear.errors import NumericalError
from optishear.pruning.levels import build, level_by_level, missing
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.layer_keys import layer_key
from optishear.search.levels import levels_of
from optishear.search.space_file import SpaceSpec, build_space
from optishear.solvers.methods import solver_of


LAYOUT = small_layout(blocks=2)
SPACE = build_space(
    SpaceSpec.model_validate(
        {
            "sparsity": {"by": "layer", "steps": 4, "low": 0.25, "high": 0.75, "budget": 0.5},
            "solver": [{"name": "mask"}, {"name": "refit", "of": "mask"}, {"name": "sparsegpt"}],
            "moonshot": {"lambda": 0.5},
        }
    ),
    LAYOUT,
    {},
)
LAYERS = {x.name: SmallLayer(rows=x.out_features, width=x.in_features) for x in LAYOUT.layers}


class Solver:
    """Solves layers one by one, and stops like a killed run when it was asked `until` times."""

    def __init__(self, until=10**9, hopeless=()):
        self.asked, self.until, self.hopeless = [], until, hopeless

    def __call__(self, layer, recipe):
        if len(self.asked) == self.until:
            raise KeyboardInterrupt
        key = layer_key(recipe, layer)
        self.asked.append(key)
        if key in self.hopeless:
            raise NumericalError(f"{layer.name}: cannot be solved")
        lam, drop = recipe.lambda_of(layer), recipe.drop[layer.name]
        return solver_of(recipe.at(layer)).solve(LAYERS[layer.name].problem(drop, lam=lam))


@pytest.fixture
def store(tmp_path):
    return SolvedLayers(tmp_path, "measure", 10**6)


def test_every_recipe_of_the_space_is_read_from_a_built_store(store):
    assert build(level_by_level(Solver()), store, levels_of(SPACE)) == ()
    assert missing(store, levels_of(SPACE)) == []
    rng, solve = np.random.default_rng(0), Solver()
    low, high = (np.array([getattr(g, end) for g in SPACE.genes]) for end in ("low", "high"))
    for _ in range(40):
        recipe = SPACE.decode(low + rng.random(len(low)) * (high - low))
        for layer in LAYOUT.layers:
            want = solve(layer, recipe)
            stored = store.get(layer_key(recipe, layer))
            out = torch.empty_like(want.weight)
            stored.write_into(out)
            assert torch.equal(out, want.weight)
            assert torch.equal(stored.keep, want.keep)
            assert (stored.cost, stored.damping, stored.notes) == (
                want.cost,
                want.damping,
                want.notes,
            )


def test_a_killed_build_goes_on_where_it_was(store, tmp_path):
    unbroken = Solver()
    build(
        level_by_level(unbroken), SolvedLayers(tmp_path / "other", "measure", 0), levels_of(SPACE)
    )
    first, second = Solver(until=5), Solver()
    with pytest.raises(KeyboardInterrupt):
        build(level_by_level(first), store, levels_of(SPACE))
    build(level_by_level(second), store, levels_of(SPACE))
    assert first.asked + second.asked == unbroken.asked
    assert len(unbroken.asked) == 4 * 3 * 3  # layers, levels, solvers


def test_a_layer_that_cannot_be_solved_is_reported_and_the_others_are_built(store, caplog):
    levels = list(levels_of(SPACE))
    hopeless = [layer_key(recipe, layer) for layer, recipe in levels[3:5]]
    failed = build(level_by_level(Solver(hopeless=hopeless)), store, levels)
    assert failed == (f"{levels[3][0].name}: cannot be solved",) * 2
    assert "cannot be solved" in caplog.text
    assert missing(store, levels) == levels[3:5]


def test_progress_counts_what_was_lacking(store):
    levels = list(levels_of(SPACE))
    build(level_by_level(Solver()), store, levels[:10])
    told = []
    build(level_by_level(Solver()), store, levels + levels[:3], lambda *args: told.append(args))
    assert [(done, total) for done, total, _ in told] == [(n, 26) for n in range(27)]
    seconds = [s for _, _, s in told]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
