"""What the engine keeps and draws for predictors beside snapshots: only where asked, never shared with the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leap_loops import STEPS, Loop, fingerprint_of, ids, make, next_token
from leapverify.errors import Declined
from leapverify.leap.attempt import copies
from leapverify.leap.ledger import Ledger
from leapverify.leap.policy.auto import Auto
from leapverify.leap.predictor_context import HeldoutSampler
from leapverify.predict import CATALOGUE, STRAIGHTNESS, Needs, require_request
from leapverify.predict.catalogue import Entry
from leapverify.trajectory.history import History
from leapverify.verify.sampling import Exhausted

ALL = Needs(2, recent=3, milestones=(0.0, 0.5), layout=True, selection=True, gradients=True)


@dataclass
class Seen:
    """What a curious predictor was given, one entry a call."""

    recent: list[tuple[int, ...]] = field(default_factory=list)
    snapshots: list[tuple[int, ...]] = field(default_factory=list)
    early: list[tuple[int, ...]] = field(default_factory=list)
    names: set[tuple[str, ...]] = field(default_factory=set)
    losses: list[tuple[float, ...]] = field(default_factory=list)


@dataclass
class Curious:
    """theta_t less a little of a fresh gradient, chosen on held-out losses; it reads all that it may."""

    needs: Needs = ALL
    seen: Seen = field(default_factory=Seen)
    name: str = "curious"
    draws: int = 2

    def predict(self, history: History, horizon: int, out: Any = None) -> Sequence[Tensor]:
        """The better of two steps."""
        found = require_request(self.needs, history, horizon, out)
        self._note(history)
        with torch.no_grad():
            for each, now in zip(found.out, found.now, strict=True):
                each.copy_(now)
            if self.needs.gradients:
                for draw in range(self.draws):
                    slopes = history.derived((self.name, draw), lambda draw=draw: self._slopes(history, found, draw))
                    for each, slope in zip(found.out, slopes, strict=True):
                        each.sub_(slope, alpha=1e-3 * horizon)
        return found.out

    def _note(self, history: History) -> None:
        self.seen.snapshots.append(history.steps)
        if history.recent is not None:
            self.seen.recent.append(history.recent.steps)
        if history.milestones is not None:
            self.seen.early.append(history.milestones.steps)
        if history.layout is not None:
            self.seen.names.add(history.layout.names)

    def _slopes(self, history: History, found: Any, draw: int) -> list[Tensor]:
        if self.needs.selection:
            assert history.selection is not None
            others = [each + 0.5 for each in found.now]
            self.seen.losses.append(tuple(history.selection.loss(w) for w in (found.out, others, found.out)))
        assert history.gradients is not None
        return [each.clone() for each in history.gradients.gradient(found.out, draw)[1]]


@pytest.fixture
def curious(monkeypatch: pytest.MonkeyPatch) -> Curious:
    made = Curious()
    monkeypatch.setitem(CATALOGUE, "curious", Entry(lambda: made, "", ""))
    return made


def fixed(loop: Loop, **options: Any) -> Any:
    """An engine that tries the curious predictor at every checkpoint."""
    return loop.leap(**{"policy": "fixed", "predictor": "curious", "horizon": 3, "criterion": "never", **options})


def test_wants_are_those_of_all_predictors_together() -> None:
    assert Needs.union([STRAIGHTNESS]) == Needs(3)
    assert Needs.union([Needs(2, upto=9, recent=4), Needs(5, recent=2, gradients=True)]) == Needs(
        9, recent=4, gradients=True
    )
    assert Needs.union([STRAIGHTNESS, ALL]) == dataclasses.replace(ALL, snapshots=3)
    assert Needs.union([Needs(2, milestones=(0.5,)), Needs(2, milestones=(0.0, 0.5))]).milestones == (0.0, 0.5)
    assert Needs.union([Needs(2, horizon=False)]) == Needs(2, horizon=False)
    assert Needs.union([ALL.on_predictions]) == dataclasses.replace(ALL, recent=0, averages=False, milestones=())


def test_nothing_is_kept_or_looked_at_where_no_predictor_asks() -> None:
    loop = make("mlp")
    leap = loop.leap(policy="auto")
    loop.run(6, leap)
    driver = leap._driver
    history = driver.engine.weights.history
    beside = (history.recent, history.averages, history.milestones, history.layout, history.selection)
    assert beside == (None,) * 5
    assert history.gradients is None
    assert driver.next == 8  # nothing is due before the next checkpoint


@pytest.mark.failure(6, 7)
@pytest.mark.parametrize("name", ["mlp", "gpt2", "accumulating", "scaled", "compiled", "lora", "frozen"])
@pytest.mark.parametrize("mode", ["live", "shadow"])
def test_what_predictors_read_leaves_no_trace_in_the_run(name: str, mode: str, curious: Curious) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    plain = make(name)
    plain.run(STEPS)
    wanted = fingerprint_of(plain)
    watched = make(name)
    leap = fixed(watched, mode=mode, criterion="never" if mode == "live" else "always")
    watched.run(STEPS, leap)
    assert leap.disabled is None
    assert leap.report()["attempts"] > 0
    assert curious.seen.losses
    assert fingerprint_of(watched) == wanted


@pytest.mark.failure(6, 12)
def test_gradients_of_the_run_are_not_touched_in_the_middle_of_accumulation(curious: Curious) -> None:
    loop = make("mlp")
    leap = fixed(loop)
    loop.run(7, leap)
    loop.optimizer.zero_grad()
    for each in loop.model.parameters():
        each.grad = torch.full_like(each, 7.0)
    loop.optimizer.step()
    kept = [each.grad.clone() for each in loop.model.parameters()]
    assert leap.step().status == "rejected"
    assert curious.seen.losses
    assert all(torch.equal(each.grad, grad) for each, grad in zip(loop.model.parameters(), kept, strict=True))


def test_the_last_steps_are_kept_one_by_one_and_early_states_from_the_start(curious: Curious) -> None:
    loop = make("home-made")
    leap = fixed(loop)
    loop.run(STEPS, leap)
    assert {each[-1] for each in curious.seen.snapshots} == {8, 12, 16, 20, 24}
    assert all(
        recent == (now[-1] - 2, now[-1] - 1, now[-1])
        for recent, now in zip(curious.seen.recent, curious.seen.snapshots, strict=True)
    )
    assert all(early[0] == 0 and early[-1] == now[-1] for early, now in zip(curious.seen.early, curious.seen.snapshots))  # noqa: B905
    assert curious.seen.names == {tuple(dict(loop.model.named_parameters()))}


def test_the_recent_weights_are_those_after_each_step(curious: Curious) -> None:
    loop = make("mlp")
    leap = fixed(loop, interval=6)
    states = {}
    for step in range(12):
        loop.run(1, leap, start=step)
        states[step + 1] = [each.detach().clone() for each in loop.model.parameters()]
    recent = leap._driver.engine.weights.history.recent
    assert recent.steps == (10, 11, 12)
    for each in recent:
        assert all(torch.equal(a, b) for a, b in zip(each.tensors, states[each.step], strict=True))


def test_early_states_begin_with_the_weights_at_building(curious: Curious) -> None:
    loop = make("mlp")
    start = [each.detach().clone() for each in loop.model.parameters()]
    leap = fixed(loop, history_dtype=torch.bfloat16)
    loop.run(8, leap)
    first = leap._driver.engine.weights.history.milestones.nearest(0)
    assert (first.step, first.tensors[0].dtype) == (0, torch.bfloat16)
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(first.tensors, start, strict=True))


def test_no_state_reaches_across_a_leap(curious: Curious) -> None:
    loop = make("mlp")
    leap = fixed(loop, criterion="always", horizon=5)
    loop.run(STEPS, leap)
    assert leap.report()["accepted"] > 1
    held = zip(curious.seen.recent, curious.seen.snapshots, curious.seen.early, strict=True)
    starts = {0}
    for recent, snapshots, early in dict.fromkeys(held):
        now = snapshots[-1]
        assert early[0] in starts
        assert recent == (now - 2, now - 1, now)
        starts = {now + 5}  # every attempt was accepted: the next history begins where it leapt to


@pytest.mark.failure(14)
def test_a_predictor_never_chooses_on_what_it_is_verified_on(curious: Curious) -> None:
    loop = make("gpt2")
    drawn: list[int] = []
    used: dict[str, set[int]] = {"verdict": set(), "chosen": set()}

    def draw() -> Tensor:
        drawn.append(len(drawn))
        batch = ids(900 + drawn[-1])
        batch.number = drawn[-1]  # type: ignore[attr-defined]
        return batch

    def losses(model: nn.Module, batch: Any) -> Tensor:
        if hasattr(batch, "number"):
            used["chosen" if predicting else "verdict"].add(batch.number)
        return next_token(model, batch)

    predicting: list[int] = []
    original = curious.predict

    def predict(*args: Any, **options: Any) -> Any:
        predicting.append(1)
        try:
            return original(*args, **options)
        finally:
            predicting.pop()

    curious.predict = predict  # type: ignore[method-assign]
    leap = fixed(loop, heldout=draw, loss=losses, criterion="always", mode="shadow", horizon=100)
    loop.run(8, leap)
    assert leap.report()["attempts"] == 1
    assert len(used["chosen"]) == 3  # one to choose on, two to descend on, once each
    assert not used["chosen"] & used["verdict"]
    # Within one attempt the same weights have the same loss.
    assert all(first == again != other for first, other, again in curious.seen.losses)


def test_what_a_predictor_runs_is_charged_to_predicting(curious: Curious) -> None:
    costs = {}
    for needs in (dataclasses.replace(ALL, selection=False, gradients=False), ALL):
        curious.needs, curious.seen = needs, Seen()
        loop = make("gpt2")
        leap = fixed(loop)
        loop.run(8, leap)
        costs[needs.gradients] = leap.report()["tokens"]["predict"]
    batch = ids(0).numel()
    # Twice three losses to choose, two gradients at three passes each; nothing again when the prediction is repeated.
    assert costs[True] - costs[False] == (2 * 3 + 2 * 3) * batch


@pytest.mark.failure(14)
def test_a_prediction_without_a_fresh_batch_left_is_declined(curious: Curious) -> None:
    def draw() -> Any:
        raise Exhausted("none")

    loop = make("mlp")
    drawn = HeldoutSampler(loop.model, list(loop.model.parameters()), loop.losses, draw)
    for ask in (lambda: drawn.loss([]), lambda: drawn.gradient([], 0)):
        with pytest.raises(Declined, match="needs a fresh held-out batch, this checkpoint has used all that it may"):
            ask()
    assert drawn.positions == 0
    curious.draws = 3  # with one batch to choose on, they leave none of four that the verdict has not begun with
    leap = fixed(loop, heldout=loop.heldout[:4])
    declined = loop.run(8, leap)[-1]
    assert (declined.status, declined.reason[:26]) == ("declined", "needs a fresh held-out bat")
    assert leap.disabled is None


def test_a_held_out_set_too_small_to_choose_and_verify_is_refused(curious: Curious) -> None:
    loop = make("mlp")
    with pytest.raises(ValueError, match="give at least 4 such batches"):
        fixed(loop, heldout=loop.heldout[:2])


def test_a_loss_without_a_graph_has_no_gradients(curious: Curious) -> None:
    loop = make("mlp")
    losses = loop.losses
    leap = fixed(loop, loss=lambda model, batch: losses(model, batch).detach())
    assert loop.run(8, leap)[-1].reason == "needs gradients, the loss function returns a number without any"


@pytest.mark.failure(5)
@pytest.mark.parametrize("stop", [7, 11, 13])
@pytest.mark.parametrize("criterion", ["never", "always"])
def test_a_resumed_run_has_read_what_the_uninterrupted_one_did(stop: int, criterion: str, curious: Curious) -> None:
    def run(first: int) -> tuple[list[Tensor], Seen]:
        curious.seen = Seen()
        loop = make("gpt2")
        leap = fixed(loop, criterion=criterion)
        loop.run(first, leap)
        if first < STEPS:
            state, weights = leap.state_dict(), {k: v.clone() for k, v in loop.model.state_dict().items()}
            moments, schedule = loop.optimizer.state_dict(), loop.scheduler.state_dict()
            stream = torch.get_rng_state()
            loop = make("gpt2", seed=5)
            loop.model.load_state_dict(weights)
            loop.optimizer.load_state_dict(moments)
            loop.scheduler.load_state_dict(schedule)
            torch.set_rng_state(stream)
            leap = fixed(loop, criterion=criterion)
            leap.load_state_dict(state)
            loop.run(STEPS - first, leap, start=first)
        return list(loop.model.state_dict().values()), curious.seen

    whole, again = run(STEPS), run(stop)
    assert again[1] == whole[1]
    assert all(torch.equal(a, b) for a, b in zip(again[0], whole[0], strict=True))


def test_a_state_from_before_anything_was_kept_beside_snapshots_is_taken_up(curious: Curious) -> None:
    loop = make("mlp")
    leap = fixed(loop)
    loop.run(8, leap)
    state = leap.state_dict()
    engine = dict(state["driver"]["engine"])
    del engine["beside"]
    engine["ledger"] = {**engine["ledger"], "seconds": dict(engine["ledger"]["seconds"])}
    del engine["ledger"]["seconds"]["recent"]
    again = fixed(loop)
    again.load_state_dict({"version": state["version"], "driver": {**state["driver"], "engine": engine}})
    history = again._driver.engine.weights.history
    assert history.steps == (4, 8)
    assert len(history.milestones) == len(history.recent) == 0
    loop.run(STEPS, again, start=8)
    assert again.disabled is None


def test_a_damaged_part_begins_anew_and_is_said(curious: Curious, caplog: pytest.LogCaptureFixture) -> None:
    loop = make("mlp")
    leap = fixed(loop)
    loop.run(8, leap)
    state = leap.state_dict()
    state["driver"]["engine"]["beside"] = {"milestones": {"steps": [3, 1]}}
    del state["sum"]
    fixed(loop).load_state_dict(state)
    assert "what is kept beside the snapshots cannot be taken up" in caplog.text


def test_the_memory_is_said_before_it_is_taken(curious: Curious) -> None:
    loop = make("mlp")
    assert "for the last 3 steps before a checkpoint in cpu" in fixed(loop).memory
    assert "for early states in cpu" in fixed(loop).memory
    assert "early" not in loop.leap().memory


def test_a_budget_that_does_not_cover_recent_steps_leaves_them_out(curious: Curious) -> None:
    loop = make("mlp")
    leap = fixed(loop, budget=1e-7)
    loop.run(STEPS, leap)
    assert leap.report()["tokens"]["recent"] <= 8.0


def test_auto_passes_over_what_lacks_something_and_does_not_count_it_as_declined(curious: Curious) -> None:
    curious.needs = Needs(1, recent=30)
    loop = make("mlp")
    leap = loop.leap(policy="auto", predictors=("curious", "linear"))
    loop.run(STEPS, leap)
    assert leap._driver.engine.policy._declines == {"curious": 0, "linear": 0}
    assert {event.predictor for event in leap.events} == {None, "linear"}
    loop = make("mlp")
    leap = loop.leap(policy="auto", predictors=("curious",))
    events = loop.run(STEPS, leap)
    assert events[-1].reason == "each predictor lacks something here: curious"
    assert leap.report()["attempts"] == 0


def test_a_predictor_without_a_horizon_is_tried_at_the_shortest_one_only(curious: Curious) -> None:
    curious.needs = Needs(2, horizon=False)
    for policy in ({"policy": "auto", "predictors": ("curious",)}, {"policy": "line-search", "predictor": "curious"}):
        loop = make("home-made")
        leap = loop.leap(**policy, criterion="always", interval=4, mode="shadow")
        tried = {event.horizon for event in loop.run(STEPS, leap) if event.status == "accepted"}
        assert tried <= {2 if policy["policy"] == "auto" else 1}
    assert Auto(("curious",), (20, 5))._moving == frozenset()


def test_copies_of_a_prediction_count_what_it_reads() -> None:
    like = [torch.zeros(2)]
    history = History(like, 5)
    for step in range(3):
        history.push(step, like)
    assert copies(Needs(2), history) == 2.0
    assert copies(Needs(2, upto=9), history) == 2.5
    assert copies(Needs(1, optimizer_state=True, recent=3, milestones=(0.0, 0.5)), history) == 5.0


def test_recent_pushes_are_a_part_of_the_ledger() -> None:
    ledger = Ledger("tokens", None, 100.0)
    assert ledger.seconds["recent"] == ledger.tokens["recent"] == 0.0
