"""The report of a run: whole, safe whatever its files say, alike each time, and on its own."""

import json
import os
import re
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from subprocess import run as run_process

import pytest
from drawable_run import finish, held_out_rows, make_run

from optishear.errors import ConfigError
from optishear.recipe.recipe import FORMAT, Recipe
from optishear.records.packed import content_of
from optishear.records.run_directory import find_run, read_json, write_json
from optishear.report.page import write
from optishear.report.page.held_out import outcome, sequential_gap, tables
from optishear.report.page.picking import pick_text
from optishear.report.page.question import text_words, varied
from optishear.report.page.write import write_report
from optishear.search.pick import parse_pick


RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = ["embedded_joint", "smollm2_60", "embedded_moonshot", "embedded_60", "demo/quickstart"]
SECTIONS = [
    "front", "parallel", "profile", "convergence", "importance", "held-out", "failures",
    "provenance",
]  # fmt: skip
HOSTILE = '</script><img src="https://evil.example/x" onerror=alert(1)>{{ 7 * 7 }}'


class Page(HTMLParser):
    """Elements, ids, texts and scripts as a browser would find them."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.ids, self.scripts, self.words = text, [], [], [], []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def said(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture
def quick(monkeypatch):
    """Without figures, whose drawing has its own tests."""
    one = {"source": "data:image/svg+xml;base64,", "width": 10, "height": 10}
    names = ("front", "profile", "convergence", "heatmap", "parallel", "importance")
    monkeypatch.setattr(write, "_pictures", lambda view: dict.fromkeys(names, one))


def page_of(run, to=None):
    return Page(write_report(run, to).path.read_text(encoding="utf-8"))


def refuse_what_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "audio", "video"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", "the content security policy would refuse it"
            if name in ("src", "href", "srcset", "poster", "action"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
    [style] = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    [policy] = [a["content"] for t, a in page.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for content in (style, *page.scripts[1:]):
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


class TestCommittedRuns:
    def test_is_one_small_file_that_asks_for_nothing(self, tmp_path):
        """The one with most recipes; of the others, below, without their figures."""
        run = find_run(RESULTS / "embedded_joint")
        report = write_report(run, tmp_path / "report.html")
        assert report.left_out == ()
        assert report.bytes == report.path.stat().st_size < 3_000_000
        page = Page(report.path.read_text(encoding="utf-8"))
        refuse_what_is_fetched(page)
        assert len(page.ids) == len(set(page.ids))
        assert [x for x in page.ids if x in SECTIONS] == SECTIONS
        images = [attributes for tag, attributes in page.tags if tag == "img"]
        assert len(images) == 6
        assert all(image["alt"] and len(image["src"]) > 5000 for image in images)

    @pytest.mark.parametrize("name", COMMITTED)
    def test_every_recipe_is_there_with_its_own_values(self, quick, name, tmp_path):
        run = find_run(RESULTS / name)
        page = page_of(run, tmp_path / "report.html")
        refuse_what_is_fetched(page)
        assert len(page.ids) == len(set(page.ids))
        assert [x for x in page.ids if x in SECTIONS] == SECTIONS
        lines = [json.loads(line) for line in content_of(run.journal).splitlines()][1:]
        names = [quantity["name"] for quantity in page.data["quantities"]]
        assert set(names) == set(lines[0]["values"])
        assert [item["key"] for item in page.data["items"]] == [line["key"] for line in lines]
        for item, line in zip(page.data["items"], lines, strict=True):
            assert item["values"] == [line["values"][name] for name in names]
        front = read_json(run.front)
        keys = {entry["key"] for entry in front["entries"]}
        assert {item["key"] for item in page.data["items"] if item["front"]} == keys
        assert page.data["items"][page.data["pick"]]["key"] == front["picked"]

    def test_the_outcome_and_the_table_say_what_the_evaluation_holds(self, quick, tmp_path):
        page = page_of(find_run(RESULTS / "embedded_joint"), tmp_path / "report.html")
        assert (
            "At 60.00 % sparsity the recipe that was found (lowest:kl) has a held-out perplexity "
            "of 29.58 ± 1.05 (dense: 25.34 ± 0.85), against 32.88 ± 1.21 for optima, the best "
            "baseline: better by 0.1059 ± 0.0042 nats per token, paired by sequence."
        ) in page.said
        assert "block by block is worse by 0.0021 ± 0.0008 nats per token." in page.said
        assert "494f0d4523edc67c5de4360e5c25fb0a9f59af32, no uncommitted changes" in page.said

    @pytest.mark.parametrize("name", COMMITTED)
    def test_the_command_of_each_recipe_of_the_front_picks_that_recipe(self, name):
        front = read_json(find_run(RESULTS / name).front)
        maximise = {one["name"]: one["maximise"] for one in front["objectives"]}
        down = {name: not up for name, up in maximise.items()}
        rows = [entry["values"] for entry in front["entries"]]
        for index in range(len(rows)):
            text = pick_text(rows, index, maximise)
            assert parse_pick(text).choose(rows, "kl", down, list(maximise)) == index


def with_keys_of_their_recipes(run):
    """After its journal was edited: keys are the recipes' own again, wherever they stand."""
    header, *entries = map(json.loads, run.journal.read_text().splitlines())
    parts = ("metric", "pattern", "solver", "quadratic")
    for entry in entries:
        told = {name: entry[name] for name in parts if name in entry}
        told |= {"format": FORMAT, "drop": dict(zip(header["layers"], entry["drop"]))}
        key = Recipe.from_json(told, "here").key
        for path in run.path.iterdir():
            if path.suffix in (".json", ".jsonl"):
                path.write_text(path.read_text().replace(entry["key"], key))


class TestSafety:
    def test_nothing_that_files_say_becomes_markup(self, quick, tmp_path):
        run = make_run(tmp_path / "r", candidates=45, failing=2, title=(HOSTILE, HOSTILE))
        finish(run, name=HOSTILE, model=HOSTILE, rows=held_out_rows(text=HOSTILE))
        lines = run.journal.read_text().replace('"reason": "x"', f'"reason": {json.dumps(HOSTILE)}')
        lines = lines.replace('{"alpha"', f'{{"beta": {json.dumps(HOSTILE)}, "alpha"')
        lines = lines.replace('"name": "power"', '"name": "mine"')  # whose settings nobody knows
        run.journal.write_text(lines)
        front = read_json(run.front)
        for entry in front["entries"]:
            entry["recipe"]["metric"] |= {"beta": HOSTILE, "name": "mine"}
        write_json(run.front, front)
        with_keys_of_their_recipes(run)

        page = page_of(run)
        refuse_what_is_fetched(page)
        assert len(page.scripts) == 2
        assert all(a["src"].startswith("data:") for tag, a in page.tags if tag == "img")
        assert page.said.count(HOSTILE) >= 4, "shown as it is written"
        assert ["metric beta", HOSTILE] in page.data["items"][0]["settings"]
        assert "<" not in page.scripts[0]

    def test_a_place_with_spaces_and_quotes_is_one_word_of_the_command(self, quick, tmp_path):
        run = finish(make_run(tmp_path / "it's; rm -rf", candidates=10))
        assert page_of(run).data["run"] == "'" + str(run.path).replace("'", "'\"'\"'") + "'"


class TestTheSameRun:
    def test_gives_the_same_bytes_in_another_process(self, tmp_path):
        run = finish(make_run(tmp_path / "r", candidates=43, failing=3), rows=held_out_rows())
        first = write_report(run).path.read_bytes()
        program = (
            "import sys; from pathlib import Path\n"
            "from optishear.records.run_directory import RunDirectory\n"
            "from optishear.report.page.write import write_report\n"
            "write_report(RunDirectory(Path(sys.argv[1])))\n"
            "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)\n"
        )
        run_process(
            [sys.executable, "-W", "error", "-c", program, str(run.path)],
            env={**os.environ, "PYTHONHASHSEED": "7"}, check=True,
        )  # fmt: skip
        assert run.report.read_bytes() == first


@pytest.mark.usefixtures("quick")
class TestMissingParts:
    def test_a_search_under_way_has_a_report_of_what_there_is(self, tmp_path):
        run = make_run(tmp_path / "r", candidates=20, baselines=False)
        write_json(run.layout, read_json(run.front)["layout"])
        run.front.unlink()
        finish(run, status="running")
        report = write_report(run)
        page = Page(report.path.read_text(encoding="utf-8"))
        assert len(report.left_out) == 2
        assert "There is no front yet" in page.said
        assert "So far 20 recipes succeeded" in page.said
        assert "There is no comparison on held-out text yet" in page.said
        assert "This run has not finished" in page.said
        assert page.scripts == []
        assert "img" not in {tag for tag, _ in page.tags}

    def test_a_run_that_has_just_begun(self, tmp_path):
        run = make_run(tmp_path / "r", candidates=3, baselines=False)
        write_json(run.layout, read_json(run.front)["layout"])
        run.front.unlink()
        run.journal.write_text(run.journal.read_text().splitlines(keepends=True)[0])
        page = page_of(finish(run, status="running"))
        assert "no result yet: 0 evaluations so far" in page.said

    def test_a_run_in_which_all_failed_shows_why(self, tmp_path):
        run = make_run(tmp_path / "r", candidates=6, baselines=False)
        front = read_json(run.front)
        write_json(run.layout, front["layout"])
        write_json(run.front, {**front, "entries": [], "picked": None})
        lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
        failed = [{**line, "values": None, "reason": "singular"} for line in lines[1:]]
        run.journal.write_text("".join(json.dumps(x) + "\n" for x in [lines[0], *failed]))
        page = page_of(finish(run))
        assert "no recipe was measured successfully" in page.said
        assert "6 singular" in page.said

    def test_without_a_held_out_comparison_the_outcome_is_the_searches(self, tmp_path):
        page = page_of(finish(make_run(tmp_path / "r", candidates=50, baselines=False)))
        assert "Of 50 evaluations" in page.said
        assert "on the search text" in page.said
        assert "There is no comparison on held-out text yet" in page.said

    def test_too_few_evaluations_are_said_to_be_too_few(self, tmp_path):
        page = page_of(finish(make_run(tmp_path / "r", candidates=39)))
        assert "it takes 40 evaluations that differ, and 39 recipes succeeded" in page.said
        assert "Beyond chance" not in page.said
        page = page_of(finish(make_run(tmp_path / "s", candidates=40)))
        assert "Beyond chance for reconstruction" in page.said

    def test_one_recipe_alone_has_no_choices_to_compare(self, tmp_path):
        page = page_of(finish(make_run(tmp_path / "r", candidates=1)))
        assert "no recipes that differ" in page.said
        assert "lines" not in page.ids

    def test_a_run_not_compared_block_by_block_says_so(self, tmp_path):
        rows = held_out_rows(block_by_block=None)
        page = page_of(finish(make_run(tmp_path / "r", candidates=5), rows=rows))
        assert "was not compared block by block" in page.said


@pytest.mark.usefixtures("quick")
class TestKindsOfRuns:
    @pytest.mark.parametrize(
        "options",
        [
            {"objectives": ("kl",), "same_sparsity": True},
            {"objectives": ("sparsity", "reconstruction", "kl", "perplexity")},
            {"blocks": 30},
            {"blocks": 1},
        ],
        ids=["one objective", "four objectives", "thirty blocks", "one block"],
    )
    def test_each_has_its_recipes_and_axes(self, options, tmp_path):
        run = finish(make_run(tmp_path / "r", candidates=20, failing=4, **options))
        page = page_of(run)
        made = [x for x in page.data["items"] if x["places"]]
        assert len(made) == 16
        assert all(len(x["blocks"]) == options.get("blocks", 6) for x in made)
        ends = [axis["label"] for axis in page.data["axes"] if axis["objective"]]
        assert len(ends) == len(options.get("objectives", ("sparsity", "reconstruction")))
        assert all(len(x["places"]) == len(page.data["axes"]) <= 20 for x in made)
        assert all(0 <= place <= 1 for x in made for place in x["places"])
        axis = next(i for i, x in enumerate(page.data["axes"]) if x["label"] == "metric: alpha")
        low, high = page.data["axes"][axis]["ends"]
        for item in made:
            alpha = float(dict(item["settings"])["metric alpha"])
            want = (alpha - low) / (high - low)
            assert item["places"][axis] == pytest.approx(want, abs=0.01)

    def test_a_ladder_says_how_alike_its_rungs_rank(self, tmp_path):
        run = make_run(tmp_path / "r", candidates=12)
        lines = [json.loads(line) for line in content_of(run.journal).splitlines()][1:]
        for line in lines:
            line["rung"] = 512
            line["values"] = {**line["values"], "sparsity": -line["values"]["sparsity"]}
        with run.journal.open("a") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in lines)
        page = page_of(finish(run))
        assert "sparsity -1.00 (12), reconstruction 1.00 (12)" in page.said
        assert len(page.data["items"]) == 12 + 2, "of the top rung, and two baselines"
        assert all(item["values"][0] > 0 for item in page.data["items"])

    def test_lambda_has_a_map_of_its_own_where_it_is_mixed(self, tmp_path):
        page = page_of(find_run(RESULTS / "embedded_joint"), tmp_path / "report.html")
        item = page.data["items"][page.data["pick"]]
        assert item["grid"][0] == [421, 748, 610, 602, 606, 612]
        assert item["lambda_grid"][0] == [994, 334, 989, 1000, 1000, 985]
        assert item["lambda_grid"][-1] == [1000] * 6
        plain = page_of(find_run(RESULTS / "smollm2_60"), tmp_path / "other.html")
        assert all(x["lambdas"] is None and x["lambda_grid"] is None for x in plain.data["items"])

    def test_an_n_of_m_run_names_its_pattern(self, tmp_path):
        run = finish(make_run(tmp_path / "r", candidates=5))
        manifest = read_json(run.manifest)
        manifest["experiment"]["space"] |= {"pattern": "n:4", "sparsity": None}
        write_json(run.manifest, manifest)
        assert "N of 4 by layer" in page_of(run).said

    def test_a_hypothesis_that_the_manifest_kept_is_shown(self, tmp_path):
        run = finish(make_run(tmp_path / "r", candidates=5))
        manifest = read_json(run.manifest)
        manifest["experiment"]["hypothesis"] = "Depth matters most."
        write_json(run.manifest, manifest)
        assert "Hypothesis Depth matters most." in page_of(run).said


class TestSentences:
    @pytest.mark.parametrize(
        ("gain", "words"),
        [
            ((0.1, 0.01), ": better by 0.1000 ± 0.0100 nats"),
            ((-0.1, 0.01), ": worse by 0.1000 ± 0.0100 nats"),
            ((0.019, 0.01), "the two cannot be told apart (0.0190 ± 0.0100 nats"),
        ],
    )
    def test_a_gain_is_only_called_one_beyond_two_standard_errors(self, gain, words):
        sentence = outcome(held_out_rows(wanda=gain), "knee").replace("\N{NO-BREAK SPACE}", " ")
        assert words in sentence
        assert "for wanda, the best baseline" in sentence

    @pytest.mark.parametrize(
        ("gain", "words"),
        [
            ((-0.01, 0.001), "block by block is better by 0.0100"),
            ((0.01, 0.001), "block by block is worse by 0.0100"),
            ((0.001, 0.001), "the two cannot be told apart (0.0010"),
        ],
    )
    def test_the_gap_is_told_from_the_sequential_side(self, gain, words):
        sentence = sequential_gap(held_out_rows(block_by_block=gain), "embedded/evaluation")
        assert words in sentence.replace("\N{NO-BREAK SPACE}", " ")

    def test_the_table_has_the_gain_of_found_over_each_row(self):
        [table] = tables(held_out_rows())
        found = {line.name: (line.gain[:7], line.verdict) for line in table.lines}
        assert found["dense"] == ("-0.3000", "worse")
        assert found["magnitude"] == ("+0.5000", "better")
        assert found["found"] == ("", "")

    def test_what_a_space_leaves_open_is_named(self):
        space = {
            "pattern": "row",
            "metric": [{"name": "power", "alpha": {"real": [0, 1]}}],
            "sparsity": {"by": "curve", "budget": 0.6},
            "solver": [{"name": "mask"}, {"name": "alps"}],
            "moonshot": {"by": "role", "lambda": None},
        }
        want = ["metric", "sparsity over depth and role", "solver", "λ by role"]
        assert varied(space) == want
        fixed = {
            "pattern": "row", "metric": [{"name": "wanda"}], "solver": [{"name": "mask"}],
            "sparsity": {"by": "uniform", "budget": 0.6}, "moonshot": {"by": "role", "lambda": 0.5},
        }  # fmt: skip
        assert varied(fixed) == ["recipe"]


class TestErrors:
    def test_a_folder_without_a_journal_is_refused(self, tmp_path):
        run = finish(make_run(tmp_path / "r", candidates=2))
        run.journal.unlink()
        with pytest.raises(ConfigError, match=r"journal\.jsonl: is not there"):
            write_report(run)

    def test_a_manifest_that_is_none_is_refused(self, tmp_path):
        run = finish(make_run(tmp_path / "r", candidates=2))
        write_json(run.manifest, {"status": "finished"})
        with pytest.raises(ConfigError, match="is no manifest of a search"):
            write_report(run)


@pytest.mark.parametrize(
    ("seed", "said"), [({}, ""), ({"seed": None}, ""), ({"seed": 0}, ", seed 0")]
)
def test_a_text_that_was_drawn_with_a_seed_of_its_own_says_which(seed, said):
    text = {"source": "sotu", "split": "train", "sequences": 8, "seq_len": 64, **seed}
    assert text_words(text) == f"sotu, train: 8 × 64 tokens{said}"
