"""A recipe from search to checkpoint: every file says on what it was made, and prune goes by it."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typed import invoke

from optishear.calibration.origin import Origin, read_recipe, write_recipe
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.records.cache import code_of
from optishear.records.run_directory import RunDirectory
from optishear.runs.results import Run
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.plan.plan import plan


class Told(Silent):
    """Keeps the stages that it was told of."""

    def __init__(self):
        self.stages = []

    def stage(self, text):
        self.stages.append(text)


def pruned(recipe, model, to, *more, way=("--one-shot",)):
    """What the folder's file says, and the notes of the command."""
    words = ["prune", "--model", model, "--recipe", recipe, "--to", to, *way, *more, "--json"]
    notes = json.loads(invoke(*words).stdout)["notes"]
    return read_recipe(to / "optishear_recipe.json")[1], notes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny Llama, a text of one's own, and an experiment in which nothing is as usual."""
    folder = tmp_path_factory.mktemp("origins")
    tiny_folder("llama", folder / "model", shards="1GB")
    lines = [f"On day {day} the number {day * day} was read aloud." for day in range(400)]
    (folder / "mine.txt").write_text("\n\n".join(lines))
    texts = json.loads(json.dumps(EMBEDDED["text"]))
    texts["calibration"]["seed"] = 0
    texts["evaluation"] = {**texts["evaluation"], "source": str(folder / "mine.txt")}
    settings = {
        **EMBEDDED,
        "model": str(folder / "model"),
        "text": texts,
        "dtype": "bfloat16",
        "batch_tokens": 128,
        "calibration_parts": 2,
        "gradient_sequences": 3,
        "record": ["taylor"],
        "baselines": ["wanda"],
        "search": {"population": 4, "evaluations": 8, "seed": 1},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    return folder


def experiment(place):
    return load_experiment(str(place / "mine.yaml"))


@pytest.fixture(scope="module")
def run(place):
    return search(experiment(place), place / "out", Silent())


@pytest.fixture(scope="module")
def recipe(run, place):
    invoke("export", run.directory.path, "--to", place / "recipe.json")
    return place / "recipe.json"


def test_a_front_says_all_that_its_recipes_were_found_on(run, place):
    measure = run.manifest["measure"]
    assert run.front.origin == Origin(
        str(place / "model"),
        measure["model"],
        "bfloat16",
        "cpu",
        TextSpec("embedded", "train", 4, 64, seed=0, bos="none"),
        measure["calibration"],
        batch_tokens=128,
        calibration_parts=2,
        gradient_sequences=3,
        mode="one-shot",
        code=code_of("levels"),
        run=run.manifest["hash"],
    )


def test_prune_goes_by_what_the_recipe_says_of_itself(run, recipe, place, tmp_path):
    """In one shot a checkpoint is of the very same as the front, but for gradients not read."""
    made, notes = pruned(recipe, place / "model", tmp_path / "p")
    found = run.front.origin
    assert notes == []
    assert made == replace(
        found, run=None, gradient_sequences=None, save_dtype="stored", found_with=found
    )
    again = json.loads(invoke("verify", tmp_path / "p", "--again", "--json").stdout)
    assert {check["name"]: check["status"] for check in again["checks"]}["again"] == "ok"
    words = ["prune", "--model", place / "model", "--recipe", recipe, "--to", tmp_path / "p"]
    assert not json.loads(invoke(*words, "--one-shot", "--json").stdout)["written"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ([], ("bfloat16", 3)),
        (["--dtype", "float32", "--gradient-sequences", "2"], ("float32", 2)),
    ],
)
def test_what_is_asked_for_comes_before_what_the_recipe_says(option, said, recipe, place, tmp_path):
    data = json.loads(recipe.read_text())
    lambdas = {name: 0.5 for name in data["drop"] if "q_proj" in name}
    data["quadratic"] = {"name": "moonshot", "lambda": lambdas, "damping": 0.01}
    data["solver"] = {"name": "sparsegpt"}
    data["metric"] = {"name": "own"}
    (tmp_path / "recipe.json").write_text(json.dumps(data))
    made, _ = pruned(tmp_path / "recipe.json", place / "model", tmp_path / "p", *option)
    assert (made.dtype, made.gradient_sequences) == said


@pytest.mark.parametrize("way", [["--one-shot"], ["--stream"]])
def test_a_recipe_of_another_revision_is_applied_and_that_is_told(
    way, recipe, place, run, tmp_path
):
    found = run.front.origin
    tiny_folder("llama", tmp_path / "model", initializer_range=0.03)
    made, notes = pruned(recipe, tmp_path / "model", tmp_path / "revised", way=way)
    assert notes == [found.elsewhere(made)]
    assert f"the recipe was found on {place / 'model'} with the hash {found.model_hash}" in notes[0]
    assert made.model_hash in notes[0]
    assert "calibration" not in notes[0]
    assert made.found_with == found


def test_a_recipe_on_another_text_is_applied_and_that_is_told(recipe, place, run, tmp_path):
    found = run.front.origin
    text = ["--text", "embedded", "--sequences", "2", "--seq-len", "64"]
    made, notes = pruned(recipe, place / "model", tmp_path / "text", *text)
    assert notes == [found.elsewhere(made)]
    assert "seed 0" in notes[0]
    assert made.calibration_hash in notes[0]
    assert str(place / "model") not in notes[0]


def test_a_recipe_of_an_older_version_is_pruned_with_the_usual_of_what_it_does_not_say(
    recipe, place, run, tmp_path
):
    whole, found = read_recipe(recipe)
    says = Origin(found.model, found.model_hash, calibration=found.calibration)
    write_recipe(tmp_path / "old.json", whole, says)
    made, notes = pruned(tmp_path / "old.json", place / "model", tmp_path / "p")
    assert notes == []
    assert (made.dtype, made.batch_tokens, made.calibration_parts) == ("float32", 2048, 1)
    assert made.calibration_hash == found.calibration_hash
    older = replace(made, device=None, batch_tokens=None, calibration_parts=None, found_with=None)
    write_recipe(tmp_path / "p" / "optishear_recipe.json", whole, older)
    again = ["prune", "--model", place / "model", "--recipe", tmp_path / "old.json", "--one-shot"]
    assert "already there" in invoke(*again, "--to", tmp_path / "p").stderr


def test_a_transferred_recipe_names_both_models(recipe, place, run, tmp_path):
    to = tmp_path / "t.json"
    invoke("transfer", "--recipe", recipe, "--model", "embedded", "--to", to)
    _, origin = read_recipe(to)
    assert origin.model == "embedded"
    assert origin.transferred_from.model_hash == run.front.origin.model_hash
    assert origin.transferred_from.run == run.manifest["hash"]


def test_a_resumed_run_ends_in_the_same_bytes(run, place, tmp_path, monkeypatch):
    """All that was measured is read back from a journal, which has an order of its own."""
    shutil.copytree(place / "out", tmp_path / "out")
    copy = RunDirectory(tmp_path / "out" / "mine" / run.directory.path.name)
    manifest = json.loads(copy.manifest.read_text())
    copy.manifest.write_text(json.dumps(manifest | {"status": "running"}))
    for path in (copy.front, copy.evaluation):
        path.unlink()
    search(experiment(place), tmp_path / "out", Silent())
    assert Run(copy).manifest["measured_now"] == 0
    for path in (copy.front, copy.evaluation):
        assert path.read_bytes() == (run.directory.path / path.name).read_bytes()


class TestAFinishedRun:
    @pytest.fixture
    def asked(self, run, place, monkeypatch):
        """Asks for the run again; nothing may be loaded for that."""
        monkeypatch.setattr("optishear.runs.search.set_up", lambda *_: pytest.fail("loaded"))

        def ask():
            told = Told()
            search(experiment(place), place / "out", told)
            return told.stages

        return ask

    @pytest.fixture
    def changed(self, place):
        """Another content for one of the files, which is put back."""
        kept = {}

        def change(name, content):
            path = place / name
            kept[path] = path.read_bytes() if path.exists() else None
            path.write_bytes(content(kept[path]))

        yield change
        for path, before in kept.items():
            path.write_bytes(before)

    def test_of_the_same_files_there_is_nothing_to_do(self, run, asked):
        done = f"finished on {run.manifest['finished']}: nothing to do"
        assert asked() == [done]

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("model/model.safetensors", "the model of"),
            ("model/config.json", "the model of"),
            ("model/tokenizer.json", "the tokenizer of"),
            ("mine.txt", "the text"),
        ],
    )
    def test_of_other_files_is_refused_with_what_changed_by_search_and_plan(
        self, run, asked, changed, name, what, place
    ):
        def other(content):
            if name.endswith("config.json"):
                return json.dumps(json.loads(content) | {"rms_norm_eps": 0.5}).encode()
            if name.endswith(".safetensors"):
                return content[:-2] + bytes([content[-2] ^ 1, content[-1]])  # of the same size
            return content + b"\n"

        before = run.directory.evaluation.read_bytes()
        changed(name, other)
        with pytest.raises(ConfigError) as raised:
            asked()
        sentence = str(raised.value)
        assert sentence.startswith(f"{run.directory.path}: is finished, but {what}")
        assert "another --out" in sentence
        assert sentence.count("had the hash") == 1
        assert run.directory.evaluation.read_bytes() == before
        assert (
            sentence
            in plan(str(place / "mine.yaml"), (), place / "out", Silent()).findings.mistakes
        )

    def test_of_an_older_version_is_compared_as_far_as_it_says(self, run, asked, changed, place):
        manifest = json.loads(run.directory.manifest.read_text())
        del manifest["inputs"]
        changed(run.directory.manifest, lambda _: json.dumps(manifest).encode())
        unknown = f"the tokenizer of {place / 'model'}, the text {place / 'mine.txt'}"
        assert asked()[0].endswith(f": nothing to do ({unknown}: not compared)")
        changed("model/config.json", lambda was: was.replace(b"silu", b"gelu"))
        with pytest.raises(ConfigError, match="the model of"):
            asked()

    def test_whose_model_is_gone_is_shown_and_that_is_said(self, asked, place):
        (place / "model").rename(place / "elsewhere")
        try:
            assert f"the model of {place / 'model'}" in asked()[0]
        finally:
            (place / "elsewhere").rename(place / "model")

    def test_does_not_read_the_weights_again_that_nobody_touched(self, asked, monkeypatch):
        monkeypatch.setattr("optishear.assets.hash_memo.YOUNG", -(10**18))
        asked()
        monkeypatch.setattr(
            "optishear.assets.hash_memo.sha256_of", lambda path: pytest.fail("read")
        )
        asked()
