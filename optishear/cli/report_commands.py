"""The command that makes a page of a run: report."""

from pathlib import Path
from typing import Annotated

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, speaking
from optishear.cli.run_commands import RunPlace


def register(app: typer.Typer) -> None:
    app.command()(report)


@speaking
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
