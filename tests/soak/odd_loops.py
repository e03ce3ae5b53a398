"""Training loops whose accumulation, skipped steps and calls of the engine are drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leap_loops import Mlp, classified, fingerprint_of, rows, seeded
from leapverify.leap.api import LeapVerify

TURNS = 60
INTERVAL = 4
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], list[Optimizer]]] = {
    "SGD": lambda held: [torch.optim.SGD(held, 0.05, momentum=0.9)],
    "AdamW": lambda held: [torch.optim.AdamW(held, 0.01)],
    "RMSprop": lambda held: [torch.optim.RMSprop(held, 0.001)],
    "Adagrad": lambda held: [torch.optim.Adagrad(held, 0.01)],
    "AdamW, fused": lambda held: [torch.optim.AdamW(held, 0.01, fused=True)],
    # Without momentum: where its very first step is skipped, torch leaves a fused SGD's buffers uninitialised.
    "SGD, fused": lambda held: [torch.optim.SGD(held, 0.05, fused=True)],
    "AdamW fused before SGD": lambda held: [
        torch.optim.AdamW(held[:2], 0.01, fused=True),
        torch.optim.SGD(held[2:], 0.05),
    ],
    "SGD before AdamW fused": lambda held: [
        torch.optim.SGD(held[:2], 0.05),
        torch.optim.AdamW(held[2:], 0.01, fused=True),
    ],
}
SCALERS = ("none", "none", "GradScaler", "one's own")
CALLS = ("every turn", "twice", "at random", "after steps", "context")
MODES: dict[str, dict[str, Any]] = {
    "monitor": {"mode": "monitor"},
    "shadow": {"mode": "shadow", "policy": "fixed", "horizon": 3, "criterion": "always"},
    "live": {"mode": "live", "policy": "fixed", "horizon": 3, "criterion": "never"},
}
"""None of them accepts in earnest, so that every run has one right end."""


@dataclass(frozen=True)
class Plan:
    """What is drawn for one loop."""

    optimizer: str
    scaler: str
    calls: str
    mode: str
    closes: tuple[bool, ...]
    """Turns after which the optimizers step."""
    infinite: tuple[bool, ...]
    """Turns whose loss is infinite, so that a scaler skips the step that they are part of."""
    first: tuple[bool, ...]
    """Steps at which the first of two optimizers steps too."""
    asked: tuple[int, ...]
    """Calls of the engine after each turn."""
    seed: int

    @classmethod
    def drawn(cls, chance: random.Random) -> Plan:
        """A plan: its accumulation changes up to three times in mid-run."""
        scaler, calls = chance.choice(SCALERS), chance.choice(CALLS)
        every, since, closes = chance.randint(1, 4), 0, []
        changes = {chance.randrange(TURNS) for _ in range(chance.randint(0, 3))}
        for turn in range(TURNS):
            every = chance.randint(1, 5) if turn in changes else every
            since += 1
            closes.append(since >= every)
            since = 0 if since >= every else since
        often = chance.choice([0.03, 0.1, 0.3]) if scaler != "none" else 0.0
        both = chance.choice([1.0, 0.5])
        return cls(
            chance.choice(list(OPTIMIZERS)),
            scaler,
            calls,
            chance.choice(list(MODES)),
            tuple(closes),
            tuple(chance.random() < often for _ in range(TURNS)),
            tuple(chance.random() < both for _ in range(TURNS)),
            tuple({"twice": 2, "at random": chance.choice([0, 0, 1, 2, 3])}.get(calls, 1) for _ in range(TURNS)),
            chance.randrange(1000),
        )


@dataclass
class OddLoop:
    """One run by a plan, and what really happened in it."""

    plan: Plan
    steps: int = 0
    """Calls of the last optimizer that changed a weight."""
    due: list[int] = field(default_factory=list)
    """Real steps at which the engine should have been at a checkpoint."""
    wrong: list[str] = field(default_factory=list)
    leap: LeapVerify | None = None

    def __post_init__(self) -> None:
        torch.manual_seed(self.plan.seed)
        self.model: nn.Module = Mlp()
        self.optimizers = OPTIMIZERS[self.plan.optimizer](list(self.model.parameters()))
        self.optimizer = self.optimizers[-1]
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 10, 0.9)
        self.own = self.plan.scaler == "one's own"
        real = self.plan.scaler == "GradScaler"
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=7) if real else None

    def run(self) -> None:
        """All turns."""
        hooked = self.plan.calls == "context" and self.leap is not None
        self.model.train()
        with self.leap if hooked and self.leap is not None else nullcontext():
            for turn in range(TURNS):
                self._turn(turn)

    def fingerprints(self) -> list[str]:
        """Hashes of everything that the run depends on, with each of the optimizers."""
        found = []
        for optimizer in self.optimizers:
            self.optimizer = optimizer
            found.append(fingerprint_of(self))  # type: ignore[arg-type]
        return found

    def _turn(self, turn: int) -> None:
        batch = rows(turn, (12,))
        loss = classified(self.model, batch).mean() * (float("inf") if self.plan.infinite[turn] else 1.0)
        (self.scaler.scale(loss) if self.scaler else loss).backward()
        closes = self.plan.closes[turn]
        if closes:
            for optimizer in self.optimizers if self.plan.first[turn] else self.optimizers[-1:]:
                before = [each.detach().clone() for each in self.model.parameters()]
                called = self._step(optimizer)
            after = list(self.model.parameters())
            moved = not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
            self.steps += moved
            if called:
                self.scheduler.step()
            if self.scaler:
                self.scaler.update()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            if called and self.plan.calls == "context":
                self._asked()
        if self.plan.calls != "context" and (closes or self.plan.calls != "after steps"):
            for _ in range(self.plan.asked[turn]):
                if self.leap is not None:
                    self.leap.step(batch)
                self._asked()

    def _step(self, optimizer: Optimizer) -> bool:
        """Step, unless a scaler skips it; whether the optimizer was called as far as the loop can tell."""
        held = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        if self.own and not all(bool(torch.isfinite(each).all()) for each in held):
            return False
        if self.scaler:
            self.scaler.step(optimizer)
        else:
            optimizer.step()
        return True

    def _asked(self) -> None:
        """The engine was called: by what really happened it was at a checkpoint, or not."""
        if self.steps - (self.due[-1] if self.due else 0) >= INTERVAL:
            self.due.append(self.steps)
        if self.leap is not None:
            at = [event.step for event in self.leap.events if event.status != "actual"]
            if at != self.due:
                self.wrong.append(f"acted at {at[-3:]} in place of {self.due[-3:]}")
            elif self.due and self.due[-1] == self.steps and self.leap.real_step != self.steps:
                self.wrong.append(f"counted {self.leap.real_step} at a checkpoint in place of {self.steps}")


def differences(plan: Plan) -> list[str]:
    """What is wrong with an engine in the loop of a plan, against the loop without one."""
    with seeded(plan.seed):
        plain = OddLoop(plan)
        plain.run()
        wanted = plain.fingerprints()
    with seeded(plan.seed):
        loop = OddLoop(plan)
        heldout = [rows(900 + number, (12,)) for number in range(20)]
        options: dict[str, Any] = {"interval": INTERVAL, "clock": "tokens", "step_tokens": 1e5, **MODES[plan.mode]}
        loop.leap = LeapVerify(
            loop.model, loop.optimizers, heldout=heldout, loss=_losses, scheduler=loop.scheduler, **options
        )
        loop.run()
        found = loop.wrong[:2]
        saved = loop.leap.state_dict()["driver"]
        real = saved["engine"]["counts"]["real"] + saved["pending"]
        if real != loop.steps:
            found.append(f"counted {real} in place of {loop.steps}")
        if loop.leap.disabled is not None:
            found.append(f"disabled: {loop.leap.disabled}")
        if loop.fingerprints() != wanted:
            found.append("another end than without an engine")
    return found


def _losses(model: nn.Module, batch: Any) -> Tensor:
    return classified(model, batch)
