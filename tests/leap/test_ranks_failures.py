"""What fails on one rank is undone and said on all of them, the training goes on, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from leap_ranks import INTERVAL, Run, batch, losses, refused, way
from leapverify.core.shards import local, reshard
from leapverify.leap.api import LeapVerify
from leapverify.predict import predictor
from marks import slow
from processes import run_ranks

STEPS = 3 * INTERVAL
DROPOUT = 0.2
ALWAYS = {"predictor": "linear", "criterion": "always"}


@cache
def _plain(name: str, size: int) -> list[str]:
    """What the ranks are without the tool, after as many steps."""

    def work() -> str:
        run = Run(way(name, size), dropout=DROPOUT)
        run.train(STEPS)
        return run.trace()

    return run_ranks(size, work)


def _on(rank: int, error: Exception, after: int = 3) -> Callable[[nn.Module, Any], Tensor]:
    """A loss that fails on one rank after some calls, when its forward pass is done."""
    calls: list[int] = []

    def loss(model: nn.Module, rows: Any) -> Tensor:
        calls.append(1)
        found = losses(model, rows)
        if dist.get_rank() == rank and len(calls) > after:
            raise error
        return found

    return loss


# --- no trace -------------------------------------------------------------------------------------------------------


@pytest.mark.failure(6, 7)
@pytest.mark.parametrize(("name", "size"), [("ddp", 2), ("fsdp", 2), slow("tp", 2)])
def test_looking_and_refused_leaps_leave_every_rank_bit_identical(name: str, size: int) -> None:
    def work() -> list[str]:
        traces = []
        several = [{"criterion": "never"}, {"mode": "shadow", **ALWAYS}, {"mode": "monitor", "anneal": True}]
        for options in several if name in ("ddp", "fsdp") else several[:1]:
            run = Run(way(name, size), dropout=DROPOUT)
            leap = run.leap(**options)
            run.train(STEPS, leap)
            assert leap.disabled is None
            assert options.get("mode") == "monitor" or leap.report()["attempts"] > 0
            traces.append(run.trace())
        return traces

    for traces, plain in zip(run_ranks(size, work), _plain(name, size), strict=True):
        assert traces == [plain] * len(traces)


# --- not finite -----------------------------------------------------------------------------------------------------


@pytest.mark.failure(8)
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_nan_in_the_weights_of_one_rank_is_seen_by_all_and_the_history_begins_anew(name: str) -> None:
    def work() -> Any:
        run = Run(way(name, 2))
        leap = run.leap(criterion="always")
        run.train(INTERVAL, leap)
        # Between its last step and the checkpoint, so that only this rank holds it.
        run.optimizer.register_step_post_hook(
            lambda *_: dist.get_rank() == 1 and local(max(run.model.parameters(), key=len)).fill_(float("nan"))
        )
        event = run.train(INTERVAL, leap)[-1]
        return event.status, event.reason, [alert.kind for alert in event.alerts], leap.disabled

    seen = ("nonfinite", "the weights hold values that are not finite", ["non-finite"], None)
    assert run_ranks(2, work) == [seen] * 2


@pytest.mark.failure(8)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_on_one_rank_is_a_rejection_on_all(value: float) -> None:
    plain = _plain("ddp", 2)

    def loss(model: nn.Module, rows: Any) -> Tensor:
        bad = dist.get_rank() == 1 and loss.armed
        return losses(model, rows) * (value if bad else 1.0)

    def work() -> Any:
        loss.armed = False
        run = Run(way("ddp", 2), dropout=DROPOUT)
        leap = run.leap(loss=loss, **ALWAYS)
        loss.armed = True
        events = run.train(STEPS, leap)
        assert leap.disabled is None
        return [(each.status, each.reason) for each in events if each.predictor], run.trace()

    for (tried, trace), expected in zip(run_ranks(2, work), plain, strict=True):
        assert tried == [("nonfinite", "a held-out loss is not finite")] * len(tried)
        assert tried
        assert trace == expected


@pytest.mark.failure(8)
def test_a_prediction_that_is_not_finite_on_one_rank_is_tried_by_none() -> None:
    class Infinite:
        name, needs = "linear", predictor("linear").needs

        def predict(self, history: Any, horizon: int, out: Any) -> Any:
            for each, now in zip(out, history[-1].tensors, strict=True):
                each.copy_(now * (float("inf") if dist.get_rank() == 1 else 1.0))
            return out

    def work() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("leapverify.leap.attempt.predictor", lambda name: Infinite())
            run = Run(way("ddp", 2), dropout=DROPOUT)
            events = run.train(STEPS, run.leap(**ALWAYS))
        return {(each.status, each.reason) for each in events if each.predictor}, run.trace()

    for (tried, trace), expected in zip(run_ranks(2, work), _plain("ddp", 2), strict=True):
        assert tried == {("nonfinite", "linear gave weights that are not finite")}
        assert trace == expected


# --- exceptions -----------------------------------------------------------------------------------------------------


def _loss_fails(run: Run, error: Exception, patch: pytest.MonkeyPatch) -> LeapVerify:
    return run.leap(loss=_on(1, error), **ALWAYS)


def _predict_fails(run: Run, error: Exception, patch: pytest.MonkeyPatch) -> LeapVerify:
    class Broken:
        name, needs = "linear", predictor("linear").needs

        def predict(self, history: Any, horizon: int, out: Any) -> Any:
            out[0].fill_(7.0)
            if dist.get_rank() == 1:
                raise error
            return out

    patch.setattr("leapverify.leap.attempt.predictor", lambda name: Broken())
    return run.leap(**ALWAYS)


def _settle_fails(run: Run, error: Exception, patch: pytest.MonkeyPatch) -> LeapVerify:
    leap = run.leap(moments="reset", **ALWAYS)

    def broken(*_: Any) -> None:
        if dist.get_rank() == 1:
            raise error

    # When schedule and moments have been moved already, on this rank and on the other.
    patch.setattr("leapverify.leap.commit._sample", broken)
    patch.setattr("leapverify.leap.commit.reset_moments", _after(broken))
    return leap


def _after(broken: Callable[[], None]) -> Callable[..., None]:
    from leapverify.leap.optimizers import reset_moments

    def both(*arguments: Any) -> None:
        reset_moments(*arguments)
        broken()

    return both


def _draw_fails(run: Run, error: Exception, patch: pytest.MonkeyPatch) -> LeapVerify:
    drawn: list[int] = []

    def draw() -> Tensor:
        drawn.append(1)
        if dist.get_rank() == 1 and len(drawn) > 3:
            raise error
        return run.heldout[len(drawn)]

    return run.leap(heldout=draw, **ALWAYS)


def _between_turns(run: Run, error: Exception, patch: pytest.MonkeyPatch) -> LeapVerify:
    def broken(*_: Any) -> None:
        if dist.get_rank() == 1:
            raise error

    leap = run.leap(**ALWAYS)
    patch.setattr("leapverify.leap.leakage.LeakageCheck.train", broken)
    take = leap.step
    leap.step = lambda: take(batch(0))  # type: ignore[method-assign]
    return leap


BREAKS = {
    "loss": _loss_fails,
    "predict": _predict_fails,
    "settle": _settle_fails,
    "draw": _draw_fails,
    "between turns": _between_turns,
}


@pytest.mark.failure(9, 10)
@pytest.mark.parametrize("name", ["ddp", slow("fsdp")])
def test_an_exception_on_one_rank_switches_off_all_with_one_sentence_and_leaves_no_trace(name: str) -> None:
    """In the loss, the prediction, the settling, the draw of held-out data, or between two turns."""
    errors = [RuntimeError("of the user's own"), torch.OutOfMemoryError("no memory left")]

    def work() -> list[Any]:
        found = []
        for number, broken in enumerate(BREAKS.values()):
            with pytest.MonkeyPatch.context() as patch:
                run = Run(way(name, 2), dropout=DROPOUT)
                leap = broken(run, errors[number % 2], patch)
                events = run.train(STEPS, leap)
            off = [event.reason for event in events if event.status == "off"]
            assert (leap.leapt, leap.effective_step) == (0, STEPS)
            found.append((leap.disabled, off, run.trace()))
        return found

    plain = _plain(name, 2)
    for of_rank, expected in zip(run_ranks(2, work), plain, strict=True):
        for number, (disabled, off, trace) in enumerate(of_rank):
            error = errors[number % 2]
            assert disabled == f"rank 1: {type(error).__name__}: {error}"
            assert off == [disabled]
            assert trace == expected


@pytest.mark.failure(9, 10)
def test_what_is_wrong_on_one_rank_is_said_to_all_before_the_run() -> None:
    def work() -> list[str]:
        own = dist.get_rank() == 1
        wrong: list[dict[str, Any]] = [
            {"interval": 0} if own else {},
            {"loss": (lambda model, rows: 1 / 0) if own else losses},
            {"heldout": []} if own else {},
            {"log": 3} if own else {},
        ]
        return [refused(lambda given=given: Run(way("ddp", 2)).leap(**given)) for given in wrong]

    told, own = run_ranks(2, work)
    assert own[0].startswith("interval is 0: give a whole number")
    assert own[1].startswith("the loss function failed on the first held-out batch (ZeroDivisionError")
    assert own[2].startswith("the held-out set is empty")
    assert own[3].startswith("log is 3")
    assert told == [f"rank 1: {each}" for each in own]


@pytest.mark.failure(9, 10)
def test_a_rank_that_fails_before_a_pass_in_which_others_wait_ends_their_wait_at_the_time_limit_of_the_pass() -> None:
    """The engine says why on every rank; the model's own process group is lost, as after any timeout in it."""

    def work() -> str | None:
        calls: list[int] = []

        def loss(model: nn.Module, rows: Any) -> Tensor:
            calls.append(1)
            if dist.get_rank() == 1 and len(calls) > 2:
                raise RuntimeError("of the user's own")
            return losses(model, rows)

        run = Run(way("fsdp", 2))
        leap = run.leap(loss=loss, **ALWAYS)
        with pytest.raises(RuntimeError):
            run.train(STEPS, leap)
        return leap.disabled

    told, other = run_ranks(2, work, patience_s=3.0)
    assert told == other
    assert told is not None
    assert told.startswith("rank 0: RuntimeError: ")
    assert told.endswith("rank 1: RuntimeError: of the user's own")


@pytest.mark.failure(9)
def test_an_optimizer_that_puts_the_weights_back_is_found_out_on_every_rank_in_one_sentence() -> None:
    def work() -> Any:
        run = Run(way("ddp", 2))
        leap = run.leap(predictor="linear", criterion="always", horizon=40)
        own: list[Tensor] = []

        def back(*_: Any) -> None:
            """What an optimizer does that steps on copies of its own."""
            if leap.leapt == 0:
                own[:] = [each.detach().clone() for each in run.model.parameters()]
            for each, kept in zip(run.model.parameters(), own, strict=True):
                each.data.copy_(kept)

        run.optimizer.register_step_post_hook(back)
        run.train(STEPS, leap)
        return leap.leapt, run.scheduler.last_epoch, leap.disabled

    sentence = (
        "AdamW put the weights back where they were before the leap: it steps on copies of its own, which leaping "
        "cannot reach; use mode='shadow'"
    )
    assert run_ranks(2, work) == [(0, STEPS, sentence)] * 2


def test_shards_are_given_back_after_every_turn() -> None:
    """So that whoever looks at parameters between steps finds what the optimizer holds."""

    def work() -> bool:
        run = Run(way("fsdp", 2))
        leap = run.leap(**ALWAYS)
        run.train(INTERVAL, leap)
        held = [each for group in run.optimizer.param_groups for each in group["params"]]
        found = [id(each) for each in run.model.parameters()]
        reshard(run.model)
        return found == [id(each) for each in held]

    assert run_ranks(2, work) == [True, True]
