"""The page on the shipped networks shows the numbers of their cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from leapverify.core.statistics import Interval
from leapverify.nowcast.fit import Score, as_lines
from leapverify.predict.learnt import NETWORKS, load_learnt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "nowcast.md"


def scores(kind: str) -> list[Score]:
    """The test results of a card."""
    found = []
    for row in load_learnt(kind).card["test"]:
        ends = {key: value and Interval(*value) for key, value in row.items() if key.endswith("interval")}
        found.append(Score(**{**row, **ends}))
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_table_is_that_of_the_card(kind: str) -> None:
    assert "\n".join(as_lines(scores(kind))) in PAGE.read_text()


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_histories_are_those_of_the_card(kind: str) -> None:
    card, page = load_learnt(kind).card, PAGE.read_text()
    for role, runs in card["histories"].items():
        for run in runs:
            assert f"| {role} | `{run['run']}` | `{run['text']}` | {run['seeds'][0]}-{run['seeds'][-1]} | " in page
    assert f"{card['heldout_loss']:.4f}" in page
    assert f"{card['slope']:.3f}" in page


def test_both_beat_staying_and_the_line_on_test_histories() -> None:
    for kind in NETWORKS:
        for control in scores(kind)[1:3]:
            assert control.ratio_interval is not None
            assert control.ratio_interval.high < 1.0
