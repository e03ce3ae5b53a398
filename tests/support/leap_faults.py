"""Faults thrown at a live engine: a run that leaps nowhere has to end as if the engine had never been there."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from leap_loops import STEPS, Loop, fingerprint_of, make
from leapverify.leap.api import LeapVerify
from leapverify.predict import predictor
from leapverify.trajectory.history import History

ERRORS: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("of the user's own"),
    "MemoryError": MemoryError,
    "OutOfMemoryError": lambda: torch.OutOfMemoryError("no memory left"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "KeyError": lambda: KeyError("x"),
    "AssertionError": AssertionError,
}
MODES: dict[str, dict[str, Any]] = {
    "shadow": {"mode": "shadow", "policy": "fixed", "predictor": "linear", "horizon": 3, "criterion": "always"},
    "shadow, auto": {"mode": "shadow", "policy": "auto"},
    "shadow, with averages": {"mode": "shadow", "policy": "fixed", "horizon": 3, "anneal": True},
    "live": {"mode": "live", "policy": "fixed", "predictor": "linear", "horizon": 3, "criterion": "never"},
    "live, adam": {"mode": "live", "policy": "fixed", "predictor": "adam", "horizon": 3, "criterion": "never"},
    "live, line search": {"mode": "live", "policy": "line-search", "criterion": "never"},
}
"""None of them accepts, so that every run has one right end."""


@dataclass
class Fault:
    """Something that goes wrong at one call, counted from where the run begins."""

    kind: str
    at: int
    error: str = "RuntimeError"
    calls: int = 0
    armed: bool = False
    fired: int = 0

    def now(self) -> bool:
        """Count one call; whether it is the one."""
        self.calls += self.armed
        here = self.armed and self.calls == self.at
        self.fired += here
        return here

    def strike(self) -> None:
        """Count one call, and raise if it is the one."""
        if self.now():
            raise KeyboardInterrupt if self.kind == "interrupt" else ERRORS[self.error]()


@dataclass
class Ended:
    """How a run with a fault ended."""

    same: bool
    """Whether it ended bit for bit as the run without the engine."""
    fired: bool
    disabled: str | None
    statuses: list[str]
    recorded: bool
    """Whether an event or an alert speaks of what is not finite, or a loss in an event is not."""
    escaped: str | None = None
    """An exception that reached the training loop, other than an interrupt that was meant to."""


@dataclass
class Bench:
    """A loop with a fault in it."""

    loop: Loop
    fault: Fault
    options: dict[str, Any]
    patches: ExitStack = field(default_factory=ExitStack)

    def wrapped(self) -> None:
        """Put the fault where its kind says."""
        PLACES[self.fault.kind](self)

    @contextmanager
    def inside(self, leap: LeapVerify) -> Iterator[None]:
        """The fault counts only what the engine calls."""
        step = leap.step

        def armed(*batch: Any) -> Any:
            self.fault.armed = True
            try:
                return step(*batch)
            finally:
                self.fault.armed = False

        with patch.object(leap, "step", armed), self.patches:
            yield


# --- where faults lie -------------------------------------------------------------------------------------------------


def _loss(change: Callable[[Fault, nn.Module, Tensor], Any]) -> Callable[[Bench], None]:
    """A loss function of held-out batches that does something else at the fault's call."""

    def place(bench: Bench) -> None:
        plain, fault = bench.loop.losses, bench.fault

        def loss(model: nn.Module, batch: Any) -> Any:
            return change(fault, model, plain(model, batch))

        bench.options["loss"] = loss

    return place


def _raises(fault: Fault, model: nn.Module, losses: Tensor) -> Tensor:
    fault.strike()
    return losses


def _scaled(value: float) -> Callable[[Fault, nn.Module, Tensor], Tensor]:
    return lambda fault, model, losses: losses * value if fault.now() else losses


def _one_infinite(fault: Fault, model: nn.Module, losses: Tensor) -> Tensor:
    if fault.now():
        losses[-1] = float("inf")
    return losses


def _another_form(fault: Fault, model: nn.Module, losses: Tensor) -> Any:
    return losses.reshape(2, -1) if fault.now() else losses


def _disturbs(fault: Fault, model: nn.Module, losses: Tensor) -> Tensor:
    fault.now()
    if fault.armed and fault.calls >= fault.at:  # from then on: modes, buffers and all random streams
        model.train()
        random.random(), torch.rand(3)
        for buffer in model.buffers():
            buffer.data.zero_()
    return losses


def _predicting(write: Callable[[Fault, Any], None]) -> Callable[[Bench], None]:
    """A predictor that does something else at the fault's call."""

    def place(bench: Bench) -> None:
        fault = bench.fault

        class Faulty:
            def __init__(self, name: str) -> None:
                self._real = predictor(name)
                self.name, self.needs = name, self._real.needs

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

            def predict(self, history: Any, horizon: int, out: Any, **more: Any) -> Any:
                found = self._real.predict(history, horizon, out=out, **more)
                if fault.now():
                    write(fault, out)
                return found

        bench.patches.enter_context(patch("leapverify.leap.attempt.predictor", Faulty))

    return place


def _half_written(fault: Fault, out: Any) -> None:
    for each in out[: len(out) // 2 + 1]:
        each.fill_(7.0)
    raise ERRORS[fault.error]()


def _one_value(value: float) -> Callable[[Fault, Any], None]:
    return lambda fault, out: out[-1].view(-1)[-1:].fill_(value) and None


def _old_snapshot(bench: Bench) -> None:
    fault, push = bench.fault, History.push

    def poisoned(history: History, *arguments: Any, **more: Any) -> Any:
        if len(history) and fault.now():
            history[-1].tensors[0].view(-1)[:1].fill_(float("nan"))
        return push(history, *arguments, **more)

    bench.patches.enter_context(patch.object(History, "push", poisoned))


def _copying(bench: Bench) -> None:
    fault, copy = bench.fault, torch._foreach_copy_

    def failing(out: Any, source: Any, *more: Any) -> Any:
        if fault.now():
            copy(out[:1], source[:1])  # some of it is written
            raise ERRORS[fault.error]()
        return copy(out, source, *more)

    bench.patches.enter_context(patch.object(torch, "_foreach_copy_", failing))


def _drawing(bench: Bench) -> None:
    batches, fault, count = bench.loop.heldout, bench.fault, [0]

    def draw() -> Any:
        fault.strike()
        torch.rand(2)
        count[0] += 1
        return batches[count[0] % len(batches)]

    bench.options["heldout"] = draw


def _looking(bench: Bench) -> None:
    fault, names = bench.fault, ("look",)

    def place(leap: LeapVerify) -> None:
        observer = leap._driver.engine.observer
        for name in names:
            real = getattr(observer, name)

            def struck(*arguments: Any, real: Any = real) -> Any:
                fault.strike()
                return real(*arguments)

            setattr(observer, name, struck)

    bench.options["then"] = place


def _training(bench: Bench) -> None:
    """The run's own loss is NaN at one step, with or without the engine."""
    loop, at = bench.loop, 3 + bench.fault.at
    plain, batch, step = loop.losses, loop.batch, [0]
    bench.options["loss"] = plain

    def counted(number: int) -> Any:
        step[0] = number
        return batch(number)

    loop.batch = counted
    loop.losses = lambda model, rows: plain(model, rows) * (float("nan") if step[0] == at else 1.0)
    bench.fault.fired = 1


def _telling(bench: Bench) -> None:
    fault = bench.fault

    def logger(record: dict[str, Any], step: int) -> None:
        fault.strike()

    bench.options["loggers"] = [logger]


PLACES: dict[str, Callable[[Bench], None]] = {
    "loss raises": _loss(_raises),
    "interrupt": _loss(_raises),
    "loss is NaN": _loss(_scaled(float("nan"))),
    "loss is infinite": _loss(_scaled(float("inf"))),
    "one loss is infinite": _loss(_one_infinite),
    "loss has another form": _loss(_another_form),
    "loss disturbs the model": _loss(_disturbs),
    "prediction raises half-way": _predicting(_half_written),
    "prediction has a NaN": _predicting(_one_value(float("nan"))),
    "prediction has an infinity": _predicting(_one_value(float("inf"))),
    "an old snapshot has a NaN": _old_snapshot,
    "a copy raises half-way": _copying,
    "held-out data raise": _drawing,
    "looking raises": _looking,
    "training loss is NaN": _training,
    "a logger raises": _telling,
}
NON_FINITE = {"loss is NaN", "loss is infinite", "one loss is infinite", "prediction has a NaN", "training loss is NaN"}
"""Faults that switch nothing off: what is not finite is rejected and recorded."""

_PLAIN: dict[tuple[Any, ...], str] = {}


def plain_end(name: str, fault: Fault, seed: int) -> str:
    """The fingerprint of the run without an engine."""
    training = fault.at if fault.kind == "training loss is NaN" else None
    key = (name, seed, training)
    if key not in _PLAIN:
        loop = make(name, seed)
        if training is not None:
            _training(Bench(loop, Fault(fault.kind, training), {}))
        loop.run(STEPS)
        _PLAIN[key] = fingerprint_of(loop)
    return _PLAIN[key]


def struck(name: str, mode: str, fault: Fault, seed: int = 0) -> Ended:
    """A run with an engine and a fault in it, to its end."""
    wanted = plain_end(name, fault, seed)
    bench = Bench(make(name, seed), fault, dict(MODES[mode]))
    bench.wrapped()
    then, events, begin = bench.options.pop("then", None), [], 0
    with bench.patches:
        leap = bench.loop.leap(**bench.options)
        if then:
            then(leap)
        batch, last = bench.loop.batch, [0]
        bench.loop.batch = lambda number: (last.__setitem__(0, number), batch(number))[1]
        escaped = None
        with bench.inside(leap):
            while begin < STEPS:
                try:
                    events += bench.loop.run(STEPS - begin, leap, start=begin)
                    break
                except KeyboardInterrupt:
                    begin = last[0] + 1  # the engine is the last thing of a step
                except Exception as error:
                    escaped, begin = f"{type(error).__name__}: {error}", last[0] + 1
    statuses = [event.status for event in events]
    recorded = any(_speaks(event) for event in events)
    return Ended(fingerprint_of(bench.loop) == wanted, bool(fault.fired), leap.disabled, statuses, recorded, escaped)


def _speaks(event: Any) -> bool:
    losses = (event.raw_loss, event.loss_actual, event.annealed_loss)
    infinite = any(each is not None and not math.isfinite(each) for each in losses)
    return event.status == "nonfinite" or infinite or any(alert.kind == "non-finite" for alert in event.alerts)
