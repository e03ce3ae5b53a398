"""Costs add up."""

import pytest

from leapverify.analysis.study.costs import PARTS, costs


def test_shares_add_up_and_relate_to_training(checkpoint):
    rows = [
        checkpoint(seed=s, step=i, train_s=2.0, observe_s=0.5 * s, snapshot_s=0.0) for s in (1, 2, 3) for i in range(4)
    ]
    found = {cost.part: cost for cost in costs(rows)}
    assert tuple(found) == PARTS
    assert sum(cost.share for cost in found.values()) == pytest.approx(1.0)
    observe = found["observe"]
    assert dict(observe.per_seed) == {1: 2.0, 2: 4.0, 3: 6.0}
    assert (observe.seconds, observe.mean, observe.std, observe.n) == (12.0, 4.0, 2.0, 12)
    assert (observe.of_training, observe.per_checkpoint_s, observe.ran) == (0.5, 1.0, True)
    assert (found["lyapunov"].ran, found["lyapunov"].share) == (False, 0.0)


def test_nothing_to_divide_by_gives_none(checkpoint):
    free = [checkpoint(**{f"{part}_s": 0.0 for part in PARTS})]
    assert {(cost.share, cost.of_training, cost.ran) for cost in costs(free)} == {(None, None, False)}
    assert {(cost.mean, cost.per_checkpoint_s, cost.reason) for cost in costs([])} == {(None, None, "no checkpoints")}
