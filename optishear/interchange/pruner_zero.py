"""Pruner-Zero's metric trees: nested JSON objects of `data`, `left` and `right`.

The format of its `save_tree` (lib/gptree.py, best_tree.json), read there: `data` is an operator or
a leaf, `left` its first argument, `right` the second. A formula as text, mul(abs(W), X), is read
too, which is how recipes hold them.
"""

from typing import Any

from optishear.errors import ConfigError
from optishear.interchange.profiles import json_of
from optishear.recipe.formula import MOST_DEPTH, Node, node_of, parse_formula


def read_tree(text: str, where: str) -> Node:
    """The tree in a JSON file or a formula; a `ConfigError` says what is wrong with it."""
    if text.lstrip().startswith(("{", "[", '"')):
        data = json_of(text, where)
        # Printed and parsed again: the limits of a formula hold for a tree, too.
        return parse_formula(str(_node(data, where, 1)), where)
    return parse_formula(text, where)


def _node(data: Any, where: str, depth: int) -> Node:
    if not isinstance(data, dict) or not isinstance(data.get("data"), str):
        raise ConfigError(
            f"{where}: a node of a tree is an object with `data`, found {str(data)[:60]!r}."
        )
    if depth > MOST_DEPTH:
        raise ConfigError(f"{where}: a formula is nested at most {MOST_DEPTH} deep.")
    if extra := set(data) - {"data", "left", "right"}:
        raise ConfigError(f"{where}: a node has data, left and right, no {sorted(extra)[0]!r}.")
    sides = [data[side] for side in ("left", "right") if side in data]
    arguments = tuple(_node(side, where, depth + 1) for side in sides)
    return node_of(data["data"], arguments, where)
