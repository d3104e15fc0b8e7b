"""The table of what levers gain, of made-up measurements."""

import json
from itertools import product

import pandas as pd
from levers import lever_lines


def row(method, setting, seed, nats, seconds=10.0):
    return {
        "method": method,
        "setting": setting,
        "calibration": f"text, seed {seed}",
        "nats": nats,
        "prune_seconds": seconds,
        "sequence_nats": json.dumps([nats - 0.1, nats + 0.1]),
    }


def test_gains_are_paired_by_calibration_text_and_times_are_ratios():
    rows = [
        row("alps", setting, seed, 4 + seed) for setting, seed in product(("0.6", "2:4"), (0, 1))
    ]
    rows += [row("alps/shift=0.5", "0.6", seed, 3.9 + 0.98 * seed, 15) for seed in (0, 1)]
    rows += [
        row("alps/shift=0.5/order=site", "2:4", 1, 4.7, 20),
        row("optima/guided=1", "0.6", 0, 3),
    ]
    lines = lever_lines(pd.DataFrame(rows))
    assert "| lever | 60 % | 2:4 | times |" in lines
    assert "| shift=0.5 | +0.1100 ± 0.0141 (2) |  | 1.5 |" in lines
    assert "| shift=0.5, order=site |  | +0.3000 ± 0.0000* | 2.0 |" in lines
    assert not any("guided" in line for line in lines)  # optima itself was not measured


def test_without_levers_there_is_no_table():
    assert lever_lines(pd.DataFrame([row("alps", "0.6", 0, 4.0)])) == []
