import pytest
import yaml

from optishear.config import EXPERIMENTS, SEARCH_SPACES, load_experiment
from optishear.errors import ConfigError
from optishear.search.space_file import SpaceSpec


BASE = {
    "model": "embedded",
    "text": {
        "calibration": {"source": "embedded", "split": "train", "sequences": 4, "seq_len": 32},
        "search": {"source": "embedded", "split": "search", "sequences": 4, "seq_len": 32},
        "evaluation": {"source": "embedded", "split": "evaluation", "sequences": 4, "seq_len": 32},
    },
    "space": {"sparsity": {"by": "block"}},
}


def experiment(tmp_path, changes=None, settings=()):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE | (changes or {})))
    return load_experiment(str(path), settings)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.path.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_experiment_is_sound_and_opens_with_its_hypothesis(path):
    found = load_experiment(path.stem)
    assert found.name == path.stem
    assert path.read_text().startswith("# Hypothesis:")


@pytest.mark.parametrize("path", sorted(SEARCH_SPACES.path.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_search_space_is_sound_and_opens_with_a_comment(path, tmp_path):
    found = experiment(tmp_path, {"space": path.stem})
    assert isinstance(found.space, SpaceSpec)
    assert path.read_text().startswith("# ")


def test_without_a_budget_sparsity_is_an_objective_and_the_knee_is_picked(tmp_path):
    found = experiment(tmp_path)
    assert found.objectives == ("sparsity", "reconstruction")
    assert found.pick == "knee"


def test_with_a_budget_the_best_recipe_is_the_one_of_lowest_kl(tmp_path):
    found = experiment(tmp_path, {"space": {"sparsity": {"by": "block", "budget": 0.6}}})
    assert found.objectives == ("reconstruction", "kl")
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
