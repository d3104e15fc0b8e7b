"""A pruning metric as an expression tree over W, G and X: its words, its text, its simplest form.

The words are Pruner-Zero's (Dong et al. 2024, arXiv 2406.02924). What they compute is in
`optishear.metrics.tree`; here is no arithmetic. A formula is data: it is parsed, never evaluated
as code.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean


LEAVES = ("W", "G", "X")
UNARY = ("abs", "exp", "log", "mms", "neg", "pow", "skp", "sqr", "sqrt", "tanh", "zsn")
BINARY = ("add", "div", "mul", "sub")
ARITY = {**dict.fromkeys(LEAVES, 0), **dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2)}
MOST_NODES = 256
MOST_DEPTH = 32
_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|([(),]))")


@dataclass(frozen=True)
class Node:
    """A leaf (W, G or X), or an operator with as many arguments as it takes."""

    word: str
    arguments: tuple["Node", ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(map(str, self.arguments))
        return f"{self.word}({inner})" if self.arguments else self.word

    def __iter__(self) -> Iterator["Node"]:
        """The node, then all below it."""
        yield self
        for argument in self.arguments:
            yield from argument

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset(node.word for node in self if not node.arguments)


def node_of(word: str, arguments: tuple[Node, ...], where: str) -> Node:
    """The node, or a `ConfigError` for an unknown word or a wrong number of arguments."""
    if word not in ARITY:
        raise ConfigError(
            f"{where}: no operator or leaf is called {word!r}.{did_you_mean(word, ARITY)} "
            f"There are: {', '.join(ARITY)}."
        )
    if len(arguments) != ARITY[word]:
        raise ConfigError(f"{where}: {word} takes {ARITY[word]} arguments, not {len(arguments)}.")
    return Node(word, arguments)


@cache
def parse_formula(text: str, where: str = "formula") -> Node:
    """`mul(abs(W), X)` -> its tree. A `ConfigError` says what cannot be read, and where."""
    words = _tokens(text, where)
    if len(words) > 4 * MOST_NODES:
        raise ConfigError(f"{where}: a formula has at most {MOST_NODES} operators and leaves.")
    node, rest = _read(words, 0, where, 1)
    if rest < len(words):
        raise ConfigError(f"{where}: {words[rest]!r} stands after the end of the formula.")
    if sum(1 for _ in node) > MOST_NODES:
        raise ConfigError(f"{where}: a formula has at most {MOST_NODES} operators and leaves.")
    return node


def canonical_formula(text: str) -> str:
    """The simplest text with the very same values, bit for bit.

    W is a size, and so are sqr, sqrt, exp and abs of anything: their abs is left out. `skp` does
    nothing, `pow` and a product with itself are `sqr`; sums and products are sorted.
    """
    return str(_simplest(parse_formula(text)))


def _simplest(node: Node) -> Node:
    arguments = tuple(map(_simplest, node.arguments))
    first = arguments[0] if arguments else node
    if node.word == "skp" or (node.word == "abs" and first.word in ("W", *_SIZES)):
        return first
    if node.word == "neg" and first.word == "neg":
        return first.arguments[0]
    if node.word == "pow" or (node.word == "mul" and arguments[0] == arguments[1]):
        return _simplest(Node("sqr", (first,)))
    if node.word in ("sqr", "abs", "sqrt", "log") and first.word in ("neg", "abs"):
        return _simplest(Node(node.word, first.arguments))  # no sign is left of it
    if node.word in ("add", "mul"):
        arguments = tuple(sorted(arguments, key=str))
    return Node(node.word, arguments)


_SIZES = ("G", "X", "abs", "exp", "sqr", "sqrt")  # never below zero, as W


def _tokens(text: str, where: str) -> list[str]:
    words, position = [], 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            at = len(stripped) - len(stripped[position:].lstrip())
            raise ConfigError(
                f"{where}: {stripped[at]!r} at character {at + 1} belongs to no formula; expected "
                f"something like mul(abs(W), X)."
            )
        words.append(match[1] or match[2])
        position = match.end()
    return words


def _read(words: list[str], position: int, where: str, depth: int) -> tuple[Node, int]:
    """The node that begins here, and where it ends."""
    if depth > MOST_DEPTH:
        raise ConfigError(f"{where}: a formula is nested at most {MOST_DEPTH} deep.")
    if position >= len(words):
        raise ConfigError(f"{where}: ends too early; expected something like mul(abs(W), X).")
    word = words[position]
    if word in "(),":
        raise ConfigError(f"{where}: found {word!r} where an operator, W, G or X was expected.")
    position += 1
    if words[position : position + 1] != ["("]:
        return node_of(word, (), where), position
    arguments: list[Node] = []
    while not arguments or words[position : position + 1] == [","]:
        node, position = _read(words, position + 1, where, depth + 1)
        arguments.append(node)
    if words[position : position + 1] != [")"]:
        raise ConfigError(f"{where}: the bracket of {word}( is never closed.")
    return node_of(word, tuple(arguments), where), position + 1
