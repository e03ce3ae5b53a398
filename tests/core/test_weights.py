"""weights: list maths against float64 references, blocks as a partition, and errors by their text."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from leapverify.core import weights


def lists(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(), (0, 3), (5,), (4, 6), (3, 2, 2)]
    a, b = ([torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(2))
    a[3], b[3] = a[3].T.contiguous().T, b[3]  # other strides than its partner
    return a, b


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([each.reshape(-1).double() for each in tensors])


@settings(max_examples=60)
@given(shape=st.lists(st.integers(0, 7), max_size=4), limit=st.integers(1, 40))
def test_blocks_partition_a_tensor(shape: list[int], limit: int) -> None:
    counts = torch.zeros(shape)
    for index in weights.blocks(shape, limit):
        assert counts[index].numel() <= limit
        counts[index] += 1
    assert bool((counts == 1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dot_norm_distance_equal_a_float64_reference(dtype: torch.dtype) -> None:
    a, b = lists(dtype)
    assert weights.dot(a, b) == pytest.approx(float(flat(a) @ flat(b)), rel=1e-14)
    assert weights.norm(a) == pytest.approx(float(flat(a).norm()), rel=1e-14)
    assert weights.distance(a, b) == pytest.approx(float((flat(a) - flat(b)).norm()), rel=1e-14)
    assert weights.dot([], []) == 0.0


def test_dot_sums_in_float64() -> None:
    values = torch.ones(100_001)
    values[0] = 2.0**14  # its square, 2^28, swallows ones in float32
    assert weights.dot([values], [values]) == 2.0**28 + 100_000


def test_sums_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = lists()
    whole = weights.dot(a, b), weights.distance(a, b)
    monkeypatch.setattr(weights, "CPU_BLOCK", 5)
    assert (weights.dot(a, b), weights.distance(a, b)) == pytest.approx(whole, rel=1e-14)


def test_copy_writes_in_place() -> None:
    a, b = lists()
    places = [each.data_ptr() for each in a]
    weights.copy_(a, [each.double() for each in b])
    assert torch.equal(flat(a), flat(b))
    assert places == [each.data_ptr() for each in a]


def test_copy_writes_parameters_that_require_grad() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    weights.copy_([parameter], [torch.ones(3)])
    assert parameter.tolist() == [1, 1, 1]
    assert parameter.grad_fn is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_all_finite_finds_one_bad_element(bad: float, dtype: torch.dtype) -> None:
    tensors = [torch.ones(2, 0, dtype=dtype), torch.ones(70, dtype=dtype), torch.ones((), dtype=dtype)]
    assert weights.all_finite(tensors)
    tensors[1][33] = bad
    assert not weights.all_finite(tensors)


def test_all_finite_is_not_misled_by_large_values() -> None:
    assert weights.all_finite([torch.full((1000,), 3e38)])
    assert weights.all_finite([])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.frozen = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(1))


def test_trainable_gives_tied_parameters_once_and_leaves_frozen_ones_and_buffers() -> None:
    model = Tied()
    assert list(weights.trainable(model)) == ["embedding.weight"]
    assert weights.trainable(model)["embedding.weight"] is model.embedding.weight


def test_trainable_says_when_nothing_is_left() -> None:
    with pytest.raises(ValueError, match="no trainable parameter of Tied is left: set requires_grad or widen"):
        weights.trainable(Tied(), include=lambda name: "lora" in name)


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="source has 1 tensors where 2 are needed"):
        weights.copy_([torch.ones(1), torch.ones(1)], [torch.ones(1)])
    with pytest.raises(ValueError, match=r"b has shape \(3,\) at position 0 where \(2,\) is needed"):
        weights.dot([torch.ones(2)], [torch.ones(3)])
