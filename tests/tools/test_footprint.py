"""What is said of memory and disk."""

import pytest

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, HeldBackGram
from optishear.config.sections import MemoryConfig
from optishear.recipe.layout import Layer
from optishear.tools.plan.footprint import (
    Held,
    Room,
    bytes_at,
    memory_advice,
    size_text,
)
from optishear.tools.plan.hessians import factored_bytes, trial_bytes


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (2.5e9, "2.5 GB")]
)
def test_sizes_have_three_digits(size, text):
    assert size_text(size) == text


def test_room_is_warned_of_before_it_is_gone():
    assert Room("memory", 80, 100).warning("Wait.") is None
    near = Room("memory", 95, 100)
    assert near.fits
    assert "nearly all of the 100 B" in str(near.warning("Wait."))
    over = Room("memory", 120, 100)
    assert not over.fits
    assert over.warning("Wait.") == (
        "memory: about 120 B will be needed, more than the 100 B that are free. Wait."
    )


def test_advice_names_the_largest_part_and_the_limits_that_are_not_zero():
    held = [Held("dense model", 5_000), Held("gradients, mapped", 9_000, mapped=True)]
    assert "dense model, 5 kB" in memory_advice(held, MemoryConfig())
    advice = memory_advice(
        held, MemoryConfig.model_validate({"ranks": 0, "prefixes": 0, "factors": 0})
    )
    assert "Lower batch_tokens" in advice


def test_a_folder_is_as_large_as_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "b").write_bytes(b"45")
    assert (bytes_at(tmp_path), bytes_at(tmp_path / "a"), bytes_at(tmp_path / "no")) == (5, 3, 0)


@pytest.mark.parametrize(
    ("limit", "needs", "matrices"),
    [
        ("2GB", {Gram}, 4 + 2 * 9),
        (0, {Gram}, 2 * 9),
        (0, {Gram, LayerGradients}, 3 * 9),
    ],
)
def test_a_plan_counts_the_factors_that_are_held_and_not_those_of_every_site(
    limit, needs, matrices
):
    """Sites of 2, 3 and 3 inputs, of which two layers read the first; 24 bytes an element."""
    layers = [
        Layer(f"{n}", 0, f"{n}", 5, width, site)
        for n, (width, site) in enumerate([(2, "a"), (2, "a"), (3, "b"), (3, "c")])
    ]
    limits = MemoryConfig.model_validate({"factors": limit})
    assert factored_bytes(layers, frozenset(needs), int(limits.factors)) == 24 * matrices


def test_dampings_on_trial_are_counted_where_held_back_sequences_choose_them():
    """Six of them, for sites of 2 and 3 inputs."""
    layers = [Layer(f"{width}", 0, "role", 5, width, f"{width}") for width in (2, 3)]
    assert trial_bytes(layers, frozenset({Gram, HeldBackGram})) == 6 * 24 * (4 + 9)
    assert trial_bytes(layers, frozenset({Gram})) == 0
    assert factored_bytes(layers, frozenset(), 0) == 0
