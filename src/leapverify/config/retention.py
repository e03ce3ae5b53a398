"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def has_state(number: int, every: int | None) -> bool:
    """Whether a state is written at checkpoint `number`, counted from 1: at each `every`-th one, never for None."""
    return every is not None and number % every == 0


def in_a_ring(number: int, every: int | None, length: int) -> bool:
    """Whether the snapshot of checkpoint `number` belongs to the history of a state, that of its own or a later one."""
    return every is not None and -number % every < length


def needed_to_resume(steps: Sequence[int], length: int, every: int | None = 1) -> tuple[set[int], set[int]]:
    """The checkpoints whose snapshots, and those whose optimizer states, a resume may need.

    Kept are the last two states, and one generation back a state whose history shares no snapshot with theirs: a
    damaged snapshot then costs a few checkpoints, not the run. Where states stand so far apart that the last two share
    none, those two are enough.

    Args:
        steps: the checkpoints so far, ascending.
        length: snapshots that a history holds.
        every: checkpoints from one state to the next; None: there is none.
    """
    if every is None:
        return set(), set()
    numbers = range(1, len(steps) + 1)
    states = [number for number in numbers if has_state(number, every)]
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


def with_stop(
    snapshots: set[int], states: set[int], steps: Sequence[int], length: int, stop: int | None
) -> tuple[set[int], set[int]]:
    """`needed_to_resume` and the state that was written where a run was told to stop, until there is a newer one.

    Args:
        snapshots, states: from `needed_to_resume`.
        steps, length: as there.
        stop: the step of that state; None: there is none.
    """
    if stop is None or stop not in steps or stop < max(states, default=0):
        return snapshots, states
    ring = steps[max(0, steps.index(stop) + 1 - length) : steps.index(stop) + 1]
    return snapshots | set(ring), states | {stop}
