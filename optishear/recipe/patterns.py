"""Which pattern each layer has: the same one everywhere, or one by role."""

from collections.abc import Mapping
from dataclasses import dataclass

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer
from optishear.recipe.parts import first_match
from optishear.recipe.pattern import Pattern, parse_asked, parse_pattern


@dataclass(frozen=True)
class Asked:
    """A pattern, and the sparsity that it gives a layer where it was asked for as N:M."""

    pattern: Pattern
    fixed: float | None = None

    @property
    def text(self) -> str:
        if self.fixed is None:
            return self.pattern.text
        m = self.pattern.levels or 0
        return f"{round((1 - self.fixed) * m)}:{m}"


@dataclass(frozen=True)
class Patterns:
    """`default`, and what roles have otherwise; of their entries the first that matches counts."""

    default: Asked
    roles: tuple[tuple[str, Asked], ...] = ()

    @classmethod
    def over(cls, given: "Pattern | Patterns | str") -> "Patterns":
        """The same pattern in every layer, unless it is said by role."""
        if isinstance(given, Patterns):
            return given
        return cls(Asked(parse_pattern(given) if isinstance(given, str) else given))

    @classmethod
    def asked(cls, default: str, roles: Mapping[str, str | None]) -> "Patterns":
        """As users write them, 2:4 among them; None is the default."""
        usual, found = Asked(*parse_asked(default)), []
        for match, text in roles.items():
            try:
                found.append((match, usual if text is None else Asked(*parse_asked(text))))
            except ConfigError as error:
                raise ConfigError(f"roles.{match}: {error}") from None
        return cls(usual, tuple(found))

    def at(self, layer: Layer) -> Pattern:
        return self._of(layer).pattern

    def fixed(self, layer: Layer) -> float | None:
        """The sparsity that the layer has anyway, as where 2:4 was asked for; else None."""
        return self._of(layer).fixed

    @property
    def every(self) -> tuple[Asked, ...]:
        """Each once."""
        return tuple(dict.fromkeys([self.default, *(asked for _, asked in self.roles)]))

    @property
    def text(self) -> str:
        """In words: `row, mlp.* 2:4`."""
        said = [f"{match} {asked.text}" for match, asked in self.roles if asked != self.default]
        return ", ".join([self.default.text, *said])

    def _of(self, layer: Layer) -> Asked:
        return first_match(self.roles, layer.role, self.default)
