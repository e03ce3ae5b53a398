"""Several ranks decide what one process decides, from the same numbers, in whatever way the model is spread."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from leap_ranks import Run, Way, said, way
from marks import slow
from processes import run_ranks

STEPS = 16
CLOSE = 1e-6
PREDICTORS = ("linear", "dmd-2", "adam", "momentum")
WAYS = [
    ("ddp", 2, PREDICTORS),
    slow("ddp", 3, PREDICTORS[:1]),
    ("fsdp", 2, PREDICTORS),
    slow("fsdp", 3, PREDICTORS[:2]),
    slow("hsdp", 4, PREDICTORS[1:2]),
    ("tp", 2, PREDICTORS[1:3]),
    slow("fsdp+tp", 4, PREDICTORS[1:2]),
]


def _course(spread: Way | None, options: dict[str, Any]) -> dict[str, Any]:
    """What a run decides and where it ends."""
    run = Run(spread)
    leap = run.leap(**options)
    events = run.train(STEPS, leap)
    report = leap.report()
    costs = {name: report[name] for name in ("overhead", "tokens", "seconds", "heldout_passes")}
    return {
        "events": said(events),
        "reasons": [event.reason for event in events],
        "weights": run.weights(),
        "disabled": leap.disabled,
        "leapt": leap.leapt,
        "rates": run.scheduler.get_last_lr(),
        "costs": costs,
    }


@cache
def _alone(**options: Any) -> dict[str, Any]:
    return _course(None, options)


def _same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["disabled"] is None
    assert (found["leapt"], found["rates"]) == (expected["leapt"], expected["rates"])
    assert len(found["events"]) == len(expected["events"])
    for one, other in zip(found["events"], expected["events"], strict=True):
        numbers = {name for name, value in one.items() if isinstance(value, float)}
        assert {name: one[name] for name in one.keys() - numbers} == {
            name: other[name] for name in one.keys() - numbers
        }
        assert all(one[name] == pytest.approx(other[name], rel=CLOSE, abs=CLOSE) for name in numbers), (one, other)
    for name, weights in expected["weights"].items():
        assert abs(found["weights"][name] - weights).max() <= CLOSE, name


def _many(name: str, size: int, several: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The courses of each rank."""
    return run_ranks(size, lambda: [_course(way(name, size), options) for options in several])


def _all_same(courses: list[list[dict[str, Any]]], several: list[dict[str, Any]]) -> None:
    for of_rank in courses:
        for found, first, options in zip(of_rank, courses[0], several, strict=True):
            _same(found, _alone(**options))
            assert (found["events"], found["reasons"]) == (first["events"], first["reasons"])
            assert found["costs"]["tokens"] == first["costs"]["tokens"]


@pytest.mark.failure(11)
@pytest.mark.parametrize(("name", "size", "predictors"), WAYS)
def test_leaps_are_those_of_one_process(name: str, size: int, predictors: tuple[str, ...]) -> None:
    """Uneven, empty and tied shards, copies along a mesh dimension, and several predictors."""
    several = [{"predictor": each} for each in predictors]
    courses = _many(name, size, several)
    _all_same(courses, several)
    assert all(course["leapt"] > 0 for course in courses[0][:3])


@pytest.mark.failure(11)
@pytest.mark.parametrize("name", ["ddp", slow("fsdp")])
def test_policies_and_predictors_that_measure_are_those_of_one_process(name: str) -> None:
    several = [
        {"policy": "auto", "predictors": ("linear", "adam"), "schedule": "keep", "moments": "reset"},
        {"policy": "line-search", "predictor": "linear"},
        {"predictor": "fast-forward", "moments": "reset"},
        {"mode": "shadow", "predictor": "linear"},
        {"mode": "monitor", "anneal": True},
    ]
    several = several[:2] if name == "ddp" else several[2:]
    _all_same(_many(name, 2, several), several)


def test_gradients_are_the_mean_of_the_ranks_and_not_taken_of_parts() -> None:
    several = [{"predictor": "subspace"}]
    courses = _many("ddp", 2, several)
    _all_same(courses, several)
    assert any(event["status"] != "skipped" for event in courses[0][0]["events"])
    for (course,) in _many("tp", 2, several):
        assert course["disabled"] is None
        assert course["reasons"][-1] == "needs gradients, which are not taken of weights that ranks hold in parts"
