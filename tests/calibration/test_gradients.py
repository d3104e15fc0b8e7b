"""Gradients are those of autograd, kept in fp16 on disk, and the model is as it was before."""

import gc
import json
import math
import os
import shutil
import threading
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import TINY, tokens
from waiting import until

from optishear.calibration import gradient_file, gradients
from optishear.calibration.gradient_samples import sequence_by_sequence
from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.calibration.gradients import LayerGradients
from optishear.errors import ConfigError, StorageError
from optishear.models.discover import layout_of
from optishear.models.weights import view_of
from optishear.recipe.layout import Layer, ModelLayout


SEQUENCES = tokens(3, 12, seed=1)
CPU = torch.device("cpu")


@pytest.fixture(params=TINY)
def model(request):
    return TINY[request.param]()


@pytest.fixture
def llama():
    return TINY["llama"]()


@pytest.fixture
def layout(llama):
    return layout_of(llama)


@pytest.fixture
def layer_gradients():
    """Of a layer of 7 outputs and 5 inputs, with samples of very different size."""
    generator = torch.Generator().manual_seed(3)
    stored = torch.randn(7, 4, 5, generator=generator).half()
    return LayerGradients(stored, torch.tensor([1.0, 3e-9, 0.0, 200.0]))


def collect(cache, model, sequences=SEQUENCES, layout=None, notice=None, how=None):
    layout = layout or layout_of(model)  # which asks the model, too
    return load_or_collect_gradients(cache / "g", model, layout, sequences, notice, how)


def folders(cache):
    """What is kept there; beside it are the locks of those that collect."""
    return sorted(path for path in cache.iterdir() if path.is_dir())


def through_a_file(folder, layer, gradient):
    """One sample's gradient of one layer, written and read back, in fp64."""
    with open(folder / "numbers", "x+b", buffering=0) as handle:
        file = gradient_file.GradientFile(handle.fileno(), ModelLayout((layer,)), 1)
        file.write(0, layer.name, gradients.packed(gradient))
        stored = torch.frombuffer(bytearray(handle.read()), dtype=torch.float16)
    scale = torch.tensor(file.scales[layer.name])
    assert scale.isfinite().all()
    return whole(LayerGradients(stored.view(layer.out_features, 1, layer.in_features), scale))[0]


def by_autograd(model, layout, sequences=SEQUENCES):
    """[samples, out, in] in fp64 of each layer, with every parameter's gradient taken at once."""
    named = {layer.name: view_of(model, layer.name) for layer in layout.layers}
    parameters = list({id(p.parameter): p.parameter for p in named.values()}.values())
    samples = {name: [] for name in named}
    for sequence in sequences:
        logits = model(sequence[None], use_cache=False).logits[0].float()
        losses = -logits.log_softmax(-1)[range(len(sequence) - 1), sequence[1:]]
        found = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
        grads = {id(p): torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)}
        for name, place in named.items():
            samples[name].append(place.view(grads[id(place.parameter)]).double())
    return {name: torch.stack(parts) for name, parts in samples.items()}


def assert_same(got, want):
    """Equal up to fp16's rounding, and to 1e-5 of the sample's largest: the reference adds up the
    loss in another order."""
    assert got.shape == want.shape
    floor = want.abs().amax((1, 2), keepdim=True) * 1e-5
    assert ((got - want).abs() <= 2**-11 * want.abs() + floor).all()


def whole(gradient):
    """[samples, out, in] in fp64."""
    return gradient.rows(slice(None), CPU).double().transpose(0, 1)


def forbid(model):
    """The model must not be asked any more."""
    return model.register_forward_pre_hook(lambda *_: pytest.fail("collected again"))


def assert_equal(got, want):
    assert got.layers.keys() == want.layers.keys()
    for name, a in got.layers.items():
        assert torch.equal(a.stored, want.layers[name].stored)
        assert torch.equal(a.scale, want.layers[name].scale)


def state_of(model):
    weights = {name: (p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    return weights, {name: p.requires_grad for name, p in model.named_parameters()}


def assert_untouched(model, state):
    weights, flags = state
    for name, parameter in model.named_parameters():
        address, before = weights[name]
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, before), name
        assert parameter.grad is None, name
        assert parameter.requires_grad == flags[name], name
        assert not parameter._post_accumulate_grad_hooks, name


def test_every_layer_has_the_gradient_of_each_sequence_that_autograd_finds(tmp_path, model):
    layout = layout_of(model)
    store = load_or_collect_gradients(tmp_path / "g", model, layout, SEQUENCES)
    reference = by_autograd(model, layout)
    assert list(store.layers) == [layer.name for layer in layout.layers]
    assert store.samples == 3
    for layer in layout.layers:
        got = store.layers[layer.name]
        assert got.stored.shape == (layer.out_features, 3, layer.in_features)
        assert (got.stored.dtype, got.scale.dtype) == (torch.float16, torch.float32)
        assert_same(whole(got), reference[layer.name])


def test_numbers_that_are_far_smaller_than_the_largest_keep_eleven_bits(tmp_path):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(0, -8.2, 7 * 90).view(7, 90)
    gradient = 0.37 * sizes * (1 + torch.rand(7, 90, generator=generator))
    gradient[0, 0] = 1 - 2**-24  # the next fp16 number is the next power of two
    got = through_a_file(tmp_path, Layer("b.0.q", 0, "q", 7, 90, site="b.0.q"), gradient)
    assert ((got - gradient.double()).abs() <= 2**-11 * gradient.abs()).all()


def test_a_bf16_model_has_its_gradients_stored_without_rounding(tmp_path, llama):
    model = llama.to(torch.bfloat16)
    layout = layout_of(model)
    store = load_or_collect_gradients(tmp_path / "g", model, layout, SEQUENCES)
    reference = by_autograd(model, layout)
    for name, got in store.layers.items():
        numbers = whole(got)
        assert torch.equal(numbers, numbers.bfloat16().double())
        error = (numbers - reference[name]).norm() / reference[name].norm()
        assert error < 1e-2, name  # bf16's own: cross-entropy's gradient is rounded on the way


@pytest.mark.parametrize("size", [1e-12, 1e-25, 1e12])
def test_gradients_of_any_size_neither_underflow_nor_overflow(tmp_path, llama, layout, size):
    with torch.no_grad():
        llama.lm_head.weight.mul_(size)
    store = collect(tmp_path, llama, layout=layout)
    reference = by_autograd(llama, layout)
    for name, got in store.layers.items():
        assert got.stored.isfinite().all()
        assert got.stored.abs().amax((0, 2)).min() >= 2**14  # the fp16 range is used
        assert_same(whole(got), reference[name])


@pytest.mark.parametrize("size", [1e-44, 3e-39, 1.7e-38, 1e-30, 1.0, 3e38])
def test_a_gradient_at_the_ends_of_fp32_is_kept(tmp_path, size):
    gradient = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) * size
    got = through_a_file(tmp_path, Layer("b.0.q", 0, "q", 7, 5, site="b.0.q"), gradient)
    assert_same(got[None], gradient[None].double())


@pytest.mark.parametrize("kind", ["mixtral", "list_moe", "gpt_oss"])
def test_experts_that_a_sequence_does_not_reach_have_exactly_zero_gradients(tmp_path, kind, caplog):
    model = TINY[kind]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("mlp.gate.weight", "mlp.router.weight")):
                parameter.zero_()  # ties: the same experts are chosen for all tokens
    store = collect(tmp_path, model)
    reference = by_autograd(model, layout_of(model))
    silent = {name for name, want in reference.items() if not want.any()}
    assert silent
    for name, got in store.layers.items():
        assert bool(got.stored.any()) == (name not in silent)
        if name in silent:
            assert torch.equal(got.scale, torch.zeros(3))
            assert got.taylor(torch.ones(got.stored.shape[0], got.stored.shape[2])) == 0
    assert f"{len(silent)} of {len(store.layers)} layers have no gradient" in caplog.text
    assert "use more gradient sequences" in caplog.text


def test_an_expert_that_one_sequence_reaches_has_its_gradient_in_the_right_sample(tmp_path):
    model = TINY["list_moe"]()
    sequences = tokens(6, 2, seed=5)
    store = collect(tmp_path, model, sequences)
    reference = by_autograd(model, layout_of(model), sequences)
    mixed = 0
    for name, got in store.layers.items():
        reached = reference[name].flatten(1).any(1)
        mixed += bool(reached.any() and not reached.all())
        assert torch.equal(got.scale != 0, reached)
        assert torch.equal(got.stored.any(0).any(-1), reached)
    assert mixed


@pytest.fixture
def change():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("rows_at_once", [0.5, 1, 2, 3, 6, 7, 8])
def test_rows_taylor_and_mean_square_are_those_of_a_slow_reference_in_chunks_of_any_size(
    layer_gradients, change, monkeypatch, rows_at_once
):
    stored, scale = layer_gradients.stored.double(), layer_gradients.scale.double()
    g = torch.zeros(7, 4, 5, dtype=torch.float64)
    taylor, square = 0.0, torch.zeros(7, 5, dtype=torch.float64)
    for row, sample in product(range(7), range(4)):
        g[row, sample] = stored[row, sample] * scale[sample]
        taylor += 0.5 * (g[row, sample] @ change[row].double()).item() ** 2 / 4
        square[row] += g[row, sample] ** 2 / 4
    monkeypatch.setattr(gradients, "CHUNK_BYTES_CPU", int(rows_at_once * 4 * 4 * 5))
    chunks = layer_gradients.chunks(CPU)
    assert len(chunks) == math.ceil(7 / max(1, rows_at_once))
    got = torch.cat([layer_gradients.rows(rows, CPU) for rows in chunks])
    torch.testing.assert_close(got.double(), g, rtol=1e-6, atol=0)
    assert layer_gradients.taylor(change) == pytest.approx(taylor, rel=1e-6)
    got = layer_gradients.mean_square(CPU).double()
    torch.testing.assert_close(got, square, rtol=1e-6, atol=0)


def test_taylor_adds_up_over_rows_and_not_over_inputs(layer_gradients, change):
    parts = []
    for row in range(7):
        one = torch.zeros_like(change)
        one[row] = change[row]
        parts.append(layer_gradients.taylor(one))
    want = layer_gradients.taylor(change)
    assert sum(parts) == pytest.approx(want, rel=1e-6)
    columns = [layer_gradients.taylor(change * (torch.arange(5) == column)) for column in range(5)]
    assert sum(columns) != pytest.approx(want, rel=1e-2)


def test_taylor_is_quadratic_in_the_change(layer_gradients, change):
    once = layer_gradients.taylor(change)
    assert once > 0
    assert layer_gradients.taylor(-3 * change) == pytest.approx(9 * once, rel=1e-6)
    assert layer_gradients.taylor(0 * change) == 0


def test_the_second_call_reads_what_the_first_collected(tmp_path, model):
    layout = layout_of(model)
    first = load_or_collect_gradients(tmp_path / "g", model, layout, SEQUENCES)
    forbid(model)
    second = load_or_collect_gradients(tmp_path / "g", model, layout, SEQUENCES)
    assert_equal(second, first)
    assert (second.seconds, second.bytes, second.samples) == (first.seconds, first.bytes, 3)
    assert second.folder == first.folder == folders(tmp_path)[0]
    assert first.seconds > 0
    assert first.bytes == sum(file.stat().st_size for file in first.folder.iterdir())
    assert first.bytes > 2 * 3 * layout.total


def test_numbers_are_mapped_from_the_file_and_hold_on_to_it(tmp_path, llama):
    store = collect(tmp_path, llama)
    numbers = [gradient.stored for gradient in store.layers.values()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in numbers}) == 1
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if str(store.folder) in line]
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    assert start <= numbers[0].data_ptr() < numbers[-1].data_ptr() < end
    assert line.split()[1] == "r--s"
    del store
    gc.collect()
    assert numbers[-1].isfinite().all()  # still mapped


def _change_scale(index):
    data = json.loads(index.read_text())
    next(iter(data["layers"].values()))["scale"][0] *= 2
    index.write_text(json.dumps(data))


DAMAGES = {
    "numbers cut": lambda numbers, _: os.truncate(numbers, numbers.stat().st_size - 2),
    "numbers grown": lambda numbers, _: os.truncate(numbers, numbers.stat().st_size + 2),
    "numbers lost": lambda numbers, _: numbers.unlink(),
    "index lost": lambda _, index: index.unlink(),
    "index cut": lambda _, index: os.truncate(index, 100),
    "index of bytes": lambda _, index: index.write_bytes(b"\xff\xfe\0"),
    "index of a list": lambda _, index: index.write_text('["a"]'),
    "index of a word": lambda _, index: index.write_text('"a"'),
    "index without a checksum": lambda _, index: index.write_text("{}"),
    "a scale changed": lambda _, index: _change_scale(index),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_collected_anew_with_a_warning(tmp_path, llama, layout, damage, caplog):
    first = collect(tmp_path / "a", llama)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (folder,) = folders(tmp_path / "b")
    DAMAGES[damage](folder / gradient_file.NUMBERS, folder / gradient_file.INDEX)
    with caplog.at_level("WARNING"):
        assert_equal(collect(tmp_path / "b", llama), first)
    assert f"{folder} is damaged" in caplog.text
    forbid(llama)
    assert_equal(collect(tmp_path / "b", llama, layout=layout), first)
    assert folders(tmp_path / "b") == [folder]


def test_a_disk_too_full_is_refused_before_the_model_is_asked(tmp_path, llama, layout, monkeypatch):
    size = 2 * 3 * layout.total
    room = {"free": size - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(**room))
    told = []
    hook = forbid(llama)
    with pytest.raises(StorageError, match=rf"of 3 sequences take {size:,} bytes.*fewer gradient"):
        collect(tmp_path, llama, layout=layout, notice=told.append)
    hook.remove()
    assert not folders(tmp_path)
    assert not told
    room["free"] += 1
    collect(tmp_path, llama)


@pytest.mark.parametrize("way", ["an error", "a part of a row"])
def test_a_write_that_fails_halfway_leaves_nothing_behind(tmp_path, llama, monkeypatch, way):
    state, calls, write = state_of(llama), [], os.pwrite

    def full(handle, data, offset):
        calls.append(offset)
        if len(calls) < 200:
            return write(handle, data, offset)
        if way == "an error":
            raise OSError(28, "No space left on device")
        return write(handle, bytes(data)[:4], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="fewer gradient sequences than 3"):
        collect(tmp_path, llama)
    assert len(calls) == 200
    assert not folders(tmp_path)
    assert_untouched(llama, state)


def test_the_cache_folder_is_made_when_it_is_missing_if_it_can_be(tmp_path, llama):
    collect(tmp_path / "a" / "b", llama)
    (folder,) = folders(tmp_path / "a" / "b")
    assert folder.stat().st_mode == (tmp_path / "a").stat().st_mode
    with pytest.raises(StorageError, match="could not be kept"):
        collect(folder / gradient_file.INDEX / "b", llama)


def test_one_of_two_processes_collects_and_the_other_waits_for_it(tmp_path, llama, layout):
    begun, go_on, stores = threading.Event(), threading.Event(), []

    def slowly(tokens, keep):
        begun.set()
        go_on.wait()
        sequence_by_sequence(llama, layout)(tokens, keep)

    def run(model, how):
        stores.append(collect(tmp_path, model, layout=layout, how=how))

    def never(tokens, keep):
        raise AssertionError("collected twice")

    pairs = (llama, slowly), (TINY["llama"](), never)
    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    threads[0].start()
    until(begun.is_set, still=threads[0].is_alive)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert stores[0].folder == stores[1].folder
    assert_equal(*stores)


def test_what_a_killed_process_left_is_removed(tmp_path, llama, layout):
    (tmp_path / ".g.0.half" / "g").mkdir(parents=True)
    (tmp_path / "others_work").mkdir()
    store = collect(tmp_path, llama, layout=layout)
    assert folders(tmp_path) == sorted([store.folder, tmp_path / "others_work"])


def test_files_are_bare_numbers_and_json(tmp_path, llama):
    store = collect(tmp_path, llama)
    assert len(list(store.folder.iterdir())) == 2
    json.loads((store.folder / gradient_file.INDEX).read_text())
    numbers = (store.folder / gradient_file.NUMBERS).read_bytes()
    want = torch.cat([gradient.stored.flatten() for gradient in store.layers.values()])
    assert numbers == want.numpy().tobytes()


def test_notices_state_size_and_count_before_and_seconds_after(tmp_path, llama, layout):
    told = []
    llama.register_forward_pre_hook(lambda *_: told.append("forward"))
    store = collect(tmp_path, llama, layout=layout, notice=told.append)
    first, *between, last = told
    assert first == "collecting gradients of 3 sequences: 0.1 MB on disk"
    assert between == ["forward"] * 3
    assert last == f"collected gradients of 3 sequences in {store.seconds:.1f} s"
    told.clear()
    collect(tmp_path, llama, layout=layout, notice=told.append)
    assert not told


def test_collecting_leaves_the_model_and_the_tokens_as_they_were(tmp_path, model):
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    state = state_of(model)
    sequences = SEQUENCES.clone()
    with torch.no_grad():  # as a caller may have it
        collect(tmp_path, model, sequences)
    assert torch.equal(sequences, SEQUENCES)
    assert_untouched(model, state)


def test_gradients_that_somebody_else_keeps_are_neither_counted_nor_lost(tmp_path, llama):
    want = collect(tmp_path / "a", llama)
    theirs = {}
    for name, parameter in llama.named_parameters():
        theirs[name] = parameter.grad = torch.ones_like(parameter)
    assert_equal(collect(tmp_path / "b", llama), want)
    assert all(p.grad is theirs[name] for name, p in llama.named_parameters())
    assert all((gradient == 1).all() for gradient in theirs.values())


def test_flags_and_gradients_are_given_back_after_an_exception_in_the_backward(
    tmp_path, llama, layout
):
    for index, parameter in enumerate(llama.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    state, calls = state_of(llama), []

    def fail(_gradient):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    def listen(_module, _args, out):
        out.register_hook(fail)

    llama.model.layers[1].mlp.register_forward_hook(listen)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, llama, layout=layout)
    assert len(calls) == 2
    assert_untouched(llama, state)
    assert not folders(tmp_path)


def test_only_prunable_parameters_need_a_gradient_and_no_two_have_one_at_once(
    tmp_path, llama, layout, monkeypatch
):
    held, flags, write = [], [], gradient_file.GradientFile.write

    def listen(file, number, name, sample):
        held.append([n for n, p in llama.named_parameters() if p.grad is not None])
        flags.append({n for n, p in llama.named_parameters() if p.requires_grad})
        write(file, number, name, sample)

    monkeypatch.setattr(gradient_file.GradientFile, "write", listen)
    collect(tmp_path, llama, layout=layout)
    assert held == 3 * 14 * [[]]
    assert flags == 3 * 14 * [{f"{layer.name}.weight" for layer in layout.layers}]


def test_a_gradient_that_is_not_finite_is_named(tmp_path, llama, layout):
    state = state_of(llama)
    hook = llama.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda _module, _args, out: out * (1e30 * F.relu(out) * 1e30)
    )
    with pytest.raises(ConfigError, match=r"Layer model\.layers\.1\..*not finite.*bf16 or fp32"):
        collect(tmp_path, llama, layout=layout)
    hook.remove()
    assert_untouched(llama, state)
    assert not folders(tmp_path)


def test_a_model_in_training_is_refused(tmp_path, llama, layout):
    with pytest.raises(ConfigError, match="training mode"):
        collect(tmp_path, llama.train(), layout=layout)


@pytest.mark.parametrize("shape", [(0, 12), (3, 1)])
def test_too_few_tokens_to_have_a_loss_are_refused(tmp_path, llama, shape):
    with pytest.raises(ConfigError, match="two tokens at least"):
        collect(tmp_path, llama, torch.zeros(shape, dtype=torch.int64))


def test_a_layout_of_another_model_is_refused(tmp_path, llama):
    with pytest.raises(ConfigError, match="belongs to another model"):
        collect(tmp_path, llama, layout=layout_of(TINY["gpt2"]()))
    assert not folders(tmp_path)
