"""`write_report` is the door of this folder: a run's files become one HTML file.

Nothing in it is fetched: style, script, data and figures are inside, and the page's own content
security policy forbids everything else, down to the hash of its one script.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optishear.records.atomic import replace_file
from optishear.records.output import file_for
from optishear.records.run_directory import RunDirectory
from optishear.report.figures import importances_of, make_figures
from optishear.report.finalists import finalists_text
from optishear.report.importance import LEAST, LEVEL, Importance, ped_anova
from optishear.report.page import held_out, question
from optishear.report.page.contents import Contents, read_contents
from optishear.report.page.explorer import explorer
from optishear.report.page.progress import failures, rungs
from optishear.report.page.provenance import place, provenance, remake
from optishear.report.page.wording import (
    MEANINGS,
    counted,
    listed,
    quantity_of,
    value_text,
)
from optishear.report.run_view import RunView
from optishear.report.style import DPI, paper_style
from optishear.report.varying import varying
from optishear.search.finalists import Finalists


if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

HERE = Path(__file__).parent
SCRIPTS = ("draw.js", "recipe.js", "scatter.js", "parallel.js", "page.js")  # in this order


@dataclass(frozen=True)
class Report:
    """The file, its size, and a sentence for every part that it leaves out."""

    path: Path
    bytes: int
    left_out: tuple[str, ...]


def write_report(run: RunDirectory, to: Path | None = None) -> Report:
    """Writes `to`, or the run's own report.html. The same files give the same bytes.

    A `ConfigError` where a file of the run is damaged or not ours. A run that has not finished
    has a report of what it has.
    """
    path = run.report if to is None else to
    with file_for(path, "--to"):
        contents = read_contents(run)
        left_out = _left_out(contents)
        page = _render(contents, left_out)
        replace_file(path, page.encode())
    return Report(path, len(page.encode()), tuple(left_out.values()))


def _left_out(contents: Contents) -> dict[str, str]:
    """What the page cannot show and why, by part."""
    missing: dict[str, str] = {}
    measured = counted(int((contents.evaluations.reason == "").sum()), "recipe")
    if contents.front is None:
        missing["front"] = (
            f"There is no front yet: the search has not finished. So far {measured} "
            "succeeded; run the same search command again to go on."
        )
    elif contents.view is None:
        missing["front"] = "There is no front: no recipe was measured successfully."
    if contents.held_out is None:
        missing["held out"] = (
            "There is no comparison on held-out text yet: a search makes it when it has finished."
        )
    if contents.view is None:
        return missing
    view = contents.view
    if not len(varying(view.evaluations).columns):
        missing["parallel"] = "There are no recipes that differ from each other to compare."
    told = {one.objective for one in importances_of(view)}
    without = [q.name for q in view.front.quantities if q.name not in told]
    if without:
        missing["importance"] = (
            f"For {listed(without)} it cannot be told which choices matter: it takes {LEAST} "
            f"evaluations that differ, and {measured} succeeded in this run."
        )
    return missing


def _render(contents: Contents, left_out: Mapping[str, str]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    view = contents.view
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    style = (HERE / "page.css").read_text(encoding="utf-8")
    parts = [(HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = "(() => {\n'use strict';\n" + "\n".join(parts) + "\n})();\n"
    return environment.get_template("page.html").render(
        contents=contents,
        left_out=left_out,
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        data=None if view is None else _script_json(explorer(contents, view)),
        figures={} if view is None else _pictures(view),
        hypothesis=question.hypothesis(contents),
        question=question.question(contents),
        outcome=_outcome(contents),
        configuration=question.configuration(contents),
        whole_configuration=_yaml(contents.experiment),
        meanings=_meanings(contents),
        pick=_pick(contents),
        tables=held_out.tables(contents.held_out) if contents.held_out else (),
        finalists=_finalists(contents),
        rungs=rungs(contents.evaluations, contents.experiment["objectives"]),
        importance=() if view is None else _importance(view),
        level=f"{LEVEL:.0%}",
        failures=failures(contents.evaluations),
        provenance=provenance(contents),
        remake=remake(contents),
        place=place(contents),
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def _script_json(data: Any) -> str:
    """JSON that no HTML parser can leave: `<`, `>` and `&` only as escapes."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _yaml(experiment: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(experiment), sort_keys=False, allow_unicode=True)


def _pictures(view: RunView) -> dict[str, dict[str, Any]]:
    """Each figure as an SVG in a data URL, and its size in CSS pixels."""
    with paper_style():
        return {name: _picture(figure) for name, figure in make_figures(view).items()}


def _picture(figure: "matplotlib.figure.Figure") -> dict[str, Any]:
    content = BytesIO()
    figure.savefig(content, format="svg", dpi=DPI, metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches().tolist())
    encoded = b64encode(content.getvalue()).decode()
    return {"source": f"data:image/svg+xml;base64,{encoded}", "width": width, "height": height}


def _outcome(contents: Contents) -> str:
    """The result in one sentence with numbers, or how far the search is."""
    pick = contents.experiment["pick"]
    if contents.held_out and (sentence := held_out.outcome(contents.held_out, pick)):
        return sentence
    if contents.view is None:
        made = len(contents.evaluations)
        return f"The search has no result yet: {counted(made, 'evaluation')} so far."
    return (
        f"Of {counted(len(contents.view.outcomes), 'evaluation')}, "
        f"{counted(len(contents.view.front_keys), 'recipe')} are on the front; the pick "
        f"({pick}) has {listed(_pick(contents))}, on the search text."
    )


def _pick(contents: Contents) -> list[str]:
    """The pick's values on the search text, objectives first."""
    if contents.view is None:
        return []
    front = contents.view.front
    return [
        f"{quantity.name} {value_text(quantity, value)}"
        for quantity, value in zip(front.quantities, front.picked, strict=True)
    ]


def _finalists(contents: Contents) -> str | None:
    """What became of the finalists, where the pick was made of some."""
    said = (contents.front or {}).get("finalists")
    return finalists_text(Finalists.from_json(said)) if said else None


def _meanings(contents: Contents) -> list[tuple[str, str]]:
    names = [*contents.experiment["objectives"], *contents.experiment["record"]]
    return [(name, MEANINGS[name]) for name in dict.fromkeys(names) if name in MEANINGS]


def _importance(view: RunView) -> list[dict[str, Any]]:
    """A table an objective, features in the order of the figure, and a sentence on the clear."""
    features = varying(view.evaluations)
    found = []
    for one in importances_of(view):
        quantity = quantity_of(one.objective, view.front.quantities)
        shares = ped_anova(features, view.values(one.objective), quantity.maximise)
        rows = [
            {
                "feature": name,
                "effect": _effect(row),
                "interval": f"{row.low:.2f} to {row.high:.2f}",
                "noise": f"± {row.noise:.2f}",
                "clear": bool(row.clear),
                "share": f"{shares[name]:.2f}" if name in shares else "–",
            }
            for name, row in one.table.loc[[x for x in features if x in one.table.index]].iterrows()
        ]
        found.append(
            {
                "objective": one.objective,
                "evaluations": one.evaluations,
                "rows": rows,
                "sentence": _clear(one),
            }
        )
    return found


def _clear(one: Importance, most: int = 4) -> str:
    """What stands out, strongest first."""
    clear = one.table[one.table.clear]
    if clear.empty:
        return f"Nothing that varied can be told from chance for {one.objective}."
    names = [f"{name} ({_effect(row)})" for name, row in clear.iterrows()]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"Beyond chance for {one.objective}: {'; '.join(names[:most])}{rest}."


def _effect(row: "pd.Series") -> str:
    """With its sign, if it has one."""
    return f"{row.effect:+.2f}" if row.signed else f"{row.effect:.2f}"
