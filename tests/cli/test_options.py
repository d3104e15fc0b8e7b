"""Every option of every command, given and left out, reaches what does the work or is refused.

An option that is added without an expectation here fails. What does the work is stood in for: that
it writes down what it was given is asked in `test_recorded_options.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from optishear.cli import app
from optishear.recipe.recipe import Recipe


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
EMPTY = (None, False, "", ())


@dataclass(frozen=True)
class Reaches:
    """`given` added to `base` reaches the work; `usual` is the same as leaving it out."""

    base: str
    given: str
    usual: str | None = None


@dataclass(frozen=True)
class Refused:
    """These words end in a sentence that has this in it, before any work."""

    words: str
    sentence: str


@dataclass(frozen=True)
class Printed:
    """What is printed is held by this file."""

    file: str


PRUNE = "prune --model embedded --to x"
METHOD = f"{PRUNE} --method moonshot-sparsegpt --sparsity 0.5"
OTHER = METHOD.replace("embedded", "folder")
WANDA = f"{PRUNE} --method wanda --sparsity 0.5"
RECIPE = f"{PRUNE} --recipe recipe.json"
MASK = f"{PRUNE} --mask-from masks.safetensors"
HAS_ITS_OWN = "a recipe or a mask has its own"
EVALUATE = "evaluate embedded"
TEXT = f"{EVALUATE} --text sotu"
TASKS = f"{EVALUATE} --tasks piqa"
TRANSFER = "transfer run --model embedded --to r.json"
COMPARE = f"{TRANSFER} --compare usual"
IMPORT = "import ratios.txt --model embedded --to r.json"
UNSOLVED = "quickstart --set search.seeds=[methods]"
SEARCH = "search quickstart"
TABLE = "table runs --to t.md"
NO_SERVE = "dashboard run --no-serve"
JSON = {"--json": [Printed("cli/test_commands.py")]}

EXPECTED = {
    "prune": JSON
    | {
        "--model": [Reaches(WANDA, "--model other")],
        "--to": [
            Reaches(WANDA, "--to y"),
            Refused(WANDA.replace("--to x", "--to file/x"), "is a file"),
        ],
        "--recipe": [Reaches(PRUNE, "--recipe recipe.json"), Refused(PRUNE, "found 0 of them")],
        "--method": [Reaches(f"{PRUNE} --sparsity 0.5", "--method ria"),
                     Refused(f"{RECIPE} --method ria", "found 2 of them")],
        "--mask-from": [Reaches(PRUNE, "--mask-from pruned"),
                        Refused(f"{MASK} --stream", "needs the whole model in memory")],
        "--any-model": [Reaches(MASK, "--any-model"),
                        Refused(f"{WANDA} --any-model", "goes with --mask-from")],
        "--sparsity": [Reaches(WANDA, "--sparsity 0.6"),
                       Refused(f"{RECIPE} --sparsity 0.5", HAS_ITS_OWN),
                       Refused(f"{MASK} --sparsity 0.5", HAS_ITS_OWN)],
        "--pattern": [Reaches(WANDA, "--pattern layer"),
                      Refused(f"{RECIPE} --pattern row", HAS_ITS_OWN),
                      Refused(f"{MASK} --pattern row", HAS_ITS_OWN)],
        "--roles": [Reaches(WANDA, '--roles {"mlp.*":{"pattern":"2:4"}}'),
                    Reaches(WANDA, '--roles {"mlp.*":{"metric":{"name":"ria"}}}'),
                    Refused(f'{WANDA} --roles {{"mlp.*":{{"patern":"2:4"}}}}', "mean 'pattern'?"),
                    Refused(f'{WANDA} --roles {{"mlp.*":{{"solver":{{"name":"alp"}}}}}}',
                            "Did you mean 'alps'?"),
                    Refused(f"{WANDA} --roles 2:4", "write it as a mapping of roles"),
                    Refused(f"{RECIPE} --roles {{}}", HAS_ITS_OWN),
                    Refused(f"{MASK} --roles {{}}", HAS_ITS_OWN)],
        "--profile": [Reaches(WANDA, "--profile owl", usual="--profile uniform"),
                      Reaches(WANDA, "--profile recipe.json"),
                      Refused(f"{WANDA} --profile owll", "And no run, folder or recipe lies there"),
                      Refused(f"{RECIPE} --profile uniform", HAS_ITS_OWN),
                      Refused(f"{MASK} --profile owl", HAS_ITS_OWN),
                      Refused(f"{WANDA} --stream --profile owl", "needs the whole model")],
        "--refit": [Reaches(WANDA, "--refit"), Reaches(MASK, "--refit"),
                    Refused(f"{RECIPE} --refit", HAS_ITS_OWN),
                    Refused(f"{WANDA} --method alps --refit", "ends in one by itself"),
                    Refused(f"{WANDA} --method optima --refit", "ends in one by itself")],
        "--moonshot-lambda": [Reaches(WANDA, "--moonshot-lambda 0.5"),
                              Reaches(METHOD, "--moonshot-lambda 0.4"),
                              Refused(f"{RECIPE} --moonshot-lambda 1", HAS_ITS_OWN),
                              Refused(f"{MASK} --moonshot-lambda 1", HAS_ITS_OWN)],
        "--moonshot-roles": [
            Reaches(METHOD, "--moonshot-roles all", usual="--moonshot-roles attention"),
            Refused(f"{WANDA} --moonshot-roles all", "mixes no Taylor loss in"),
            Refused(f"{METHOD} --moonshot-lambda 1 --moonshot-roles all", "mixes no Taylor"),
            Refused(f"{RECIPE} --moonshot-roles all", HAS_ITS_OWN),
            Refused(f"{MASK} --moonshot-roles all", HAS_ITS_OWN),
        ],
        "--centred": [Reaches(WANDA, "--centred"),
                      Refused(f"{RECIPE} --centred", HAS_ITS_OWN),
                      Refused(f"{MASK} --centred", HAS_ITS_OWN)],
        "--guided": [Reaches(WANDA, "--guided 1"), Reaches(f"{WANDA} --refit", "--guided 2"),
                     Refused(f"{WANDA} --guided 5", "expected a number of row groups"),
                     Refused(f"{METHOD} --guided 1", "is of the same gradients"),
                     Refused(f"{WANDA} --method magnitude --guided 1", "reads no calibration text"),
                     Refused(f"{RECIPE} --guided 1", HAS_ITS_OWN),
                     Refused(f"{MASK} --guided 1", HAS_ITS_OWN)],
        "--reconstruct": [Reaches(WANDA, "--reconstruct block"),
                          Reaches(MASK, "--reconstruct half"),
                          Reaches(RECIPE, "--reconstruct block:epochs=2:inputs=dense"),
                          Refused(f"{WANDA} --reconstruct blok", "Did you mean 'block'"),
                          Refused(f"{WANDA} --reconstruct block:epoch=2", "Did you mean 'epochs'")],
        "--target-shift": [Reaches(WANDA, "--target-shift 1"), Reaches(METHOD, "--target-shift 1"),
                           Refused(f"{WANDA} --target-shift 2", "a share of the whole shift"),
                           Refused(f"{RECIPE} --target-shift 0.5", HAS_ITS_OWN),
                           Refused(f"{MASK} --target-shift 0.5", HAS_ITS_OWN)],
        "--order": [Reaches(WANDA, "--order site"), Reaches(METHOD, "--order site"),
                    Refused(f"{WANDA} --order sites", "expected one of block, site"),
                    Refused(f"{WANDA} --method magnitude --order site", "no calibration text"),
                    Refused(f"{RECIPE} --order site", HAS_ITS_OWN),
                    Refused(f"{MASK} --order site", HAS_ITS_OWN)],
        "--damping": [Reaches(METHOD, "--damping 0.1"), Reaches(f"{WANDA} --refit", "--damping 1"),
                      Reaches(f"{WANDA} --refit", "--damping auto"),
                      Refused(f"{WANDA} --damping 0.1", "solves no system of equations"),
                      Refused(f"{RECIPE} --damping 0.1", HAS_ITS_OWN),
                      Refused(f"{MASK} --damping 0.1", HAS_ITS_OWN)],
        "--one-shot": [Reaches(WANDA, "--one-shot"), Reaches(RECIPE, "--one-shot")],
        "--stream": [Reaches(WANDA, "--stream"), Reaches(RECIPE, "--stream")],
        "--text": [Reaches(WANDA, "--text sotu", usual="--text embedded@train"),
                   Reaches(WANDA.replace("embedded", "folder"), "--text sotu",
                           usual="--text wikipedia-passages@train"),
                   Reaches(RECIPE, "--text embedded", usual="--text sotu@train")],
        "--text-field": [Reaches(f"{WANDA} --text a.jsonl", "--text-field body",
                                 usual="--text-field text"),
                         Refused(f"{WANDA} --text-field body", "in the rows of --text"),
                         Refused(f"{WANDA} --text sotu --text-field body", "is plain text")],
        "--sequences": [Reaches(WANDA, "--sequences 7", usual="--sequences 64"),
                        Reaches(OTHER, "--sequences 7", usual="--sequences 32"),
                        Reaches(f"{WANDA} --text sotu", "--sequences 7", usual="--sequences 64"),
                        Reaches(RECIPE, "--sequences 7", usual="--sequences 24"),
                        Reaches(f"{RECIPE} --text embedded", "--sequences 7",
                                usual="--sequences 24"),
                        Reaches(MASK, "--sequences 7")],
        "--seq-len": [Reaches(WANDA, "--seq-len 7", usual="--seq-len 256"),
                      Reaches(OTHER, "--seq-len 7", usual="--seq-len 512"),
                      Reaches(f"{WANDA} --text sotu", "--seq-len 7", usual="--seq-len 256"),
                      Reaches(RECIPE, "--seq-len 7", usual="--seq-len 48")],
        "--bos": [Reaches(WANDA, "--bos window", usual="--bos auto"),
                  Reaches(f"{WANDA} --text sotu", "--bos text", usual="--bos auto"),
                  Reaches(RECIPE, "--bos window", usual="--bos none"),
                  Refused(f"{WANDA} --bos windw", "--bos: No place of a BOS is called 'windw'")],
        "--gradient-sequences": [
            Reaches(METHOD, "--gradient-sequences 7", usual="--gradient-sequences 16"),
            Reaches(f"{PRUNE} --recipe mixed.json", "--gradient-sequences 7",
                    usual="--gradient-sequences 5"),
            Refused(f"{WANDA} --gradient-sequences 7", "reads no gradients"),
            Refused(f"{RECIPE} --gradient-sequences 7", "reads no gradients"),
            Refused(f"{MASK} --gradient-sequences 7", "reads no gradients"),
            Refused(f"{METHOD} --sequences 4 --gradient-sequences 5", "there are 4"),
        ],
        "--dtype": [Reaches(WANDA, "--dtype bfloat16", usual="--dtype float32"),
                    Reaches(RECIPE, "--dtype float32", usual="--dtype bfloat16")],
        "--save-dtype": [Reaches(WANDA, "--save-dtype float16", usual="--save-dtype stored"),
                         Reaches(RECIPE, "--save-dtype float16", usual="--save-dtype stored")],
        "--device": [Reaches(WANDA, "--device cuda")],
        "--workers": [Reaches(WANDA, "--workers 2")],
        "--ray-address": [Reaches(f"{WANDA} --workers 2", "--ray-address a:1"),
                          Refused(f"{WANDA} --ray-address a:1", "one worker is this process")],
    },
    "evaluate": JSON
    | {
        "--text": [Reaches(EVALUATE, "--text sotu", usual="--text embedded --sequences 128 "
                           "--seq-len 256"), Reaches(TASKS, "--text sotu")],
        "--text-field": [Reaches(f"{EVALUATE} --text a.jsonl", "--text-field body",
                                 usual="--text-field text"),
                         Refused(f"{EVALUATE} --text-field body", "in the rows of --text"),
                         Refused(f"{TEXT} --text-field body", "is plain text")],
        "--sequences": [Reaches(TEXT, "--sequences 3", usual="--sequences 0"),
                        Reaches(EVALUATE, "--sequences 0", usual="--sequences 128"),
                        Reaches("evaluate folder", "--sequences 0", usual="--sequences 32"),
                        Refused(f"{TASKS} --sequences 3", "only tasks are asked for")],
        "--seq-len": [Reaches(TEXT, "--seq-len 3", usual="--seq-len 512"),
                      Reaches(EVALUATE, "--seq-len 3", usual="--seq-len 256"),
                      Refused(f"{TASKS} --seq-len 3", "only tasks are asked for")],
        "--bos": [Reaches(TEXT, "--bos window", usual="--bos auto"),
                  Reaches(EVALUATE, "--bos text", usual="--bos auto"),
                  Refused(f"{TASKS} --bos window", "only tasks are asked for")],
        "--beside": [Reaches(EVALUATE, "--beside dense")],
        "--tasks": [Reaches(EVALUATE, "--tasks piqa")],
        "--task-files": [Reaches(EVALUATE, "--task-files t.yaml")],
        "--task-data": [Reaches(f"{EVALUATE} --task-files t.yaml", "--task-data d"),
                        Refused(f"{EVALUATE} --task-data d", "goes with --task-files")],
        "--limit": [Reaches(TASKS, "--limit 3"),
                    Refused(f"{EVALUATE} --limit 3", "goes with --tasks")],
        "--batch-size": [Reaches(TASKS, "--batch-size 3", usual="--batch-size 8"),
                         Refused(f"{EVALUATE} --batch-size 3", "goes with --tasks")],
        "--dtype": [Reaches(TEXT, "--dtype bfloat16")],
        "--device": [Reaches(TEXT, "--device cuda")],
        "--to": [Refused(f"{TEXT} --to file/x", "is a file"),
                 Refused(f"{TEXT} --to file", "is there already")],
    },
    "verify": {
        "--json": [Printed("cli/test_verify_command.py")],
        "--against": [Reaches("verify pruned", "--against other")],
        "--again": [Reaches("verify pruned", "--again")],
        "--device": [Reaches("verify pruned --again", "--device cuda", usual="--device cpu"),
                     Refused("verify pruned --device cpu", "where --again prunes")],
    },
    "transfer": {
        "--json": [Printed("end_to_end/test_transferred.py")],
        "--model": [Reaches(TRANSFER, "--model other")],
        "--to": [Reaches(TRANSFER, "--to s.json"),
                 Refused(TRANSFER.replace("r.json", "file/r.json"), "is a file"),
                 Refused(TRANSFER.replace("r.json", "r.txt"), "ends in .json")],
        "--recipe": [Reaches(TRANSFER.replace("run ", ""), "--recipe recipe.json"),
                     Refused(f"{TRANSFER} --recipe recipe.json", "either a RUN or --recipe")],
        "--pick": [Reaches(TRANSFER, "--pick lowest:kl"),
                   Refused(f"{TRANSFER.replace('run ', '')} --recipe recipe.json --pick knee",
                           "holds one recipe")],
        "--sparsity": [Reaches(TRANSFER, "--sparsity 0.5")],
        "--compare": [Reaches(TRANSFER, "--compare usual")],
        "--text-field": [Reaches(f"{TRANSFER} --compare a.jsonl", "--text-field body",
                                 usual="--text-field text"),
                         Refused(f"{COMPARE} --text-field body", "in the rows of a --compare")],
        "--sequences": [Reaches(COMPARE, "--sequences 0", usual="--sequences 128"),
                        Reaches(f"{TRANSFER} --compare sotu", "--sequences 3",
                                usual="--sequences 0"),
                        Refused(f"{TRANSFER} --sequences 3", "of the text of --compare")],
        "--seq-len": [Reaches(COMPARE, "--seq-len 3", usual="--seq-len 256"),
                      Refused(f"{TRANSFER} --seq-len 3", "of the text of --compare")],
        "--bos": [Reaches(COMPARE, "--bos window", usual="--bos auto"),
                  Refused(f"{TRANSFER} --bos none", "of the text of --compare")],
        "--dtype": [Reaches(TRANSFER, "--dtype bfloat16")],
        "--device": [Reaches(COMPARE, "--device cuda", usual="--device cpu"),
                     Refused(f"{TRANSFER} --device cpu", "where --compare measures")],
    },
    "import": {
        "--json": [Printed("end_to_end/test_interchange.py")],
        "--to": [Reaches(IMPORT, "--to s.json"),
                 Refused(IMPORT.replace("r.json", "file/r.json"), "is a file")],
        "--model": [Reaches(IMPORT, "--model other"),
                    Refused("import tree.txt --to r.json --model embedded", "needs --sparsity")],
        "--kind": [Reaches(IMPORT, "--kind ratios")],
        "--method": [Reaches(IMPORT, "--method ria"),
                     Refused("import tree.txt --to r.json --method ria", "has no use for it")],
        "--pattern": [Reaches(IMPORT, "--pattern layer"),
                      Refused("import tree.txt --to r.json --pattern row", "needs --sparsity")],
        "--meaning": [Reaches(IMPORT, "--meaning keep"),
                      Refused("import tree.txt --to r.json --meaning keep", "no use for it")],
        "--sparsity": [Reaches("import tree.txt --model embedded --to r.json", "--sparsity 0.5"),
                       Refused(f"{IMPORT} --sparsity 0.5", "has no use for it")],
        "--weights-diff": [
            Reaches(IMPORT.replace("ratios", "levels"), "--weights-diff 4"),
            Refused(f"{IMPORT} --weights-diff 4", "has no use for it"),
        ],
    },
    "plan": {
        "--json": [Printed("cli/test_plan_page.py")],
        "--set": [Reaches("plan quickstart", "--set search.seed=3")],
        "--out": [Reaches("plan quickstart", "--out elsewhere")],
        "--around": [Reaches(f"plan {UNSOLVED}", "--around recipe.json")],
    },
    "search": JSON
    | {
        "--set": [Reaches(SEARCH, "--set search.seed=3")],
        "--out": [Reaches(SEARCH, "--out elsewhere")],
        "--workers": [Reaches(SEARCH, "--workers 2", usual="--workers 1")],
        "--ray-address": [Reaches(f"{SEARCH} --workers 2", "--ray-address a:1"),
                          Refused(f"{SEARCH} --ray-address a:1", "one worker is this process")],
        "--study": [Reaches(SEARCH, "--study s.log")],
        "--log-json": [Reaches(SEARCH, "--log-json")],
        "--around": [Reaches(f"search {UNSOLVED}", "--around recipe.json"),
                     Refused(f"{SEARCH} --around recipe.json", "go by curves of layers")],
        "--rounds": [Printed("end_to_end/test_around_run.py"),
                     Refused(f"{SEARCH} --set search.driver=knapsack --rounds 2",
                             "--rounds: the driver knapsack goes by curves"),
                     Refused(f"{SEARCH} --study s.log --rounds 2", "--rounds with --study")],
    },
    "watch": {
        "--json": [Printed("cli/test_watch.py")],
        "--once": [Reaches("watch run", "--once")],
        "--every": [Reaches("watch run", "--every 5", usual="--every 2"),
                    Refused("watch run --once --every 5", "--once looks once")],
    },
    "dashboard": {
        "--json": [Printed("cli/test_watch.py")],
        "--study": [Reaches("dashboard run", "--study s.log")],
        "--rung": [Reaches("dashboard run", "--rung 512")],
        "--serve": [Reaches("dashboard run", "--no-serve")],
        "--port": [Reaches("dashboard run", "--port 5", usual="--port 8080"),
                   Refused(f"{NO_SERVE} --port 5", "that --no-serve leaves out")],
        "--every": [Reaches("dashboard run", "--every 5", usual="--every 3"),
                    Refused(f"{NO_SERVE} --every 5", "that --no-serve leaves out")],
    },
    "front": JSON | {"--pick": [Reaches("front run", "--pick lowest:kl")]},
    "plot": JSON,
    "curves": {
        "--json": [Printed("cli/test_curves_command.py")],
        "--layers": [Printed("cli/test_curves_command.py")],
        "--budget": [Printed("cli/test_curves_command.py"),
                     Refused("curves run --budget half", "neither a sparsity, such as")],
        "--to": [Printed("cli/test_curves_command.py"),
                 Refused("curves run --to x.json", "for the split of one --budget"),
                 Refused("curves run --budget 0.5 --to x.csv", "ending in .json"),
                 Refused("curves run --budget 0.5 --to file/x.json", "is a file")],
    },
    "pack": JSON,
    "export": {
        "--json": [Printed("end_to_end/test_interchange.py")],
        "--to": [Reaches("export run --to x", "--to y")],
        "--format": [Reaches("export run --to x", "--format evopress")],
        "--level-step": [Reaches("export run --to x --format evopress", "--level-step 4")],
        "--pick": [Reaches("export run --to x", "--pick lowest:kl")],
        "--to-hub": [Reaches("export run", "--to-hub org/name"),
                     Refused("export run --to x --to-hub org/name", "Give one of --to PLACE"),
                     Refused("export run", "Give one of --to PLACE"),
                     Refused("export run --to-hub org/name --format masks", "are of files")],
        "--dry-run": [Printed("hub/test_hub_push.py"),
                      Refused("export run --to x --dry-run", "goes with --to-hub")],
    },
    "report": {
        "--json": [Printed("cli/test_report_command.py")],
        "--to": [Reaches("report run", "--to y.html"),
                 Refused("report run --to y.txt", "ending in .html")],
    },
    "table": {
        "--json": [Printed("report/test_run_table.py")],
        "--where": [Reaches(TABLE, "--where search.seed=1")],
        "--over": [Reaches(TABLE, "--over search.seed")],
        "--columns": [Reaches(TABLE, "--columns kl")],
        "--to": [Refused("table runs --to t.txt", "ending in .csv or .md"),
                 Refused("table runs --to file/t.md", "is a file")],
        "--into": [Refused("table --into file/p.md", "is a file"),
                   Refused(f"{TABLE} --into p.md", "Give it alone")],
        "--dirty": [Reaches(TABLE, "--dirty"),
                    Refused("table --into p.md --dirty", "Give it alone")],
    },
    **dict.fromkeys(("models", "methods", "metrics", "objectives", "drivers"), JSON),
}  # fmt: skip


def options_of(command):
    return {
        option.opts[0]: option
        for option in COMMANDS[command].params
        if option.param_type_name == "option" and option.opts[0] != "--help"
    }


def cases(kind):
    return [
        pytest.param(command, option, case, id=f"{command} {option} {number}")
        for command, options in EXPECTED.items()
        for option, known in options.items()
        for number, case in enumerate(known)
        if isinstance(case, kind)
    ]


def test_every_option_of_every_command_has_an_expectation_and_no_other():
    assert {name: set(options_of(name)) for name in COMMANDS} == {
        name: set(options) for name, options in EXPECTED.items()
    }


class Done(Exception):
    """What does the work was reached."""


@pytest.fixture
def reached(tmp_path, monkeypatch):
    """Runs a command as typed, in a folder with some files; how what does the work was called."""
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    calls = []

    def stand_in(place, answer=None):
        def called(*args, **kwargs):
            calls.append((place, [told(arg) for arg in args], {k: told(kwargs[k]) for k in kwargs}))
            if answer is None:
                raise Done
            return answer

        monkeypatch.setattr(f"optishear.{place}", called)

    some = SimpleNamespace(
        name="", trials=0, failed=0, study_id=0, anew=False, update=lambda: 0, path="",
        study=Path("own"), show=lambda *_: "", close=lambda: None, front=None,
    )  # fmt: skip
    some.front = SimpleNamespace(pick=lambda pick: calls.append(pick) or fail())
    for work in ("tools.prune.prune_to", "tools.prune_streamed.prune_streamed",
                 "tools.evaluate.evaluate_all", "tools.verify.verify", "tools.transfer.transfer_to",
                 "tools.imports.import_for", "runs.search.search", "tools.plan.plan.plan",
                 "tools.exports.export", "tools.push.pushed_from"):  # fmt: skip
        stand_in(work)
    stand_in("report.page.write.write_report")
    stand_in("report.chosen_table.Question.of_options")
    stand_in("cli.watch_commands._snapshots")
    monkeypatch.setattr("optishear.tools.prune_streamed.room_note", lambda *_: None)
    stand_in("runs.results.open_run", some)
    stand_in("tools.transfer.source_of_run", some)
    stand_in("tools.transfer.source_of_file", some)
    stand_in("text.task_files.read_tasks", ())
    stand_in("records.run_directory.find_run", some)
    stand_in("report.watching.RunWatch", some)
    stand_in("report.dashboard.open_dashboard", some)
    stand_in("report.optuna_mirror.open_storage", some)
    stand_in("report.optuna_mirror.Mirror", some)
    stand_in("cli.watch_commands._keep_up", some)

    def run(words):
        calls.clear()
        result = CliRunner().invoke(app, words.split())
        done = isinstance(result.exception, Done) or result.exit_code == 0
        return SimpleNamespace(calls=list(calls), result=result, done=done)

    return run


def fail():
    raise Done


def told(argument):
    """As text that is equal where the argument is."""
    if hasattr(argument, "model_dump"):
        return argument.model_dump(mode="json")
    if callable(argument):
        owner = getattr(argument, "__self__", None)
        return repr(owner) if owner is not None else argument(None).to_json()
    plain = isinstance(argument, str | int | float | bool | tuple | list | Path | None)
    return (
        repr(argument) if plain or hasattr(argument, "__match_args__") else type(argument).__name__
    )


def make_files(folder):
    text = {"source": "sotu", "split": "train", "sequences": 24, "seq_len": 48, "seed": 3}
    origin = {"calibration": text, "dtype": "bfloat16", "gradient_sequences": 5}
    plain = Recipe.of({"name": "wanda"}, {"a": 1}).to_json()
    mixed = {**plain, "quadratic": {"name": "moonshot", "lambda": {"a": 0.5}}}
    for name, recipe in (("recipe", plain), ("mixed", mixed)):
        (folder / f"{name}.json").write_text(json.dumps({**recipe, "made_with": origin}))
    for name, content in {
        "file": "precious",
        "ratios.txt": "0.5 0.6",
        "levels.txt": "a: 1\nb: -1",
        "tree.txt": "mul(W, X)",
        "p.md": "",
    }.items():
        (folder / name).write_text(content)


@pytest.mark.parametrize(("command", "option", "case"), cases(Reaches))
def test_an_option_reaches_what_does_the_work_and_its_default_is_the_one_that_is_told(
    command, option, case, reached
):
    base, given = reached(case.base), reached(f"{case.base} {case.given}")
    assert given.done, given.result.output
    assert given.calls != base.calls
    said = options_of(command)[option].default
    usual = case.usual
    if usual is None and said not in EMPTY and not isinstance(said, bool | Path):
        usual = f"{option} {said}"
    if usual is not None:
        assert reached(f"{case.base} {usual}").calls == base.calls
        if said is None:
            said = options_of(command)[option].help or ""
            assert usual.split()[-1] in said or "recipe" in case.base or option == "--text"


@pytest.mark.parametrize(("command", "option", "case"), cases(Refused))
def test_an_option_that_would_do_nothing_is_refused_in_a_sentence(command, option, case, reached):
    assert case.words.split()[0] == command
    found = reached(case.words)
    assert found.result.exit_code == 2, found.result.output
    assert case.sentence in " ".join(found.result.stderr.split())
    assert found.result.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "option", "case"), cases(Printed))
def test_what_is_printed_is_asked_for_in_a_test(command, option, case):
    text = (Path(__file__).parents[1] / case.file).read_text()
    assert option in text
    assert command in text or "LISTINGS" in text
