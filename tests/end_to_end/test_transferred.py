"""A recipe found on one model, written for another, pruned there, and compared on held-out text."""

import json

import pytest
import torch
from test_checkpoint import saved
from typed import invoke

from optishear.calibration.origin import Origin, read_recipe, write_recipe
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.recipe.quadratic import canonical_quadratic
from optishear.recipe.recipe import Recipe
from optishear.records.run_directory import write_json
from optishear.runs.results import Entry, Front, front_to_json
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.prune import How, prune_to
from optishear.tools.transfer import UNIFORM, Source, Target, source_of_file, transfer_to
from optishear.tools.verify import verify


POWER = {"name": "power", "alpha": 1.2, "beta": 0.1, "gamma": 0.0, "delta": 0.7, "mix": 0.5}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny Llama on disk, and a recipe for it whose sparsity rises with depth."""
    folder = saved("llama", tmp_path_factory.mktemp("transfer") / "llama", torch.float32)
    layout = layout_of(load(str(folder)).model)
    drop = {x.name: x.size * (4 + 2 * x.block) // 10 for x in layout.layers}
    lambdas = {x.name: 0.5 for x in layout.layers if "q_proj" in x.role}
    return folder, layout, Recipe.of(POWER, drop, "layer", quadratic=canonical_quadratic(lambdas))


@pytest.fixture
def run(llama, tmp_path):
    """A finished run as its files say it, with that recipe as its front."""
    folder, layout, recipe = llama
    entry = Entry(recipe, {"sparsity": layout.sparsity(recipe.drop), "kl": 1.0})
    origin = Origin(str(folder), "0", "float32", run="abc")
    front = Front("tiny", {"sparsity": True, "kl": False}, "knee", layout, (entry,), origin)
    write_json(tmp_path / "run" / "manifest.json", {"status": "finished"})
    write_json(
        tmp_path / "run" / "front.json", front_to_json(front, {"sparsity": "", "kl": "nats"})
    )
    return tmp_path / "run"


def test_prune_takes_what_transfer_writes_and_verify_finds_it_in_order(run, llama, tmp_path):
    """From q, k, v and a gated MLP to GPT-2's fused attention, transposed."""
    target, to = saved("gpt2", tmp_path / "gpt2", torch.float32), tmp_path / "recipe.json"
    printed = json.loads(invoke("transfer", run, "--model", target, "--to", to, "--json").stdout)
    rules = {role["role"]: role["rule"] for role in printed["roles"]}
    assert rules == dict.fromkeys(
        ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"], "synonym"
    )
    recipe = Recipe.read(to)
    assert recipe.key == printed["recipe"]
    _, layout, source = llama
    own = layout_of(load(str(target)).model)
    assert sum(recipe.drop.values()) == round(layout.sparsity(source.drop) * own.total)
    prune_to(
        str(target), lambda _: recipe, tmp_path / "p", How(TextSpec("embedded", "train", 2, 64))
    )
    checks = verify(tmp_path / "p", None, False, "cpu", Silent())
    assert {check.status for check in checks} == {"ok", "info"}


def test_the_file_says_where_it_comes_from(run, llama, tmp_path):
    folder, _, recipe = llama
    invoke("transfer", run, "--model", "embedded", "--to", tmp_path / "recipe.json")
    made_with = json.loads((tmp_path / "recipe.json").read_text())["made_with"]
    assert made_with["transferred_from"] == {
        "run": "abc",
        "recipe": recipe.key,
        "model": str(folder),
        "model_hash": "0",
    }
    assert made_with["model"] == "embedded"
    assert made_with["model_hash"] == load("embedded").hash
    assert TextSpec(**made_with["calibration"]).source == "embedded"


def test_onto_its_own_model_a_run_and_a_recipe_file_give_the_very_recipe(run, llama, tmp_path):
    folder, _, recipe = llama
    write_recipe(tmp_path / "found.json", recipe, Origin(str(folder)))
    for place in ([run], ["--recipe", tmp_path / "found.json"]):
        words = ["transfer", *place, "--model", folder, "--to", tmp_path / "again.json", "--json"]
        assert json.loads(invoke(*words).stdout)["recipe"] == recipe.key


def compared(llama, metric, to, pattern="layer"):
    folder, layout, recipe = llama
    source = Source(Recipe.of(metric, recipe.drop, pattern), layout, Origin(str(folder)))
    calibration, held = (TextSpec("embedded", split, 3, 64) for split in ("train", "evaluation"))
    target = Target("embedded", 0.6, calibration=calibration, compare_on=held)
    _, rows = transfer_to(source, target, to, Silent())
    return rows


def test_the_comparison_has_the_same_sparsity_in_every_row_and_paired_errors(llama, tmp_path):
    to = tmp_path / "recipe.json"
    rows = compared(llama, POWER, to)
    names = [row["name"] for row in rows]
    once = ["wanda", UNIFORM, "found"]
    assert names == ["dense", *once, *(f"{name}, block by block" for name in once)]
    assert [round(row["sparsity"], 6) for row in rows] == [0] + 6 * [0.6]
    assert [row["pattern"] for row in rows[1:4]] == ["row", "layer", "layer"]
    assert rows[3]["recipe"] == Recipe.read(to).key
    [numbers] = rows[3]["texts"].values()
    assert numbers["sequences"] == 3
    assert numbers["fewer_nats"]["wanda"]["error"] > 0
    perplexities = [next(iter(row["texts"].values()))["perplexity"] for row in rows]
    assert len(set(perplexities)) == 7
    origin = read_recipe(to)[1]
    assert origin.calibration.sequences == 3
    assert origin.lacks("calibration_hash", "batch_tokens", "device") == []


def test_under_wanda_uniform_wanda_is_not_measured_twice(llama, tmp_path):
    rows = compared(llama, {"name": "wanda"}, tmp_path / "x.json", pattern="row")
    once = ["wanda", "found"]
    assert [row["name"] for row in rows] == [
        "dense",
        *once,
        *(f"{n}, block by block" for n in once),
    ]


def test_the_command_shows_roles_and_comparison(run, tmp_path):
    front = json.loads((run / "front.json").read_text())
    front["entries"][0]["recipe"] |= {"metric": {"name": "magnitude"}}
    del front["entries"][0]["recipe"]["quadratic"]
    write_json(run / "front.json", front)
    words = ["--compare", "usual", "--sequences", 2, "--seq-len", 64]
    result = invoke("transfer", run, "--model", "embedded", "--to", tmp_path / "x.json", *words)
    assert "embedded/evaluation, 2 of" in result.stdout
    assert "found (transferred)" in result.stdout
    assert "same path" in result.stdout
    assert result.stdout.endswith(f"{tmp_path / 'x.json'}\n")


def test_a_recipe_file_that_names_no_model_is_refused(llama, tmp_path):
    path = tmp_path / "bare.json"
    write_recipe(path, llama[2], Origin())
    words = ["transfer", "--recipe", path, "--model", "embedded", "--to", tmp_path / "x.json"]
    assert "a recipe alone holds no layout" in invoke(*words, code=2).stderr
    assert not (tmp_path / "x.json").exists()


def test_the_model_of_a_recipe_file_is_loaded_for_its_layout(llama, tmp_path):
    folder, layout, recipe = llama
    write_recipe(tmp_path / "found.json", recipe, Origin(str(folder)))
    assert source_of_file(tmp_path / "found.json").layout == layout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Give either a RUN or --recipe FILE"),
        (["RUN", "--recipe", "x.json"], "Give either a RUN or --recipe FILE"),
        (["--recipe", "x.json", "--pick", "knee"], "a recipe file holds one recipe"),
        (["RUN", "--sequences", "3"], "of the text of --compare"),
        (["RUN", "--to", "folder"], "name a file that ends in .json"),
        (["RUN", "--sparsity", "60"], "Did you mean 0.6?"),
        (["RUN", "--compare", "embedded@train"], "would read the same text"),
        (["RUN", "--compare", "embeded"], "Did you mean 'embedded'?"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(run, tmp_path, words, sentence):
    words = [run if word == "RUN" else word for word in words]
    to = [] if "--to" in words else ["--to", tmp_path / "x.json"]
    result = invoke("transfer", "--model", "embedded", *words, *to, code=2)
    assert sentence in result.stderr
    assert not (tmp_path / "x.json").exists()


def test_a_given_mask_is_refused(run, tmp_path):
    front = json.loads((run / "front.json").read_text())
    front["entries"][0]["recipe"]["metric"] = {"name": "given", "hash": "0"}
    write_json(run / "front.json", front)
    words = ["transfer", run, "--model", "embedded", "--to", tmp_path / "x.json"]
    assert "cannot be transferred to another model" in invoke(*words, code=2).stderr
