"""The printed plan: a page of tables, and at its end what is wrong."""

from collections.abc import Sequence

from optishear.cli.console import say, say_table
from optishear.cli.wording import how_text
from optishear.tools.plan.checks import Findings
from optishear.tools.plan.facts import ModelFacts, RunFacts, SpaceFacts
from optishear.tools.plan.footprint import Room, size_text
from optishear.tools.plan.plan import Plan
from optishear.tools.plan.time import Times


def say_plan(plan: Plan) -> None:
    if plan.model is not None:
        _say_model(plan.model)
    if plan.space is not None:
        _say_space(plan.space)
    if plan.cached:
        _say_cache(plan)
    if plan.memory:
        _say_memory(plan)
    if plan.times is not None:
        _say_times(plan.times)
    if plan.run is not None:
        say(_run_text(plan.run))
    _say_findings(plan.findings)


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `5 h 10 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def _say_table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Headings are longer than tables are wide."""
    say(heading)
    say_table("", columns, rows)


def _say_model(model: ModelFacts) -> None:
    rows = [
        [role.role, str(role.layers), ", ".join(role.shapes), f"{role.weights:,}"]
        for role in model.roles
    ]
    rows.append(["all", str(model.layers), "", f"{model.weights:,}"])
    title = (
        f"model: {model.name}, {model.parameters:,} parameters in {model.blocks} blocks, "
        f"{model.dtype} on {model.device}"
    )
    _say_table(title, ["prunable role", "layers", "shape", "weights"], rows)
    say(model.coverage.text)
    say("")


def _say_space(space: SpaceFacts) -> None:
    rows = [[g.decide, str(g.count), g.kind, g.range] for g in space.genes]
    sizes = [f"10^{space.log10_genomes:.1f} genomes"] if space.log10_genomes else []
    sizes += [f"{space.continuous} continuous genes"] if space.continuous else []
    budget = "no budget" if space.budget is None else f"exactly {100 * space.budget:g} %"
    title = f"space: {' x '.join(sizes)}, pattern {space.pattern}, {budget}"
    _say_table(title, ["genes decide", "count", "kind", "range"], rows)
    rungs = ", ".join(f"{rung:,}" for rung in space.rungs)
    say(
        f"search: {space.driver}, {space.evaluations:,} recipes, population {space.population}, "
        f"seed {space.seed}, on {rungs} tokens, for {', '.join(space.objectives)}"
    )
    if space.seeds:
        kinds = dict.fromkeys(how_text(recipe) for recipe in space.seeds)
        say(f"first generation: {len(space.seeds)} seeded recipes ({'; '.join(kinds)})")
    if space.solved:
        say(f"before these what is solved for on few tokens, by {' and '.join(space.solved)}")
    say("")


def _say_cache(plan: Plan) -> None:
    rows = [[c.what, size_text(c.bytes), seconds_text(c.seconds), c.state] for c in plan.cached]
    if (levels := plan.levels) is not None:
        when = "before the first candidate" if levels.grid else "as candidates come"
        state = f"{levels.there:,} of {levels.wanted:,} there, the rest {when}"
        rows.append(["level database", size_text(levels.bytes), "", state])
    title = f"kept in the cache, {plan.cache}"
    _say_table(title, ["what", "size", "took", "state"], rows)


def _say_memory(plan: Plan) -> None:
    rows = [[held.what, size_text(held.bytes)] for held in plan.memory]
    rows += [[f"{_fits(room)}: {room.where}", _room_text(room)] for room in plan.rooms]
    _say_table("memory at its fullest, and disk", ["what", "size"], rows)


def _fits(room: Room) -> str:
    return "fits" if room.fits else "DOES NOT FIT"


def _room_text(room: Room) -> str:
    return f"{size_text(room.needed)} of {size_text(room.free)} free"


def _say_times(times: Times) -> None:
    rows = [
        [step.what, "done" if step.done else seconds_text(step.seconds), step.rests_on]
        for step in times.steps
    ]
    rows.append(["all that is to come", seconds_text(times.seconds), ""])
    _say_table("time, an estimate", ["stage", "takes", "rests on"], rows)
    tried = times.run
    per = " or ".join(f"{seconds:.3g} s ({kind})" for kind, seconds in times.price.steady.items())
    say(
        f"{len(tried.lowest) + len(tried.higher)} candidates were measured; once warm, one on the "
        f"lowest rung took {per}. The estimate takes the search's recipes for random ones, the "
        f"machine for as busy as it was just now, and the rest for a line in tokens."
    )
    say("")


def _run_text(run: RunFacts) -> str:
    if run.status == "finished":
        return f"run: {run.path} was finished on {run.finished}; a search would only show it"
    there = sum(run.evaluations.values())
    others = sum(run.known.values()) - there
    text = f"run: {run.path}, "
    text += f"unfinished with {there:,} evaluations, would go on" if there else "none yet"
    return text + (f"; other runs know {others:,} more" if others else "")


def _say_findings(findings: Findings) -> None:
    kinds = {
        "mistake": findings.mistakes,
        "failure": findings.failures,
        "warning": findings.warnings,
        "not checked": findings.unchecked,
    }
    lines = [f"{kind}: {text}" for kind, texts in kinds.items() for text in texts]
    say("\n".join(lines) if lines else "problems: none found")
