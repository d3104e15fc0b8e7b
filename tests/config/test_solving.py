"""What an experiment may ask to be solved for before its search, and the sentence where not."""

import pytest
import yaml
from small_experiment import CHECKED

from optishear.config import Experiment, load_experiment
from optishear.config.sections import CurvesConfig
from optishear.errors import ConfigError, ConfigErrors


METRIC = {"name": "power", "alpha": {"real": [0.5, 2.0]}}
WAYS = {
    "search.seeds: knapsack": {"seeds": ["knapsack"]},
    "search.seeds: gradient": {"seeds": ["methods", "gradient"]},
    "search.variation: guided": {"variation": "guided"},
    "search.driver: knapsack": {"driver": "knapsack"},
    "search.driver: gradient": {"driver": "gradient"},
}


def experiment(folder, by, search, budget=0.5, **changes):
    space = {"metric": METRIC, "sparsity": {"by": by, "budget": budget}}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**CHECKED, "space": space, "search": search, **changes}))
    return load_experiment(str(path))


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    @pytest.mark.parametrize("by", ["block", "layer", "curve"])
    def test_it_works_by_block_and_layer_and_seeds_and_slopes_by_curve(self, way, by, tmp_path):
        by_curves_of_genes = way in ("search.variation: guided", "search.driver: knapsack")
        if by == "curve" and by_curves_of_genes:
            with pytest.raises(ConfigError) as error:
                experiment(tmp_path, by, WAYS[way])
            assert f"{way}: goes by what single layers cost, and under" in str(error.value)
            return
        found = experiment(tmp_path, by, WAYS[way])
        assert found.needs_curves == ("knapsack" in way or "guided" in way)
        assert found.solves
        assert found.slope_objective == "kl"

    def test_it_needs_sparsities_that_are_not_given(self, way, tmp_path):
        with pytest.raises(ConfigError, match=f"{way}: there is nothing to solve for, since"):
            experiment(tmp_path, "uniform", WAYS[way])
        with pytest.raises(ConfigError, match=r"sparsity\.by 'owl' fixes what each layer loses"):
            experiment(tmp_path, {"name": "owl", "m": 3}, WAYS[way])

    def test_it_is_one_shot(self, way, tmp_path):
        with pytest.raises(ConfigError, match=f"{way}: .* but mode is sequential"):
            experiment(tmp_path, "block", WAYS[way], mode="sequential")

    def test_it_needs_an_objective_that_layers_share_recorded_at_least(self, way, tmp_path):
        rough = {"objectives": ["bytes", "sparsity_gap@0.5"], "pick": "lowest:bytes"}
        with pytest.raises(ConfigError, match=f"{way}: goes by an objective that .* Add kl to"):
            experiment(tmp_path, "block", WAYS[way], **rough, record=["perplexity"])
        found = experiment(tmp_path, "block", WAYS[way], **rough, record=["kl_top@5"])
        assert found.slope_objective == "kl_top@5"

    def test_only_curves_do_without_a_budget(self, way, tmp_path):
        if "gradient" not in way:
            assert experiment(tmp_path, "block", WAYS[way], None).space.resolved_budget is None
            return
        with pytest.raises(ConfigError, match=f"{way} goes down the slopes of one objective, and"):
            experiment(tmp_path, "block", WAYS[way], None)

    def test_an_objective_that_nobody_knows_is_named_once(self, way, tmp_path):
        with pytest.raises(ConfigError) as error:
            experiment(tmp_path, "block", WAYS[way], objectives=["kll", "sparsity"], pick="knee")
        assert str(error.value).count("kll") == 1

    def test_it_changes_the_hash_and_is_read_back(self, way, tmp_path):
        plain, found = (experiment(tmp_path, "block", search) for search in ({}, WAYS[way]))
        assert found.hash != plain.hash
        assert Experiment.model_validate(found.model_dump(mode="json")).hash == found.hash


def test_kl_is_what_curves_are_of_wherever_it_is_measured(tmp_path):
    several = {"objectives": ["reconstruction", "sparsity"], "record": ["perplexity", "kl"]}
    assert experiment(tmp_path, "block", {}, **several).slope_objective == "kl"
    several["record"] = ["perplexity"]
    assert experiment(tmp_path, "block", {}, **several).slope_objective == "reconstruction"


def test_an_experiment_that_solves_for_nothing_is_written_as_it_was_before(tmp_path):
    plain = experiment(tmp_path, "block", {})
    assert not plain.solves
    assert not plain.needs_curves
    dumped = plain.model_dump(mode="json")["search"]
    assert not {"seeds", "curves", "descent", "variation"} & set(dumped)
    default = {"seeds": ["methods", "rules"], "curves": CurvesConfig().model_dump()}
    assert experiment(tmp_path, "block", default).hash == plain.hash
    assert experiment(tmp_path, "block", {"descent": {"steps": 99}}).hash != plain.hash


@pytest.mark.parametrize(
    "search",
    [
        {"seeds": ["knapsacks"]},
        {"curves": {"tokens": 0}},
        {"curves": {"levels": 0}},
        {"descent": {"steps": 0}},
        {"descent": {"tokens": 0}},
        {"curves": {"points": 4}},
    ],
    ids=str,
)
def test_settings_that_say_nothing_are_mistakes(search, tmp_path):
    with pytest.raises(ConfigErrors, match=r"search\.(seeds|curves|descent)"):
        experiment(tmp_path, "block", search)
