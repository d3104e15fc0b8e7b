"""What must hold of a model and a text: one sentence, from every command that loads them."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder, tokenizer
from tiny_models import SIZES, TINY, make
from transformers import BertConfig, BertForMaskedLM
from typer.testing import CliRunner

from optishear.calibration.origin import Origin
from optishear.cli import app
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.recipe.recipe import Recipe
from optishear.records import manifest
from optishear.runs.preconditions import table_of_positions
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.transfer import Source, Target, transfer_to


pytestmark = pytest.mark.usefixtures("searches_draw_nothing")

TEXT = {"sequences": 2, "seq_len": 80}
WINDOWS = ["--sequences", 2, "--seq-len", 80]
WANDA = ["--method", "wanda", "--sparsity", 0.5]
COMMANDS = ("prune", "stream", "one-shot", "evaluate", "plan", "search")


def bert(folder):
    config = BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def loud(folder):
    """Its MLPs leave fp16's range, its weights do not."""
    tiny_folder("llama", folder, shards="40MB")
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(
        {name: 60 * w if ".mlp." in name else w for name, w in weights.items()},
        file,
        metadata={"format": "pt"},
    )


MADE = {
    "bert": bert,
    "loud": loud,
    "opt": lambda folder: tiny_folder("opt", folder),
    "few rows": lambda folder: tiny_folder("llama", folder, vocab_size=1500),
    "rotary": lambda folder: tiny_folder("llama", folder, max_position_embeddings=64),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each folder, made when it is first asked for."""
    place, made = tmp_path_factory.mktemp("models"), {}

    def of(name):
        if name not in made:
            made[name] = place / name.replace(" ", "_")
            MADE[name](made[name])
        return made[name]

    return of


@pytest.fixture
def ask(models, tmp_path):
    def asked(command, model, *more):
        folder = models(model)
        words = ["prune", "--model", folder, "--text", "embedded@train", *WINDOWS, *WANDA]
        words += ["--to", tmp_path / "pruned"]
        if command in ("stream", "one-shot"):
            words.append(f"--{command}")
        elif command == "evaluate":
            words = ["evaluate", folder, "--text", "embedded@evaluation", *WINDOWS]
        elif command in ("plan", "search"):
            text = {key: value | TEXT for key, value in EMBEDDED["text"].items()}
            dtype = more[1] if more else "float32"
            search = {"population": 2, "evaluations": 2}
            named = {"model": str(folder), "text": text, "dtype": dtype, "search": search}
            file = tmp_path / "mine.yaml"
            file.write_text(yaml.safe_dump(EMBEDDED | named | {"space": "blocks"}))
            words, more = [command, file, "--out", tmp_path / "results"], ()
        result = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
        return result, " ".join(result.output.split())

    return asked


def refused(answer, sentence):
    result, output = answer
    assert result.exit_code == 2, (result.output, result.exception)
    assert sentence in output


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("bert", "BertLMHeadModel is not causal: when later tokens change"),
        ("opt", "64"),
        ("few rows", "of its tokens have ids that the model does not know, up to"),
    ],
)
def test_a_model_that_cannot_read_the_text_is_refused_by_every_command(
    ask, command, model, sentence
):
    refused(ask(command, model), sentence)


def test_a_comparison_on_another_model_reads_its_text_through_the_same_door(models, tmp_path):
    layout = layout_of(load(str(models("rotary"))).model)
    recipe = Recipe.of({"name": "magnitude"}, {x.name: x.size // 2 for x in layout.layers}, "layer")
    calibration, held = (TextSpec("embedded", s, 2, n) for s, n in (("train", 64), ("search", 80)))
    target = Target(str(models("opt")), calibration=calibration, compare_on=held)
    with pytest.raises(ConfigError, match="a table of 64 positions"):
        transfer_to(
            Source(recipe, layout, Origin(model="-")), target, tmp_path / "a.json", Silent()
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_an_overflow_of_fp16_is_told_in_one_sentence_and_first(ask, command):
    refused(
        ask(command, "loud", "--dtype", "float16"),
        "is not finite. Load the model in bf16 or fp32 (--dtype bfloat16 or float32) if it "
        "overflows in fp16, else check the checkpoint.",
    )


def test_a_rotary_model_is_only_warned_of_what_it_was_not_made_for(ask, caplog):
    result, _ = ask("prune", "rotary")
    assert result.exit_code == 0, result.output
    assert "80 tokens, LlamaForCausalLM was made for 64 at most" in caplog.text
    _, output = ask("plan", "rotary")
    assert "80 tokens, LlamaForCausalLM was made for 64 at most" in output


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("opt", {"num_attention_heads": 4, "ffn_dim": 40, "max_position_embeddings": 64}),
        ("gpt2", {"n_head": 4, "n_positions": 64}),
        ("gptj", {"n_head": 4, "rotary_dim": 4, "n_positions": 64}),  # made in advance
    ],
)
def test_a_table_of_positions_is_found_learned_or_made(kind, settings):
    model = make(kind, {**SIZES, **settings})
    assert table_of_positions(model) == 64
    model(torch.zeros(1, 64, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "falcon", "mixtral", "jetmoe"])
def test_positions_that_are_computed_have_no_table(kind):
    assert table_of_positions(TINY[kind]()) is None


def test_ids_without_rows_do_not_matter_where_no_text_has_them(ask, models, tmp_path):
    """Padding tokens above the embedding, which no text has, are common."""
    text = tmp_path / "a.txt"
    text.write_text("a a a a " * 60)
    words = ["evaluate", models("few rows"), "--text", text, "--sequences", 2, "--seq-len", 16]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", ["plan", "search"])
class TestARun:
    def test_without_git_in_a_checkout_is_refused_before_the_model_is_loaded(
        self, ask, monkeypatch, command, tmp_path
    ):
        (tmp_path / "checkout" / ".git").mkdir(parents=True)
        monkeypatch.setattr(manifest, "__file__", str(tmp_path / "checkout" / "a" / "b" / "c.py"))
        monkeypatch.setenv("PATH", str(tmp_path))
        result, output = ask(command, "rotary")
        refused((result, output), "is a git checkout, whose commit a result is recorded with, but")
        assert command == "plan" or "loading" not in output

    @pytest.mark.parametrize("driver", ["tpe", "random", "qmc", "optuna-nsga2", "optuna-nsga3"])
    def test_with_a_seed_that_optuna_does_not_take_is_refused(self, tmp_path, command, driver):
        words = [command, "quickstart", "--out", tmp_path, "--set", f"search.driver={driver}"]
        words += ["--set", f"search.seed={2**32}"]
        result = CliRunner().invoke(app, [str(word) for word in words])
        answer = result, " ".join(result.output.split())
        refused(answer, f"search.seed: 4294967296, but {driver} takes seeds from 0 to 4294967295")


def test_a_tree_of_which_git_will_not_tell_is_no_clean_one(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()  # and nothing in it
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    code = manifest.provenance()["code"]
    assert code["dirty"]
    assert code["commit"] == ""
    assert "not a git repository" in code["unknown"]


class TestAnotherField:
    def rows(self, folder):
        file = folder / "rows.jsonl"
        file.write_text("".join(f'{{"body": "{i} words of a row"}}\n' for i in range(40)))
        return file

    @pytest.mark.parametrize("command", ["prune", "evaluate"])
    def test_is_advised_by_its_option_which_works(self, models, tmp_path, command):
        text = ["--text", f"{self.rows(tmp_path)}@all", "--sequences", 2, "--seq-len", 16]
        words = ["evaluate", models("rotary"), *text]
        if command == "prune":
            words = ["prune", "--model", models("rotary"), *text, *WANDA, "--to", tmp_path / "to"]
        words = [str(word) for word in words]
        result = CliRunner().invoke(app, words)
        advice = "has no field 'text'. It has: body. Name the one with the text: --text-field NAME"
        refused((result, " ".join(result.output.split())), advice)
        result = CliRunner().invoke(app, [*words, "--text-field", "body"])
        assert result.exit_code == 0, result.output
        if command == "prune":
            made = json.loads((tmp_path / "to" / "optishear_recipe.json").read_text())
            assert made["made_with"]["calibration"]["field"] == "body"

    def test_without_a_text_is_refused(self, models, tmp_path):
        more = ["--text-field", "body"]
        for words in (
            ["prune", "--model", models("rotary"), *WANDA, "--to", tmp_path / "to", *more],
            ["evaluate", models("rotary"), *more],
        ):
            result = CliRunner().invoke(app, [str(word) for word in words])
            refused((result, result.output), "--text-field: says where the text is in the rows of")
