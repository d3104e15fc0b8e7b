"""The command that measures finished models: evaluate."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optishear.cli.console import (
    BOS_HELP,
    JsonFlag,
    TextField,
    note,
    say,
    say_json,
    say_table,
    speaking,
)
from optishear.cli.wording import number_text
from optishear.cli.writing import writes
from optishear.report.comparison import mode_of


if TYPE_CHECKING:
    from optishear.evaluation.zero_shot import Tasks
    from optishear.text.sources import TextSpec

OTHER_NAMES = {"wikitext2": "wikitext"}  # as tables of papers write it


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


@speaking
@writes("to")
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="DIR|MODEL…", help="Folders, names or Hub ids.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(help="wikitext2, c4, SOURCE[@SPLIT], or a .txt, .jsonl, .parquet file."),
    ] = None,
    text_field: Annotated[str | None, TextField] = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Windows a text; 0 means all. If left out all of what --text names, and of the "
            "usual text 128 (of embedded) or 32.",
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            min=2, help="Tokens a window; 512 if left out, 256 of the embedded model's usual text."
        ),
    ] = None,
    bos: Annotated[str | None, typer.Option(help=f"Where a BOS goes: {BOS_HELP}")] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            help="dense and METHOD[:PATTERN][@RULE], with commas, at the first folder's sparsity."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks registered in lm-eval, with commas (from the hub).")
    ] = None,
    task_files: Annotated[
        list[Path] | None, typer.Option(help="A lm-eval YAML with local data, or a folder of them.")
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option(help="Where their data lie, if not beside the YAML.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many questions of a task.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Questions at a time; 8 if left out.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    to: Annotated[Path | None, typer.Option(help="Keep the JSON in this new file.")] = None,
    json_: bool = JsonFlag,
) -> None:
    """Held-out perplexity and zero-shot accuracy, several models side by side, with errors.

    Example: optishear evaluate pruned/ --beside dense,wanda --text wikitext2 --seq-len 2048
    """
    from optishear.errors import ConfigError

    if text_field is not None and not text:
        raise ConfigError("--text-field: says where the text is in the rows of --text; give both.")
    if to is not None and to.exists():
        raise ConfigError(f"{to}: is there already. Name a new file, or remove it first.")
    bars = sys.stderr.isatty()
    if not bars:
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    asked = _tasks(tasks, task_files, task_data, limit, batch_size)
    if asked is not None and not text:
        _refuse_given(
            {"--sequences": sequences, "--seq-len": seq_len, "--bos": bos},
            "goes with --text, and only tasks are asked for. Name a text too",
        )
    from optishear.cli.progress import Stages
    from optishear.records.manifest import provenance
    from optishear.records.run_directory import write_json
    from optishear.tools.evaluate import Conditions, evaluate_all
    from optishear.tools.evaluate_json import to_json

    provenance()  # what is found is kept with it: if it cannot be had, better now
    texts = _texts(models[0], text, text_field, sequences, seq_len, bos, usual=asked is None)
    on = Conditions(tuple(texts), asked, dtype, device, bars)
    rows = evaluate_all(models, on, beside.split(",") if beside else (), Stages())
    found = to_json(rows, on)
    if to is not None:
        write_json(to, found)
    if json_:
        say_json(found)
        return
    _say_texts(found)
    _say_tasks(found)
    if to is not None:
        note(f"kept in {to}")


def _texts(
    model: str,
    named: Sequence[str] | None,
    field: str | None,
    sequences: int | None,
    seq_len: int | None,
    bos: str | None,
    usual: bool,
) -> "list[TextSpec]":
    """Those that were named; else the model's usual one, unless tasks alone were asked for."""
    from optishear.tools.evaluate import dense_of
    from optishear.tools.texts import held_out_text

    of_all = (field, sequences, seq_len, bos)
    if named:
        return [held_out_text(model, _own_name(name), *of_all) for name in named]
    return [held_out_text(dense_of(model), None, *of_all)] if usual else []


def _own_name(text: str) -> str:
    source, at, split = text.partition("@")
    return OTHER_NAMES.get(source, source) + at + split


def _tasks(
    names: str | None,
    files: Sequence[Path] | None,
    data: Path | None,
    limit: int | None,
    batch_size: int | None,
) -> "Tasks | None":
    from optishear.errors import ConfigError

    if data is not None and not files:
        raise ConfigError("--task-data goes with --task-files. Name the task files too.")
    if not names and not files:
        _refuse_given(
            {"--limit": limit, "--batch-size": batch_size},
            "goes with --tasks or --task-files. Name the tasks too",
        )
        return None
    from optishear.evaluation.zero_shot import Tasks
    from optishear.text.task_files import read_tasks

    local = read_tasks(files, data) if files else ()
    return Tasks(tuple(names.split(",")) if names else (), local, limit, batch_size or 8)


def _refuse_given(options: Mapping[str, Any], why: str) -> None:
    from optishear.errors import ConfigError

    if given := [option for option, value in options.items() if value is not None]:
        raise ConfigError(f"{', '.join(given)} {why}, or leave it out.")


def _say_texts(found: Mapping[str, Any]) -> None:
    first, rows = found["first"], found["models"]
    for index, text in enumerate(rows[0]["texts"]):
        lines = [
            [
                row["name"],
                mode_of(row),
                number_text("sparsity", row["sparsity"]),
                _with_error(own["perplexity"], own["standard_error"], ".2f"),
                _with_error(own["nats_per_token"], own["nats_standard_error"], ".4f"),
                _difference(own["minus_first"], "+.4f"),
            ]
            for row in rows
            for own in [row["texts"][index]]
        ]
        columns = ["model", "mode", "sparsity", "perplexity", "nats/token", f"minus {first}"]
        hint = "" if "BOS" in text["text"] else f"; {text['bos']}"
        say(f"{text['text']}{hint}; {found['dtype']}")
        say_table("", *_sized(columns, lines))


def _say_tasks(found: Mapping[str, Any]) -> None:
    """A table a task, with a column for each metric and its difference to the first row."""
    first, rows = found["first"], found["models"]
    for task in dict.fromkeys(score["task"] for score in rows[0]["tasks"]):
        scores = [[s for s in row["tasks"] if s["task"] == task] for row in rows]
        columns = ["model", "mode", "sparsity"]
        for score in scores[0]:
            columns += [score["metric"], f"minus {first}"]
        lines = [
            [row["name"], mode_of(row), number_text("sparsity", row["sparsity"])]
            + [
                cell
                for score in own
                for cell in (
                    _with_error(score["value"], score["standard_error"], ".4f"),
                    _difference(score["minus_first"], "+.4f"),
                )
            ]
            for row, own in zip(rows, scores, strict=True)
        ]
        asked = scores[0][0]
        count = "" if asked["n"] is None else f", {asked['n']} of {asked['of']} questions"
        say(f"{task}{count}; lm-eval {found['versions']['lm_eval']}; {found['dtype']}")
        say_table("", *_sized(columns, lines))


def _sized(columns: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Differences to the first row are left out where it is the only one."""
    if len(lines) > 1:
        return columns, lines
    shown = [index for index, name in enumerate(columns) if not name.startswith("minus ")]
    return [columns[i] for i in shown], [[line[i] for i in shown] for line in lines]


def _with_error(value: float, error: float | None, form: str) -> str:
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form}}")


def _difference(found: Mapping[str, float | None] | None, form: str) -> str:
    if found is None:
        return ""
    error = found["standard_error"]
    return f"{found['mean']:{form}}" + (
        "" if error is None else f" ± {error:{form.removeprefix('+')}}"
    )
