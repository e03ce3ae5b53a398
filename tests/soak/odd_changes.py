"""A live run whose model is changed at random steps, several times, in one of many ways."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from leap_loops import classified, fingerprint_of, rows, seeded
from leapverify.leap.api import LeapVerify
from leapverify.leap.event import LeapEvent
from leapverify.predict import predictor

TURNS = 48
INTERVAL = 4
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda held: torch.optim.SGD(held, 0.05, momentum=0.9),
    "AdamW": lambda held: torch.optim.AdamW(held, 0.01),
    "AdamW, fused": lambda held: torch.optim.AdamW(held, 0.01, fused=True),
}
MODES: dict[str, dict[str, Any]] = {
    "monitor": {"mode": "monitor"},
    "shadow": {"mode": "shadow", "policy": "fixed", "horizon": 3, "criterion": "always"},
    "shadow, with averages": {"mode": "shadow", "policy": "fixed", "horizon": 3, "anneal": True},
    "shadow, auto": {"mode": "shadow", "policy": "auto"},
    "live": {"mode": "live", "policy": "fixed", "horizon": 3, "criterion": "never"},
    "live, adam": {"mode": "live", "policy": "fixed", "predictor": "adam", "horizon": 3, "criterion": "never"},
    "live, recent steps": {"mode": "live", "policy": "fixed", "predictor": "lookahead", "criterion": "never"},
    "live, line search": {"mode": "live", "policy": "line-search", "criterion": "never"},
}
NOTHING_LEFT = "no trainable parameter of Changing is left: set requires_grad or widen the filter"
Signature = dict[str, tuple[torch.Size, torch.dtype, weakref.ref[nn.Parameter]]]


def alike(first: Signature, second: Signature) -> bool:
    """Whether the same parameters, of the same form and in the same order, are meant."""
    pairs = zip(first.values(), second.values(), strict=False)
    return list(first) == list(second) and all(a[:2] == b[:2] and a[2]() is b[2]() for a, b in pairs)


class Changing(nn.Module):
    """Rows through a norm and dropout, with whatever was added since."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.added = nn.ParameterDict()
        self.unheld = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body[:4](x) + self.unheld
        for each in self.added.values():
            hidden = hidden + each.sum()
        return self.body[4](hidden)


def adaptive(model: nn.Module, batch: Any) -> Tensor:
    """Losses per row, the rows in the type of the weights."""
    dtype = next(model.parameters()).dtype
    return classified(model, (batch[0].to(dtype), batch[1])).float()


@dataclass
class ChangingRun:
    """A loop with changes at given turns; `leap` watches it where it is set."""

    optimizer_name: str
    changes: dict[int, tuple[str, int]]
    """Kind and a random number, by turn."""
    leap: LeapVerify | None = None
    steps: int = 0
    since: int = 0
    """The checkpoint at which the history last began anew."""
    wrong: list[str] = field(default_factory=list)
    told: int = 0
    """Checkpoints that saw a change."""
    predicted: int = 0
    hidden: set[str] = field(default_factory=set)
    scaler: None = None

    def __post_init__(self) -> None:
        self.model: nn.Module = Changing()
        held = [each for name, each in self.model.named_parameters() if name != "unheld"]
        self.optimizer = OPTIMIZERS[self.optimizer_name](held)
        self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, 1.0, 1)
        self._last = self.signature()

    @property
    def body(self) -> Any:
        return self.model.body

    def include(self, name: str) -> bool:
        """The filter of the engine, which changes too."""
        return "all" not in self.hidden and name not in self.hidden

    def hold(self, *parameters: nn.Parameter) -> None:
        """Give the optimizer what it does not hold yet."""
        held = {id(each) for group in self.optimizer.param_groups for each in group["params"]}
        new = [each for each in parameters if id(each) not in held]
        if new:
            self.optimizer.add_param_group({"params": new})

    def signature(self) -> Signature:
        """What may be predicted now."""
        held = {id(each) for group in self.optimizer.param_groups for each in group["params"]}
        return {
            name: (each.shape, each.dtype, weakref.ref(each))
            for name, each in self.model.named_parameters()
            if each.requires_grad and id(each) in held and self.include(name)
        }

    def run(self) -> None:
        """All turns."""
        self.model.train()
        for turn in range(TURNS):
            if turn in self.changes:
                kind, number = self.changes[turn]
                CHANGES[kind](self, number)
            batch = rows(turn, (12,))
            adaptive(self.model, batch).mean().backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            self.steps += 1
            event = None if self.leap is None or self.leap.disabled else self.leap.step(batch)
            if event is not None and event.status != "off":
                self._check(event)

    def _check(self, event: LeapEvent) -> None:
        """Whether a checkpoint tells a change, and begins the history anew, exactly where there was one."""
        if event.status == "actual":
            return
        present = self.signature()
        changed = not alike(present, self._last)
        self._last = present
        if changed != ("the model changed: " in event.reason):
            self.wrong.append(f"step {self.steps}: {'changed' if changed else 'the same'}, but told {event.reason!r}")
        if changed:
            self.since, self.told = self.steps, self.told + 1
        assert self.leap is not None
        assert self.leap._driver is not None
        self.check_history(self.leap._driver.engine.weights.history, list(present.values()), "snapshots")

    def check_history(self, history: Any, forms: list[Any], what: str) -> None:
        """Whether all that is kept is of the present form, and of steps since the last change."""
        for snapshot in history or ():
            if [each.shape for each in snapshot.tensors] != [shape for shape, *_ in forms]:
                self.wrong.append(f"step {self.steps}: {what} of another form")
        if history and history.steps and min(history.steps) < self.since:
            self.wrong.append(f"step {self.steps}: {what} of before the change at {self.since}")

    def checking(self) -> type:
        """A predictor that checks what it is given first."""
        run = self

        class Checked:
            def __init__(self, name: str) -> None:
                self._real = predictor(name)
                self.name, self.needs = name, self._real.needs

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

            def predict(self, history: Any, horizon: int, out: Any, **more: Any) -> Any:
                present = run.signature()
                run.predicted += 1
                if not alike(present, run._last):  # this checkpoint's event is yet to come
                    run.since = run.steps
                forms = list(present.values())
                if [each.shape for each in out] != [shape for shape, *_ in forms]:
                    run.wrong.append(f"step {run.steps}: a prediction of another form")
                run.check_history(history, forms, "snapshots read")
                run.check_history(history.recent, forms, "recent steps read")
                return self._real.predict(history, horizon, out=out, **more)

        return Checked


# --- what changes -----------------------------------------------------------------------------------------------------


def _pick(run: ChangingRun, number: int) -> nn.Parameter:
    every = list(run.model.parameters())
    return every[number % len(every)]


def _freeze(run: ChangingRun, number: int) -> None:
    if sum(each.requires_grad for each in run.model.parameters()) > 3:
        _pick(run, number).requires_grad_(False)


def _freeze_body(run: ChangingRun, number: int) -> None:
    """Only the head is trained on, from another set of moments."""
    run.body[:4].requires_grad_(False)
    _replace(run, number)


def _unfreeze(run: ChangingRun, number: int) -> None:
    run.model.requires_grad_(True)


def _new(run: ChangingRun, number: int) -> None:
    dtype = run.body[0].weight.dtype
    run.model.added[f"p{number}"] = nn.Parameter(torch.zeros(number % 5 + 1, dtype=dtype))
    run.hold(run.model.added[f"p{number}"])


def _remove(run: ChangingRun, number: int) -> None:
    if run.model.added:
        run.model.added.pop(next(iter(run.model.added)))
    else:
        run.body[number % 2 * 4].bias = None


def _put(run: ChangingRun, place: int, layer: nn.Module) -> None:
    run.body[place] = layer.to(run.body[0].weight.dtype)
    run.hold(*run.body[place].parameters())


def _replace(run: ChangingRun, number: int) -> None:
    _put(run, 4, nn.Linear(run.body[4].in_features, run.body[4].out_features))


def _more_classes(run: ChangingRun, number: int) -> None:
    _put(run, 4, nn.Linear(8, 4 + number % 5))


def _forget_norm(run: ChangingRun, number: int) -> None:
    """A first layer and a norm of their own start."""
    _put(run, 0, nn.Linear(12, 8))
    _put(run, 1, nn.BatchNorm1d(8))


def _tie(run: ChangingRun, number: int) -> None:
    if run.body[0].bias is not None:
        run.body[1].bias = run.body[0].bias


def _convert(run: ChangingRun, number: int) -> None:
    """Moments of the old type go."""
    run.model.to([torch.float32, torch.float64, torch.bfloat16][number % 3])
    run.optimizer.state.clear()


def _filter(run: ChangingRun, number: int) -> None:
    names = [name for name, _ in run.model.named_parameters()]
    run.hidden = {names[number % len(names)]} if number % 3 else set()


def _filter_all(run: ChangingRun, number: int) -> None:
    if number % 4 == 0:
        run.hidden = {"all"}


def _group(run: ChangingRun, number: int) -> None:
    run.hold(run.model.unheld)


CHANGES: dict[str, Callable[[ChangingRun, int], None]] = {
    "freeze one": _freeze,
    "freeze all but a new head": _freeze_body,
    "unfreeze": _unfreeze,
    "new parameter": _new,
    "removed parameter": _remove,
    "layer replaced": _replace,
    "layer widened": _more_classes,
    "two layers replaced": _forget_norm,
    "tied": _tie,
    "type": _convert,
    "another filter": _filter,
    "a filter that keeps nothing": _filter_all,
    "optimizer group added": _group,
}


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    wrong: list[str]
    told: int
    predicted: int
    disabled: str | None


def changed(chance: random.Random) -> tuple[tuple[str, str, dict[int, tuple[str, int]]], Outcome]:
    """One run with 2 to 6 changes, with and without an engine: what was drawn, and what came of it."""
    name, mode, seed = chance.choice(list(OPTIMIZERS)), chance.choice(list(MODES)), chance.randrange(1000)
    turns = chance.sample(range(1, TURNS), chance.randint(2, 6))
    changes = {turn: (chance.choice(list(CHANGES)), chance.randrange(1000)) for turn in turns}
    with seeded(seed):
        plain = ChangingRun(name, changes)
        plain.run()
        wanted = fingerprint_of(plain)  # type: ignore[arg-type]
    with seeded(seed), ExitStack() as patches:
        run = ChangingRun(name, changes)
        patches.enter_context(patch("leapverify.leap.attempt.predictor", run.checking()))
        options: dict[str, Any] = {"interval": INTERVAL, "budget": 1.0, "clock": "tokens", "step_tokens": 1e5}
        run.leap = LeapVerify(
            run.model,
            run.optimizer,
            heldout=[rows(900 + number, (12,)) for number in range(20)],
            loss=adaptive,
            scheduler=run.scheduler,
            include=run.include,
            **{**options, **MODES[mode]},
        )
        run.run()
        if fingerprint_of(run) != wanted:  # type: ignore[arg-type]
            run.wrong.append("another end than without an engine")
        off = run.leap.disabled
        if off not in (None, NOTHING_LEFT):
            run.wrong.append(f"disabled: {off}")
        if run.leap.real_step != run.steps:
            run.wrong.append(f"counted {run.leap.real_step} in place of {run.steps}")
    return (name, mode, changes), Outcome(run.wrong, run.told, run.predicted, off)
