"""Terminals and pipes that cannot show every character: no traceback, and no JSON that lost one."""

import io
import json
import sys

import pytest

from optishear.cli import main


class Shown:
    """What a command wrote to streams of one encoding."""

    def __init__(self, monkeypatch, encoding, *words):
        streams = {}
        for name in ("stdout", "stderr"):
            streams[name] = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
            monkeypatch.setattr(sys, name, streams[name])
        monkeypatch.setattr(sys, "argv", ["optishear", *words])
        with pytest.raises(SystemExit) as left:
            main()
        self.code = left.value.code or 0
        for name, stream in streams.items():
            stream.flush()
            setattr(self, name, stream.buffer.getvalue().decode(encoding))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_an_error_with_an_arrow_is_still_one_sentence(monkeypatch, encoding):
    shown = Shown(monkeypatch, encoding, "front", "no\u2192where")
    arrow = "\u2192" if encoding == "utf-8" else "?"
    assert shown.code == 2
    assert shown.stderr.startswith(f"error: no{arrow}where: there is no such run")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_json_is_whole_and_a_table_is_shown_wherever_it_goes(monkeypatch, encoding):
    want = Shown(monkeypatch, "utf-8", "objectives", "--json").stdout
    assert not want.isascii()
    got = Shown(monkeypatch, encoding, "objectives", "--json").stdout
    assert json.loads(got) == json.loads(want)
    assert Shown(monkeypatch, encoding, "objectives").code == 0
