"""What goes wrong on one of several ranks that train together, and what has to come of it on all of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor, nn

from leap_faults import ERRORS
from leap_ranks import INTERVAL, Run, losses, said, way
from leapverify.core.ranks import Ranks
from leapverify.leap.api import LeapVerify
from leapverify.leap.parallel import sentence_of as sentence
from leapverify.leap.policy.base import Proposal

STEPS = 3 * INTERVAL + 2
MEETINGS, PASSES = 80, 30
"""About as many as a run has, from the first call of the engine on."""
CONNECTING = ("data groups", "places in the data-parallel mesh")
"""At these the ranks only find one another."""
LAST = ("the engine is built", "a leap is committed", "the end of a turn")
"""After these meetings nothing follows that can fail."""
LIVE = {"predictor": "linear", "criterion": "always", "moments": "reset"}
KINDS = (
    "before a meeting", "before a meeting", "after a meeting", "after a meeting", "in the loss", "other losses",
    "other vote", "other clock", "other count", "other options",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What goes wrong on which rank of which run."""

    kind: str
    way: str
    size: int
    rank: int
    at: int
    error: str
    seed: int


@dataclass
class Found:
    """What came of it, as one rank tells it."""

    told: str | None
    leaps: tuple[tuple[int, int], ...]
    """(real step, steps leapt over)."""
    events: str
    fired: bool
    refused: bool
    ended: bool = False
    """Whether the model's own process group was lost, and with it the training."""


class Struck:
    """The one call that fails on the one rank."""

    def __init__(self, case: Case) -> None:
        self.case, self.calls, self.fired = case, 0, False

    def here(self, fits: bool = True) -> bool:
        """Count one call; whether it is the first from the chosen one on that fits."""
        self.calls += 1
        hit = not self.fired and fits and self.calls >= self.case.at and dist.get_rank() == self.case.rank
        self.fired = self.fired or hit
        return hit

    def strike(self, fits: bool = True) -> None:
        """Count one call, and raise if it is the one."""
        if self.here(fits):
            raise ERRORS[self.case.error]()


def _meetings(case: Case, struck: Struck, patch: pytest.MonkeyPatch, after: bool) -> None:
    meet = Ranks.meet

    def met(self: Ranks, place: str, value: Any) -> list[Any]:
        if after:
            found = meet(self, place, value)
            struck.strike(place not in CONNECTING + LAST)
            return found
        struck.strike(place not in CONNECTING)
        return meet(self, place, value)

    patch.setattr(Ranks, "meet", met)


def _loss(case: Case, struck: Struck) -> Callable[[nn.Module, Any], Tensor]:
    """One that fails at one call, when the pass is done, or says something else from there on."""
    factor = random.Random(case.seed).choice([-1.0, 0.0, 0.5, 3.0, float("nan"), float("inf")])

    def loss(model: nn.Module, rows: Any) -> Tensor:
        found = losses(model, rows)
        if case.kind == "in the loss":
            struck.strike()
        elif case.kind == "other losses" and dist.get_rank() == case.rank and struck.calls >= 1:
            return found * factor
        return found

    return loss


def _options(case: Case, struck: Struck) -> dict[str, Any]:
    chance, own = random.Random(case.seed), dist.get_rank() == case.rank
    given: dict[str, Any] = {**LIVE, "loss": _loss(case, struck)}
    if case.kind == "other losses":
        given["criterion"] = chance.choice(["paired", "strict", "always"])
    if case.kind == "other clock":
        given |= {"clock": "wall", "step_tokens": None, "budget": chance.choice([None, 0.5, 1.0])}
    if case.kind == "other options":
        name, value = chance.choice(
            [("interval", 5), ("policy", "auto"), ("predictor", "adam"), ("mode", "shadow"), ("alpha", 0.01),
             ("seed", 1), ("horizon", 8), ("sequences", 24), ("moments", "keep")]
        )  # fmt: skip
        given |= {name: value} if own else {}
        struck.fired = own
    return given


def _differing(case: Case, struck: Struck, leap: LeapVerify) -> None:
    """Have the engine of one rank choose, time or count otherwise."""
    chance, engine = random.Random(case.seed), leap._driver.engine  # type: ignore[union-attr]
    struck.calls += case.kind == "other losses"  # its first held-out batch is as that of the others
    if dist.get_rank() != case.rank or not case.kind.startswith("other "):
        return
    struck.fired = True
    if case.kind == "other vote":
        _vote(engine, lambda step: chance.choice([None, 2, 6]))
    if case.kind == "other clock":
        part, factor = engine.ledger.part, 10.0 ** chance.randint(1, 4)

        @contextmanager
        def fast(name: str, device: Any = None) -> Any:
            with part(name, device):
                before = engine.ledger.seconds[name]
                yield
            engine.ledger.seconds[name] += factor * (engine.ledger.seconds[name] - before)

        engine.ledger.part = fast  # type: ignore[method-assign]
    if case.kind == "other count":
        engine.real = engine.ledger.steps = chance.randint(1, 3)


def _vote(engine: Any, horizon: Callable[[int], int | None]) -> None:
    choose = engine.policy.choose

    def chosen(situation: Any, probe: Any) -> Any:
        found, steps = choose(situation, probe), horizon(situation.step)
        return replace(found, proposal=None if steps is None else Proposal("linear", steps))

    engine.policy.choose = chosen


def _trained(run: Run, leap: LeapVerify | None) -> tuple[list[Any], tuple[tuple[int, int], ...]]:
    events: list[Any] = []
    leaps = []
    for step in range(1, STEPS + 1):
        before = leap.leapt if leap else 0
        events += run.train(1, leap)
        if leap is not None and leap.leapt != before:
            leaps.append((step, leap.leapt - before))
    return events, tuple(leaps)


def _live(case: Case) -> tuple[Found, str]:
    """One run in which it goes wrong, and the trace that it leaves."""
    struck, run = Struck(case), Run(way(case.way, case.size), dropout=0.2)
    leap, told, ended = None, None, False
    events: list[Any] = []
    leaps: tuple[tuple[int, int], ...] = ()
    with pytest.MonkeyPatch.context() as patch:
        if case.kind.endswith("a meeting"):
            _meetings(case, struck, patch, after=case.kind.startswith("after"))
        try:
            leap = run.leap(**_options(case, struck))
            _differing(case, struck, leap)
        except Exception as error:
            told = sentence(error).removeprefix(f"rank {case.rank}: ")
        try:
            events, leaps = _trained(run, leap)
        except RuntimeError:
            ended = True
    refused, told = leap is None and told is not None, leap.disabled if leap else told
    found = Found(told, leaps, repr(said(events)), struck.fired, refused, ended)
    if leap is not None:
        leap.close()
    return found, "" if ended else run.trace()


def _reference(case: Case, leaps: tuple[tuple[int, int], ...]) -> str:
    """The trace of a run in which nothing goes wrong and that leaps at the same steps and no others."""
    run = Run(way(case.way, case.size), dropout=0.2)
    leap = run.leap(**LIVE)
    _vote(leap._driver.engine, dict(leaps).get)  # type: ignore[union-attr]
    assert _trained(run, leap)[1] == leaps
    leap.close()
    return run.trace()


def judged(cases: Sequence[Case]) -> list[tuple[Found, str | None]]:
    """On every rank: what came of each case, and what is wrong with that; up to the first that ends the training."""
    logging.disable(logging.CRITICAL)
    found, references = [], {}
    for case in cases:
        own, trace = _live(case)
        if own.ended:
            return [(own, None)]
        every: list[Any] = [None] * case.size
        dist.all_gather_object(every, own)
        own.fired = any(each.fired for each in every)
        wrong = None
        # A rank that counts otherwise says its own count in its last event.
        for name in ("told", "leaps", "refused", *(("events",) if case.kind != "other count" else ())):
            values = [getattr(each, name) for each in every]
            wrong = wrong or (f"{name} differ: {values}" if len(set(values)) > 1 else None)
        if own.told and "in vain" in own.told:
            wrong = wrong or own.told
        if wrong is None:
            if own.leaps not in references:
                references[own.leaps] = _reference(case, own.leaps)
            dist.all_gather_object(every, references[own.leaps] == trace)
            wrong = None if all(every) else f"weights, moments or streams differ on ranks: {every}, leaps {own.leaps}"
        found.append((own, wrong))
    return found


def cases_of(name: str, size: int, count: int, chance: random.Random, kinds: Sequence[str] = KINDS) -> list[Case]:
    """So many cases of these kinds in turn, on random ranks at random moments."""
    found = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        at = chance.randint(1, PASSES if kind == "in the loss" else MEETINGS)
        error = chance.choice(list(ERRORS))
        found.append(Case(kind, name, size, chance.randrange(size), at, error, chance.randrange(10**6)))
    return found
