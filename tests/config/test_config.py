from pathlib import Path

import pytest
import yaml
from small_experiment import CHECKED

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, InputSq
from optishear.config import (
    EXPERIMENTS,
    SEARCH_SPACES,
    Experiment,
    load_experiment,
    load_experiments,
)
from optishear.errors import ConfigError
from optishear.records.run_directory import read_json, runs_under
from optishear.runs.several import in_order_of_cost
from optishear.search.space_file import SpaceSpec


BASE = {
    **CHECKED,
    "space": {"sparsity": {"by": "block"}},
}


def experiment(tmp_path, changes=None, settings=()):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE | (changes or {})))
    return load_experiment(str(path), settings)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.path.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_experiment_is_sound_and_opens_with_its_hypothesis(path):
    assert {found.name for found in load_experiments(path.stem)} == {path.stem}
    assert path.read_text().startswith("# Hypothesis:")


@pytest.mark.parametrize("path", sorted(SEARCH_SPACES.path.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_search_space_is_sound_and_opens_with_a_comment(path, tmp_path):
    found = experiment(tmp_path, {"space": path.stem, "gradient_sequences": 4})
    assert isinstance(found.space, SpaceSpec)
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("quickstart", "d261af327651"),
        ("embedded_60", "9371f7dbadb2"),
        ("smollm2_60", "1e9fe9421360"),
    ],
)
def test_shipped_experiments_keep_the_hash_under_which_their_runs_lie(name, known):
    assert load_experiment(name).hash == known


RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.mark.parametrize("run", runs_under(RESULTS), ids=lambda run: run.path.parts[-2])
def test_the_configuration_of_a_committed_run_still_has_its_hash(run, tmp_path, monkeypatch):
    (tmp_path / "wikitext2_test.txt").touch()  # of a run that was given it as ../wikitext2_test.txt
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    manifest = read_json(run.manifest)
    assert Experiment.model_validate(manifest["experiment"]).hash == manifest["hash"]


MOONSHOT = {"sparsity": {"by": "block", "budget": 0.6}, "moonshot": {"by": "role"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {**MOONSHOT, "solver": {"name": "sparsegpt"}, "damping": 0.1}},
        {"space": {**MOONSHOT, "moonshot": {"lambda": 0.5}}, "gradient_sequences": 2},
    ],
)
def test_a_written_configuration_has_the_keys_of_the_files_and_reads_back(tmp_path, changes):
    changes = {"gradient_sequences": 4, **changes}
    found = experiment(tmp_path, changes)
    written = found.model_dump(mode="json")
    assert "lambda" in written["space"]["moonshot"]
    assert Experiment.model_validate(written) == found
    assert Experiment.model_validate(written).hash == found.hash


def test_what_a_space_adds_changes_the_hash_and_its_defaults_do_not(tmp_path):
    def hash_with(**more):
        space = {"sparsity": {"by": "block"}, **more}
        return experiment(tmp_path, {"space": space, "gradient_sequences": 4}).hash

    plain = hash_with()
    assert hash_with(solver={"name": "mask"}, moonshot=None, damping=0.01) == plain
    others = [
        hash_with(solver={"name": "sparsegpt"}),
        hash_with(solver={"name": "sparsegpt"}, damping=0.02),
        hash_with(moonshot={}),
        hash_with(moonshot={"lambda": 0.5}),
    ]
    assert len({plain, *others}) == 5


def test_a_text_with_a_seed_keeps_its_windows_whatever_the_search_s_seed_is(tmp_path):
    texts = {**BASE["text"], "calibration": {**BASE["text"]["calibration"], "seed": 0}}

    def with_seed(seed, **more):
        found = experiment(tmp_path, {"search": {"seed": seed}, **more})
        return {name: spec.seed for name, spec in found.text_specs.items()}, found.hash

    fixed, fixed_hash = with_seed(3, text=texts)
    drawn, drawn_hash = with_seed(3)
    assert fixed == {"calibration": 0, "search": 3, "evaluation": 3}
    assert drawn == {"calibration": 3, "search": 3, "evaluation": 3}
    assert fixed_hash != drawn_hash


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, {InputSq}),
        ({"baselines": ["magnitude"], "space": {"sparsity": {"by": "block"}}}, {InputSq}),
        ({"baselines": ["wanda", "sparsegpt"]}, {InputSq, Gram}),
        ({"baselines": ["moonshot-wanda"]}, {InputSq, Gram, LayerGradients}),
        ({"record": ["taylor"]}, {InputSq, LayerGradients}),
        ({"baselines": ["magnitude@owl", "optima@alphapruning"]}, {InputSq, Gram}),
        ({"space": MOONSHOT}, {InputSq, Gram, LayerGradients}),
        (
            {"space": {"solver": [{"name": "mask"}, {"name": "refit"}]}},
            {InputSq, Gram},
        ),
        (
            {"space": {"solver": {"name": "refit", "of": {"choice": ["mask", "alps"]}}}},
            {InputSq, Gram},
        ),
    ],
)
def test_calibration_is_asked_for_what_everything_in_reach_needs(tmp_path, changes, needs):
    found = experiment(tmp_path, {"gradient_sequences": 4, **changes})
    assert found.needs == needs
    assert found.needs_gradients == (LayerGradients in needs)


def test_rungs_are_whole_sequences_below_all_search_tokens(tmp_path):
    found = experiment(tmp_path, {"search": {"population": 8, "rungs": [32, 96]}})
    assert found.search.rungs == (32, 96)
    text = {**BASE["text"]["search"], "sequences": 0}  # how many there are is not known yet
    unknown = {"text": {**BASE["text"], "search": text}, "search": {"rungs": [32, 3200]}}
    assert experiment(tmp_path, unknown).search.rungs == (32, 3200)


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ([48], r"48 is no number of whole sequences of 32 tokens below all of them \(128\)"),
        ([32, 128], r"128 is no number of whole sequences"),
        ([0, 32], "0 is no number"),
        ([64, 32], r"\[64, 32\] do not ascend"),
        ([32, 32], r"\[32, 32\] do not ascend"),
    ],
)
def test_impossible_rungs_are_refused(tmp_path, rungs, message):
    with pytest.raises(ConfigError, match=message):
        experiment(tmp_path, {"search": {"rungs": rungs}})


@pytest.mark.parametrize("keep", [0, 1.5])
def test_a_share_that_keeps_nobody_or_more_than_all_is_refused(tmp_path, keep):
    with pytest.raises(ConfigError, match=r"search\.keep"):
        experiment(tmp_path, {"search": {"rungs": [32], "keep": keep}})


def test_rungs_change_the_hash_and_their_absence_does_not(tmp_path):
    def hash_with(**search):
        return experiment(tmp_path, {"search": {"population": 8, **search}}).hash

    plain = hash_with()
    assert hash_with(rungs=[], keep=0.25) == plain
    assert len({plain, hash_with(rungs=[32]), hash_with(rungs=[32], keep=0.5)}) == 3


def test_gradients_are_only_missed_where_something_needs_them(tmp_path):
    assert experiment(tmp_path, {"gradient_sequences": 99}).gradient_sequences == 99
    with pytest.raises(ConfigError, match=r"gradient_sequences is 16, but .* has 4 sequences"):
        experiment(tmp_path, {"space": MOONSHOT})
    whole = {**BASE["text"], "calibration": {**BASE["text"]["calibration"], "sequences": 0}}
    assert experiment(tmp_path, {"space": MOONSHOT, "text": whole}).needs_gradients


def test_moonshot_settings_are_changed_on_the_command_line(tmp_path):
    found = experiment(
        tmp_path,
        {"space": "joint", "gradient_sequences": 4},
        ["space.moonshot.by=role", "space.solver.1.of=sparsegpt"],
    )
    assert found.space.moonshot.by == "role"
    assert found.space.solver[1] == {"name": "refit", "of": "sparsegpt"}


@pytest.mark.parametrize(
    "settings",
    [
        ["space.roles={mlp.*: {pattern: 2:4}}"],
        ["space.roles.mlp.*.pattern=2:4"],
        ["space.roles.mlp.*={pattern: 2:4}"],
    ],
)
def test_parts_by_role_are_set_on_the_command_line(tmp_path, settings):
    found = experiment(tmp_path, {"space": "blocks"}, settings)
    assert found.space.model_dump()["roles"] == {"mlp.*": {"pattern": "2:4"}}


def test_an_unknown_key_of_a_role_is_a_sentence_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"roles\.mlp\.\*\.patern: unknown key.* 'pattern'"):
        experiment(tmp_path, {"space": {"roles": {"mlp.*": {"patern": "n:4"}}}})


def test_without_a_budget_sparsity_is_an_objective_and_the_knee_is_picked(tmp_path):
    found = experiment(tmp_path)
    assert found.objectives == ("sparsity", "kl")
    assert found.pick == "knee"


def test_with_a_budget_the_best_recipe_is_the_one_of_lowest_kl(tmp_path):
    found = experiment(tmp_path, {"space": {"sparsity": {"by": "block", "budget": 0.6}}})
    assert found.objectives == ("centred_reconstruction", "kl")
    assert found.pick == "lowest:kl"


def test_what_the_pick_reads_is_measured_even_if_it_is_no_objective(tmp_path):
    changes = {"space": {"sparsity": {"by": "block", "budget": 0.6}}, "objectives": ["perplexity"]}
    assert "kl" in experiment(tmp_path, changes).quantities


def test_the_optishear_ratio_search_brings_its_own_objectives(tmp_path):
    found = experiment(tmp_path, {"space": "optishear_ratios"})
    assert found.objectives == ("reconstruction", "sparsity_gap@0.5")


def test_settings_on_the_command_line_change_the_hash_and_only_what_they_name(tmp_path):
    plain, same = experiment(tmp_path), experiment(tmp_path, settings=["search.seed=0"])
    other = experiment(tmp_path, settings=["search.seed=3", "text.search.sequences=8"])
    assert plain.hash == same.hash != other.hash
    assert (other.search.seed, other.text.search.sequences) == (3, 8)
    assert other.search.population == plain.search.population


def test_a_named_space_can_be_changed_in_place(tmp_path):
    found = experiment(
        tmp_path,
        {"space": "depth_curve"},
        ["space.sparsity.budget=0.7", "space.sparsity.width=0.1"],
    )
    assert found.space.sparsity.budget == 0.7
    assert found.space.sparsity.by == "curve"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"serach": {}}, "serach: unknown key. Did you mean 'search'?"),
        (
            {"search": {"popluation": 8}},
            "search.popluation: unknown key. Did you mean 'population'",
        ),
        ({"search": {"driver": "nsga4"}}, "No driver is called 'nsga4'. Did you mean 'nsga"),
        ({"search": {"seed": "x"}}, "search.seed: "),
        ({"search": {"population": 50, "evaluations": 20}}, "evaluations"),
        ({"search": {"population": 1}}, "population"),
        (
            {
                "search": {"driver": "nsga3", "population": 2},
                "objectives": ["kl", "bytes", "perplexity"],
            },
            "population",
        ),
        ({"objectives": ["kll"]}, "No objective is called 'kll'. Did you mean 'kl'?"),
        ({"objectives": ["kl", "kl"]}, "named twice"),
        ({"baselines": ["wnada"]}, "No method is called 'wnada'. Did you mean 'wanda'?"),
        ({"baselines": ["wanda@olw"]}, "is called 'olw'. Did you mean 'owl'?"),
        ({"dtype": "int8"}, "dtype: "),
        ({"pick": "kneee"}, "kneee"),
        ({"pick": "lowest:perplexty", "record": ["perplexity"]}, "perplexty"),
        ({"space": "metric_and_blcks"}, "Did you mean 'metric_and_blocks'?"),
        ({"space": {"sparsity": {"by": "blok"}}}, "Did you mean 'block'?"),
        ({"space": {"sparsity": {"budget": 60.0}}}, "Did you mean 0.6?"),
        ({"space": {"sparsty": {}}}, "sparsty: unknown key. Did you mean 'sparsity'"),
        ({"space": {"metric": {"name": "wnada"}}}, "Did you mean 'wanda'?"),
        (
            {
                "space": {
                    "metric": {"name": "meta", "weight_transform": {"choice": ["no_op", "cube"]}}
                }
            },
            "'cube'",
        ),
        (
            {"space": {"metric": {"name": "power", "alpha": {"real": [0.0, 1.0]}}}},
            "must be positive",
        ),
        (
            {"space": {"solver": {"name": "sparsgpt"}}},
            "space.solver.0: No solver is called 'sparsgpt'. Did you mean 'sparsegpt'?",
        ),
        (
            {"space": {"solver": [{"name": "mask"}, {"name": "refit", "of": "alp"}]}},
            "space.solver.1: Solver 'refit': of is 'alp'. Did you mean 'alps'?",
        ),
        (
            {"space": {"solver": {"name": "refit", "of": {"choice": ["mask", "wanda"]}}}},
            "of is 'wanda'",
        ),
        (
            {"space": {"solver": {"name": "refit", "of": "alps", "rounds": 3}}},
            "has no setting rounds",
        ),
        ({"space": {"moonshot": {"by": "layer"}}}, "moonshot.by: Input should be 'global', 'role'"),
        ({"space": {"moonshot": {"low": -0.1}}}, "moonshot.low: Input should be greater than"),
        (
            {"space": {"moonshot": {"options": [0.5]}}},
            "moonshot.options [0.5]: give two or more different numbers in [0, 1]",
        ),
        (
            {"space": {"moonshot": {"options": [0.5, 1], "lambda": 0.5}}},
            "moonshot.options already says which λ there are",
        ),
        ({"space": {"moonshot": {"lamda": 0.5}}}, "unknown key. Did you mean 'lambda'"),
        ({"space": {"moonshot": {"lambda": 1.5}}}, "moonshot.lambda: Input should be less than"),
        ({"space": {"moonshot": 0.5}}, "moonshot: Input should be a valid dictionary"),
        ({"space": {"damping": 2}}, "damping is 2.0, expected 'auto' or a fraction"),
        ({"space": {"moonshoot": {}}}, "unknown key. Did you mean 'moonshot'"),
        ({"gradient_sequences": 0}, "gradient_sequences: Input should be greater than"),
        ({"text": {**BASE["text"], "search": BASE["text"]["calibration"]}}, "calibration"),
        (
            {"text": {**BASE["text"], "search": {**BASE["text"]["search"], "split": "serch"}}},
            "Did you mean 'search'",
        ),
        ({"text": {"calibration": BASE["text"]["calibration"]}}, "text.search: is missing"),
    ],
)
def test_an_experiment_that_cannot_be_is_a_sentence_that_names_the_file(
    tmp_path, changes, sentence
):
    with pytest.raises(ConfigError) as raised:
        experiment(tmp_path, changes)
    assert sentence in str(raised.value)
    assert str(tmp_path / "mine.yaml") in str(raised.value) or "shipped" in str(raised.value)


def test_a_missing_experiment_lists_what_is_shipped():
    with pytest.raises(ConfigError, match=r"Did you mean 'quickstart'\? Shipped are: .*quickstart"):
        load_experiment("quickstrat")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("search.seed", "write it as key=value"),
        ("search.seed.deep=1", "nothing called 'deep'"),
        ("search.sead=1", "Did you mean 'seed'"),
        ("search=[", "not readable as YAML"),
    ],
)
def test_a_setting_that_cannot_be_is_a_sentence(tmp_path, setting, sentence):
    changes = {"search": {"seed": 0}}
    with pytest.raises(ConfigError) as raised:
        experiment(tmp_path, changes, [setting])
    assert sentence in str(raised.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']"])
def test_yaml_that_is_no_mapping_or_not_safe_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"not readable as YAML|expected keys and values"):
        load_experiment(str(path))


def test_a_file_opens_with_its_hypothesis_which_no_hash_depends_on(tmp_path):
    shipped = load_experiment("quickstart")
    assert shipped.hypothesis.startswith("On the embedded model, a searched metric")
    text = EXPERIMENTS.find("quickstart").read_text(encoding="utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    (tmp_path / "quickstart.yaml").write_text(f"# Hypothesis:  it\n# holds.\n{body}\n# no more")
    other = load_experiment(str(tmp_path / "quickstart.yaml"))
    assert other.hypothesis == "It holds."
    assert other.hash == shipped.hash


class TestVary:
    """One file, several runs."""

    def written(self, tmp_path, vary):
        text = EXPERIMENTS.find("quickstart").read_text(encoding="utf-8")
        path = tmp_path / "q.yaml"
        path.write_text(f"{text}\n{yaml.safe_dump({'vary': vary})}")
        return str(path)

    def test_every_mapping_makes_all_combinations_of_its_values(self, tmp_path):
        vary = [
            {"search.driver": ["nsga2", "random"], "search.seed": [0, 1, 2]},
            {
                "search.driver": ["exhaustive"],
                "space": ["optishear_metric"],  # uniform, so that no split is to be solved for
                "search.seeds": [["methods", "rules"]],
            },
        ]
        runs = load_experiments(self.written(tmp_path, vary))
        told = [(run.search.driver, run.search.seed) for run in runs]
        assert told == [
            *[("nsga2", seed) for seed in range(3)],
            *[("random", seed) for seed in range(3)],
            ("exhaustive", 0),
        ]
        assert len({run.hash for run in runs}) == 7
        assert runs[-1].space != runs[0].space
        assert {run.name for run in runs} == {"q"}

    def test_the_same_run_twice_is_one_and_the_command_line_has_the_last_word(self, tmp_path):
        path = self.written(tmp_path, [{"search.seed": [0, 1]}])
        [run] = load_experiments(path, ["search.seed=7"])
        assert run.search.seed == 7
        assert load_experiment(path, ["search.seed=7"]) == run

    def test_a_run_of_a_varied_file_is_that_of_the_plain_one(self, tmp_path):
        [run] = load_experiments(self.written(tmp_path, [{"search.seed": [0]}]))
        assert run.hash == load_experiment("quickstart", ["name=q"]).hash

    @pytest.mark.parametrize("vary", [3, {"search.seed": [0]}, [{"search.seed": 0}], [{"a": []}]])
    def test_what_is_no_list_of_lists_is_refused(self, tmp_path, vary):
        with pytest.raises(ConfigError, match="vary is a list of mappings"):
            load_experiments(self.written(tmp_path, vary))

    def test_a_wrong_value_names_the_file_and_what_was_meant(self, tmp_path):
        path = self.written(tmp_path, [{"search.drivr": ["nsga2"]}])
        with pytest.raises(ConfigError, match="Did you mean 'driver'"):
            load_experiments(path)
        path = self.written(tmp_path, [{"model.name": ["x"]}])
        with pytest.raises(ConfigError, match=r"vary model\.name: there is nothing called 'name'"):
            load_experiments(path)

    def test_where_one_is_asked_for_many_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="vary makes 2 runs of it"):
            load_experiment(self.written(tmp_path, [{"search.seed": [0, 1]}]))


def test_cheap_experiments_come_first_and_models_nobody_knows_last():
    small = load_experiment("quickstart")
    few = load_experiment("quickstart", ["search.evaluations=48"])
    rungs = load_experiment("quickstart", ["search.rungs=[256]"])
    large = load_experiment("smollm2_60")
    other = load_experiment("quickstart", ["model=some/folder"])
    asked = [other, large, small, few, rungs]
    assert in_order_of_cost(asked) == [rungs, few, small, large, other]


def test_cuda_graphs_are_for_a_cuda_device_and_blocks_as_they_are(tmp_path):
    on_gpu = {"cuda_graphs": True, "device": "cuda"}
    found, plain = experiment(tmp_path, on_gpu), experiment(tmp_path, {"device": "cuda"})
    assert found.cuda_graphs
    assert found.hash != plain.hash
    assert "cuda_graphs" not in plain.model_dump()
    with pytest.raises(ConfigError, match="cuda_graphs is true, but device is 'cpu'"):
        experiment(tmp_path, {"cuda_graphs": True})
    with pytest.raises(ConfigError, match="cuda_graphs is true, but compile is true"):
        experiment(tmp_path, {**on_gpu, "compile": True})


class TestPaths:
    """What is written as a path is that file, and never something shipped of the same name."""

    @pytest.fixture
    def beside(self, tmp_path, monkeypatch):
        """An experiment with a space, a text and a model beside it; the command runs elsewhere."""
        (tmp_path / "here").mkdir()
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        (tmp_path / "mine" / "blocks.yaml").write_text("sparsity: {by: curve}")
        (tmp_path / "mine" / "words.txt").write_text("some words")
        (tmp_path / "mine" / "small").mkdir()
        return tmp_path / "mine"

    @pytest.mark.parametrize("name", ["no/such/folder/quickstart.yaml", "quickstart.yaml", "./x"])
    def test_an_experiment_that_is_not_there_is_no_shipped_one(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"there is no such file.*see to the path") as raised:
            load_experiment(name)
        assert ("`quickstart`" in str(raised.value)) == ("quickstart" in name)

    def test_a_folder_is_no_experiment_file(self, tmp_path):
        (tmp_path / "quickstart.yaml").mkdir()
        with pytest.raises(ConfigError, match="is a folder, not a file"):
            load_experiment(str(tmp_path / "quickstart.yaml"))

    def test_a_file_wins_over_what_is_shipped_under_its_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("quickstart", "quickstart.yaml"):
            Path(name).write_text(yaml.safe_dump(BASE | {"name": "own"}))
            assert load_experiment(name).name == "own"

    def test_what_lies_beside_the_experiment_is_meant_first(self, beside):
        text = {**BASE["text"], "evaluation": [{**BASE["text"]["search"], "source": "words.txt"}]}
        changes = {"space": "blocks.yaml", "model": "./small", "text": text}
        (Path.cwd() / "blocks.yaml").write_text("sparsity: {by: layer}")
        found = experiment(beside, changes)
        assert found.space.sparsity.by == "curve"
        assert found.text.evaluation[0].source == str(beside / "words.txt")
        assert found.model == str(beside / "small")

    def test_so_it_is_under_vary_and_beneath_a_changed_space(self, beside):
        grid = {"space": ["blocks.yaml"], "text.search.source": ["words.txt"]}
        grid["space.sparsity.low"] = [0.25]
        found = experiment(beside, {"vary": [grid]})
        assert (found.space.sparsity.by, found.space.sparsity.low) == ("curve", 0.25)
        assert found.text.search.source == str(beside / "words.txt")

    def test_the_command_line_speaks_of_where_it_is_run(self, beside):
        (Path.cwd() / "blocks.yaml").write_text("sparsity: {by: layer}")
        found = experiment(beside, settings=["space=blocks.yaml"])
        assert found.space.sparsity.by == "layer"
        (Path.cwd() / "blocks.yaml").unlink()
        with pytest.raises(ConfigError, match=r"blocks\.yaml: there is no such file"):
            experiment(beside, settings=["space=blocks.yaml"])

    def test_a_name_means_what_is_shipped_though_a_folder_is_called_so(self, beside):
        (beside / "embedded").mkdir()
        (beside / "blocks").mkdir()
        found = experiment(beside, {"space": "blocks"})
        assert (found.model, found.space.sparsity.by) == ("embedded", "block")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: a\nsearch:\n  seed: 1\n  seed: 2\n", r"line 4: .*the key 'seed' comes twice"),
        ("text: {a: 1}\nmodel: x\ntext: {}\n", r"line 3: .*'text' comes twice, first in line 1"),
        ("model: !!timestamp x\n", r"line 1: .*is no plain data"),
        ("model: &a [*a]\n", r"line 1: .*recursive"),
        ("model: !!int x\n", r"mine\.yaml: not readable as YAML"),
        ("model: " + "[" * 3000, r"mine\.yaml: not readable as YAML"),
        ("model: a\n# f\xfcr", r"line 2: is not UTF-8 text \(byte 0xfc"),
    ],
)
def test_yaml_that_would_be_misread_is_a_sentence_with_its_line(text, sentence, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=sentence):
        load_experiment(str(tmp_path / "mine.yaml"))


def test_a_key_twice_is_refused_in_spaces_and_settings_too(tmp_path):
    (tmp_path / "blocks.yaml").write_text("sparsity: {by: block, low: 0.1, low: 0.2}")
    with pytest.raises(ConfigError, match=r"blocks\.yaml, line 1: .*'low' comes twice"):
        experiment(tmp_path, {"space": "blocks.yaml"})
    with pytest.raises(ConfigError, match=r"--set search=.*'seed' comes twice"):
        experiment(tmp_path, settings=["search={seed: 1, seed: 2}"])


def test_a_merged_key_may_be_given_anew(tmp_path):
    text = yaml.safe_dump(BASE).replace("text:\n", "text:\n  <<: {}\n", 1)
    (tmp_path / "mine.yaml").write_text(text + "search: {<<: {seed: 1, population: 8}, seed: 2}\n")
    assert load_experiment(str(tmp_path / "mine.yaml")).search.seed == 2


def test_a_byte_order_mark_hides_no_hypothesis(tmp_path):
    text = "# Hypothesis: it holds.\n" + yaml.safe_dump(BASE)
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_experiment(str(tmp_path / "mine.yaml")).hypothesis == "It holds."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finalists": 1}, "finalists is 1: of one recipe there is nothing to choose"),
        ({"finalists": -2}, "finalists"),
        ({"finalists": 3, "mode": "sequential"}, "finalists is 3, but mode is sequential"),
    ],
)
def test_finalists_that_could_choose_nothing_are_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        experiment(tmp_path, changes)


def test_only_an_experiment_with_finalists_has_another_hash(tmp_path):
    plain = experiment(tmp_path)
    none, some = (experiment(tmp_path, {"finalists": number}) for number in (0, 4))
    assert none.hash == plain.hash != some.hash
    assert "finalists" not in none.model_dump(mode="json")
    assert Experiment.model_validate(some.model_dump(mode="json")) == some
