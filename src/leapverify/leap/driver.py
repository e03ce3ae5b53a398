"""When the engine acts: once per real optimizer step at which something is due, never at the cost of the training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from leapverify.core.undisturbed import streams_kept
from leapverify.leap.engine import Engine
from leapverify.leap.event import LeapEvent
from leapverify.leap.loggers import EventLog
from leapverify.leap.parallel import sentence_of
from leapverify.leap.state import engine_state, restore_engine
from leapverify.leap.step_counter import StepCounter

logger = logging.getLogger(__name__)


class Driver:
    """Runs the engine at the steps at which something is due, logs its events, and stops it if it fails.

    Args:
        engine: what is run.
        counter: of the run's real steps.
        event_log: where events go.
    """

    def __init__(self, engine: Engine, counter: StepCounter, event_log: EventLog) -> None:
        self.engine, self.counter, self.event_log = engine, counter, event_log
        self.active = True
        self.disabled: str | None = None
        self._unshared: Exception | None = None
        """A failure between two turns, which the other ranks do not know of yet."""
        self.next = self._next_turn()
        """The counter's number at which something is due."""

    @property
    def real_step(self) -> int:
        """Real steps, those since the last turn included."""
        return self.engine.real + self.counter.pending

    def show(self, batch: Any) -> None:
        """Take in a training batch, to compare with held-out ones."""
        with self.charged():
            try:
                self.engine.leakage.train(batch)
                self.engine.look_for_leak()
            except Exception as error:
                if self.engine.ranks.alone:
                    self._fail(error)
                else:  # the others train on, and communicate at the next turn only
                    self._unshared = self._unshared or error

    def turn(self) -> LeapEvent | None:
        """Whatever is due at this step; no failure of it reaches the training loop."""
        device = self.engine.weights.device
        if device.type == "cuda":
            start = time.perf_counter()
            torch.cuda.synchronize(device)  # what was queued is training, not overhead
            self.counter.waited(time.perf_counter() - start)
        with self.charged():
            try:
                if self._unshared is not None:
                    raise self._unshared
                event = self._due()
                self.engine.weights.before_writes()
                # The others learn here at the latest of what has failed on a rank in this turn.
                self.engine.ranks.all_gather("the end of a turn", None)
                return event
            except Exception as error:
                return self._fail(error)

    @contextmanager
    def charged(self) -> Iterator[None]:
        """All time in the block is the tool's: what no part of it has counted is counted as `other`."""
        seconds = self.engine.ledger.seconds
        start, before = time.perf_counter(), sum(seconds.values())
        try:
            yield
        finally:
            end = time.perf_counter()
            seconds["other"] += max(0.0, end - start - (sum(seconds.values()) - before))
            if self.counter.last is not None:
                self.counter.last += end - start

    def stop(self, reason: str) -> None:
        """Do nothing more, and hold nothing. Steps are still counted, so that a loop over effective steps ends."""
        self.disabled, self.active = reason, False
        self.counter.after = None
        self.engine.release()

    def close(self) -> None:
        """Do nothing more and take the hook out; the counts stay as they are."""
        self.active = False
        self.counter.close()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "disabled": self.disabled,
            "until_next": self.next - self.counter.seen,
            "pending": self.counter.pending,
            "engine": engine_state(self.engine),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        restore_engine(self.engine, state["engine"])
        self.counter.restart(int(state["pending"]))
        self.next = self.counter.seen + int(state["until_next"])
        if state["disabled"] is not None:
            self.stop(str(state["disabled"]))

    def _due(self) -> LeapEvent | None:
        engine = self.engine
        steps, seconds = self.counter.take()
        if steps == 0:  # every one since was skipped inside the optimizer
            self.next = self.counter.count + 1
            return None
        engine.passed(steps, seconds)
        engine.check_first_leap()
        event = None
        for pending in engine.waiting.due(engine.real):
            event = self._logged(lambda pending=pending: engine.actual(pending))  # type: ignore[misc]
        if engine.annealing is not None and engine.annealing.store.due(engine.real):
            engine.annealing.push(engine.real)
        if 0 < engine.config.interval - engine.since_checkpoint < engine.weights.storage.wanted.recent:
            engine.weights.push_recent(engine.effective, engine.ledger)
        if engine.since_checkpoint >= engine.config.interval:
            if engine.affords_checkpoint():
                event = self._logged(engine.checkpoint)
            else:
                engine.since_checkpoint = 0  # passed by: the budget first has to grow
        self.next = self._next_turn()
        return event

    def _next_turn(self) -> int:
        engine = self.engine
        ahead = [engine.config.interval - engine.since_checkpoint]
        if engine.weights.storage.wanted.recent:
            ahead.append(ahead[0] - engine.weights.storage.wanted.recent + 1)
        if engine.annealing is not None:
            every = engine.annealing.memory.every
            ahead.append(every - engine.real % every)
        due = engine.waiting.next_due
        if due is not None:
            ahead.append(due - engine.real)
        if engine.first is not None:
            ahead.append(1)
        return self.counter.seen + max(1, min(ahead))

    def _logged(self, make: Callable[[], LeapEvent]) -> LeapEvent:
        """Make an event, with what it cost, and log it."""
        ledger = self.engine.ledger
        ledger.agree()
        seconds, tokens = sum(ledger.seconds.values()), sum(ledger.tokens.values())
        with streams_kept(self.engine.model):
            event = make()
        ledger.agree()
        spent = sum(ledger.seconds.values()) - seconds, sum(ledger.tokens.values()) - tokens
        event = replace(event, cost_s=spent[0], cost_tokens=spent[1])
        event = self.engine.ranks.broadcast("event", event)
        with ledger.part("log"):
            self.event_log.log(event)
        return event

    def _fail(self, error: Exception) -> LeapEvent:
        """Switch off after a failure: the weights have been put back on its way here."""
        if torch.cuda.is_available() and isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        reason = self.engine.ranks.fail(sentence_of(error))
        with suppress(Exception):  # a forward pass that broke off may have left what cannot be given back
            self.engine.weights.before_writes()
        trace = logger.isEnabledFor(logging.DEBUG)
        logger.warning("leapverify has switched itself off, training goes on: %s", reason, exc_info=trace)
        effective = self.real_step + self.engine.leapt
        event = LeapEvent(self.real_step, effective, self.engine.config.mode, "off", reason)
        self.event_log.log(event)
        self.stop(reason)
        return event
