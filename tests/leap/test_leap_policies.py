"""The plain policies and their names: when they propose, how the line search finds its horizon, how long it waits."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.leap.policy.auto import Auto
from leapverify.leap.policy.base import BackOff, LeapChoice, Outcome, Policy, Proposal, Situation
from leapverify.leap.policy.fixed import Fixed
from leapverify.leap.policy.line_search import LineSearch
from leapverify.leap.policy.registry import NAMES, make_policy

HERE = Situation(
    step=500,
    effective_step=500,
    interval=50,
    since_leap=500,
    regime="stable",
    similarity=0.99,
    straightness=0.5,
    snapshots=3,
    step_cost=1.0,
    attempt_cost=4.0,
    allowance=math.inf,
    decaying=False,
    remaining=None,
)


def no_probe(proposal: Proposal) -> float | None:
    raise AssertionError(f"{proposal} was probed")


def ended(proposal: Proposal, status: str, gain: float | None = None) -> Outcome:
    return Outcome(proposal, "stable", status, gain, None, 1.0)


class Hill:
    """Gain K - K^2 / (2 K*): rises up to K*, then falls."""

    def __init__(self, top: float) -> None:
        self.top = top
        self.asked: list[int] = []

    def gain(self, horizon: int) -> float:
        return horizon - horizon**2 / (2.0 * self.top)

    def __call__(self, proposal: Proposal) -> float | None:
        self.asked.append(proposal.horizon)
        return self.gain(proposal.horizon)


# --- what all of them have in common ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_satisfies_the_protocol_and_keeps_its_state_in_json(name: str) -> None:
    policy = make_policy(name)
    assert isinstance(policy, Policy)
    assert policy.name == name
    assert "linear" in policy.predictors
    policy.choose(HERE, Hill(60.0))
    policy.learn(ended(Proposal("linear", 50), "rejected", -0.1))
    state = policy.state_dict()
    again = make_policy(name)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.state_dict() == state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decaying": True}, "the schedule is in its final decay"),
        ({"snapshots": 0}, "snapshots are needed, 0 held"),
        ({"remaining": 9}, "more than the 9 that remain"),
        ({"allowance": 0.0}, "the budget leaves nothing to spend now"),
    ],
)
def test_every_policy_refuses_where_no_leap_can_be_made(name: str, change: dict[str, Any], reason: str) -> None:
    choice = make_policy(name).choose(replace(HERE, **change), no_probe)
    assert choice.proposal is None
    assert reason in choice.reason


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_leaps_in_the_decay_if_told_to(name: str) -> None:
    policy = make_policy(name, leap_in_decay=True)
    assert policy.choose(replace(HERE, decaying=True), Hill(60.0)).proposal is not None


@pytest.mark.parametrize("name", NAMES)
def test_an_outcome_of_no_known_status_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="outcome status 'fine' is unknown: use accepted, rejected, declined"):
        make_policy(name).learn(ended(Proposal("linear", 1), "fine"))


# --- fixed ------------------------------------------------------------------------------------------------------------


def test_fixed_proposes_at_every_checkpoint_whatever_came_of_the_last() -> None:
    policy = Fixed("quadratic", 30)
    for status in ("rejected", "accepted", "nonfinite", "declined"):
        choice = policy.choose(replace(HERE, regime="chaotic"), no_probe)
        assert choice == LeapChoice(Proposal("quadratic", 30), "at every checkpoint")
        policy.learn(ended(choice.proposal, status))
    assert policy.choose(replace(HERE, snapshots=2), no_probe).reason == "3 snapshots are needed, 2 held"
    assert policy.choose(replace(HERE, remaining=30), no_probe).proposal is not None
    assert policy.choose(replace(HERE, remaining=29), no_probe).proposal is None


def test_fixed_without_a_horizon_takes_the_interval() -> None:
    assert Fixed().choose(replace(HERE, interval=20), no_probe).proposal == Proposal("linear", 20)


# --- line search ------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.floats(4.0, 1000.0))
def test_line_search_comes_within_three_percent_of_the_best_gain(top: float) -> None:
    """Doubling ends with K*/K in [3/4, 3/2]; after two halvings K is within K/8 of K*, and the gain is quadratic."""
    hill = Hill(top)
    proposal = LineSearch(horizon=4).choose(HERE, hill).proposal
    assert proposal is not None
    assert hill.gain(proposal.horizon) >= 0.97 * top / 2.0
    assert len(hill.asked) == len(set(hill.asked)) <= 1 + 8 + 4


def test_line_search_starts_at_a_quarter_of_the_interval_and_never_leaves_the_schedule() -> None:
    hill = Hill(1e9)
    assert LineSearch("adam").choose(HERE, hill).proposal == Proposal("adam", 12 * 2**8 + 12 * 2**7 + 12 * 2**6)
    assert hill.asked[:3] == [12, 24, 48]
    short = Hill(1e9)
    assert LineSearch(horizon=8).choose(replace(HERE, remaining=100), short).proposal == Proposal("linear", 96)
    assert max(short.asked) <= 100


@pytest.mark.parametrize("gain", [0.0, -1.0, None, math.nan, math.inf])
def test_line_search_asks_no_further_where_the_first_horizon_gains_nothing(gain: float | None) -> None:
    asked: list[int] = []

    def probe(proposal: Proposal) -> float | None:
        asked.append(proposal.horizon)
        return gain

    choice = LineSearch().choose(HERE, probe)
    assert (choice.proposal, len(asked)) == (None, 1)
    assert choice.reason == "no horizon from 12 steps on lowers the loss"


def waits(policy: LineSearch, probe: Callable[[Proposal], float | None], checkpoints: int, status: str) -> list[int]:
    """The checkpoints at which it searched."""
    searched: list[int] = []
    for checkpoint in range(checkpoints):
        choice = policy.choose(replace(HERE, step=50 * checkpoint), probe)
        if choice.proposal is not None:
            policy.learn(ended(choice.proposal, status))
        if "waiting" not in choice.reason:
            searched.append(checkpoint)
    return searched


@pytest.mark.parametrize("probe", [Hill(1.0), Hill(60.0)])
def test_line_search_backs_off_one_two_four_up_to_sixteen_checkpoints(probe: Hill) -> None:
    """Whether the search itself finds nothing or the verifier refuses what it found."""
    assert waits(LineSearch(), probe, 90, "rejected") == [0, 2, 5, 10, 19, 36, 53, 70, 87]


def test_an_accepted_leap_ends_the_waiting() -> None:
    policy = LineSearch()
    assert waits(policy, Hill(60.0), 4, "rejected") == [0, 2]
    policy.learn(ended(Proposal("linear", 60), "accepted"))
    assert waits(policy, Hill(60.0), 4, "accepted") == [0, 1, 2, 3]


def test_checkpoints_at_which_nobody_asked_count_as_waited() -> None:
    back_off = BackOff(limit=16)
    for step in (0, 50, 100):
        back_off.look(replace(HERE, step=step))
        back_off.failed()
    assert back_off.look(replace(HERE, step=150)) == 4
    assert back_off.look(replace(HERE, step=330)) == 1
    assert back_off.look(replace(HERE, step=350)) == 0


# --- names ------------------------------------------------------------------------------------------------------------


def test_settings_reach_the_policy() -> None:
    fixed = make_policy("fixed", predictor="adam", horizon=7, leap_in_decay=True)
    assert isinstance(fixed, Fixed)
    assert (fixed.predictors, fixed.horizon, fixed.leap_in_decay) == (("adam",), 7, True)
    search = make_policy("line-search", predictor="taylor-3", horizon=5)
    assert isinstance(search, LineSearch)
    assert (search.predictors, search.horizon) == (("taylor-3",), 5)
    auto = make_policy("auto", predictors=["adam", "linear", "adam"], horizons=[40, 10])
    assert isinstance(auto, Auto)
    assert (auto.predictors, auto.rungs(50)) == (("adam", "linear"), (10, 40))
    single = make_policy("auto", predictor="linear", horizon=9)
    assert isinstance(single, Auto)
    assert (single.predictors, single.rungs(50)) == (("linear",), (9,))
    assert make_policy("auto").predictors == ("dmd-2", "wnn", "linear")


def test_a_policy_object_is_taken_as_it_is() -> None:
    own = Fixed("hold", 3)
    assert make_policy(own) is own
    with pytest.raises(ValueError, match="horizon cannot be set for a policy object: set it where the object is made"):
        make_policy(own, horizon=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "atuo"}, "unknown policy 'atuo': did you mean auto"),
        ({"policy": "linesearch"}, "unknown policy 'linesearch': did you mean line-search"),
        ({"policy": "???"}, r"unknown policy '\?\?\?': did you mean auto, fixed, line-search"),
        ({"policy": 3}, "int is no policy: give auto, fixed, line-search, or an object with choose"),
        ({"policy": Fixed}, "Fixed is no policy"),
        ({"policy": "fixed", "predictors": ["linear"]}, "policy fixed takes no predictors: give predictor, or use"),
        ({"policy": "line-search", "horizons": [5]}, "policy line-search takes no horizons: give horizon, or use"),
        ({"policy": "auto", "horizon": 5, "horizons": [5]}, "horizon = 5 and horizons were both given"),
        ({"policy": "auto", "predictors": []}, "policy auto has no predictors: give at least one"),
        ({"policy": "auto", "horizons": []}, "policy auto has no horizons: give at least one"),
        ({"policy": "auto", "horizons": [5, 0]}, "horizon = 0 is no leap: give a whole number of steps, at least 1"),
        ({"policy": "fixed", "horizon": -1}, "horizon = -1 is no leap"),
        ({"policy": "fixed", "horizon": 2.5}, r"horizon = 2\.5 is no leap"),
        ({"policy": "line-search", "predictor": "liner"}, "unknown predictor 'liner': did you mean linear"),
        ({"policy": "auto", "predictors": ["adm"]}, "unknown predictor 'adm': did you mean adam"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    policy = arguments.pop("policy")
    with pytest.raises(ValueError, match=message):
        make_policy(policy, **arguments)


@pytest.mark.parametrize("name", ["auto", "line-search"])
def test_a_state_of_another_policy_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"the state has no .*: pass what state_dict.. of policy {name} gave"):
        make_policy(name).load_state_dict({})
