"""Every named method through the same `prune`, in both modes, on a tiny model on disk."""

import json

import pytest
import torch
from test_checkpoint import saved

from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.recipe.recipe import Recipe
from optishear.runs.prepare import prepare, rule_of
from optishear.solvers.methods import METHODS
from optishear.text.sources import TextSpec
from optishear.text.tokens import token_batches
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to, pruned


TEXT = TextSpec("embedded", "train", 3, 64)


def how(**changes):
    return How(TEXT, gradient_sequences=2, **changes)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return str(saved("llama", tmp_path_factory.mktemp("models") / "dense", torch.float32))


ONCE = ("wanda", "sparsegpt", "moonshot-alps")  # one of each kind is tried one-shot, too


@pytest.mark.parametrize(
    ("method", "sequential"),
    [(method, True) for method in METHODS] + [(method, False) for method in ONCE],
)
def test_every_named_method_writes_a_checked_checkpoint(dense, tmp_path, method, sequential):
    plan = NamedMethod(method, 0.5)
    checked, written = prune_to(dense, plan.on, tmp_path / "p", how(sequential=sequential))
    assert written
    recipe = Recipe.read(tmp_path / "p" / "optishear_recipe.json")
    assert checked.sparsity == pytest.approx(0.5, abs=0.02)
    layers = json.loads((tmp_path / "p" / "optishear_layers.json").read_text())
    assert [layer["size"] - layer["kept"] for layer in layers] == list(recipe.drop.values())
    moved = METHODS[method].solver["name"] != "mask"
    assert all((layer["cost"] is not None) == moved for layer in layers)
    assert not prune_to(dense, plan.on, tmp_path / "p", how(sequential=sequential))[1]


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("wanda", "layer"),
        ("wanda", "block:16"),
        ("sparsegpt", "layer"),
        ("sparsegpt", "2:4"),
        ("alps", "row"),
        ("alps", "2:4"),
    ],
)
def test_methods_take_any_pattern_and_a_refit(dense, tmp_path, method, pattern):
    sparsity = None if ":4" in pattern else 0.5
    plan = NamedMethod(method, sparsity, pattern, refit=True, moonshot_lambda=0.5)
    checked, _ = prune_to(dense, plan.on, tmp_path / "p", how())
    assert checked.sparsity == pytest.approx(0.5, abs=0.02)


def test_the_two_modes_differ_from_the_second_block_on(dense, tmp_path):
    plan = NamedMethod("sparsegpt", 0.5)
    for mode in (True, False):
        prune_to(dense, plan.on, tmp_path / str(mode), how(sequential=mode))
    one, two = (load(str(tmp_path / str(mode))).model for mode in (True, False))
    layout = layout_of(one)
    same = {
        block: all(
            torch.equal(read(one, layer), read(two, layer))
            for layer in layout.layers
            if layer.block == block
        )
        for block in range(layout.blocks)
    }
    assert same[0]
    assert not same[1]


def test_a_mask_from_another_checkpoint_is_kept_and_its_weights_refitted(dense, tmp_path):
    prune_to(dense, NamedMethod("magnitude", 0.5).on, tmp_path / "mask", how())
    folder = str(tmp_path / "mask")
    for refit in (False, True):
        prune_to(dense, None, tmp_path / str(refit), how(), mask_from=(folder, refit))
    source, kept, refitted = (
        load(str(tmp_path / name)).model for name in ("mask", "False", "True")
    )
    for layer in layout_of(source).layers:
        a, b, c = (read(model, layer) for model in (source, kept, refitted))
        assert torch.equal(a, b)
        assert torch.equal(a == 0, c == 0)
        assert not torch.equal(a, c)


def test_updated_weights_are_written_in_the_stored_dtype_or_in_the_one_asked_for(tmp_path):
    """A bf16 checkpoint, pruned in fp32: it is no larger afterwards, unless that is wanted."""
    dense = str(saved("llama", tmp_path / "dense", torch.bfloat16))
    for save_dtype, dtype in (("stored", "bfloat16"), ("float32", "float32")):
        made = how(save_dtype=save_dtype)
        checked, _ = prune_to(dense, NamedMethod("optima", 0.5).on, tmp_path / dtype, made)
        assert checked.dtype == dtype


def test_a_mask_from_a_dense_checkpoint_is_refused(dense, tmp_path):
    with pytest.raises(ConfigError, match="none of its weights is zero"):
        prune_to(dense, None, tmp_path / "x", how(), mask_from=(dense, True))


def test_pruned_is_sequential_unless_asked_otherwise(dense, tmp_path):
    recipe = NamedMethod("wanda", 0.5).recipe(layout_of(load(dense).model))
    prune_to(dense, lambda layout: recipe, tmp_path / "p", how())
    want = load(str(tmp_path / "p")).model
    layers = layout_of(want).layers
    for sequential, equal in ((True, True), (False, False)):
        with pruned(dense, recipe, TEXT, sequential=sequential) as small:
            same = all(torch.equal(read(small.model, la), read(want, la)) for la in layers)
        assert same == equal


def test_a_lambda_below_one_moves_weights_towards_less_taylor_loss(dense, tmp_path):
    """Measured with the gradients themselves, not with what the solver believes."""
    plans = {lam: NamedMethod("sparsegpt", 0.5, moonshot_lambda=lam) for lam in (1.0, 0.2)}
    model = load(dense).model
    layout = layout_of(model)
    losses = {}
    for lam, plan in plans.items():
        prune_to(dense, plan.on, tmp_path / str(lam), how(sequential=False))
        small = load(str(tmp_path / str(lam))).model
        tokens = token_batches(TEXT, load(dense).tokenizer).tokens[:2]
        store = load_or_collect_gradients(tmp_path / "g", model, layout, tokens)
        losses[lam] = sum(
            store.layers[layer.name].taylor(read(small, layer) - read(model, layer))
            for layer in layout.layers
            if "attn" in layer.role
        )
    assert losses[0.2] < losses[1.0]


@pytest.mark.parametrize("profile", ["owl", "alphapruning"])
@pytest.mark.parametrize("pattern", [None, "n:4"])
def test_a_published_profile_is_met_by_any_method(dense, tmp_path, profile, pattern):
    plan = NamedMethod("wanda", 0.5, pattern, profile=profile)
    checked, _ = prune_to(dense, plan.on, tmp_path / "p", how())
    prepared = prepare(dense, "float32", "cpu", TEXT)
    recipe, layout = Recipe.read(tmp_path / "p" / "optishear_recipe.json"), prepared.layout
    assert 0.49 < checked.sparsity <= 0.5
    if pattern is None:
        assert sum(recipe.drop.values()) == round(0.5 * layout.total)
        targets = rule_of(prepared, profile).targets(0.5)
        got = {layer.name: recipe.drop[layer.name] / layer.size for layer in layout.layers}
        assert got == pytest.approx(targets, abs=2 / min(layout.sizes.values()))


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"method": "wanda", "sparsity": 0.5, "profile": "olw"}, "Did you mean 'owl'"),
        ({"method": "wanda", "pattern": "2:4", "profile": "owl"}, "use --pattern n:4"),
        ({"method": "sparsgpt", "sparsity": 0.5}, "Did you mean 'sparsegpt'"),
        ({"method": "alps"}, "--method alps needs --sparsity"),
        ({"method": "wanda", "sparsity": 0.5, "moonshot_lambda": 1.5}, "must lie in"),
        ({"method": "wanda", "sparsity": 0.5, "pattern": "rows"}, "There are: row, layer, block"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(plan, sentence):
    with pytest.raises(ConfigError, match=sentence):
        NamedMethod(**plan)


def test_unknown_roles_are_named(dense):
    layout = layout_of(load(dense).model)
    plan = NamedMethod("wanda", 0.5, moonshot_lambda=0.5, moonshot_roles="mlp.up_prj")
    with pytest.raises(ConfigError, match=r"Did you mean 'mlp\.up_proj'"):
        plan.recipe(layout)
    recipe = NamedMethod("wanda", 0.5, moonshot_lambda=0.5, moonshot_roles="all").recipe(layout)
    assert set(recipe.lambdas) == set(layout.sizes)
