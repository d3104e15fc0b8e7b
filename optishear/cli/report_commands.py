"""Commands that put runs into words: report, table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, say_table, speaking
from optishear.cli.run_commands import RunPlace
from optishear.cli.writing import writes


if TYPE_CHECKING:
    import pandas as pd


def register(app: typer.Typer) -> None:
    for command in (report, table):
        app.command()(command)


@speaking
@writes("to")
def report(
    run: RunPlace,
    to: Annotated[
        Path | None, typer.Option(help="The HTML file to write. RUN/report.html if left out.")
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Write a run as one HTML file: front, recipes, what mattered, held-out results, provenance.

    All is inside the file, which asks no network for anything; it also reads without JavaScript.

    Example: optishear report results/quickstart --to quickstart.html
    """
    from optishear.errors import ConfigError
    from optishear.records.run_directory import find_run
    from optishear.report.page.write import write_report

    if to is not None and to.suffix not in (".html", ".htm"):
        raise ConfigError(f"--to {to}: name a file ending in .html.")
    found = write_report(find_run(run), to)
    if json_:
        say_json({"file": str(found.path), "bytes": found.bytes, "left_out": list(found.left_out)})
        return
    for sentence in found.left_out:
        note(sentence)
    say(f"{found.path}: {found.bytes / 1e6:.2f} MB")


@speaking
@writes("to")
@writes("into")
def table(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN…", help="Runs, or folders that hold some.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs that say so.")
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(help="Average over these keys, with commas, e.g. search.seed."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Only these, in this order: names or patterns, with commas.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Write it to this file, ending in .csv or .md.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Renew all tables of this page that stand under their command."),
    ] = None,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="Runs of a changed checkout as well.")
    ] = False,
    json_: bool = JsonFlag,
) -> None:
    """Finished runs side by side: where their configurations differ, and what came of each.

    Example: optishear table results/ --over search.seed --to table.csv
    """
    from optishear.errors import ConfigError
    from optishear.records.atomic import replace_file
    from optishear.report.chosen_table import Question
    from optishear.report.run_table import brief_table, cells, markdown

    if into is not None:
        if places or where or over or columns or to is not None or dirty or json_:
            raise ConfigError("--into PAGE: the page's own lines say which tables. Give it alone.")
        _renew(into)
        return
    if not places:
        raise ConfigError("Name a run, a folder that holds some, or a page with --into.")
    if to is not None and to.suffix not in (".csv", ".md"):
        raise ConfigError(f"--to {to}: name a file ending in .csv or .md.")
    question = Question.of_options(places, where or (), over, columns, dirty)
    if to is None and not (json_ or where or over or columns):
        for name, group in question.runs().items():
            brief = brief_table(group)
            say_table(name, list(brief.columns), brief.to_numpy().tolist())
        return
    tables = question.tables()
    if to is not None and to.suffix == ".md":
        pages = [f"## {name}\n\n{markdown(table)}" for name, table in tables.items()]
        replace_file(to, "\n".join(pages).encode())
    elif to is not None:
        import pandas as pd

        named = [table.assign(experiment=name) for name, table in tables.items()]
        replace_file(to, pd.concat(named).to_csv(index=False).encode())
    if json_:
        say_json({name: _records(table) for name, table in tables.items()})
    elif to is not None:
        say(str(to))
    else:
        for name, table in tables.items():
            titles, *rows = cells(table)
            say_table(name, titles, rows)


def _renew(page: Path) -> None:
    """Makes every marked table of the page again."""
    from optishear.errors import ConfigError
    from optishear.records.atomic import replace_file
    from optishear.report.filled_page import filled

    try:
        before = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--into {page}: cannot be read ({error}).") from None
    after = filled(before, str(page))
    replace_file(page, after.encode())
    say(f"{page}: {'renewed' if after != before else 'all tables are as they were'}")


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """What does not apply to a row is null there."""
    return json.loads(table.to_json(orient="records", double_precision=15) or "[]")
