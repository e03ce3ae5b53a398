"""Alerts: each says what began, with its numbers, once."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from leapverify.leap.alerts import Alert, Alerts

QUIET: dict[str, Any] = {"regime": "unknown", "loss": None, "finite": True, "overhead": 0.0, "budget": 0.01}


def watch(alerts: Alerts, begin: int = 0, /, **columns: list[Any]) -> list[tuple[Alert, ...]]:
    """What is said at each of a row of checkpoints."""
    count = len(next(iter(columns.values())))
    rows = [{**QUIET, **{name: values[i] for name, values in columns.items()}} for i in range(count)]
    return [alerts.look(50 * (begin + i + 1), **row) for i, row in enumerate(rows)]


def kinds(found: list[tuple[Alert, ...]]) -> list[list[str]]:
    return [[each.kind for each in alerts] for alerts in found]


def test_nothing_is_said_of_a_calm_run() -> None:
    found = watch(Alerts(), loss=[3.0 - 0.01 * i for i in range(40)], regime=["chaotic"] * 40)
    assert all(each == () for each in found)


def test_a_regime_change_is_between_known_regimes_only() -> None:
    found = watch(Alerts(), regime=["unknown", "chaotic", "unknown", "chaotic", "transition", "transition", "unknown"])
    assert kinds(found) == [[], [], [], [], ["regime"], [], []]
    assert found[4][0].text == "the run went from chaotic to transition at step 250"


def test_a_spike_is_above_the_robust_spread_and_said_once() -> None:
    calm = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0]
    found = watch(Alerts(), loss=[*calm, 3.0, 3.1, 2.0, 3.5])
    assert kinds(found)[len(calm) :] == [["spike"], [], [], ["spike"]]
    # The median of the six is 2.0 and their MAD 0.05.
    assert found[6][0].text == (
        "the held-out loss jumped to 3.0000 at step 350: the last 6 have a median of 2.0000, and nothing above "
        f"{2.0 + 6 * 1.4826 * 0.05:.4f} was expected"
    )


def test_a_spike_needs_five_losses_and_one_percent() -> None:
    assert kinds(watch(Alerts(), loss=[2.0] * 4 + [9.0])) == [[]] * 5
    assert kinds(watch(Alerts(), loss=[2.0] * 5 + [2.019])) == [[]] * 6
    assert kinds(watch(Alerts(), loss=[2.0] * 5 + [2.021]))[-1] == ["spike"]
    assert kinds(watch(Alerts(), loss=[-2.0] * 5 + [-1.9]))[-1] == ["spike"]


def test_a_level_that_stays_is_the_new_normal() -> None:
    found = watch(Alerts(), loss=[2.0] * 20 + [4.0] * 20 + [8.0])
    assert kinds(found)[20] == ["spike"]
    assert kinds(found)[21:40] == [[]] * 19
    assert kinds(found)[40] == ["spike"]


def test_a_loss_that_is_not_finite_has_not_ended_where_none_is_measured() -> None:
    found = watch(Alerts(), loss=[2.0, math.nan, None, math.nan, 2.0, math.nan])
    assert kinds(found) == [[], ["non-finite"], [], [], [], ["non-finite"]]
    found = watch(Alerts(), finite=[False, True, False])
    assert kinds(found) == [["non-finite"], [], ["non-finite"]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_losses_and_weights(bad: float) -> None:
    alerts = Alerts()
    found = watch(alerts, loss=[2.0, bad, bad, 2.0, 2.0], finite=[True, True, True, True, False])
    assert kinds(found) == [[], ["non-finite"], [], [], ["non-finite"]]
    assert found[1][0].text.startswith(f"at step 100 the held-out loss is {bad}:")
    assert found[4][0].text.startswith("at step 250 the weights hold values that are not finite:")


def test_gone_stable_after_five_in_a_row() -> None:
    regimes = ["stable"] * 4 + ["transition"] + ["stable"] * 3 + ["unknown"] + ["stable"] * 4
    found = watch(Alerts(), regime=regimes)
    said = [i for i, each in enumerate(kinds(found)) if "stable" in each]
    assert said == [10]
    assert found[10][0].text == (
        "the run has gone stable: 5 checkpoints in a row up to step 550; more compute now buys little, so reduce it or "
        "think of stopping early"
    )


def test_overhead_is_said_once_until_it_is_well_below_again() -> None:
    found = watch(Alerts(), overhead=[0.005, 0.02, 0.03, 0.0099, 0.0101, 0.0079, None, 0.0099, 0.0101])
    assert kinds(found) == [[], ["overhead"], *[[]] * 6, ["overhead"]]
    assert "has taken 2.00 % of the run's time up to step 100, above its budget of 1.00 %" in found[1][0].text
    assert kinds(watch(Alerts(), overhead=[0.9, 0.9], budget=[None, None])) == [[], []]


def test_overhead_is_not_judged_in_the_first_hundred_steps() -> None:
    assert kinds(watch(Alerts(), overhead=[0.9, 0.009])) == [[], []]
    assert kinds(watch(Alerts(), overhead=[0.9, 0.9])) == [[], ["overhead"]]


def test_goes_on_from_its_state() -> None:
    losses = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 3.0, 3.0, 2.0, 4.0]
    regimes = ["chaotic", "stable", "stable", "stable", "stable", "stable", "chaotic", "stable", "stable", "stable"]
    whole = Alerts()
    expected = watch(whole, loss=losses, regime=regimes)
    for cut in range(1, 10):
        first, second = Alerts(), Alerts()
        before = watch(first, loss=losses[:cut], regime=regimes[:cut])
        state = json.loads(json.dumps(first.state_dict()))
        second.load_state_dict(state)
        after = watch(second, cut, loss=losses[cut:], regime=regimes[cut:])
        assert before + after == expected
        assert second.state_dict() == whole.state_dict()
