"""Packing: every token once, rows not overfull, attention inside a probe only."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.observe.packing import (
    additive_mask,
    best_rows,
    block_causal_mask,
    first_fit_decreasing,
    grouped,
    packed,
    padded,
)
from leapverify.observe.probes import paper_probes

lengths_of = st.lists(st.integers(1, 30), min_size=1, max_size=25)


def tokens_of(lengths):
    starts = [100 * i + 1 for i in range(len(lengths))]
    return [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]


@settings(max_examples=50)
@given(lengths=lengths_of, slack=st.integers(0, 40))
def test_first_fit_places_every_item_once_and_overfills_no_row(lengths, slack):
    capacity = max(lengths) + slack
    rows = first_fit_decreasing(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert max(sums) <= capacity
    # No two rows would have fitted into one: so more than half of all rows is filled.
    assert all(a + b > capacity for i, a in enumerate(sums) for b in sums[i + 1 :])


@settings(max_examples=30)
@given(lengths=lengths_of, batch_tokens=st.integers(1, 200))
def test_every_layout_gathers_the_tokens_of_its_probes(lengths, batch_tokens):
    tokens = tokens_of(lengths)
    for layout in (packed, grouped):
        found = {}
        for batch in layout(tokens, batch_tokens):
            pooled = batch.inputs.flatten()[batch.gather]
            ends = [*batch.offsets.tolist()[1:], len(pooled)]
            for probe, start, end in zip(batch.probes, batch.offsets.tolist(), ends, strict=True):
                assert probe not in found
                found[probe] = pooled[start:end].tolist()
        assert found == {i: probe.tolist() for i, probe in enumerate(tokens)}


@settings(max_examples=30)
@given(lengths=lengths_of)
def test_packed_positions_restart_and_attention_stays_inside_a_probe(lengths):
    for batch in packed(tokens_of(lengths), 64):
        allowed = block_causal_mask(batch.segments)[:, 0]
        for r, row in enumerate(batch.inputs.tolist()):
            for q, token in enumerate(row):
                seen = allowed[r, q].nonzero().flatten().tolist()
                if token == 0:
                    assert all(row[k] == 0 for k in seen)
                    assert q in seen
                    continue
                position = (token - 1) % 100
                assert batch.positions[r, q] == position
                assert [row[k] for k in seen] == list(range(token - position, token + 1))


def test_the_studys_probes_as_bytes_waste_less_than_three_percent():
    lengths = [len(text.encode()) for text in paper_probes().texts]
    rows = best_rows(lengths)
    computed = len(rows) * max(sum(lengths[i] for i in row) for row in rows)
    assert sum(lengths) <= computed <= 1.03 * sum(lengths)


def test_padded_rows_pool_every_position():
    (batch,) = padded(tokens_of([2, 5]), 100)
    assert batch.inputs.tolist() == [[1, 2, 0, 0, 0], [101, 102, 103, 104, 105]]
    assert batch.gather.tolist() == list(range(10))
    assert batch.segments is None


def test_the_mask_is_finite_in_every_type():
    allowed = torch.tensor([[True, False], [True, True]])
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        mask = additive_mask(allowed, dtype)
        assert mask.dtype == dtype
        assert torch.isfinite(mask).all()
        assert mask.softmax(-1).tolist() == [[1.0, 0.0], [0.5, 0.5]]
