"""What is stored comes back bit for bit or not at all, within its limits of memory and disk."""

import logging
from dataclasses import replace

import pytest
import torch
from problems import SmallLayer

from optishear.errors import StorageError
from optishear.pruning.solved import SolvedLayers, stored_bytes
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import solver_of


BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def drawn(rows=7, columns=13, share=0.6, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(rows, columns, generator=generator) >= share
    weight = torch.randn(rows, columns, generator=generator).to(dtype).masked_fill(~keep, 0)
    return LayerSolution(weight, keep, 0.1 + seed, 0.01, ("raised once",))


def store_in(folder, identity="one measure", memory=10**6, **limits):
    return SolvedLayers(folder, identity, memory, **limits)


def assert_same(stored, solution):
    out = torch.full_like(solution.weight, float("nan"))
    stored.write_into(out)
    whole = BITS[out.dtype]
    assert torch.equal(out.view(whole), solution.weight.contiguous().view(whole))
    assert torch.equal(stored.keep, solution.keep)
    assert stored.kept == int(solution.keep.sum())
    assert (stored.cost, stored.damping, stored.notes) == (
        solution.cost,
        solution.damping,
        solution.notes,
    )


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 8), (7, 13), (300, 701)])
def test_a_solution_comes_back_bit_for_bit(tmp_path, dtype, share, rows, columns):
    solution = drawn(rows, columns, share, dtype)
    store_in(tmp_path).put("q", solution)
    assert_same(store_in(tmp_path).get("q"), solution)  # another run's store


@pytest.mark.parametrize("kind", ["plain", "bfloat16"])
@pytest.mark.parametrize("solver", [{"name": "mask"}, {"name": "refit", "of": "mask"}])
def test_what_a_solver_gives_comes_back(tmp_path, kind, solver):
    problem = SmallLayer(kind).problem(251)
    solution = solver_of(Recipe.of({"name": "wanda"}, {}, "row", solver).default).solve(problem)
    store = store_in(tmp_path)
    store.put("q", solution)
    assert_same(store.get("q"), solution)


def test_kept_weights_may_be_zero_and_need_not_be_numbers(tmp_path):
    keep = torch.tensor([[True, True, False], [True, False, True]])
    weight = torch.tensor([[0.0, -0.0, 0.0], [float("nan"), 0.0, float("-inf")]])
    solution = LayerSolution(weight, keep)
    store = store_in(tmp_path)
    store.put("q", solution)
    assert_same(store.get("q"), solution)


@pytest.mark.parametrize("value", [0.5, -0.0])
def test_a_solution_that_is_not_zero_off_its_mask_is_refused(tmp_path, value):
    weight, keep = torch.full((2, 3), value), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="not exactly zero where nothing is kept"):
        store_in(tmp_path).put("q", LayerSolution(weight, keep))


def test_transposed_and_partial_weights_are_written_where_they_lie(tmp_path):
    solution = drawn()
    store = store_in(tmp_path)
    store.put("q", replace(solution, weight=solution.weight.T.contiguous().T))
    stored = store.get("q")
    experts = torch.full((3, 13, 7), 5.0)
    stored.write_into(experts[1].T)
    assert torch.equal(experts[1].T, solution.weight)
    assert (experts[::2] == 5).all()
    parameter = torch.nn.Parameter(torch.ones(7, 13))
    stored.write_into(parameter)
    assert torch.equal(parameter.detach(), solution.weight)


@pytest.mark.parametrize("out", [torch.ones(13, 7), torch.ones(7, 13, dtype=torch.bfloat16)])
def test_a_weight_of_another_shape_or_dtype_is_refused(tmp_path, out):
    store = store_in(tmp_path)
    store.put("q", drawn())
    with pytest.raises(ValueError, match=r"float32 layer of \(7, 13\)"):
        store.get("q").write_into(out)


def test_writing_into_a_weight_never_changes_what_is_stored(tmp_path):
    solution, store = drawn(share=0.0), store_in(tmp_path)
    store.put("q", solution)
    out = torch.empty(7, 13)
    store.get("q").write_into(out)
    out.fill_(3)
    assert_same(store.get("q"), solution)


def test_keys_and_measures_are_kept_apart(tmp_path):
    store, other = store_in(tmp_path), store_in(tmp_path, "another measure")
    store.put("q 0.5", drawn(seed=1))
    store.put("q 0.6", drawn(seed=2))
    assert "q 0.5" in store
    assert "q 0.7" not in store
    assert store.get("q 0.7") is None
    assert "q 0.5" not in other
    assert other.get("q 0.5") is None
    assert_same(store.get("q 0.6"), drawn(seed=2))
    assert_same(store.get("q 0.5"), drawn(seed=1))


def test_each_measure_s_folder_says_whose_it_is(tmp_path):
    for identity in ("one measure", "another measure"):
        store_in(tmp_path, identity)
    texts = sorted(path.read_text() for path in tmp_path.glob("*/identity.txt"))
    assert texts == ["another measure\n", "one measure\n"]


def test_the_last_put_counts_also_where_the_first_was_read(tmp_path):
    store = store_in(tmp_path)
    for seed in (1, 2):
        store.put("q", drawn(seed=seed))
        assert_same(store.get("q"), drawn(seed=seed))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-3])


def zeroed(path):
    data = path.read_bytes()
    path.write_bytes(data[:-40] + bytes(40))


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, zeroed, emptied])
def test_a_damaged_file_is_as_if_it_were_not_there_and_is_replaced(tmp_path, caplog, damage):
    store_in(tmp_path).put("q", drawn())
    (path,) = tmp_path.glob("*/*.safetensors")
    damage(path)
    store = store_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert store.get("q") is None
    assert "is made anew" in caplog.text
    store.put("q", drawn())
    assert_same(store.get("q"), drawn())


def test_a_file_under_another_layer_s_name_is_not_taken_for_it(tmp_path, caplog):
    store = store_in(tmp_path)
    store.put("q", drawn(seed=1))
    (path,) = tmp_path.glob("*/*.safetensors")
    store.put("k", drawn(seed=2))
    (other,) = set(tmp_path.glob("*/*.safetensors")) - {path}
    other.write_bytes(path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert store.get("k") is None
    assert "another format or layer" in caplog.text


def test_a_kill_while_writing_leaves_no_file_under_the_layer_s_name(tmp_path, monkeypatch):
    store = store_in(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.put("q", drawn())
    assert "q" not in store
    assert [path.name for path in tmp_path.glob("*/*")] == ["identity.txt"]


def test_what_fits_into_memory_stays_there_the_least_recently_used_goes_first(tmp_path):
    one = 4 * int(drawn(share=0.0).keep.sum()) + 12
    store = store_in(tmp_path, memory=2 * one)
    for key in "qkv":
        store.put(key, drawn(share=0.0))
    q, k = store.get("q"), store.get("k")
    assert q.bytes == one
    assert store.get("q") is q  # and is younger now
    store.get("v")
    store.put("v", drawn(share=0.0))  # what was read of it is gone, and its bytes are free
    store.get("v")
    assert store.get("q") is q
    assert store.get("k") is not k
    assert_same(k, drawn(share=0.0))  # what was handed out stays whole


def test_without_any_memory_every_use_reads_the_file(tmp_path):
    store = store_in(tmp_path, memory=0)
    store.put("q", drawn())
    assert_same(store.get("q"), drawn())
    assert store.get("q") is not store.get("q")


def test_the_disk_limit_holds_for_all_measures_and_says_what_to_do(tmp_path):
    store_in(tmp_path, "old").put("q", drawn())
    (path,) = tmp_path.glob("*/*.safetensors")
    size = path.stat().st_size
    store = store_in(tmp_path, disk_bytes=3 * size)
    for _ in range(3):
        store.put("q", drawn())  # over and over, it takes its place once
    store.put("k", drawn())
    with pytest.raises(StorageError) as raised:
        store.put("v", drawn())
    sentence = str(raised.value)
    assert f"would take {4 * size:,} bytes with the next one" in sentence
    assert f"their limit is {3 * size:,}. Raise the limit, use fewer sparsity.steps" in sentence
    assert f"folders of other measures there, which take {size:,} bytes" in sentence
    assert "v" not in store
    assert_same(store.get("k"), drawn())
    with pytest.raises(StorageError):  # what lies there counts when a store is opened, too
        store_in(tmp_path, disk_bytes=3 * size).put("v", drawn())


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another cache folder"):
        store_in(tmp_path / "file")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bytes_of_a_plan_are_those_of_its_files(tmp_path, dtype):
    solutions = {"q": drawn(30, 41, dtype=dtype), "k": drawn(7, 13, dtype=dtype)}
    layers = [Layer(n, 0, n, *s.weight.shape, n) for n, s in solutions.items()]
    drop = {name: int((~s.keep).sum()) for name, s in solutions.items()}
    store = store_in(tmp_path)
    for name, solution in solutions.items():
        store.put(name, solution)
    planned = stored_bytes(layers, drop, dtype.itemsize)
    assert planned == sum(store.get(name).bytes for name in solutions)
    files = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert planned < files < planned + 2 * 1024
