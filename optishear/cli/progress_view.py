"""Text and bars of a search's progress, the same for `search` and for `watch`."""

from datetime import datetime
from typing import TYPE_CHECKING

from optishear.cli.wording import number_text


if TYPE_CHECKING:
    from rich.console import RenderableType

    from optishear.report.progress import State
    from optishear.report.watching import RunSnapshot

BAR_WIDTH = 24


def duration_text(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def pace_text(state: "State") -> str:
    """How many of how many recipes, how fast, and how long still."""
    parts = [f"{state.asked}/{state.most}"]
    if state.per_second is not None:
        rate = state.per_second
        parts.append(f"{rate:.2f}/s" if rate >= 0.1 else f"{duration_text(1 / rate)} each")
    if state.seconds_left is not None and state.seconds_left >= 0.5:
        parts.append(f"{duration_text(state.seconds_left)} left")
    return "  ".join(parts)


def count_text(state: "State") -> str:
    """What became of the evaluations; with a ladder how many of them are on which rung."""
    parts = []
    if len(state.rungs) > 1:
        on = [
            f"{made}{'' if made == state.expected[rung] else f'/{state.expected[rung]}'} on {rung}"
            for rung, made in state.rungs.items()
        ]
        parts.append(f"{', '.join(on)} tokens")
    if state.failed:
        parts.append(f"{state.failed} failed")
    if state.remembered:
        parts.append(f"{state.remembered} known from other runs")
    return ", ".join(parts)


def front_text(state: "State") -> str:
    """The front, of which rung it is, and what it dominates."""
    if not state.front:
        return ""
    where = f" on {state.front_rung} tokens" if len(state.rungs) > 1 else ""
    text = f"front{where} {len(state.front)}"
    if state.hypervolume is not None:
        text += f", hypervolume {state.hypervolume:.4f}"
    return text


def best_text(state: "State", prefer: str | None) -> str:
    """The knee of the front, or the lowest value of what decides."""
    if state.best is None:
        return ""
    if prefer is not None and prefer in state.values:
        return f"lowest {prefer} {number_text(prefer, state.values[prefer])}"
    shown = [f"{name} {number_text(name, state.values[name])}" for name in state.objectives]
    return f"{'knee' if len(shown) > 1 else 'best'} {', '.join(shown)}"


def line(state: "State", prefer: str | None) -> str:
    """All of it in one line, for a pipe."""
    found = [front_text(state), best_text(state, prefer), count_text(state)]
    return f"  {pace_text(state)}  {', '.join(part for part in found if part)}"


def panel(state: "State", prefer: str | None, what: str = "searching") -> "RenderableType":
    """A bar with the pace beside it, and below it one line each for counts, front and best."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    first = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=1.0, completed=min(state.share, 1.0), width=BAR_WIDTH)
    first.add_row(Text(what), bar, Text(pace_text(state)))
    below = [count_text(state), front_text(state), best_text(state, prefer)]
    return Group(first, *[Text(f"  {text}") for text in below if text])


def snapshot_view(snapshot: "RunSnapshot", now: datetime) -> "RenderableType":
    """A run looked at from outside: how it stands, the last evaluations, whether it goes on."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{snapshot.title}: {status_text(snapshot, now)}")]
    if snapshot.state is not None:
        what = "searched" if snapshot.over or snapshot.state.share >= 1 else "searching"
        parts.append(panel(snapshot.state, snapshot.goal.prefer, what))
    if snapshot.latest:
        names = list(snapshot.goal.objectives)
        if snapshot.goal.prefer is not None and snapshot.goal.prefer not in names:
            names.append(snapshot.goal.prefer)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("latest", "tokens", "seconds", *names, ""):
            left = column in ("latest", "")
            table.add_column(column, justify="left" if left else "right", no_wrap=column != "")
        for entry in snapshot.latest:
            values = entry["values"] or {}
            shown = [number_text(name, values[name]) if name in values else "–" for name in names]
            seconds = "known" if entry.get("memo") else f"{entry['seconds']:.2f}"
            table.add_row(entry["key"], str(entry["rung"]), seconds, *shown, entry["reason"])
        parts.append(table)
    return Group(*parts)


def status_text(snapshot: "RunSnapshot", now: datetime) -> str:
    """Whether the run is over, goes on, or waits for somebody to resume it."""
    manifest = snapshot.manifest
    if snapshot.over:
        ended = f" ({manifest['ended']})" if manifest.get("ended") else ""
        when = f" on {manifest['finished']}" if manifest.get("finished") else ""
        return f"{snapshot.status}{when}{ended}"
    if snapshot.came is None:
        since = "no evaluation yet"
    else:
        ago = duration_text(max((now - snapshot.came).total_seconds(), 0.0))
        since = f"last evaluation {ago} ago"
    if snapshot.written:
        return f"running, {since}"
    if snapshot.written is None:
        return f"{since}; whether it is still running cannot be told from here"
    return (
        f"{since}; no process here is writing: it was stopped, and the same search command "
        f"resumes it, or it runs on another machine"
    )
