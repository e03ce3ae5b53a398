"""What saving a checkpoint takes of host memory, with and without overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leapverify.study.config import StudyConfig
from leapverify.study.derived import needs_of
from leapverify.study.memory_kept import FLOAT, Kept
from leapverify.study.memory_sizes import Shapes

IN_FLIGHT = "saves in flight"
"""Name of the part that a plan has where saves overlap training."""
RING = "ring"


def copied_bytes(
    config: StudyConfig,
    shapes: Shapes,
    weight: int,
    kept: Sequence[Kept],
    hosted: Callable[[Sequence[int], int], int],
) -> int:
    """Bytes of the copies that a thread writes while training goes on: they stay, to be used again.

    Args:
        config: the study.
        shapes: the model's.
        weight: bytes of a weight, and of a moment.
        kept: from `kept`.
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
    spans = needs_of(config).recent > config.observe.interval_steps
    beside = [each for each in kept if each.name != RING and (spans or each.name != "single steps")]
    elements = {size: sum(each.copies for each in beside if each.itemsize == size) for size in (2, FLOAT)}
    return nbytes + sum(hosted([count * sum(shapes.moved)], size) for size, count in elements.items() if count)


def written_bytes(config: StudyConfig, shapes: Shapes, weight: int) -> int:
    """Bytes of the copies that writing takes without overlap, of what does not lie in host memory."""
    if config.snapshots.every is None and config.snapshots.weights != "all":
        return 0
    return (3 if config.observe.lyapunov else 2) * shapes.total * weight
