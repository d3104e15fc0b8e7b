"""Streaming writes what the whole model would have been written as, also after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from drift import Drift
from filelock import FileLock
from tiny_folders import tensors_of, tiny_folder

from optishear.calibration.gradient_file import GradientFile
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.streamed_gradients import BlockByBlock
from optishear.errors import ConfigError, StorageError
from optishear.export import half_done
from optishear.export.half_done import STATE_FOLDER, HalfDone
from optishear.export.rewritten import Rewritten
from optishear.metrics import METRICS
from optishear.models.blocks import BlockStack, Entangled
from optishear.models.hidden_files import HiddenFiles
from optishear.pruning.reconstruction import WindowReport
from optishear.recipe.recipe import Recipe
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.runs.watcher import Silent
from optishear.solvers.methods import METHODS, needs_of
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed, room_note
from optishear.tools.verify import verify


# Two batches of few sequences: what is done a sequence costs the same however long they are.
HOW = How(TextSpec("embedded", "train", 5, 512), gradient_sequences=3)
WANDA = NamedMethod("wanda", 0.5).on
SPARSEGPT = NamedMethod("sparsegpt", 0.5).on
MOONSHOT = NamedMethod("moonshot-wanda", 0.5).on
DEEP = {"num_hidden_layers": 3}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Three blocks in bf16, in shards, embeddings tied."""
    return tiny_folder("qwen2", tmp_path_factory.mktemp("dense"), torch.bfloat16, **DEEP)


@pytest.fixture(scope="module")
def unbroken(dense, tmp_path_factory):
    """SparseGPT, never stopped."""
    folder = tmp_path_factory.mktemp("unbroken") / "pruned"
    prune_streamed(str(dense), SPARSEGPT, folder, HOW)
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def described(folder):
    """What lies beside the weights, but for their hashes."""
    shards = ("safetensors", "sha256")
    return {n: text for n, text in files_of(folder).items() if not any(s in n for s in shards)}


def assert_same_checkpoint(streamed, whole):
    """The same tensors, and the same files but for how they are cut into shards."""
    got, want = tensors_of(streamed), tensors_of(whole)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name
    assert described(streamed) == described(whole)


def both(dense, recipe_for, tmp_path, how=HOW):
    """With a cache each, so that neither reads the other's gradients."""
    whole, _ = prune_to(str(dense), recipe_for, tmp_path / "whole", how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
        streamed, written = prune_streamed(str(dense), recipe_for, tmp_path / "streamed", how)
    assert written
    assert_same_checkpoint(tmp_path / "streamed", tmp_path / "whole")
    assert replace(streamed, folder=whole.folder, bytes=whole.bytes) == whole
    return whole


def by_role(methods):
    """One prune in which each of these methods has a role of its own; the first has the rest."""
    parts = {name: METHODS[name].parts for name in methods}
    roles = [
        (role, {"metric": of.metric, "pattern": of.pattern.text, "solver": of.solver})
        for role, of in zip(ROLES, parts.values(), strict=False)
    ]
    lam = METHODS[methods[0]].moonshot_lambda
    mixed = {} if lam == 1 else {"moonshot_lambda": lam, "moonshot_roles": "all"}
    return NamedMethod(methods[0], 0.5, roles=tuple(roles), **mixed).on


ROLES = [f"self_attn.{part}_proj" for part in "qkvo"]
ROLES += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
MIXED = [name for name, method in METHODS.items() if method.moonshot_lambda != 1]
SHIFTED = [name for name, method in METHODS.items() if method.only_by_block]  # test_shifted_prune
PLAIN = [name for name in METHODS if name not in MIXED + SHIFTED]


@pytest.mark.parametrize("methods", [["magnitude"], PLAIN, MIXED], ids=["alone", "plain", "mixed"])
def test_every_method_writes_what_the_whole_model_would_be(methods, dense, tmp_path):
    """Magnitude alone reads nothing of the text."""
    assert len(methods) <= len(ROLES)
    made = []
    both(dense, lambda prepared: made.append(by_role(methods)(prepared)) or made[-1], tmp_path)
    assert len(made[0].every) == len(methods)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "mixtral", "qwen2_moe"])
def test_every_architecture_writes_what_the_whole_model_would_be(kind, tmp_path):
    longer = {"max_position_embeddings": 512} if kind == "opt" else {}
    both(tiny_folder(kind, tmp_path / "dense", torch.bfloat16, **longer), SPARSEGPT, tmp_path)


REFITTED = {"solver": {"name": "refit", "of": "mask"}, "pattern": "row", "damping": 0.1}


@pytest.mark.parametrize(
    ("method", "how"),
    [
        (
            NamedMethod("wanda", 0.5, pattern="2:4", roles=(("mlp.*", REFITTED),)),
            replace(HOW, dtype="bfloat16"),
        ),
        (NamedMethod("moonshot-sparsegpt", 0.5), replace(HOW, sequential=False)),
        (NamedMethod("wanda", 0.5, moonshot_lambda=0.0), HOW),
    ],
    ids=["2:4 and refit in bfloat16", "one-shot", "taylor alone"],
)
def test_every_way_writes_what_the_whole_model_would_be(method, how, dense, tmp_path):
    both(dense, method.on, tmp_path, how)


def recipe_in(folder):
    return json.loads((folder / "optishear_recipe.json").read_text())


def test_a_recipe_from_a_file_that_changes_the_last_block_alone(dense, unbroken, tmp_path):
    """The first blocks keep all their weights; the last is updated in fp32 and written in bf16."""
    made = recipe_in(unbroken)
    drop = {name: n if ".2." in name else 0 for name, n in made["drop"].items()}
    recipe = Recipe.from_json({**made, "drop": drop}, "test")
    assert both(dense, lambda _: recipe, tmp_path).dtype == "bfloat16"


def test_a_metric_that_reads_gradients_and_no_inputs(dense, unbroken, tmp_path):
    metric = {"name": "tree", "formula": "mul(sqr(W), mms(G))"}
    recipe = Recipe.of(metric, recipe_in(unbroken)["drop"], "row")
    assert needs_of(recipe) == {LayerGradients}
    both(dense, lambda _: recipe, tmp_path)
    assert tensors_of(tmp_path / "whole").keys() == tensors_of(unbroken).keys()


def test_a_metric_that_reads_both_streams(dense, unbroken, tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "drift", Drift)
    recipe = Recipe.of({"name": "drift"}, recipe_in(unbroken)["drop"], "row")
    both(dense, lambda _: recipe, tmp_path)
    broken = prune_until(
        HalfDone, "done", 3, dense, tmp_path / "pruned", monkeypatch, lambda _: recipe
    )
    assert {path.name for path in (broken / STATE_FOLDER).iterdir()} >= {"hidden", "dense"}
    prune_streamed(str(dense), lambda _: recipe, broken, HOW)
    assert files_of(broken) == files_of(tmp_path / "streamed")


MOVED = {"epochs": 1, "learning_rate": 2e-3, "batch": 3}


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({"name": "block", "norms": True}, SPARSEGPT),
        ({"name": "half", "inputs": "dense"}, NamedMethod("magnitude", 0.5).on),
        ({"name": "half"}, NamedMethod("wanda", 0.5, quadratic={"target_shift": 0.5}).on),
    ],
    ids=["block with norms", "dense halves without statistics", "halves beside a shift"],
)
def test_a_reconstruction_goes_the_same_way_bit_for_bit(said, method, dense, tmp_path, monkeypatch):
    settings = ReconstructionSettings.of({**MOVED, **said})

    def recipe_for(prepared):
        return replace(method(prepared), reconstruct=settings)

    checked = both(dense, recipe_for, tmp_path)
    windows = json.loads((tmp_path / "whole" / "optishear_windows.json").read_text())
    assert len(windows) == (3 if settings.window == "block" else 6)
    assert all(window["after"] <= window["before"] for window in windows)
    assert checked.notes[0].startswith("reconstruction: ")
    # Killed in the middle of the second block's windows, once the first is counted.
    count = 1 + len(windows) // 3
    folder = prune_until(
        WindowReport, "__init__", count, dense, tmp_path / "half", monkeypatch, recipe_for
    )
    prune_streamed(str(dense), recipe_for, folder, HOW)
    assert files_of(folder) == files_of(tmp_path / "streamed")
    checks = verify(tmp_path / "streamed", None, False, "cpu", Silent())
    assert {check.name: check.found for check in checks if check.status == "failed"} == {}


def test_a_streamed_folder_is_verified_and_pruned_anew_bit_for_bit(unbroken):
    checks = verify(unbroken, None, True, "cpu", Silent())
    assert {check.name: check.status for check in checks if check.status != "ok"} == {
        "n:m groups": "info"  # the pattern is another
    }


def test_a_second_call_finds_it_done_and_so_does_the_whole_model(dense, unbroken):
    before = files_of(unbroken)
    for way in (prune_streamed, prune_to):
        checked, written = way(str(dense), SPARSEGPT, unbroken, HOW)
        assert not written
        assert checked.layers == 21
    assert files_of(unbroken) == before


def prune_until(owner, name, count, dense, folder, monkeypatch, recipe_for=SPARSEGPT):
    """Stopped when this method is called for the time of that number."""
    calls, real = [], getattr(owner, name)

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, called)
        with pytest.raises(KeyboardInterrupt):
            prune_streamed(str(dense), recipe_for, folder, HOW)
    return folder


POINTS = [
    (HalfDone, "write", 2),  # outside of the blocks
    (HalfDone, "write", 4),  # the second block is pruned, not written
    (HiddenFiles, "__setitem__", 5),  # its states are half written
    (HiddenFiles, "tidy", 3),  # it is counted, the old states are still there
    (HalfDone, "finish", 1),
    (half_done, "write_index", 1),
]


@pytest.mark.parametrize(("owner", "name", "count"), POINTS)
def test_wherever_it_stops_it_goes_on_to_the_same_bytes(
    owner, name, count, dense, unbroken, tmp_path, monkeypatch
):
    prune_until(owner, name, count, dense, tmp_path / "pruned", monkeypatch)
    assert (tmp_path / "pruned" / STATE_FOLDER).is_dir()
    assert not (tmp_path / "pruned" / "optishear_recipe.json").exists()
    prune_streamed(str(dense), SPARSEGPT, tmp_path / "pruned", HOW)
    assert files_of(tmp_path / "pruned") == files_of(unbroken)


def test_blocks_that_are_done_are_not_pruned_again(dense, half, unbroken, monkeypatch):
    """The second one is written, but not counted."""
    written, write = [], HalfDone.write
    monkeypatch.setattr(
        HalfDone, "write", lambda self, part: (written.append(part), write(self, part))[1]
    )
    prune_streamed(str(dense), SPARSEGPT, half, HOW)
    assert written == ["model.layers.1", "model.layers.2"]
    assert files_of(half) == files_of(unbroken)


KILLED = """
import os, signal, sys
from optishear.cli import app
from optishear.export.half_done import HalfDone
done = HalfDone.done
def struck(self, block, *found):
    if block == 2:  # its shard and its hidden states are written, but not counted
        (self.state_folder / "model-00004-of-00005.safetensors.tmp").write_text("half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    done(self, block, *found)
HalfDone.done = struck
app(sys.argv[1:])
"""


def test_after_kill_9_the_same_command_goes_on_to_the_same_bytes(dense, unbroken, tmp_path):
    folder = tmp_path / "pruned"
    text = HOW.calibration
    words = ["prune", "--stream", "--model", dense, "--method", "sparsegpt", "--sparsity", 0.5]
    words += ["--text", "embedded", "--sequences", text.sequences, "--seq-len", text.seq_len]
    words += ["--to", folder]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    state = json.loads((folder / STATE_FOLDER / "state.json").read_text())
    assert state["block"] == 1
    prune_streamed(str(dense), SPARSEGPT, folder, HOW)
    assert files_of(folder) == files_of(unbroken)


@pytest.fixture(scope="module")
def stopped(dense, tmp_path_factory):
    """Stopped when one block was done."""
    with pytest.MonkeyPatch.context() as patch:
        return prune_until(HalfDone, "done", 2, dense, tmp_path_factory.mktemp("half"), patch)


@pytest.fixture
def half(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "half"))


@pytest.mark.parametrize(
    ("recipe_for", "how", "what"),
    [
        (NamedMethod("sparsegpt", 0.6).on, HOW, "another recipe"),
        (SPARSEGPT, replace(HOW, sequential=False), "another mode"),
        (SPARSEGPT, replace(HOW, dtype="bfloat16"), "another dtype"),
        (
            SPARSEGPT,
            replace(HOW, calibration=TextSpec("embedded", "train", 8, 64)),
            "another calibration, calibration_hash",
        ),
    ],
)
def test_other_arguments_in_a_half_done_folder_are_refused(recipe_for, how, what, half, dense):
    with pytest.raises(ConfigError, match=f"holds a half-done pruning with {what}. Give the same"):
        prune_streamed(str(dense), recipe_for, half, how)
    with pytest.raises(ConfigError, match="is not empty"):
        prune_to(str(dense), recipe_for, half, how)


def test_another_model_in_a_half_done_folder_is_refused(half, tmp_path):
    other = tiny_folder("qwen2", tmp_path / "other", torch.float32, **DEEP)
    with pytest.raises(ConfigError, match="another model, model_hash"):
        prune_streamed(str(other), SPARSEGPT, half, HOW)


@pytest.mark.parametrize("damage", ["{", "[]", '{"block": 1}', '{"block": NaN}'])
def test_a_damaged_state_of_what_is_half_done_says_how_to_begin_again(damage, half, dense):
    state = half / "optishear_stream" / "state.json"
    state.write_text(damage)
    with pytest.raises(ConfigError, match=rf"state\.json: .*Empty {half} and begin again"):
        prune_streamed(str(dense), SPARSEGPT, half, HOW)


def test_a_shard_that_has_gone_since_is_named(half, dense):
    gone = sorted(half.glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(ConfigError, match=f"without {gone.name}, which was written"):
        prune_streamed(str(dense), SPARSEGPT, half, HOW)


def test_hidden_states_that_are_cut_off_are_named(half, dense):
    [states] = half.glob(f"{STATE_FOLDER}/hidden/1/0.safetensors")
    states.write_bytes(states.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"hidden/1/0.safetensors: cannot be read"):
        prune_streamed(str(dense), SPARSEGPT, half, HOW)


def test_two_at_a_time_are_refused(half, dense):
    with FileLock(half / STATE_FOLDER / "lock"):
        with pytest.raises(ConfigError, match="somebody else is writing it"):
            prune_streamed(str(dense), SPARSEGPT, half, HOW)


def test_a_folder_with_something_else_in_it_is_left_alone(dense, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty"):
        prune_streamed(str(dense), WANDA, tmp_path / "mine", HOW)
    assert files_of(tmp_path / "mine") == {"thesis.txt": b"precious"}


@pytest.fixture(scope="module")
def mixed(dense, tmp_path_factory):
    """MOONSHOT, never stopped, with a cache of its own."""
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTISHEAR_CACHE", str(folder / "cache"))
        prune_streamed(str(dense), MOONSHOT, folder / "pruned", HOW)
    return folder / "pruned"


def test_gradients_that_the_whole_model_has_are_not_taken_again(dense, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    prune_to(str(dense), MOONSHOT, tmp_path / "whole", HOW)
    monkeypatch.setattr(BlockByBlock, "__call__", lambda *_: pytest.fail("taken again"))
    prune_streamed(str(dense), MOONSHOT, tmp_path / "streamed", HOW)
    assert_same_checkpoint(tmp_path / "streamed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("owner", "name", "count"), [(GradientFile, "write", 20), (HalfDone, "done", 2)]
)
def test_stopped_while_or_after_gradients_are_taken_it_goes_on_to_the_same_bytes(
    owner, name, count, dense, mixed, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    prune_until(owner, name, count, dense, tmp_path / "pruned", monkeypatch, MOONSHOT)
    prune_streamed(str(dense), MOONSHOT, tmp_path / "pruned", HOW)
    assert files_of(tmp_path / "pruned") == files_of(mixed)


def test_blocks_that_cannot_be_run_apart_are_refused_in_a_sentence(dense, tmp_path, monkeypatch):
    def entangled(*_args, **_more):
        raise Entangled("block 1 alone fails")

    monkeypatch.setattr(BlockStack, "prove", entangled)
    with pytest.raises(
        ConfigError, match=r"cannot be run block by block \(model.layers\): block 1"
    ):
        prune_streamed(str(dense), WANDA, tmp_path / "to", HOW)


def test_a_shard_that_reads_back_otherwise_is_found(dense, tmp_path, monkeypatch):
    block = Rewritten.block

    def off(self, part):
        return {name: tensor * 1.5 for name, tensor in block(self, part).items()}

    monkeypatch.setattr(Rewritten, "block", off)
    with pytest.raises(StorageError, match="logits differ"):
        prune_streamed(str(dense), WANDA, tmp_path / "to", HOW)
    assert not (tmp_path / "to" / "optishear_recipe.json").exists()


def test_who_runs_short_of_memory_is_told_of_streaming(dense, monkeypatch):
    assert room_note(str(dense), "float32", "cpu") is None
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 100_000}))
    text = room_note(str(dense), "float32", "cpu")
    assert "--stream" in text
    assert "0.0001 GB are free" in text
    assert room_note(str(dense), "float32", "cuda") is None
