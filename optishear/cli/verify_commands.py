"""The command about a checkpoint that is there: verify."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from optishear.cli.console import FAILED_RUN, JsonFlag, note, say, say_json, say_table, speaking


WORST = 3  # details that are printed of a check; --json has all


def register(app: typer.Typer) -> None:
    app.command()(verify)


@speaking
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint folder.")],
    against: Annotated[
        str | None,
        typer.Option(help="The dense model: a name, folder or Hub id. The recipe's if left out."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also prune anew and compare bit for bit.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Where --again prunes: cpu (if left out) or cuda.")
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Check that a checkpoint holds what its recipe says; exit code 1 if a check fails.

    Example: optishear verify pruned/ --against embedded
    """
    from dataclasses import asdict

    from optishear.errors import ConfigError

    if device is not None and not again:
        raise ConfigError("--device: says where --again prunes. Give that too, or leave it out.")
    from optishear.cli.progress import Stages
    from optishear.export.verify.check import FAILED, INFO, OK, UNCHECKED
    from optishear.tools.verify import verify as run

    checks = run(folder, against, again, device or "cpu", Stages())
    failed = [check for check in checks if check.status == FAILED]
    if json_:
        rows = [{**asdict(check), "layers": dict(check.layers)} for check in checks]
        say_json({"folder": str(folder), "ok": not failed, "checks": rows})
    else:
        rows = [[check.name, check.status, check.found] for check in checks]
        say_table(f"verify: {folder}", ["check", "answer", "found"], rows, prose=True)
        for check in checks:
            for line in check.details[:WORST]:
                say(f"  {check.name}: {line}")
            if (more := len(check.details) - WORST) > 0:
                say(f"  {check.name}: and {more} more (--json has all)")
        counts = {s: sum(c.status == s for c in checks) for s in (OK, FAILED, INFO, UNCHECKED)}
        say(f"{folder}: " + ", ".join(f"{n} {status}" for status, n in counts.items() if n))
    for check in failed:
        note(f"failed: {check.name}: {check.found}")
    if failed:
        sys.stdout.flush()
        raise typer.Exit(FAILED_RUN)
