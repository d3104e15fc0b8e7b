"""Recipes in few words."""

from optishear.cli.wording import how_text
from optishear.recipe.recipe import Recipe


def test_a_recipe_says_its_parts_and_then_what_roles_have_otherwise():
    refit, ria = {"name": "refit", "of": "mask"}, {"name": "ria"}
    roles = [("mlp.up", {"metric": ria, "pattern": "n:4"}), ("o", {"solver": {"name": "mask"}})]
    mixed = {"name": "moonshot", "lambda": {"a": 0.5}}
    plain = Recipe.of({"name": "wanda"}, {"a": 1}, "row", refit, mixed)
    assert how_text(plain) == "wanda, refit, λ 0.5"
    found = Recipe.of({"name": "wanda"}, {"a": 1}, "row", refit, mixed, roles)
    assert how_text(found) == "wanda, refit, λ 0.5; mlp.up: ria, refit, n:4; o: wanda"
    alike = [("mlp.up", {"metric": ria}), ("mlp.down", {"metric": ria})]
    two = Recipe.of({"name": "wanda"}, {"a": 1}, roles=alike)
    assert how_text(two) == "wanda; mlp.down, mlp.up: ria"
