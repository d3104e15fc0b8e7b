"""Data that an objective brings: its hash is part of the measure, so all that it holds is in it."""

import torch

from optishear.objectives.own_data import OwnData


def test_other_tokens_another_order_or_another_cut_is_other_data():
    rows = torch.arange(12).view(4, 3)
    data = [
        OwnData.of(batches, "made up")
        for batches in (
            [rows],
            [rows + 1],
            [rows.flip(0)],
            [rows[:2], rows[2:]],  # sums in another order
            [rows.flatten()[None]],
        )
    ]
    assert len({each.hash for each in data}) == len(data)
    assert OwnData.of([rows.clone()], "elsewhere").hash == data[0].hash
    assert {each.units for each in data} == {12}
