"""Thresholds: what each method holds, the way to a configuration file and back, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from leapverify.observe.thresholds import Thresholds, angular_speed

EACH = [
    Thresholds.paper(),
    Thresholds.fixed(-0.25, 0.75),
    Thresholds.percentile([0.9, 0.95, 0.99]),
    Thresholds.rate([0.9, 0.95, 0.99], [0.1, 0.2, 0.3]),
    Thresholds.online(warmup=7, width=1.5),
]


@pytest.mark.parametrize("thresholds", EACH, ids=lambda t: t.method)
def test_through_a_file_and_back(thresholds):
    assert Thresholds.from_dict(json.loads(json.dumps(thresholds.to_dict()))) == thresholds


def test_the_papers_values():
    assert Thresholds.paper().to_dict() == {"method": "paper", "low": 0.9962696, "high": 0.99948916}


def test_angular_speed():
    assert angular_speed(math.cos(0.3), 0.6) == pytest.approx(0.5)
    assert angular_speed(1.0, 0.5) == 0.0
    assert angular_speed(1.0 + 1e-9, 0.5) == 0.0
    assert angular_speed(None, 0.5) is None
    assert angular_speed(0.5, None) is None
    assert angular_speed(0.5, 0.0) is None
    assert math.isnan(angular_speed(math.nan, 0.0))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Thresholds.fixed(0.9, 0.8), "low=0.9 lies above high=0.8: swap them"),
        (lambda: Thresholds.fixed(0.9, 1.2), "low=0.9, high=1.2 are no cosines"),
        (lambda: Thresholds.fixed(math.nan, 0.8), "low=nan, high=0.8 are not two finite numbers"),
        (lambda: Thresholds.from_dict({"method": "fixed", "low": 0.1}), "low=0.1, high=None are not two finite"),
        (lambda: Thresholds.percentile([0.5, None, math.nan]), "1 usable similarities set no percentiles"),
        (lambda: Thresholds.percentile([0.5, 0.6], low=70, high=30), "low=70, high=30 are out of order"),
        (lambda: Thresholds.rate([0.5], [0.1, 0.2]), "1 similarities have 2 eta sums: give one for each"),
        (lambda: Thresholds.rate([0.5, 0.6], [0.0, 0.2]), "1 usable angular speeds set no percentiles"),
        (lambda: Thresholds.online(warmup=1), "warm-up of 1 values gives no scale: use at least 2"),
        (lambda: Thresholds.online(width=-0.5), "online width -0.5 is no distance"),
        (lambda: Thresholds.from_dict({"method": "online", "low": 0.5, "warmup": 5, "width": 1.0}), "leave low and"),
        (lambda: Thresholds.from_dict({"method": "paper", "low": 0.5, "high": 0.6, "warmup": 5}), "no warm-up"),
        (lambda: Thresholds.from_dict({"method": "guess"}), "'guess' is unknown: use one of paper, fixed, percent"),
        (lambda: Thresholds.from_dict({"low": 0.5}), "thresholds need a method: use one of"),
        (lambda: Thresholds.from_dict({"method": "paper", "tau": 1}), "threshold key 'tau' is unknown: use method"),
    ],
)
def test_bad_input(make, text):
    with pytest.raises(ValueError, match=text):
        make()
