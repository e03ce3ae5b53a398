"""Which snapshots and optimizer states a seed writes, and which of them stay on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Retention:
    """What is kept of a run, by checkpoint number (from 1) or by step.

    Args:
        weights: `all`: every snapshot is written.
        every: checkpoints from one state that a stopped seed can go on from to the next; None: there is none.
        length: snapshots that a history holds.

    >>> snapshots, states = Retention("last", every=2, length=3).needed_to_resume([50, 100, 150, 200])
    >>> sorted(snapshots), sorted(states)
    ([50, 100, 150, 200], [100, 200])
    """

    weights: Literal["all", "last"]
    every: int | None
    length: int

    def has_state(self, number: int) -> bool:
        """Whether a state is written at a checkpoint."""
        return self.every is not None and number % self.every == 0

    def has_snapshot(self, number: int) -> bool:
        """Whether a snapshot is written there: of all, or of those in the history of a state then or later."""
        return self.weights == "all" or (self.every is not None and -number % self.every < self.length)

    def needed_to_resume(self, steps: Sequence[int], stop: int | None = None) -> tuple[set[int], set[int]]:
        """The checkpoints whose snapshots, and those whose optimizer states, a resume may need.

        Kept are the last two states, and one generation back a state whose history shares no snapshot with theirs: a
        damaged snapshot then costs a few checkpoints, not the run. Where states stand so far apart that the last two
        share none, those two are enough.

        Args:
            steps: the checkpoints so far, ascending.
            stop: where the run was told to stop and wrote a state, which stays until there is a newer one.
        """
        snapshots, states = self._regular(steps)
        if stop is None or stop not in steps or stop < max(states, default=0):
            return snapshots, states
        end = steps.index(stop) + 1
        return snapshots | set(steps[max(0, end - self.length) : end]), states | {stop}

    def _regular(self, steps: Sequence[int]) -> tuple[set[int], set[int]]:
        every, length = self.every, self.length
        if every is None:
            return set(), set()
        states = [number for number in range(1, len(steps) + 1) if self.has_state(number)]
        kept = set(states[-2:])
        if every < length and len(states) > 1:
            stride = -(-(length + 1) // every) * every
            anchors = [number for number in states if number % stride == 0]
            apart = [number for number in anchors if number <= states[-2] - length]
            kept |= {number for number in anchors if number >= (apart[-1] if apart else 1)}
        snapshots = {number for state in kept for number in range(max(1, state - length + 1), state + 1)}
        # Those of the state to come.
        snapshots |= set(range(max(1, len(steps) // every * every + every - length + 1), len(steps) + 1))
        return {steps[number - 1] for number in snapshots}, {steps[number - 1] for number in kept}
