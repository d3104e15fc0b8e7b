"""What travels arrives as it lay: the same numbers in the same order in memory."""

import pytest
import torch

from optishear.workers.tensors import packed, unpacked


BLOCK = torch.arange(60.0).view(3, 4, 5)
CASES = {
    "plain": BLOCK[0],
    "transposed": BLOCK[1].T,
    "an expert": BLOCK.transpose(1, 2)[2],
    "three dimensions": BLOCK.permute(2, 0, 1),
    "vector": BLOCK[0, 0],
    "number": torch.tensor(2.5),
    "bfloat16": BLOCK[0].bfloat16(),
    "mask": BLOCK[0] > 7,
    "nothing": BLOCK[:0],
}


@pytest.mark.parametrize("case", CASES)
def test_numbers_dtype_and_strides_arrive(case):
    tensor = CASES[case]
    arrived = unpacked(packed(tensor))
    assert arrived.dtype == tensor.dtype
    assert torch.equal(arrived, tensor)
    assert arrived.stride() == tensor.stride()


def test_what_is_sent_of_a_dense_tensor_is_its_memory_itself():
    """No copy on this side, whichever way it is turned."""
    for tensor in (CASES["plain"], CASES["transposed"], CASES["three dimensions"]):
        assert packed(tensor)[0].ctypes.data == tensor.data_ptr()


def test_parts_of_a_tensor_travel_without_the_rest():
    part = BLOCK[0, :, 1:3]
    arrived = unpacked(packed(part))
    assert torch.equal(arrived, part)
    assert arrived.is_contiguous()
