"""What the engine sees at a checkpoint: regime, straightness and the schedule ahead, as far as the budget goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

from torch.optim import Optimizer

from leapverify.leap.ledger import Ledger
from leapverify.leap.live_weights import LiveWeights
from leapverify.leap.recognizer import Observation, Recognizer
from leapverify.leap.schedule.advance import Ahead, ScheduleMove, advance, look_ahead, movable, unwrapped_optimizer
from leapverify.leap.schedule.lookahead import ScheduleLookahead
from leapverify.leap.schedule.step_rate import StepRate
from leapverify.observe.signals import straightness

OBSERVING_SHARE = 0.25
"""Of all that may be spent, looking takes at most so much: verdicts need no regime, regimes need no verdict."""


@dataclass(eq=False)
class Observer:
    """Looks at the run, and charges the ledger for it."""

    make: Callable[[], Recognizer]
    """Builds a new recognizer where the model has changed."""
    recognizer: Recognizer
    weights: LiveWeights
    optimizers: Sequence[Optimizer]
    schedulers: InitVar[Sequence[Any]]
    ledger: Ledger
    interval: int
    """Delta, real steps between checkpoints."""
    ahead: int = 0
    """1 where the schedule has not moved yet when the engine acts: inside a hook of the optimizer."""
    last_lr: float | None = None

    def __post_init__(self, schedulers: Sequence[Any]) -> None:
        self.step_rate = StepRate(schedulers)
        self.lookahead = ScheduleLookahead(self.interval)

    def look(self) -> Observation:
        """The fingerprint's verdict; `unknown` where the budget does not cover one."""
        positions, ranks = self.recognizer.positions, self.ledger.ranks
        cost = self.ledger.mean_cost("observe", positions * ranks.shares)
        if not self.ledger.within("observe", cost, OBSERVING_SHARE):
            self.recognizer.forget_last()  # only fingerprints one interval apart are compared
            return Observation("unknown", None)
        lr = float(self.optimizers[0].param_groups[0]["lr"])
        eta_sum = 0.5 * (lr + (lr if self.last_lr is None else self.last_lr)) * self.interval
        self.last_lr = lr
        with self.ledger.part("observe", self.weights.device):
            seen = ranks.broadcast("regime", self.recognizer.look(eta_sum))
            self.weights.before_writes()
        self.ledger.positions("observe", positions)
        return seen

    def straightness(self) -> float | None:
        """c_t of the last three snapshots; None with fewer, beyond the budget, or where nothing moved."""
        history = self.weights.history
        cost = self.ledger.mean_cost("straightness", 0.0)
        if len(history) < 3 or not self.ledger.within("straightness", cost, OBSERVING_SHARE):
            return None
        with self.ledger.part("straightness", self.weights.device):
            found = straightness(*(history[-1 - age].tensors for age in range(3)), shards=history.shards)
        self.ledger.passes("straightness", 1.5)
        return None if math.isnan(found) else found

    def rates(self, count: int) -> list[list[list[float]]]:
        """The next `count` learning rates, per optimizer and group; that of the coming step first."""
        return self._look_ahead(count).rates

    def in_decay(self) -> bool:
        """Whether the schedule is in its final decay."""
        return self.lookahead.in_decay([column for groups in self.rates(self.interval + 1) for column in groups])

    def until_decay(self, effective: int, *, leap_in_decay: bool = False, least: int = 0) -> int | None:
        """Steps that a leap may go before the schedule's final decay, a rate of 0, a turn up again, or its end.

        Where none of that is in sight, the steps that were looked ahead; None where no scheduler moves.

        Args:
            effective: t, effective steps so far.
            leap_in_decay: the final decay may be leapt into.
            least: steps that have to be looked ahead at least: the longest horizon that a user asked for by number.
        """
        if not movable(self.step_rate.moving):
            return None
        groups = [group for each in self.optimizers for group in unwrapped_optimizer(each).param_groups]
        return self.lookahead.until(
            effective,
            [float(group["lr"]) for group in groups],
            self._look,
            ahead=self.ahead,
            leap_in_decay=leap_in_decay,
            least=least,
        )

    def advance(self, count: int) -> ScheduleMove:
        """Move the schedule on by a leap of so many steps; what takes it back again.

        Raises:
            Exception: whatever a scheduler raises on its way; nothing has then been moved.
        """
        with self.ledger.part("schedule"):
            moved = advance(self.step_rate.moving, self.optimizers, count)
            self.step_rate.leapt()
        return moved

    def undo(self, moved: ScheduleMove, since: int = 0) -> None:
        """Take the last leap of the schedule back.

        Args:
            moved: what `advance` gave.
            since: real steps since then.
        """
        with self.ledger.part("schedule"):
            moved.undo(since)
            self.step_rate.undone()

    def restart(self, *, rebuild: bool) -> None:
        """After a leap, or a change of the model: the next fingerprint has nothing to be compared with."""
        if rebuild:
            self.recognizer = self.make()
        self.recognizer.forget_last()

    def state_dict(self) -> dict[str, Any]:
        """What goes on after a stop."""
        return {
            "recognizer": self.recognizer.state_dict(),
            "pace": self.step_rate.state_dict(),
            "outlook": self.lookahead.state_dict(),
            "last_lr": self.last_lr,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.recognizer.load_state_dict(state["recognizer"])
        self.step_rate.load_state_dict(state["pace"])
        self.lookahead.load_state_dict(state["outlook"])
        self.last_lr = state["last_lr"]

    def _look_ahead(self, count: int) -> Ahead:
        with self.ledger.part("schedule"):
            found = look_ahead(self.step_rate.moving, self.optimizers, count + self.ahead)
        end = None if found.end is None else max(0, found.end - self.ahead)
        return Ahead([[column[self.ahead :] for column in groups] for groups in found.rates], end)

    def _look(self, count: int) -> tuple[list[list[float]], int | None]:
        found = self._look_ahead(count)
        return [column for groups in found.rates for column in groups], found.end
