"""The recipe around which an experiment searches: what its statistics are of."""

from dataclasses import dataclass

from optishear.calibration.gradients import LayerGradients
from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.cache import KINDS
from optishear.solvers.methods import check_parts, needs_of


@dataclass(frozen=True)
class Around:
    """A recipe, applied block by block.

    - `gradient_sequences`: so many of the calibration text give it gradients; None if it reads
      none.
    """

    recipe: Recipe
    gradient_sequences: int | None = None

    @classmethod
    def of(cls, recipe: Recipe, gradient_sequences: int) -> "Around":
        """`gradient_sequences`: as many as there are for recipes that read gradients."""
        check_parts(recipe, "around")
        return cls(recipe, gradient_sequences if LayerGradients in needs_of(recipe) else None)

    @property
    def text(self) -> str:
        """All that statistics depend on with it, and so whatever is made from them: the version of
        the code, too, since nothing can be `made_from` what is made of solved layers itself."""
        read, code = self.gradient_sequences, KINDS["statistics_around"].version
        gradients = f", gradients of {read} sequences" if read else ""
        return f"{self.recipe.key}{gradients}, code {code}"

    def check(self, layout: ModelLayout) -> None:
        """Raises a `ConfigError` unless it is a recipe of this model."""
        try:
            self.recipe.check(layout)
        except ConfigError as error:
            raise ConfigError(f"around: {error}") from None
