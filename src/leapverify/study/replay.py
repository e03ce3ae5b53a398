"""A recorded run gone along once more, checkpoint by checkpoint, its own single steps taken again where asked for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leapverify.core.weights import copy_
from leapverify.study.apparatus import Apparatus
from leapverify.study.source import SeedTrajectory


class Replay:
    """Brings model, optimizer and history along a recorded run, oldest checkpoint first.

    What to do where a snapshot is damaged, or where the same steps lead elsewhere than they did, its user decides.

    Args:
        apparatus: the seed's, untrained.
        source: what the seed recorded.
    """

    def __init__(self, apparatus: Apparatus, source: SeedTrajectory) -> None:
        self._a, self._source = apparatus, source
        self.at: int | None = 0
        """The step at which the whole run stands, optimizer and random streams too; None: weights alone."""
        apparatus.after_step(0)

    def go_on(self, to: int) -> None:
        """Take the run's own steps up to this one."""
        assert self.at is not None
        for step in range(self.at + 1, to + 1):
            self._a.train(step, step, 1)
            self._a.after_step(step)
        self.at = to

    def stands_at(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether the model holds these weights, bit by bit."""
        return all(torch.equal(each, weights[name].to(each)) for name, each in self._a.parameters.items())

    def put_in_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go to recorded weights without the rest of the run."""
        parameters = self._a.parameters
        copy_(list(parameters.values()), [weights[name] for name in parameters])
        self.at = None

    def put_in(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Go to a step as it was recorded, optimizer and random streams too.

        Raises:
            Damaged: its state is missing, incomplete or altered.
        """
        self._source.restore(step, self._a.model, self._a.optimizer, weights)
        self.at = step

    def push(self, step: int) -> None:
        """Take the model's weights into the history."""
        self._a.history.push(step, list(self._a.moved.values()))
