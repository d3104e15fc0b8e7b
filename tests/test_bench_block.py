"""The bench of a block as a command: tiny, on a CPU, where its times mean nothing."""

import sys

import bench_block
import pytest


def bench(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["bench_block.py", "--device", "cpu", *options])
    bench_block.main()


def test_every_lever_is_timed_beside_the_plain_method(monkeypatch, tmp_path):
    bench(
        monkeypatch,
        "--shapes",
        "tiny",
        "--rounds",
        "1",
        "--methods",
        "optima",
        "--out",
        str(tmp_path),
    )
    summary = (tmp_path / "summary.md").read_text()
    levers = [line.split("|")[2].strip() for line in summary.splitlines() if "| optima |" in line]
    assert levers[0] == "plain"
    assert {"order=site", "shift=0.5", "reconstruct=block"} < set(levers)
    assert "Tiny shapes" in summary


def test_without_a_gpu_large_shapes_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        bench(monkeypatch)
    assert ended.value.code == 2
    assert "choose other --shapes" in capsys.readouterr().err
