"""Printing: results on stdout, everything else on stderr, errors with an exit code."""

import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any

import typer

from optishear.cli.stopping import exit_code, how_it_ended, orderly
from optishear.errors import ConfigError, OptiShearError


USER_MISTAKE, FAILED_RUN = 2, 1

BOS_HELP = (
    "auto (if left out: as the tokenizer has it), none, text (one before the text) or window."
)
TextField = typer.Option(help="Where the text is in each row of a .jsonl, .parquet or dataset.")
JsonFlag = typer.Option(False, "--json", help="Print the result as JSON.")


def speaking(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that a user can act on become one sentence on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        shown = logging.StreamHandler()
        shown.addFilter(is_unsaid)
        logging.basicConfig(
            level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[shown]
        )
        try:
            with orderly():
                command(*args, **kwargs)
        except OptiShearError as error:
            print(f"error: {error}", file=sys.stderr)
            code = USER_MISTAKE if isinstance(error, ConfigError) else FAILED_RUN
            raise typer.Exit(code) from None
        except KeyboardInterrupt as stop:
            print(f"{how_it_ended(stop)}; nothing that was finished is lost", file=sys.stderr)
            raise typer.Exit(exit_code(stop)) from None

    return run


def is_unsaid(record: logging.LogRecord) -> bool:
    """Whether nobody printed it yet: libraries with a handler of their own (huggingface_hub,
    datasets) hand their warnings on as well."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return False
        logger = logger.parent
    return True


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def say_json(data: Any) -> None:
    print(json_text(data, sys.stdout, indent=1))


def json_text(data: Any, stream: Any, indent: int | None = None) -> str:
    """JSON for this stream, every character in it whole: where the stream's encoding has not all
    of them, as the escapes that JSON has for that."""
    return json.dumps(data, indent=indent, ensure_ascii=not _is_utf(stream), allow_nan=False)


def speak_any_encoding() -> None:
    """What a terminal or pipe cannot show is shown there as `?`, in place of a traceback after
    hours of work for one arrow.

    That hides no error: prose is for the eye, whatever is read by programs is JSON, which loses
    nothing (`json_text`), and files are UTF-8 everywhere.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _is_utf(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().startswith("utf")


def say_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, prose: bool = False
) -> None:
    """A table as wide as it needs to be.

    In a narrow terminal the last column wraps, of `prose` every column but the first; numbers
    stand to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        wraps = index == len(columns) - 1 or (prose and index > 0)
        left = prose or wraps or index == 0
        table.add_column(column, justify="left" if left else "right", no_wrap=not wraps)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=240)
    console.print(table)
