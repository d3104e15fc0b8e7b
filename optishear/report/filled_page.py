"""Tables inside a Markdown page, each under the command that makes it anew.

    <!-- optishear table results/metric --over search.seed -->
    | driver | … |
    <!-- end of table -->

What stands between the two lines is replaced by what the command says now.
"""

import argparse
import re
import shlex
from pathlib import Path
from typing import Never

from optishear.errors import ConfigError
from optishear.report.chosen_table import Question
from optishear.report.run_table import markdown


END = "<!-- end of table -->"
BLOCK = re.compile(
    r"(<!-- optishear table (?P<words>[^\n]*?) -->\n)(?P<body>.*?)(?=^<!--|\Z)", re.S | re.M
)


def filled(page: str, where: str) -> str:
    """The page with every marked table made anew; places in it are from the working directory.

    Raises `ConfigError` where a marked table has no end or a command that is wrong, or where there
    is no marked table at all.
    """
    if not BLOCK.search(page):
        raise ConfigError(
            f"{where}: holds no line `<!-- optishear table RUN… -->` with `{END}` below it."
        )

    def replaced(found: re.Match[str]) -> str:
        if not page.startswith(END, found.end()):
            raise ConfigError(
                f"{where}: the table of `optishear table {found['words']}` has no end. Write "
                f"`{END}` on the line below it."
            )
        try:
            tables = question(shlex.split(found["words"])).tables()
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{where}: `optishear table {found['words']}`: {error}") from None
        parts = [markdown(table) for table in tables.values()]
        if len(tables) > 1:
            parts = [f"**{name}**\n\n{part}" for name, part in zip(tables, parts, strict=True)]
        return found[1] + "\n" + "\n".join(parts) + "\n"

    return BLOCK.sub(replaced, page)


def question(words: list[str]) -> Question:
    """What the words of `optishear table` ask for; a `ConfigError` where they are not its words."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("places", nargs="+", type=Path)
    parser.add_argument("--where", action="append", default=[])
    parser.add_argument("--over", default="")
    parser.add_argument("--columns", default="")
    parser.add_argument("--dirty", action="store_true")
    given = parser.parse_args(words)
    return Question.of_options(given.places, given.where, given.over, given.columns, given.dirty)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise ConfigError(message)
