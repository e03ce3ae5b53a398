"""Runs of several ranks stop and go on, on as many ranks as before or on another number, and anneal on their parts."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from leap_ranks import INTERVAL, Run, batch, losses, said, way, whole
from leapverify.core.shards import reshard
from leapverify.errors import RanksDivergedError
from marks import slow
from processes import run_ranks

STEPS = 3 * INTERVAL


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _loaded(saved: bytes) -> Any:
    return torch.load(io.BytesIO(saved), weights_only=True)


def _everything(run: Run) -> dict[str, Any]:
    """What a user saves beside the engine's state; each rank its own part, as torch's own formats would."""
    parts = [each.detach().clone() for each in run.model.parameters()]
    moments = [{name: each.clone() for name, each in state.items()} for state in run.optimizer.state.values()]
    return {"parts": parts, "moments": moments, "schedule": run.scheduler.state_dict(), "taken": run.taken}


def _take_up(run: Run, saved: dict[str, Any]) -> None:
    for own, part, moments in zip(run.model.parameters(), saved["parts"], saved["moments"], strict=True):
        own.data.copy_(part)
        run.optimizer.state[own] = moments
    run.scheduler.load_state_dict(saved["schedule"])
    run.optimizer.param_groups[0]["lr"] = run.scheduler.get_last_lr()[0]
    run.taken = saved["taken"]


@pytest.mark.failure(5)
@pytest.mark.parametrize("name", ["ddp", slow("fsdp")])
def test_a_run_that_goes_on_on_as_many_ranks_decides_as_if_it_had_not_stopped(name: str) -> None:
    options: dict[str, Any] = {"policy": "auto", "predictors": ("linear", "adam"), "anneal": True}

    def work() -> Any:
        run = Run(way(name, 2))
        leap = run.leap(**options)
        run.train(STEPS, leap)
        state, kept = _saved(leap.state_dict()), _everything(run)
        rest = said(run.train(STEPS, leap))
        other = Run(way(name, 2))
        again = other.leap(**options)
        _take_up(other, kept)
        again.load_state_dict(_loaded(state))
        assert said(other.train(STEPS, again)) == rest
        assert again.leapt == leap.leapt > 0
        assert other.trace() == run.trace()
        return len(rest)

    assert run_ranks(2, work) == [3, 3]


@pytest.mark.failure(5)
def test_no_rank_waits_for_a_shadow_prediction_with_the_batches_of_another() -> None:
    """Where rank 0's state alone was saved, as the callbacks do, its share is not counted as that of all."""
    options: dict[str, Any] = {"mode": "shadow", "predictor": "linear", "horizon": INTERVAL + 2, "sequences": 24}

    def work() -> Any:
        run = Run(way("ddp", 2))
        leap = run.leap(**options)
        run.train(STEPS, leap)
        kept, own = _everything(run), leap.state_dict()
        states: list[Any] = [None, None]
        dist.all_gather_object(states, own)
        waiting = []
        for state in (own, states[0]):
            other = Run(way("ddp", 2))
            again = other.leap(**options)
            _take_up(other, kept)
            again.load_state_dict(state)
            engine = again._driver.engine
            waiting.append((len(engine.waiting._queue), len(engine.weights.history)))
        return waiting

    (own, first), other = run_ranks(2, work)
    assert [own, first] == other
    assert own[0] > 0 == first[0]
    assert own[1] == first[1] > 0


@pytest.mark.failure(5)
@pytest.mark.parametrize("name", ["ddp", slow("fsdp")])
def test_a_state_from_another_number_of_ranks_goes_on_with_what_fits(name: str) -> None:
    options = {"predictor": "quadratic", "criterion": "never", "anneal": True}

    def before() -> Any:
        run = Run(way(name, 2))
        leap = run.leap(**options)
        run.train(STEPS, leap)
        return _saved(leap.state_dict())

    first, _ = run_ranks(2, before)

    def after() -> Any:
        with _warnings() as told:
            run = Run(way(name, 3))
            leap = run.leap(**options)
            leap.load_state_dict(_loaded(first))
        held = len(leap._driver.engine.weights.history)
        counts = leap.real_step, leap.report()["attempts"]
        run.train(INTERVAL, leap)
        return held, counts, leap.real_step, leap.disabled, told

    found = run_ranks(3, after)
    anew = "leapverify: the saved history is of other parameters, or of other parts of them, and begins anew"
    for rank, (held, counts, steps, disabled, told) in enumerate(found):
        assert held == (3 if name == "ddp" else 0)
        assert (counts, steps, disabled) == ((STEPS, 1), STEPS + INTERVAL, None)
        assert told == ([anew] if name == "fsdp" and rank == 0 else [])


class _warnings:
    """The engine's warnings inside a block."""

    def __enter__(self) -> list[str]:
        self.found: list[str] = []
        self.handler = logging.Handler(logging.WARNING)
        self.handler.emit = lambda record: self.found.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("leapverify").addHandler(self.handler)
        return self.found

    def __exit__(self, *_: object) -> None:
        logging.getLogger("leapverify").removeHandler(self.handler)


@pytest.mark.failure(10)
def test_states_of_different_moments_or_none_are_refused_on_every_rank_and_the_engine_goes_on() -> None:
    def work() -> Any:
        run = Run(way("ddp", 2))
        leap = run.leap(predictor="linear")
        run.train(INTERVAL, leap)
        early = leap.state_dict()
        run.train(INTERVAL, leap)
        own = dist.get_rank() == 1
        texts = []
        for state in ((early if own else leap.state_dict()), (3 if own else leap.state_dict())):
            with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
                leap.load_state_dict(state)
            texts.append(str(error.value))
        run.train(INTERVAL, leap)
        assert leap.disabled is None
        return texts

    told, other = run_ranks(2, work)
    assert told[0] == other[0]
    assert "the states of rank 0 and rank 1 are of different moments" in told[0]
    assert other[1] == "a int is no state of the engine: pass what state_dict() of LeapVerify gave"
    assert told[1] == f"rank 1: {other[1]}"


def _annealed(run: Run) -> dict[str, Any]:
    leap = run.leap(mode="monitor", anneal=True)
    run.train(STEPS, leap)
    before = run.trace()
    with leap.annealed() as found:
        inside = float(losses(run.model, batch(3)).mean().detach())
        kinds = [isinstance(each, DTensor) for each in found.weights.values()]
        weights = {name: whole(each).numpy() for name, each in found.weights.items()}
    assert run.trace() == before
    final = leap.finish()
    reshard(run.model)
    return {
        "numbers": [found.loss, found.raw_loss, found.gain, found.lower, inside, final.gain],
        "words": (found.accepted, found.shape, found.window_steps, found.sequences, leap.disabled),
        "kinds": kinds == [isinstance(each, DTensor) for each in run.model.parameters()],
        "weights": weights,
        "model": run.weights(),
    }


@pytest.mark.failure(11)
@pytest.mark.parametrize(("name", "size"), [("ddp", 2), slow("fsdp", 3)])
def test_annealing_on_parts_is_that_of_one_process(name: str, size: int) -> None:
    expected = _annealed(Run())
    for found in run_ranks(size, lambda: _annealed(Run(way(name, size)))):
        assert found["numbers"] == pytest.approx(expected["numbers"], abs=1e-6)
        assert (found["words"], found["kinds"]) == (expected["words"], True)
        for what in ("weights", "model"):
            for each, value in expected[what].items():
                assert abs(found[what][each] - value).max() <= 1e-6


@pytest.mark.failure(9)
def test_an_error_while_annealing_reaches_every_rank() -> None:
    def work() -> Any:
        failing: list[int] = []

        def loss(model: nn.Module, rows: Any) -> Any:
            if failing and dist.get_rank() == 1:
                raise RuntimeError("of the user's own")
            return losses(model, rows)

        run = Run(way("ddp", 2))
        leap = run.leap(mode="monitor", anneal=True, loss=loss)
        run.train(STEPS, leap)
        before = run.trace()
        failing.append(1)
        with pytest.raises((RuntimeError, RanksDivergedError)) as error:
            leap.anneal()
        assert run.trace() == before
        run.train(INTERVAL, leap)
        return str(error.value), leap.disabled

    sentence = "rank 1: RuntimeError: of the user's own"
    assert run_ranks(2, work) == [(sentence, sentence), ("of the user's own", sentence)]


def test_one_rank_writes_the_log_and_all_keep_the_same_events(tmp_path: Any) -> None:
    def work() -> Any:
        logged: list[int] = []
        run = Run(way("ddp", 2))
        leap = run.leap(
            predictor="linear", log=tmp_path / "events.jsonl", loggers=lambda record, step: logged.append(step)
        )
        run.train(STEPS, leap)
        return leap.events, logged

    (events, logged), (others, none) = run_ranks(2, work)
    assert events == others
    assert (len(logged), none) == (len(events), [])
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == len(events)
