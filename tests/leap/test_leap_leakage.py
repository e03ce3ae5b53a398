"""Overlap of held-out and training data: found in any order and type, bounded, silent where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leapverify.leap import leakage as overlap
from leapverify.leap.leakage import HELD, HELD_ROWS, SHOWN, SHOWN_ROWS, LeakageCheck


def ids(seed: int, rows: int = 8) -> torch.Tensor:
    return torch.randint(0, 1000, (rows, 16), generator=torch.Generator().manual_seed(seed))


@pytest.mark.failure(14)
@pytest.mark.parametrize("first", ["heldout", "train"])
def test_found_whichever_side_comes_first_and_said_once(first: str) -> None:
    both = LeakageCheck()
    one, other = (both.heldout, both.train) if first == "heldout" else (both.train, both.heldout)
    one(ids(0))
    assert both.found() is None
    other(torch.cat([ids(1, 3), ids(0, 2)]))
    assert both.found() == (
        "2 held-out sequences also occurred among the 1 training batches shown: verdicts on them say nothing; give "
        "held-out data that are not trained on"
    )
    assert both.found() is None
    assert not both.watching
    one(ids(3)), other(ids(3))
    assert both.found() is None


@pytest.mark.failure(14)
@pytest.mark.parametrize(
    ("kind", "as_trained"),
    [
        (torch.int64, torch.int32),
        (torch.int32, torch.int64),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_the_type_of_the_numbers_does_not_matter(kind: torch.dtype, as_trained: torch.dtype) -> None:
    rows = ids(0) % 100
    both = LeakageCheck()
    both.heldout(rows.to(kind))
    both.train(rows.to(as_trained))
    assert both.found() is not None


@pytest.mark.failure(14)
def test_the_form_of_the_batch_does_not_matter() -> None:
    rows = ids(0)
    both = LeakageCheck()
    both.heldout({"attention_mask": torch.arange(16).expand(8, 16) // 9, "input_ids": rows})
    both.train((rows.t().contiguous().t(), torch.arange(8)))
    assert both.found() is not None


@pytest.mark.parametrize(
    "same",
    [
        torch.ones(4, 16, dtype=torch.int64),
        torch.rand(4, 16) > 2.0,
        torch.arange(4 * 5).reshape(4, 5),
        torch.arange(16),
        torch.randn(4, 16, dtype=torch.complex64),
        torch.ones(0, 16),
        None,
        "text",
    ],
)
def test_what_says_nothing_is_passed_over(same: Any) -> None:
    both = LeakageCheck()
    both.heldout(same), both.train(same)
    assert both.found() is None


@pytest.mark.failure(14)
def test_different_data_are_not_found() -> None:
    both = LeakageCheck()
    for seed in range(40):
        both.train(ids(seed)), both.heldout(ids(1000 + seed))
    assert both.found() is None


@pytest.mark.failure(14)
def test_long_rows_are_told_apart_by_elements_all_over_them() -> None:
    rows = torch.randn(2, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    changed = rows.clone()
    changed[:, 2, 50:] += 1.0
    both = LeakageCheck()
    both.heldout(rows), both.train(changed)
    assert both.found() is None
    both.train(rows.double())
    assert both.found() is not None


@pytest.mark.parametrize("order", ["heldout first", "training first", "together"])
def test_both_sides_are_bounded_and_dropped_in_the_end(order: str) -> None:
    both = LeakageCheck()
    turns = {
        "heldout first": [both.heldout] * 100 + [both.train] * 300,
        "training first": [both.train] * 300 + [both.heldout] * 100,
        "together": [both.train, both.heldout] * 300,
    }[order]
    for seed, turn in enumerate(turns):
        turn(ids(seed, 300))
        assert len(both._heldout) <= HELD * HELD_ROWS
        assert len(both._shown) <= SHOWN * SHOWN_ROWS
    assert not both._heldout
    assert not both._shown
    assert not both.watching


def test_few_rows_of_a_training_batch_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    real = overlap.hashlib.blake2b
    monkeypatch.setattr(overlap.hashlib, "blake2b", lambda raw, **more: hashed.append(len(raw)) or real(raw, **more))
    LeakageCheck().train(torch.randn(512, 20_000))
    assert len(hashed) == SHOWN_ROWS
    assert max(hashed) <= 4 * overlap.MOST_ELEMENTS
