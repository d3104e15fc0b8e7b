"""Layer sparsities of a method: uniform, by a published rule, or those that a recipe has."""

from dataclasses import dataclass
from pathlib import Path

from optishear.allocation import UNIFORM
from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.patterns import Patterns
from optishear.recipe.profile import Bounds, project, uniform
from optishear.recipe.recipe import Recipe
from optishear.recipe.rule_settings import RULE_SETTINGS, parse_rule
from optishear.runs.prepare import Prepared, rule_of
from optishear.runs.results import recipe_at


@dataclass(frozen=True)
class Profile:
    """What `--profile` says.

    - `text`: uniform, a rule, or where the recipe is.
    - `found`: that recipe; None for uniform and rules.
    """

    text: str = UNIFORM
    found: Recipe | None = None

    @classmethod
    def named(cls, text: str) -> "Profile":
        """A rule by its name, or the recipe of a run (the one it picks), a pruned folder or a file.
        Raises a `ConfigError` where it is none of them."""
        place, is_rule = Path(text).expanduser(), text.partition(":")[0] in RULE_SETTINGS
        if not is_rule and place.exists():
            return cls(text, recipe_at(place)[0])
        try:
            parse_rule(text, "--profile")
        except ConfigError as error:
            if is_rule:
                raise
            raise ConfigError(f"{error} And no run, folder or recipe lies there.") from None
        return cls(text)

    @property
    def reads_model(self) -> bool:
        """Whether it looks at weights or inputs of the whole model."""
        return self.found is None and self.text != UNIFORM

    def drop(
        self,
        layout: ModelLayout,
        patterns: Patterns,
        sparsity: float | None,
        prepared: Prepared | None = None,
    ) -> dict[str, int]:
        """Weights to drop by layer. `sparsity` None is the recipe's own; another one moves all of
        its layers' alike. A rule asks `prepared`."""
        if self.found is not None:
            return self._as_found(self.found, layout, patterns, sparsity)
        assert sparsity is not None
        if self.text == UNIFORM:
            return uniform(layout, patterns, sparsity)
        assert prepared is not None
        targets = rule_of(prepared, self.text).targets(sparsity)
        return project(targets, layout, patterns, Bounds(), round(sparsity * layout.total))

    def _as_found(
        self, recipe: Recipe, layout: ModelLayout, patterns: Patterns, sparsity: float | None
    ) -> dict[str, int]:
        other = [layer.name for layer in layout.layers if layer.name not in recipe.drop]
        other += [name for name in recipe.drop if name not in layout.by_name]
        if other:
            raise ConfigError(
                f"--profile {self.text}: is of another model ({other[0]} is a layer of one of them "
                f"only). Carry its recipe over with `optishear transfer` first."
            )
        budget = sum(recipe.drop.values()) if sparsity is None else round(sparsity * layout.total)
        fits = all(
            recipe.drop[layer.name] <= patterns.at(layer).most(layer)
            and recipe.drop[layer.name] % patterns.at(layer).step(layer) == 0
            for layer in layout.layers
        )
        if fits and budget == sum(recipe.drop.values()):
            return {layer.name: recipe.drop[layer.name] for layer in layout.layers}
        targets = {name: recipe.drop[name] / size for name, size in layout.sizes.items()}
        return project(targets, layout, patterns, Bounds(), budget)
