"""The words by which `optishear front RUN --pick` finds one recipe of a front again."""

from collections.abc import Mapping, Sequence

from optishear.search.pick import parse_pick


def pick_text(
    rows: Sequence[Mapping[str, float]], index: int, maximise: Mapping[str, bool]
) -> str | None:
    """No worse than this recipe in all objectives but the first, and best in that one; or the
    nearest to it, where another is closer than `<=` forgives.

    Asked of the language itself, with more digits if need be; None if it finds another recipe, as
    it may if their values agree.
    """
    first, *others = maximise
    rule = f"{'highest' if maximise[first] else 'lowest'}:{first}"
    down = {name: not up for name, up in maximise.items()}
    tries = []
    for digits in (4, 6, 9, 17):
        limits = [
            f"{name}{'>=' if maximise[name] else '<='}{rows[index][name]:.{digits}g}"
            for name in others
        ]
        tries.append(",".join([*limits, rule]))
    tries.append("nearest:" + " ".join(f"{name}={rows[index][name]!r}" for name in maximise))
    for text in tries:
        pick = parse_pick(text)
        meets = any(all(limit.met(row) for limit in pick.constraints) for row in rows)
        if meets and pick.choose(rows, first, down, list(maximise)) == index:
            return text
    return None
