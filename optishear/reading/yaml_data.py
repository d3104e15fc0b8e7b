"""YAML as plain data: the only loader of YAML there is."""

import re
from typing import Any, ClassVar

import yaml

from optishear.errors import ConfigError


OURS = "tag:yaml.org,2002:{}"
MERGE, TIMESTAMP = OURS.format("merge"), OURS.format("timestamp")
SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
PLAIN = ("null", "bool", "int", "float", "str")


def yaml_of(text: str, where: str) -> Any:
    """The data that `text` holds. Raises a `ConfigError` that begins with `where`.

    Mappings, lists, texts, numbers, true, false and null; no other tag, and no key twice, of which
    PyYAML would take the last without a word. A date is the text that it is written as.
    """
    try:
        return yaml.load(text, _Plain)  # a safe loader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        said = ": ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}{line}: not readable as YAML: {said}.") from None
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        # ValueError, KeyError: a tag such as !!int or !!bool before what is none.
        raise ConfigError(f"{where}: not readable as YAML: {error}") from None


class _Plain(yaml.SafeLoader):
    """PyYAML's safe loader without the kinds that no file of ours has, and without numbers to the
    base of sixty, which YAML 1.2 has no more: 2:4 is a pattern."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != TIMESTAMP]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0] and SIXTIES.fullmatch(value):
            return OURS.format("str")
        return super().resolve(kind, value, implicit)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == MERGE:
                continue  # what it brings in is there to be overridden
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                break  # told by PyYAML
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} comes twice, first in line {lines[key]}; take one out",
                    key_node.start_mark,
                )
            lines[key] = line
        return super().construct_mapping(node, deep)

    def whole(self, node: Any) -> Any:
        """At once, not in two steps, so that data which contain themselves are refused."""
        if isinstance(node, yaml.MappingNode):
            return self.construct_mapping(node, deep=True)
        return self.construct_sequence(node, deep=True)

    def unknown(self, node: yaml.Node) -> Any:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        problem = f"the tag {tag} is no plain data, and code is never run; write what it stands for"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Plain.yaml_constructors = {
    **{tag: yaml.SafeLoader.yaml_constructors[tag] for tag in map(OURS.format, PLAIN)},
    **{OURS.format(kind): _Plain.whole for kind in ("seq", "map")},
    None: _Plain.unknown,
}
