"""Statistics are collected once for one content; a damaged file is collected anew."""

import pytest
import torch
from tiny_models import TINY, tokens

from optishear.calibration import checked_tensors, store
from optishear.calibration.collect import collect
from optishear.calibration.statistics import Gram, InputSq
from optishear.calibration.store import load_or_collect, too_large
from optishear.errors import StorageError
from optishear.models.discover import layout_of


SQ, BOTH = frozenset({InputSq}), frozenset({InputSq, Gram})
BATCHES = [tokens(2, 12)]


@pytest.fixture
def model():
    return TINY["gpt2"]()


@pytest.fixture
def layout(model):
    return layout_of(model)


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for site, a in got.items():
        b = want[site]
        assert (a.tokens, a.sequences) == (b.tokens, b.sequences)
        assert a.found.keys() == b.found.keys()
        assert all(torch.equal(each.total, b.found[name].total) for name, each in a.found.items())


@pytest.mark.parametrize("needs", [SQ, BOTH])
def test_the_second_call_reads_what_the_first_collected(tmp_path, model, layout, needs):
    first = load_or_collect(tmp_path / "a", model, layout, [BATCHES], needs)
    second = load_or_collect(tmp_path / "a", model, layout, [], needs)
    assert_equal(first, collect(model, layout, BATCHES, needs))
    assert_equal(second, first)


def test_expert_token_counts_survive(tmp_path):
    model = TINY["mixtral"]()
    layout = layout_of(model)
    first = load_or_collect(tmp_path / "a", model, layout, [[tokens(4, 12)]], SQ)
    assert len({s.tokens for s in first.values()}) > 1
    assert_equal(load_or_collect(tmp_path / "a", model, layout, [], SQ), first)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "no metadata"])
def test_a_damaged_file_is_collected_anew_with_a_warning(tmp_path, model, layout, damage, caplog):
    first = load_or_collect(tmp_path / "a", model, layout, [BATCHES], SQ)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    if damage == "no metadata":
        checked_tensors.save_file({"a": torch.zeros(3)}, str(path))
    else:
        flipped = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
        path.write_bytes({"truncated": data[:-5], "emptied": b"", "flipped": flipped}[damage])
    with caplog.at_level("WARNING"):
        again = load_or_collect(tmp_path / "a", model, layout, [BATCHES], SQ)
    assert "is damaged" in caplog.text
    assert_equal(again, first)
    assert_equal(load_or_collect(tmp_path / "a", model, layout, [], SQ), first)


def test_a_write_that_fails_halfway_leaves_nothing_behind(tmp_path, model, layout, monkeypatch):
    def full(_tensors, name, _metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checked_tensors, "save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        load_or_collect(tmp_path / "a", model, layout, [BATCHES], SQ)
    assert not list(tmp_path.iterdir())


def test_large_statistics_are_not_kept(layout, monkeypatch):
    total = 2 * 4 * (3 * (24**2 + 24) + 40**2 + 40)
    monkeypatch.setattr(store, "LARGEST", total - 1)
    assert too_large(layout, BOTH)
    assert not too_large(layout, SQ)
    monkeypatch.setattr(store, "LARGEST", total)
    assert not too_large(layout, BOTH)


def test_what_is_not_kept_is_collected_all_the_same(model, layout):
    stats = load_or_collect(None, model, layout, [BATCHES], BOTH)
    assert all(Gram in s for s in stats.values())


def test_the_cache_folder_is_made_when_it_is_missing(tmp_path, model, layout):
    load_or_collect(tmp_path / "a" / "b", model, layout, [BATCHES], SQ)
    assert len(list((tmp_path / "a").iterdir())) == 1
