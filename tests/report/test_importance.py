"""What varied, in few columns, and which of it goes together with an objective."""

import numpy as np
import pandas as pd
import pytest

from optishear.report.importance import LEAST, importances, ped_anova
from optishear.report.varying import varying


@pytest.fixture
def random():
    return np.random.default_rng(5)


def frame(columns):
    return pd.DataFrame({name: pd.Series(column) for name, column in columns.items()})


class TestVarying:
    def test_blocks_that_differ_are_columns_and_roles_that_repeat_them_are_not(self, random):
        blocks = random.uniform(0.3, 0.7, (20, 2))
        mean = blocks.mean(axis=1)
        table = frame(
            {
                "sparsity.block.0": blocks[:, 0], "sparsity.block.1": blocks[:, 1],
                "sparsity.role.attn.q": mean, "sparsity.role.mlp.up": mean + 0.004,
                "metric": ["wanda"] * 20, "damping": [0.01] * 20,
            }
        )  # fmt: skip
        assert list(varying(table)) == ["sparsity, block 0", "sparsity, block 1"]

    def test_roles_that_differ_are_columns_by_their_short_names(self, random):
        roles = random.uniform(0.3, 0.7, (20, 2))
        table = frame({"sparsity.role.attn.q": roles[:, 0], "sparsity.role.mlp.up": roles[:, 1]})
        assert list(varying(table)) == ["sparsity, q", "sparsity, up"]

    def test_what_is_alike_everywhere_is_one_column(self, random):
        whole = random.uniform(0.3, 0.7, 20)
        parts = ("block.0", "block.1", "role.q", "role.up")
        table = frame({f"sparsity.{part}": whole for part in parts})
        [name] = varying(table)
        assert name == "sparsity, all alike"
        np.testing.assert_allclose(varying(table)[name], whole)

    def test_many_blocks_become_bands_of_neighbours(self, random):
        blocks = random.uniform(0.3, 0.7, (9, 30))
        columns = {f"sparsity.block.{i:02d}": blocks[:, i] for i in range(30)}
        found = varying(frame(columns))
        assert next(iter(found)) == "sparsity, blocks 0–3"
        assert list(found)[-1] == "sparsity, blocks 27–29"
        assert len(found.columns) == 8
        np.testing.assert_allclose(found["sparsity, blocks 0–3"], blocks[:, :4].mean(axis=1))

    def test_a_recipe_that_mixes_no_lambda_has_one(self):
        table = frame({"lambda.role.q": [0.2, np.nan], "lambda.role.up": [1.0, np.nan]})
        found = varying(table)
        assert found.to_dict("list") == {"λ, all alike": [0.2, 1.0]}

    def test_settings_stay_what_they_are_and_missing_where_they_do_not_apply(self):
        table = frame({"metric": ["power", "wanda", "power"], "metric.alpha": [1.0, np.nan, 2.0]})
        found = varying(table)
        assert list(found) == ["metric", "metric: alpha"]
        assert found["metric"].tolist() == ["power", "wanda", "power"]
        assert found["metric: alpha"].isna().tolist() == [False, True, False]

    def test_a_name_that_only_applies_or_not_is_no_choice(self):
        table = frame({"solver": ["mask", "refit"], "solver.of": [np.nan, "mask"]})
        assert list(varying(table)) == ["solver"]


class TestImportance:
    def test_what_decides_is_clear_with_its_sign_and_what_does_not_is_not(self, random):
        features = frame({name: random.uniform(size=200) for name in ("up", "down", "idle")})
        features["kind"] = np.where(random.uniform(size=200) < 0.5, "a", "b")
        values = features.up - features.down + 0.6 * (features.kind == "b")
        [found] = importances(features, {"kl": values + random.normal(0, 0.05, 200)})
        table = found.table
        assert table.clear.to_dict() == {"up": True, "down": True, "kind": True, "idle": False}
        assert table.effect["up"] > 0.3
        assert table.effect["down"] < -0.3
        assert not table.signed["kind"]
        assert (table.low <= table.effect).all()
        assert (table.effect <= table.high).all()
        assert found.evaluations == 200

    def test_numbers_agree_with_a_reference(self, random):
        features = frame({"x": random.normal(size=60).round(1)})
        values = pd.Series(np.exp(features.x + random.normal(size=60)))
        [found] = importances(features, {"kl": values})
        assert found.table.effect["x"] == pytest.approx(features.x.corr(values, method="spearman"))

    def test_a_name_has_the_root_of_the_variance_between_its_groups(self):
        names = pd.Series(["a"] * 20 + ["b"] * 20 + ["c"] * 20)
        values = pd.Series(np.arange(60.0))
        [found] = importances(pd.DataFrame({"kind": names}), {"kl": values})
        groups = values.groupby(names).mean() - values.mean()
        want = np.sqrt(20 * (groups**2).sum() / ((values - values.mean()) ** 2).sum())
        assert found.table.effect["kind"] == pytest.approx(want)

    def test_few_of_pure_noise_are_called_clear(self, random):
        features = frame({f"x{i}": random.uniform(size=60) for i in range(100)})
        [found] = importances(features, {"kl": pd.Series(random.uniform(size=60))})
        assert found.table.clear.sum() <= 3

    def test_too_few_or_all_alike_gives_nothing(self, random):
        few = frame({"x": random.uniform(size=LEAST)})
        values = pd.Series(random.uniform(size=LEAST))
        assert len(importances(few, {"kl": values})) == 1
        assert importances(few[1:], {"kl": values[1:]}) == ()
        assert importances(few, {"kl": pd.Series(np.ones(LEAST))}) == ()
        values[0] = np.nan
        assert importances(few, {"kl": values}) == ()

    def test_the_same_evaluations_give_the_same_numbers(self, random):
        features = frame({"x": random.uniform(size=50)})
        values = pd.Series(random.uniform(size=50))
        [one], [two] = (importances(features, {"kl": values}) for _ in range(2))
        pd.testing.assert_frame_equal(one.table, two.table)

    def test_ped_anova_sees_a_best_place_in_the_middle(self, random):
        features = frame({"bent": random.uniform(-1, 1, 120), "idle": random.uniform(size=120)})
        features["sometimes"] = features.idle.where(features.idle > 0.5)
        lost = features.bent**2
        [found] = importances(features[["bent", "idle"]], {"kl": lost})
        shares = ped_anova(features, lost, maximise=False)
        assert not found.table.clear["bent"]
        assert shares["bent"] > 0.8
        assert "sometimes" not in shares
        assert ped_anova(features, -lost, maximise=True) == pytest.approx(shares)
