"""The command line: thin, one function a command. Everything it does is in the library."""

import os

import typer

from optishear.cli import (
    curve_commands,
    evaluate_commands,
    interchange_commands,
    listing_commands,
    model_commands,
    report_commands,
    run_commands,
    search_commands,
    transfer_commands,
    verify_commands,
    watch_commands,
)
from optishear.cli.console import speak_any_encoding


app = typer.Typer(
    name="optishear",
    help="Search pruning metrics and layer sparsities of language models for a Pareto front.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for commands in (
    search_commands,
    run_commands,
    report_commands,
    curve_commands,
    model_commands,
    evaluate_commands,
    interchange_commands,
    verify_commands,
    transfer_commands,
    watch_commands,
    listing_commands,
):
    commands.register(app)


def main() -> None:
    # Spinning threads cost a small machine half its speed; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    speak_any_encoding()
    app()
