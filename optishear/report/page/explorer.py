"""The data behind what moves on the page: recipes with their values, profiles and axes.

Sparsities and λ are whole numbers of thousandths, so that hundreds of recipes stay small.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from optishear.recipe.features import OF_ROLE
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal, recipe_of
from optishear.report.axes_of_recipes import recipe_axes
from optishear.report.comparison import of_the_search
from optishear.report.front_figure import extent
from optishear.report.heatmap_figure import lambdas
from optishear.report.page.contents import Contents
from optishear.report.page.picking import pick_text
from optishear.report.page.provenance import place
from optishear.report.page.wording import MEANINGS, quantity_of
from optishear.report.profile_figure import short_names, sparsities
from optishear.report.run_view import RunView
from optishear.report.style import number, without_backend


CELLS = 250_000  # of all heat maps; a larger run keeps those of the front and the baselines alone
STOPS = 24  # of the colour map


def explorer(contents: Contents, view: RunView) -> dict[str, Any]:
    """What page.js reads; needs a run with a front."""
    made, names = view.made, _quantities(view)
    axes = recipe_axes(view)
    recipes = _recipes(contents, view)
    cells = len(recipes) * len(view.layout.roles) * view.layout.blocks
    baselines = _baselines(contents)
    kept = (
        set(recipes) if cells <= CELLS else {view.pick.key, *view.front_keys, *baselines.values()}
    )
    commands = _commands(contents, view)
    called = {key: name for name, key in baselines.items()}
    items = [
        {
            "key": row["key"],
            "name": called.get(row["key"], ""),
            "front": row["key"] in commands,
            "values": [row[f"value.{name}"] for name in names],
            "settings": _settings(row),
            "blocks": _thousandths(_blocks(row, "sparsity")),
            "lambdas": _thousandths(_blocks(row, "lambda")),
            "grid": _grid(view, recipes[row["key"]]) if row["key"] in kept else None,
            "lambda_grid": _lambda_grid(view, recipes[row["key"]]) if row["key"] in kept else None,
            "command": commands.get(row["key"]),
            "places": [_place(axis.places[index]) for axis in axes],
        }
        for index, row in enumerate(made.to_dict(orient="records"))
    ]
    return {
        "run": place(contents),
        "quantities": [
            _quantity(view, made[f"value.{name}"].to_numpy(float), name) for name in names
        ],
        "items": items + _unmeasured(contents, names, set(made.key)),
        "pick": made.key.tolist().index(view.pick.key),
        "roles": list(short_names(view.layout.roles)),
        "axes": [
            {
                "label": axis.label,
                "ends": list(axis.ends),
                "names": list(axis.names),
                "log": axis.log,
                "percent": axis.percent,
                "objective": axis.objective,
            }
            for axis in axes
        ],
        "colours": _colours(),
    }


def _quantities(view: RunView) -> list[str]:
    """Objectives first, then what was recorded for every recipe."""
    made = view.made
    recorded = sorted(c.removeprefix("value.") for c in made if c.startswith("value."))
    first = [quantity.name for quantity in view.front.quantities]
    whole = [n for n in recorded if n not in first and np.isfinite(made[f"value.{n}"]).all()]
    return first + whole


def _quantity(view: RunView, values: np.ndarray, name: str) -> dict[str, Any]:
    """How it is shown, and what its axis shows: as in the front's figure."""
    quantity = quantity_of(name, view.front.quantities)
    names = [q.name for q in view.front.quantities]
    if name in names:
        low, high, log = view.front.bounds(names.index(name))
    else:
        front = view.values(name)[view.evaluations.key.isin(view.front_keys)]
        low, high, log = extent(quantity, values, np.asarray(front, dtype=float))
    return {
        "name": name,
        "unit": quantity.unit.removeprefix("fraction of "),
        "percent": quantity.percent,
        "objective": name in names,
        "maximise": quantity.maximise,
        "meaning": MEANINGS.get(name, ""),
        "low": low,
        "high": high,
        "log": log,
    }


def _recipes(contents: Contents, view: RunView) -> dict[str, Recipe]:
    header, entries, _ = read_journal(contents.run.journal)
    keys = set(view.evaluations.key)
    return {
        entry["key"]: recipe_of(entry, (header or {})["layers"])
        for entry in entries
        if entry["key"] in keys
    }


def _baselines(contents: Contents) -> dict[str, str]:
    """Names and keys of recipes; a baseline that no recipe was kept of is not among them."""
    return {
        row["name"]: row["recipe"]
        for row in of_the_search(contents.held_out or ())
        if row.get("recipe")
    }


def _unmeasured(contents: Contents, names: list[str], keys: set[str]) -> list[dict[str, Any]]:
    """Baselines of which there are values but no evaluation in the journal."""
    return [
        {
            "key": row.get("recipe") or "",
            "name": row["name"],
            "front": False,
            "values": [row["search"].get(name) for name in names],
            "settings": [],
            "places": None,
            **dict.fromkeys(("blocks", "lambdas", "grid", "lambda_grid", "command")),
        }
        for row in of_the_search(contents.held_out or ())
        if row["search"] and row.get("recipe") not in keys
    ]


def _commands(contents: Contents, view: RunView) -> dict[str, str | None]:
    """By key, for every recipe of the front, the `--pick` that finds it."""
    entries = (contents.front or {})["entries"]
    rows = [entry["values"] for entry in entries]
    maximise = {quantity.name: quantity.maximise for quantity in view.front.quantities}
    return {entry["key"]: pick_text(rows, i, maximise) for i, entry in enumerate(entries)}


def _settings(row: Mapping[str, Any]) -> list[list[str]]:
    """What the recipe says of its parts; of roles with parts of their own those that say alike are
    put together."""
    parts = ("metric", "solver", "pattern", "damping")
    alike: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        for name, value in row.items():
            if name.partition(".")[0] != part or value != value:  # NaN: it does not apply
                continue
            setting, _, role = name.partition(OF_ROLE)
            text = number(value) if isinstance(value, float) else str(value)
            alike.setdefault((setting.replace(".", " "), text), []).extend([role] if role else [])
    return [
        [f"{setting} ({', '.join(short_names(roles))})" if roles else setting, text]
        for (setting, text), roles in alike.items()
    ]


def _blocks(row: Mapping[str, Any], prefix: str) -> list[float] | None:
    values = [row[name] for name in row if name.startswith(f"{prefix}.block.")]
    return None if not values or any(value != value for value in values) else values


def _thousandths(values: list[float] | None) -> list[int] | None:
    return None if values is None else [round(1000 * value) for value in values]


def _grid(view: RunView, recipe: Recipe) -> list[list[int | None]]:
    return _whole(sparsities(view.layout, recipe.drop)[0])


def _lambda_grid(view: RunView, recipe: Recipe) -> list[list[int | None]] | None:
    return _whole(lambdas(view.layout, recipe)) if recipe.mixed else None


def _whole(grid: np.ndarray) -> list[list[int | None]]:
    return [[None if np.isnan(x) else round(1000 * x) for x in row] for row in grid.tolist()]


def _place(place: float) -> float | None:
    return None if np.isnan(place) else round(float(place), 4)


def _colours() -> list[str]:
    """matplotlib's cividis: read alike by all eyes, and the same as in the figures."""
    without_backend()
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["cividis"](stop)) for stop in np.linspace(0, 1, STOPS)]
