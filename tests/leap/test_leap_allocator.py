"""The allocator against worlds in which it is known what pays: what it saves, what it spends, what it refuses."""

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.leap.policy.auto import CHAOS_PATIENCE, Auto
from leapverify.leap.policy.base import Outcome, Proposal, Situation
from leapverify.leap.policy.experience import FADING, Experience, prior_chance
from leapverify.predict import predictor

HERE = Situation(
    step=500,
    effective_step=500,
    interval=50,
    since_leap=500,
    regime="stable",
    similarity=0.99,
    straightness=None,
    snapshots=3,
    step_cost=1.0,
    attempt_cost=4.0,
    allowance=math.inf,
    decaying=False,
    remaining=None,
)

Ending = tuple[str, float | None, float | None, float]
"""Status, gain, steps gained, cost in steps."""
World = Callable[[Proposal, int], Ending]


def no_probe(proposal: Proposal) -> float | None:
    raise AssertionError(f"{proposal} was probed")


@dataclass
class Simulated:
    """A run whose steps cost 1, with the ledger's budget: 1 % of all that was spent and half of what was saved."""

    policy: Auto
    world: World
    interval: int = 50
    observing: float = 0.1
    budget: float | None = 0.01
    real: int = 0
    leapt: int = 0
    saved: float = 0.0
    spent: float = 0.0
    snapshots: int = 0
    tried: list[tuple[int, str, int, str]] = field(default_factory=list)
    """Checkpoint, predictor, horizon, status."""

    def run(self, checkpoints: int, **situation: Any) -> "Simulated":
        for _ in range(checkpoints):
            self.real += self.interval
            self.spent += self.observing
            self.snapshots += 1
            self.checkpoint(situation)
        return self

    def checkpoint(self, situation: dict[str, Any]) -> None:
        fund = math.inf if self.budget is None else self.budget * (self.real + self.spent) + 0.5 * self.saved
        now = replace(
            HERE,
            step=self.real,
            effective_step=self.real + self.leapt,
            interval=self.interval,
            snapshots=self.snapshots,
            allowance=fund - self.spent,
            **situation,
        )
        proposal = self.policy.choose(now, no_probe).proposal
        if proposal is None:
            return
        assert self.snapshots >= predictor(proposal.predictor).needs.snapshots
        status, gain, steps_gained, cost = self.world(proposal, self.real)
        self.spent += cost
        if status == "accepted":
            self.leapt += proposal.horizon
            self.saved += min(steps_gained or 0.0, proposal.horizon)
            self.snapshots = 1  # of the weights it leapt to
        self.tried.append((self.real // self.interval, proposal.predictor, proposal.horizon, status))
        self.policy.learn(Outcome(proposal, now.regime, status, gain, steps_gained, cost))

    @property
    def net_saved(self) -> float:
        """Share of the steps that the plain run would have taken, net of cost."""
        return (self.saved - self.spent) / (self.real + self.saved)

    @property
    def overhead(self) -> float:
        return self.spent / (self.real + self.spent)


def everything_pays(proposal: Proposal, step: int) -> Ending:
    return "accepted", 0.1, float(proposal.horizon), 3.0


def nothing_pays(proposal: Proposal, step: int) -> Ending:
    return "rejected", -0.1, None, 5.0


THREE = ("linear", "adam", "quadratic-paper")


def auto(**options: Any) -> Auto:
    """The policy with three predictors that need one, two and three snapshots, whichever it has by default."""
    return Auto(THREE, **options)


def linear_up_to(longest: int) -> World:
    """SGD on a smooth problem: no Adam state, `linear` right up to a horizon, `quadratic-paper` never."""

    def world(proposal: Proposal, step: int) -> Ending:
        if proposal.predictor == "adam":
            return "declined", None, None, 0.0
        if proposal.predictor == "linear" and proposal.horizon <= longest:
            return "accepted", 0.1, 0.8 * proposal.horizon, 5.0
        return "rejected", -0.1, None, 8.0

    return world


def noise(seed: int) -> World:
    """Gains of mean 0; one in twenty is accepted, and its steps gained are a ratio of noises."""
    generator = random.Random(seed)

    def world(proposal: Proposal, step: int) -> Ending:
        gain = generator.gauss(0.0, 1.0)
        lucky = gain > 1.645
        return "accepted" if lucky else "rejected", gain, 0.5 * proposal.horizon if lucky else None, 5.0

    return world


# --- what it saves ----------------------------------------------------------------------------------------------------


def test_where_every_leap_succeeds_it_grows_fast_and_saves_most_of_the_steps() -> None:
    run = Simulated(auto(), everything_pays).run(60)
    horizons = [horizon for _, _, horizon, _ in run.tried]
    assert horizons[:7] == [50, 100, 200, 400, 800, 1600, 3200]
    assert max(horizons) == 64 * 50
    assert run.net_saved > 0.9


@pytest.mark.parametrize(("longest", "net"), [(60, 0.3), (110, 0.45), (400, 0.7)])
def test_where_leaps_succeed_up_to_a_horizon_it_finds_it_and_stays_there(longest: int, net: float) -> None:
    run = Simulated(auto(), linear_up_to(longest)).run(60)
    best = max(each for each in auto().rungs(50) if each <= longest)
    later = [horizon for checkpoint, _, horizon, status in run.tried if checkpoint > 30 and status == "accepted"]
    assert later
    assert set(later) == {best}
    assert run.net_saved > net
    assert sum(status == "rejected" for *_, status in run.tried) <= 4


def test_a_horizon_that_failed_is_tried_again_after_the_run_has_changed() -> None:
    def world(proposal: Proposal, step: int) -> Ending:
        return linear_up_to(50 if step < 3000 else 400)(proposal, step)

    run = Simulated(auto(), world).run(160)
    assert {horizon for at, _, horizon, status in run.tried if at < 60 and status == "accepted"} == {50}
    assert max(horizon for *_, horizon, status in run.tried if status == "accepted") >= 200


def test_longer_leaps_that_gain_no_more_are_given_up() -> None:
    """From 200 steps on nothing more is gained: the schedule would run on for nothing."""

    def world(proposal: Proposal, step: int) -> Ending:
        return "accepted", 0.1, min(proposal.horizon, 200.0), 3.0

    run = Simulated(auto(), world).run(150)
    assert max(horizon for *_, horizon, _ in run.tried) == 800
    later = [horizon for at, _, horizon, _ in run.tried if at > 30]
    assert sum(horizon == 800 for horizon in later) < 0.1 * len(later)


# --- what it spends ---------------------------------------------------------------------------------------------------


def test_where_nothing_succeeds_it_keeps_the_budget_and_tries_ever_more_rarely() -> None:
    run = Simulated(auto(), nothing_pays).run(400)
    at = [checkpoint for checkpoint, *_ in run.tried]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert run.overhead <= 0.01
    assert len(at) >= 8
    assert gaps[-1] == 33
    assert sum(each <= 100 for each in at) >= 2 * sum(200 < each <= 300 for each in at)
    assert {name for _, name, *_ in run.tried} == set(THREE)
    assert run.tried[-1][2] == 25


def test_without_a_budget_it_backs_off_as_well() -> None:
    run = Simulated(auto(), nothing_pays, budget=None).run(400)
    assert [checkpoint for checkpoint, *_ in run.tried][:6] == [2, 4, 7, 12, 21, 38]
    assert len(run.tried) <= 18


@pytest.mark.parametrize("seed", range(4))
def test_where_all_is_noise_it_keeps_the_budget_but_for_what_it_believes_to_have_saved(seed: int) -> None:
    run = Simulated(auto(), noise(seed)).run(400)
    assert run.spent <= 0.01 * (run.real + run.spent) + 0.5 * run.saved + 5.0
    assert len(run.tried) < 40


def test_an_attempt_that_costs_more_than_the_budget_leaves_is_put_off() -> None:
    assert "the budget leaves 3.9" in auto().choose(replace(HERE, allowance=3.9), no_probe).reason
    assert auto().choose(replace(HERE, allowance=4.1), no_probe).proposal is not None


def test_leaps_that_cost_more_than_they_can_save_are_left_alone() -> None:
    policy = auto(horizons=[5])
    assert "nothing is expected to pay; best linear by 5 steps" in policy.choose(HERE, no_probe).reason
    dear = Simulated(auto(), lambda proposal, step: ("accepted", 0.1, 1.0, 30.0), budget=None).run(100)
    assert dear.spent < 0.05 * dear.real


# --- signals ----------------------------------------------------------------------------------------------------------


def test_the_chaotic_regime_is_left_alone_until_its_own_record_says_otherwise() -> None:
    chaotic = replace(HERE, regime="chaotic")
    policy = auto()
    assert policy.choose(chaotic, no_probe).reason == "the regime is chaotic, and nothing was accepted there so far"
    assert policy.choose(replace(HERE, regime="unknown"), no_probe).proposal == Proposal("linear", 50)
    policy.learn(Outcome(Proposal("linear", 50), "stable", "accepted", 0.1, 50.0, 3.0))
    assert policy.choose(chaotic, no_probe).proposal is None
    policy.learn(Outcome(Proposal("linear", 50), "chaotic", "accepted", 0.1, 50.0, 3.0))
    assert policy.choose(chaotic, no_probe).proposal == Proposal("linear", 50)


def test_a_run_that_is_always_chaotic_is_tried_once_in_a_while() -> None:
    run = Simulated(auto(), nothing_pays, budget=None).run(100, regime="chaotic")
    assert [checkpoint for checkpoint, *_ in run.tried] == [CHAOS_PATIENCE + 1, 2 * CHAOS_PATIENCE + 2, 99]


def test_straightness_moves_the_prior_chance_and_nothing_else() -> None:
    assert [prior_chance(c) for c in (None, math.nan, 0.0)] == [0.5] * 3
    assert [prior_chance(c) for c in (-2.0, -1.0, 1.0, 2.0)] == pytest.approx([0.1, 0.1, 0.9, 0.9])
    policy = auto(horizons=[12])
    assert policy.choose(replace(HERE, straightness=-0.5), no_probe).proposal is None
    assert policy.choose(replace(HERE, straightness=0.8), no_probe).proposal == Proposal("linear", 12)


def test_a_better_leap_that_lacks_snapshots_is_waited_for() -> None:
    """Adam needs one snapshot and may leap at once, which would start the history of `linear` anew."""
    policy = Auto(["adam", "linear"])
    for steps_gained, name in ((9.0, "adam"), (50.0, "linear")):
        policy.learn(Outcome(Proposal(name, 50), "stable", "accepted", 0.1, steps_gained, 3.0))
    choice = policy.choose(replace(HERE, snapshots=1), no_probe)
    assert (choice.proposal, choice.reason) == (
        None,
        "linear by 50 steps is worth waiting for: 2 snapshots needed, 1 held",
    )
    assert policy.choose(replace(HERE, snapshots=2), no_probe).proposal == Proposal("linear", 50)


def test_no_leap_goes_beyond_what_remains() -> None:
    policy = auto()
    policy.choose(HERE, no_probe)
    for horizon in (50, 100, 200):
        policy.learn(Outcome(Proposal("linear", horizon), "stable", "accepted", 0.1, float(horizon), 3.0))
    assert policy.choose(HERE, no_probe).proposal == Proposal("linear", 400)
    assert policy.choose(replace(HERE, remaining=399), no_probe).proposal == Proposal("linear", 200)
    assert policy.choose(replace(HERE, remaining=26), no_probe).proposal == Proposal("linear", 25)
    assert policy.choose(replace(HERE, remaining=24), no_probe).proposal is None


def test_a_predictor_that_declines_twice_is_asked_no_more() -> None:
    policy = Auto(["adam"])
    for _ in range(2):
        proposal = policy.choose(HERE, no_probe).proposal
        assert proposal == Proposal("adam", 50)
        policy.learn(Outcome(proposal, "stable", "declined", None, None, 0.0))
    assert policy.choose(HERE, no_probe).reason == "every predictor declined 2 times: adam"


def test_an_unclear_gain_asks_for_a_longer_leap_and_a_clear_loss_for_a_shorter() -> None:
    for gain, horizon in ((0.01, 100), (-0.01, 25), (None, 25)):
        policy = Auto(["linear"])
        policy.choose(replace(HERE, step=0), no_probe)
        policy.learn(Outcome(Proposal("linear", 50), "stable", "rejected", gain, None, 3.0))
        assert policy.choose(replace(HERE, step=100), no_probe).proposal == Proposal("linear", horizon)


# --- estimates --------------------------------------------------------------------------------------------------------

outcomes = st.lists(
    st.builds(
        Outcome,
        st.builds(Proposal, st.sampled_from(["linear", "adam"]), st.sampled_from([25, 50, 100, 200])),
        st.sampled_from(["unknown", "chaotic", "transition", "stable"]),
        st.sampled_from(["accepted", "rejected", "nonfinite"]),
        st.none() | st.floats(-1.0, 1.0),
        st.none() | st.floats(0.0, 1000.0),
        st.floats(0.1, 10.0),
    ),
    max_size=30,
)
theorem = settings(max_examples=60)


@theorem
@given(outcomes, st.none() | st.floats(-1.0, 1.0))
def test_estimates_stay_in_their_ranges(history: list[Outcome], straightness: float | None) -> None:
    experience = Experience()
    for outcome in history:
        experience.add(outcome)
    for horizon in (25, 50, 100, 200):
        found = experience.estimate(Proposal("linear", horizon), replace(HERE, straightness=straightness))
        assert 0.0 < found.chance < 1.0
        assert 0.0 <= found.steps <= horizon
        assert 0.0 < found.cost <= 10.0
        assert found.value == found.chance * found.steps - found.cost


@theorem
@given(outcomes)
def test_an_acceptance_raises_the_chance_of_shorter_leaps_and_a_loss_lowers_that_of_longer(
    history: list[Outcome],
) -> None:
    def chances(last: Outcome | None) -> list[float]:
        experience = Experience()
        for outcome in [*history, *([last] if last else [])]:
            experience.add(outcome)
        return [experience.estimate(Proposal("linear", horizon), HERE).chance for horizon in (25, 50, 100, 200)]

    before = chances(None)
    after = chances(Outcome(Proposal("linear", 100), "stable", "accepted", 0.1, 50.0, 1.0))
    assert all(new > old for new, old in zip(after[:3], before[:3], strict=True))
    after = chances(Outcome(Proposal("linear", 50), "stable", "rejected", -0.1, None, 1.0))
    assert after[0] == before[0]
    assert all(new < old for new, old in zip(after[1:3], before[1:3], strict=True))


def test_a_first_record_by_hand() -> None:
    experience = Experience()
    experience.add(Outcome(Proposal("linear", 100), "stable", "accepted", 0.1, 40.0, 3.0))
    own = experience.estimate(Proposal("linear", 100), HERE)
    assert own.chance == pytest.approx((2.0 * 0.5 + 1.0) / 3.0)
    assert own.steps == pytest.approx(100 * (0.5 * 0.75 + 0.4) / 1.5)
    assert own.cost == pytest.approx((0.5 * (0.5 * 4.0 + 3.0) / 1.5 + 3.0) / 1.5)
    longer = experience.estimate(Proposal("linear", 200), HERE)
    assert longer.chance == pytest.approx(0.5 * (0.5 + 1.0 / 2.0))
    assert longer.steps == pytest.approx(200 * (0.75 + 0.5 * 0.4) / 1.5)
    assert longer.cost == pytest.approx((0.5 * 4.0 + 3.0) / 1.5)
    elsewhere = experience.estimate(Proposal("linear", 100), replace(HERE, regime="transition"))
    assert elsewhere.chance == pytest.approx((2.0 * 0.5 + 0.5) / 2.5)


def test_evidence_fades_to_the_prior() -> None:
    experience = Experience()
    prior = experience.estimate(Proposal("linear", 50), HERE)
    for _ in range(10):
        experience.add(Outcome(Proposal("linear", 50), "stable", "rejected", -0.1, None, 1.0))
    assert experience.estimate(Proposal("linear", 50), HERE).chance == pytest.approx(1.0 / 12.0)
    experience.fade(30)
    assert experience.estimate(Proposal("linear", 50), HERE).chance == pytest.approx(1.0 / (2.0 + 10.0 * FADING**30))
    experience.fade(1000)
    assert experience.estimate(Proposal("linear", 50), HERE) == prior


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 13, 40])
@pytest.mark.parametrize("world", [everything_pays, nothing_pays, linear_up_to(100), None])
def test_a_policy_that_goes_on_from_its_state_makes_the_same_choices(stop: int, world: World | None) -> None:
    whole = Simulated(auto(), world or noise(1), budget=None).run(80, regime="transition")
    halted = Simulated(auto(), world or noise(1), budget=None).run(stop, regime="transition")
    state = json.loads(json.dumps(halted.policy.state_dict()))
    halted.policy = auto()
    halted.policy.load_state_dict(state)
    halted.run(80 - stop, regime="transition")
    assert halted.tried == whole.tried
    assert halted.policy.state_dict() == whole.policy.state_dict()


def test_a_state_loads_into_a_policy_with_fewer_predictors() -> None:
    run = Simulated(auto(), nothing_pays, budget=None).run(40)
    policy = Auto(["adam"])
    policy.load_state_dict(run.policy.state_dict())
    assert {row[0] for row in policy.state_dict()["experience"]} == {"adam"}
    assert set(policy.state_dict()["reach"]) == {"adam"}
