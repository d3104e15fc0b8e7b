"""The page's section on the question: what was asked, and how, from the manifest."""

from collections.abc import Mapping, Sequence
from typing import Any

from optishear.recipe.patterns import Asked, Patterns
from optishear.recipe.recipe import Recipe
from optishear.report.page.contents import Contents
from optishear.report.page.wording import counted, listed, percent


Terms = tuple[tuple[str, str], ...]

SEARCHED = {"block": "sparsity by block", "layer": "sparsity by layer"}
SEARCHED["curve"] = "sparsity over depth and role"
LAMBDAS = {"global": "one λ", "role": "λ by role", "block": "λ by block"}


def hypothesis(contents: Contents) -> str | None:
    """What the experiment file opens with, where the manifest has kept it."""
    return contents.experiment.get("hypothesis") or None


def question(contents: Contents) -> str:
    """The same in the configuration's terms."""
    experiment = contents.experiment
    budget = (experiment["space"].get("sparsity") or {}).get("budget")
    at = "" if budget is None else f" at exactly {percent(budget)} sparsity"
    return (
        f"Which {listed(varied(experiment['space']))} is best for {experiment['model']}{at}, "
        f"judged by {listed(experiment['objectives'])}?"
    )


def varied(space: Mapping[str, Any]) -> list[str]:
    """What the search may choose, in words."""
    sparsity, moonshot = space.get("sparsity") or {}, space.get("moonshot") or {}
    parts = []
    if _open(space.get("metric", [])):
        parts.append("metric")
    by = sparsity.get("by", "uniform")
    if by in SEARCHED:
        parts.append(SEARCHED[by])
    elif sparsity.get("budget") is None:
        parts.append(f"sparsity ({by})")
    for match, asked in _patterns(space).items():
        if asked.pattern.levels is not None and asked.fixed is None:
            of = f" of {match}" if match else ""
            parts.append(f"N of {asked.pattern.levels} by layer{of}")
    if _open(space.get("solver") or []):
        parts.append("solver")
    for match, role in (space.get("roles") or {}).items():
        parts += [
            f"{part} of {match}" for part in ("metric", "solver") if _open(role.get(part) or ())
        ]
    if moonshot and moonshot.get("lambda") is None:
        parts.append(LAMBDAS.get(moonshot.get("by", "global"), "λ"))
    return parts or ["recipe"]


def _patterns(space: Mapping[str, Any]) -> dict[str, Asked]:
    """The pattern, and those that roles have of their own."""
    roles = space.get("roles") or {}
    own = {match: role["pattern"] for match, role in roles.items() if role.get("pattern")}
    patterns = Patterns.asked(str(space["pattern"]), own)
    return {"": patterns.default} | dict(patterns.roles)


def _of_role(role: Mapping[str, Any]) -> str:
    """What the layers of a role have otherwise, in short."""
    said = [
        f"{part} {listed([x['name'] for x in role[part]])}"
        for part in ("metric", "solver")
        if role.get(part)
    ]
    said += [f"{key} {role[key]}" for key in ("pattern", "damping") if role.get(key) is not None]
    return ", ".join(said)


def _open(specs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a choice: several specs, or a setting that is a gene."""
    return len(specs) > 1 or any(
        isinstance(value, Mapping) for spec in specs for key, value in spec.items() if key != "name"
    )


def configuration(contents: Contents) -> Terms:
    """In short, for a reader who does not know the file format."""
    experiment = contents.experiment
    search, space = experiment["search"], experiment["space"]
    budget = (space.get("sparsity") or {}).get("budget")
    metrics = listed([spec["name"] for spec in space.get("metric", [])] or ["own"])
    solvers = listed([spec["name"] for spec in space.get("solver") or []] or ["mask"])
    texts = experiment["text"]
    evaluation = texts["evaluation"]
    held = evaluation if isinstance(evaluation, list) else [evaluation]
    rungs = search.get("rungs") or []
    terms = [
        ("Model", f"{experiment['model']}, {experiment['dtype']} on {experiment['device']}"),
        ("Searched", listed(varied(space))),
        ("Metric, solver", f"{metrics}; {solvers}"),
        ("Pattern", f"{space['pattern']}: where the count of dropped weights applies"),
        (
            "Budget",
            "none: sparsity is searched too" if budget is None else f"exactly {percent(budget)}",
        ),
        ("Objectives", listed(experiment["objectives"])),
        (
            "Driver",
            f"{search['driver']}, population {search['population']}, "
            f"{counted(search['evaluations'], 'evaluation')}, seed {search['seed']}",
        ),
        ("Calibration text", text_words(texts["calibration"])),
        ("Search text", text_words(texts["search"])),
        ("Held-out text", "; ".join(text_words(text) for text in held)),
        ("Pick", _pick_words(experiment)),
        ("Baselines", listed(experiment["baselines"]) if experiment["baselines"] else "none"),
    ]
    roles = space.get("roles") or {}
    if roles:
        told = "; ".join(f"{match}: {_of_role(role)}" for match, role in roles.items())
        terms.insert(4, ("By role", told))
    if (around := experiment.get("around")) is not None:
        key = Recipe.from_json(around, "around").key
        terms.append(("Around", f"statistics of the model as the recipe {key} prunes it"))
    if rungs:
        ladder = f"measured on {listed([f'{rung:,}' for rung in rungs])} tokens first"
        terms.append(("Ladder", f"{ladder}; the best go on to all"))
    return tuple(terms)


def _pick_words(experiment: Mapping[str, Any]) -> str:
    number = experiment.get("finalists") or 0
    of = f"of {number} finalists, measured block by block," if number else "recipe of the front"
    return f"{experiment['pick']}: which {of} is compared"


def text_words(text: Mapping[str, Any]) -> str:
    many = "all" if not text["sequences"] else text["sequences"]
    own = "" if text.get("seed") is None else f", seed {text['seed']}"
    return f"{text['source']}, {text['split']}: {many} × {text['seq_len']} tokens{own}"
