"""A command as it is typed."""

from typer.testing import CliRunner

from optishear.cli import app


def invoke(*words, code=0):
    """Its result, once it has ended with this exit code."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result
