"""Commands about a run that is there: front, plot, export, pack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, say_table, speaking
from optishear.cli.wording import how_text, number_text


if TYPE_CHECKING:
    from optishear.search.finalists import Finalists

RunPlace = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run directory, packed or not, or a folder that holds one run."
    ),
]
PickOption = Annotated[
    str | None,
    typer.Option(
        help="knee, lowest:NAME, highest:NAME, 'nearest:sparsity=60% kl=0.4', or constraints such "
        "as 'sparsity>=0.6,perplexity<=25'. The experiment's own choice if left out."
    ),
]


def register(app: typer.Typer) -> None:
    for command in (front, plot, export, pack):
        app.command()(command)


@speaking
def front(run: RunPlace, pick: PickOption = None, json_: bool = JsonFlag) -> None:
    """Show the Pareto front, or with --pick one recipe of it.

    Names in --pick are the table's columns, and bytes_dense, bytes_2:4, share_2:4.

    Example: optishear front results/quickstart --pick 'sparsity>=0.6,perplexity<=40'
    """
    from optishear.runs.results import open_run

    found = open_run(run).front
    chosen = found.pick(pick)
    entries, finalists = ([chosen], None) if pick else (found.entries, found.finalists)
    rows = [found.row(entry) for entry in entries]
    if json_:
        say_json(
            {
                "objectives": dict(found.objectives),
                "picked": chosen.recipe.key,
                "entries": [
                    {"key": e.recipe.key, "values": row, "recipe": e.recipe.to_json()}
                    for e, row in zip(entries, rows, strict=True)
                ],
                **({} if finalists is None else {"finalists": finalists.to_json()}),
            }
        )
        return
    names = [name for name in rows[0] if name != "bytes_dense"]  # is the same for all
    if not any(row.get("share_2:4") for row in rows):
        names = [name for name in names if not name.endswith("_2:4")]
    lines = [
        [
            ("→ " if entry is chosen else "  ") + entry.recipe.key,
            *[number_text(name, row[name]) for name in names],
            how_text(entry.recipe),
        ]
        for entry, row in zip(entries, rows, strict=True)
    ]
    title = f"{found.experiment}: {len(found.entries)} recipes on the front"
    if not pick:
        title += f" (→ {found.usual_pick}{'' if finalists is None else ', of the finalists'})"
    say_table(title, ["recipe", *names, "how"], lines)
    if finalists is not None:
        _say_finalists(finalists)
    if dense := rows[0].get("bytes_dense"):
        note(
            f"Written with its zeros, every recipe takes {number_text('bytes', dense)}; bytes: as "
            "non-zeros plus one bit a weight."
            + (" bytes_2:4: as 2:4 hardware stores it." if "bytes_2:4" in names else "")
        )


def _say_finalists(finalists: "Finalists") -> None:
    """In the order of the pick one-shot."""
    from optishear.report.finalists import finalists_text

    name = finalists.quantity
    lines = [
        [
            ("→ " if one is finalists.final else "  ") + one.recipe.key,
            number_text(name, one.one_shot[name]),
            f"failed: {one.reason}"
            if one.by_block is None
            else number_text(name, one.by_block[name]),
            how_text(one.recipe),
        ]
        for one in finalists.entries
    ]
    say_table("finalists", ["recipe", f"{name} one-shot", f"{name} block by block", "how"], lines)
    say(finalists_text(finalists))


@speaking
def plot(run: RunPlace, json_: bool = JsonFlag) -> None:
    """Draw the front, the picked profile and the convergence, as PNG and SVG, into RUN/figures
    (RUN.figures beside a packed run).

    Example: optishear plot results/quickstart
    """
    from optishear.report.figures import draw_figures
    from optishear.runs.results import open_run

    paths = draw_figures(open_run(run).directory)
    if json_:
        say_json({"figures": [str(path) for path in paths]})
        return
    for path in paths:
        say(str(path))


@speaking
def export(
    run: RunPlace,
    to: Annotated[
        Path | None,
        typer.Option(
            help="A folder for recipe.json, profile.csv and profile.json; or one file: "
            "recipe*.json, or a profile as *.csv or *.json; the file of another --format."
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="optishear; llmcompressor (.yaml), evopress (.txt): for those tools; masks "
            "(.safetensors): of a pruned checkpoint, given in place of RUN.",
        ),
    ] = "optishear",
    level_step: Annotated[
        int | None,
        typer.Option(min=1, help="Weights between two EvoPress levels; the smallest that does."),
    ] = None,
    pick: PickOption = None,
    to_hub: Annotated[
        str | None,
        typer.Option(
            help="ORG/NAME: push a pruned checkpoint, given in place of RUN, or the run's recipe "
            "to a new, private repository of the Hub, with a model card."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what --to-hub would push.")
    ] = False,
    json_: bool = JsonFlag,
) -> None:
    """Write a recipe that `optishear prune` takes and its sparsity profile, or another tool's file.

    Example: optishear export results/quickstart --pick knee --to exported/
    """
    from optishear.errors import ConfigError

    if (to is None) == (to_hub is None):
        raise ConfigError("Give one of --to PLACE, --to-hub ORG/NAME.")
    if to_hub is not None:
        if format_ != "optishear" or level_step is not None:
            raise ConfigError("--format, --level-step: are of files. Leave them or --to-hub out.")
        _to_hub(run, to_hub, pick, dry_run, json_)
        return
    if dry_run:
        raise ConfigError("--dry-run: goes with --to-hub.")
    assert to is not None
    from optishear.tools.exports import export as write

    found = write(str(run), to, format_, pick, level_step)
    if json_:
        files = [str(path) for path in found.files]
        say_json({"picked": found.key, "files": files, "notes": list(found.notes)})
        return
    for line in found.notes:
        note(line)
    for path in found.files:
        say(str(path))


def _to_hub(place: Path, to: str, pick: str | None, dry_run: bool, json_: bool) -> None:
    from optishear.tools import push

    what = push.pushed_from(place, to, pick)
    url = None if dry_run else push.push(what)
    if json_:
        say_json({"repository": to, "files": what.sizes, "card": what.card, "url": url})
        return
    if url is not None:
        say(url)
        return
    for name, size in what.sizes.items():
        say(f"{size:>15,} {name}")
    say(f"{sum(what.sizes.values()):>15,} bytes would go to {to}, a new, private repository")
    say(f"\n{what.card}")


@speaking
def pack(
    places: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Runs, or folders that hold some.")
    ],
    json_: bool = JsonFlag,
) -> None:
    """Make each finished run one file, RUN.tar.xz in place of its folder; every command reads it.

    What plot, report and dashboard can make again is not kept. `tar xf` makes the folder again.

    Example: optishear pack results/
    """
    from optishear.tools.pack import pack as packed

    found = packed(places)
    if json_:
        say_json(
            {
                "packed": [
                    {"file": str(one.path), "bytes": one.bytes, "unpacked": one.unpacked}
                    for one in found
                ]
            }
        )
        return
    for one in found:
        say(f"{one.path}: {one.bytes / 1e3:,.0f} kB of {one.unpacked / 1e3:,.0f}")
