"""What the engine sees at a checkpoint: regime, straightness and the schedule ahead, as far as the budget goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from leapverify.leap.ledger import Ledger
from leapverify.leap.pace import Pace
from leapverify.leap.recognizer import Recognizer, Seen
from leapverify.leap.schedule import decaying, preview, steps_left
from leapverify.leap.trajectory import Trajectory
from leapverify.observe.signals import straightness

OBSERVING_SHARE = 0.25
"""Of all that may be spent, looking takes at most so much: verdicts need no regime, regimes need no verdict."""


class Observer:
    """Looks at the run, and charges the ledger for it.

    Args:
        make: builds the recognizer, at first and whenever the model has changed.
        recognizer: the first one.
        trajectory: the weights and their history.
        optimizers: whose rates are looked at.
        schedulers: that set them.
        ledger: counts what looking costs.
        interval: Delta, real steps between checkpoints.
    """

    def __init__(
        self,
        make: Callable[[], Recognizer],
        recognizer: Recognizer,
        trajectory: Trajectory,
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[Any],
        ledger: Ledger,
        interval: int,
    ) -> None:
        self._make, self.recognizer = make, recognizer
        self._trajectory, self._optimizers, self._ledger = trajectory, optimizers, ledger
        self._interval = interval
        self.pace = Pace(schedulers)
        self.ahead = 0
        """1 where the schedule has not moved yet when the engine acts: inside a hook of the optimizer."""
        self.highest_lr = 0.0
        self.last_lr: float | None = None

    def look(self) -> Seen:
        """The fingerprint's verdict; `unknown` where the budget does not cover one."""
        positions = self.recognizer.positions
        cost = self._ledger.mean_cost("observe", positions)
        if not self._ledger.within("observe", cost, OBSERVING_SHARE):
            self.recognizer.forget_last()  # only fingerprints one interval apart are compared
            return Seen("unknown", None)
        lr = float(self._optimizers[0].param_groups[0]["lr"])
        eta_sum = 0.5 * (lr + (lr if self.last_lr is None else self.last_lr)) * self._interval
        self.last_lr = lr
        with self._ledger.part("observe", self._trajectory.device):
            seen = self.recognizer.look(eta_sum)
        self._ledger.positions("observe", positions)
        return seen

    def straightness(self) -> float | None:
        """c_t of the last three snapshots; None with fewer, beyond the budget, or where nothing moved."""
        history = self._trajectory.history
        cost = self._ledger.mean_cost("straightness", 0.0)
        if len(history) < 3 or not self._ledger.within("straightness", cost, OBSERVING_SHARE):
            return None
        with self._ledger.part("straightness", self._trajectory.device):
            found = straightness(*(history[-1 - age].tensors for age in range(3)))
        self._ledger.passes("straightness", 1.5)
        return None if math.isnan(found) else found

    def rates(self, count: int) -> list[list[list[float]]]:
        """The next `count` learning rates, per optimizer and group; that of the coming step first."""
        with self._ledger.part("schedule"):
            found = preview(self.pace.moving, self._optimizers, count + self.ahead)
        return [[column[self.ahead :] for column in groups] for groups in found]

    def in_decay(self) -> bool:
        """Whether the schedule is in its final decay."""
        coming = self.rates(self._interval + 1)[0][0]
        self.highest_lr = max(self.highest_lr, coming[0])
        return decaying(coming[0], coming[-1], self.highest_lr)

    def steps_left(self) -> int | None:
        """Steps after which a scheduler would refuse to go on; None if none would."""
        return steps_left(self.pace.moving)

    def begin_anew(self, *, rebuild: bool) -> None:
        """After a leap, or a change of the model: the next fingerprint has nothing to be compared with."""
        if rebuild:
            self.recognizer = self._make()
        self.recognizer.forget_last()

    def state_dict(self) -> dict[str, Any]:
        """What goes on after a stop."""
        return {
            "recognizer": self.recognizer.state_dict(),
            "pace": self.pace.state_dict(),
            "highest_lr": self.highest_lr,
            "last_lr": self.last_lr,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.recognizer.load_state_dict(state["recognizer"])
        self.pace.load_state_dict(state["pace"])
        self.highest_lr, self.last_lr = state["highest_lr"], state["last_lr"]
