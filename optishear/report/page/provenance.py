"""The page's section on provenance: where the numbers come from, how to make them again."""

from shlex import quote

from optishear.report.page.contents import Contents
from optishear.report.page.question import Terms
from optishear.report.page.wording import counted, duration


HASHES = ("model", "layout", "calibration", "search")


def provenance(contents: Contents) -> Terms:
    """Commit, versions, machine, hashes, seeds and times, as the manifest has them."""
    manifest = contents.manifest
    code, machine = manifest.get("code") or {}, manifest.get("machine") or {}
    terms = [
        ("Run", f"{contents.experiment['name']}, configuration {manifest['hash']}"),
        ("Code", _code(code.get("commit", ""), code.get("dirty"))),
        ("Versions", ", ".join(f"{k} {v}" for k, v in manifest.get("versions", {}).items())),
        (
            "Machine",
            f"{machine.get('processor', 'not recorded')}, {machine.get('cores', '?')} cores, "
            f"{machine.get('system', '?')}",
        ),
        ("Began", manifest.get("started", "not recorded")),
    ]
    if contents.finished:
        terms.append(("Finished", f"{manifest['finished']}: {manifest['ended']}"))
    measured = len(contents.evaluations)
    spent = duration(contents.evaluations.seconds.sum()) if measured else "0 s"
    terms.append(
        ("Evaluations", f"{counted(measured, 'line')} in the journal, {spent} of measuring")
    )
    terms.append(("Seed", str(contents.experiment["search"]["seed"])))
    measure = manifest.get("measure", {})
    hashes = [f"{name} {measure[name]}" for name in HASHES if name in measure]
    terms.append(("Hashes", ", ".join(hashes) or "not recorded"))
    if "threads" in measure:
        terms.append(("Threads", str(measure["threads"])))
    return tuple(terms)


def _code(commit: str, dirty: bool | None) -> str:
    if not commit:
        return "an installed package, not a checkout"
    return f"{commit}, {'with uncommitted changes' if dirty else 'no uncommitted changes'}"


def remake(contents: Contents) -> str:
    """The commands that make this run and this page again."""
    code = contents.manifest.get("code") or {}
    lines = [f"git checkout {quote(code['commit'])}"] if code.get("commit") else []
    name = contents.experiment["name"]
    return "\n".join(
        [*lines, f"optishear search {quote(name)}", f"optishear report {place(contents)}"]
    )


def place(contents: Contents) -> str:
    """The run as a word of a command line: the path by which the report was asked for."""
    return quote(str(contents.run.path))
