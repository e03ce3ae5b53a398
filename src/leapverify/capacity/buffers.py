"""Copies of the moved tensors that a seed keeps from step to step: how many, in which type, and what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leapverify.capacity.activations import ModelShapes
from leapverify.config.resolved import Resolved
from leapverify.predict import predictor
from leapverify.trajectory.averages import AVERAGED
from leapverify.trajectory.milestones import MILESTONES

FLOAT = 4


@dataclass(frozen=True)
class BufferKind:
    """Copies of one kind; all kinds lie where the ring does."""

    name: str
    copies: int
    itemsize: int
    """Bytes of an element."""
    reason: str


def buffer_kinds(config: Resolved) -> tuple[BufferKind, ...]:
    """Every kind of which there is at least one copy, the ring first."""
    needs, size = config.needs, config.history_dtype.itemsize
    length, more = needs.snapshots, branch_snapshots(config)
    text = f"{length} snapshots" + (f" and {more} of cascades" if more else "")
    found = [BufferKind("ring", length + more, size, text)]
    if needs.recent:
        found.append(BufferKind("single steps", needs.recent, size, "that lead to a checkpoint"))
    if needs.averages:
        states = min(AVERAGED, len(config.checkpoint_steps))
        text = f"two in float32, and copies of both at {states} checkpoints"
        found.append(BufferKind("averages", 2 + 2 * states, FLOAT, text))
    if needs.milestones:
        states = min(MILESTONES, len(config.checkpoint_steps) + 1)
        found.append(BufferKind("early states", states, size, f"{states} from step 0 on"))
    return tuple(found)


def branch_snapshots(config: Resolved) -> int:
    """Snapshots beyond the history's that branches of it fill, and keep for the next branch."""
    c = config.cascade
    depth = max((depth for depth, _ in c.shapes), default=0)
    # The last link of a chain is not pushed: nothing goes on from it.
    chained = [min(predictor(name).needs.reach, depth - 1) for name in c.predictors] if "chained" in c.kinds else []
    trained = [predictor(name).needs.reach for name in c.trained_predictors] if "trained" in c.kinds else []
    return max([0, *chained, *trained]) if depth else 0


IN_FLIGHT = "saves in flight"
"""Name of the part that a plan has where saves overlap training."""
RING = "ring"


def copied_bytes(
    config: Resolved,
    shapes: ModelShapes,
    weight: int,
    buffer_kinds: Sequence[BufferKind],
    hosted: Callable[[Sequence[int], int], int],
) -> int:
    """Bytes of the copies that a thread writes while training goes on: they stay, to be used again.

    Args:
        config: the study.
        shapes: the model's.
        weight: bytes of a weight, and of a moment.
        kept: from `buffer_kinds`.
        hosted: elements of tensors, bytes of each -> bytes of host memory.
    """
    snapshots = config.snapshots
    if snapshots.every is None and snapshots.weights != "all":
        return 0
    total = shapes.total
    nbytes = hosted([total], weight)
    if snapshots.every is None:
        return nbytes
    nbytes += hosted([2 * total], weight)
    if config.observe.lyapunov:
        nbytes += hosted([3 * total], weight)
    spans = config.needs.recent > config.observe.interval_steps
    beside = [each for each in buffer_kinds if each.name != RING and (spans or each.name != "single steps")]
    elements = {size: sum(each.copies for each in beside if each.itemsize == size) for size in (2, FLOAT)}
    return nbytes + sum(hosted([count * sum(shapes.moved)], size) for size, count in elements.items() if count)


def written_bytes(config: Resolved, shapes: ModelShapes, weight: int) -> int:
    """Bytes of the copies that writing takes without overlap, of what does not lie in host memory."""
    if config.snapshots.every is None and config.snapshots.weights != "all":
        return 0
    return (3 if config.observe.lyapunov else 2) * shapes.total * weight
