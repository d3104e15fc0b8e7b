"""A run whose pick was made of finalists, and is no point of its front, in figures and on pages."""

import json

import pytest
from drawable_run import finish, held_out_rows, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from optishear.errors import ConfigError
from optishear.records.journal import read_journal, recipe_of
from optishear.records.run_directory import read_json, write_json
from optishear.report.figures import draw_figures
from optishear.report.page.write import write_report
from optishear.report.run_view import read_run
from optishear.runs.results import Run


ENDING = {"evaluations": 12, "failed": 0, "measured_now": 12, "seconds": 1.0, "rungs": [4096]}


@pytest.fixture(scope="module", params=[("sparsity", "kl"), ("kl",)], ids=len)
def run(request, tmp_path_factory):
    """Three finalists, of which the second is the pick and the third has failed."""
    run = make_run(
        tmp_path_factory.mktemp("run") / "made-up" / "abc",
        objectives=request.param,
        candidates=12,
        blocks=2,
        pick="lowest:kl",
    )
    finish(run, rows=held_out_rows("held out"), **ENDING)
    manifest = read_json(run.manifest)
    asked = {"objectives": list(request.param), "pick": "lowest:kl", "finalists": 3}
    write_json(run.manifest, {**manifest, "experiment": {**manifest["experiment"], **asked}})
    header, entries, _ = read_journal(run.journal)
    front = read_json(run.front)
    on_front = {entry["key"] for entry in front["entries"]}
    off = [entry for entry in entries if entry["key"] not in on_front][:3]
    finalists = [
        {
            "key": entry["key"],
            "one_shot": entry["values"],
            "block_by_block": values and {**entry["values"], "kl": values},
            "reason": "" if values else "singular",
            "recipe": recipe_of(entry, header["layers"]).to_json(),
        }
        for entry, values in zip(off, (0.3, 0.2, None), strict=True)
    ]
    picked = off[1]["key"]
    said = {"quantity": "kl", "correlation": None, "measured": 2, "picked": picked}
    more = {"picked": picked, "finalists": {**said, "entries": finalists}}
    made_with = {"model": "embedded"}
    write_json(run.front, {**front, **more, "made_with": made_with})
    return run


def test_figures_and_page_show_the_pick_where_it_was_measured_one_shot(run):
    view = read_run(run)
    front = read_json(run.front)
    values = front["finalists"]["entries"][1]["one_shot"]
    assert view.pick == Run(run).front.pick().recipe
    assert view.front.picked == tuple(values[q.name] for q in view.front.quantities)
    assert view.evaluations.key[view.found] == front["picked"] not in view.front_keys
    assert draw_figures(run)
    page = write_report(run).path.read_text()
    assert "3 finalists re-measured block by block (1 failed): the pick was 2nd one-shot." in page
    assert "lowest:kl: which of 3 finalists, measured block by block, is compared" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda front: front.update(picked=front["entries"][0]["key"]), "of its finalists"),
        (lambda front: front["finalists"].update(picked="nobody"), "none of the 2 finalists"),
        (lambda front: front["finalists"].update(quantity="taylor"), "has no 'taylor'"),
        (lambda front: front["finalists"].update(entries=[]), "entries"),
        (
            lambda front: front["finalists"]["entries"][0]["recipe"].update(pattern="row"),
            "its recipe has the key",
        ),
        (lambda front: front["finalists"]["entries"][2].pop("one_shot"), "one_shot is missing"),
    ],
)
def test_finalists_that_do_not_go_with_the_front_are_refused(run, change, said):
    before = run.front.read_text()
    front = json.loads(before)
    change(front)
    run.front.write_text(json.dumps(front))
    try:
        with pytest.raises(ConfigError, match=said):
            _ = Run(run).front
    finally:
        run.front.write_text(before)


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_is_changed_of_them_is_read_or_refused(run, data):
    before = run.front.read_text()
    front = json.loads(before)
    finalists = data.draw(mutated(front.pop("finalists")))
    run.front.write_text(f'{json.dumps(front)[:-1]}, "finalists": {finalists}}}')
    try:
        Run(run).front.pick()
        read_run(run)
    except ConfigError:
        pass
    finally:
        run.front.write_text(before)
