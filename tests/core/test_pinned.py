"""pinned: tensors cut out of one block of host memory, and what the block takes."""

from __future__ import annotations

import pytest
import torch

from leapverify.core.pinned import ALIGNMENT, host_bytes, host_memory

LIKE = [
    torch.zeros(3, 5),
    torch.zeros((), dtype=torch.int64),
    torch.zeros(2, 0),
    torch.zeros(7, 4, dtype=torch.bfloat16),
    torch.zeros(9, dtype=torch.bool),
]


def test_the_tensors_are_disjoint_aligned_and_of_the_right_kind() -> None:
    found = host_memory(LIKE)
    for number, (each, like) in enumerate(zip(found, LIKE, strict=True)):
        assert (each.shape, each.dtype, each.device.type) == (like.shape, like.dtype, "cpu")
        assert each.is_contiguous()
        assert each.storage_offset() * each.element_size() % ALIGNMENT == 0
        each.fill_(number)
    for number, each in enumerate(found):
        assert bool((each == torch.tensor(number, dtype=each.dtype)).all())
    assert len({each.untyped_storage().data_ptr() for each in found}) == 1


def test_the_bytes_are_those_of_the_block() -> None:
    for dtype in (None, torch.float16):
        block = host_memory(LIKE, dtype)[0].untyped_storage().nbytes()
        assert host_bytes(LIKE, dtype, locked=False) == block
        locked = host_bytes(LIKE, dtype)
        assert block <= locked < 2 * block
        assert locked & (locked - 1) == 0
    assert host_bytes([], locked=True) == host_bytes([torch.zeros(0)]) == 0
    assert host_memory([]) == []


def test_one_block_wastes_less_than_one_for_each_tensor() -> None:
    shapes = [(3584, 18944)] * 3 * 28
    model = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    each_alone = sum(host_bytes([tensor]) for tensor in model)
    assert each_alone > 1.9 * sum(tensor.nbytes for tensor in model)
    assert host_bytes(model) < 1.6 * sum(tensor.nbytes for tensor in model)
    assert host_bytes([torch.empty(1, device="meta")] * 2) == pytest.approx(2 * ALIGNMENT)
