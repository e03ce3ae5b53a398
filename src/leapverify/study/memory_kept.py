"""Copies of the moved tensors that a seed keeps from step to step: how many, in which type, and what for."""

from __future__ import annotations

from dataclasses import dataclass

from leapverify.predict import predictor
from leapverify.study.config import StudyConfig
from leapverify.study.derived import AVERAGED, MILESTONES, history_type, needs_of

FLOAT = 4


@dataclass(frozen=True)
class Kept:
    """Copies of one kind; all kinds lie where the ring does."""

    name: str
    copies: int
    itemsize: int
    """Bytes of an element."""
    reason: str


def kept(config: StudyConfig) -> tuple[Kept, ...]:
    """Every kind of which there is at least one copy, the ring first."""
    needs, size = needs_of(config), history_type(config).itemsize
    length, more = needs.snapshots, branch_snapshots(config)
    text = f"{length} snapshots" + (f" and {more} of cascades" if more else "")
    found = [Kept("ring", length + more, size, text)]
    if needs.recent:
        found.append(Kept("single steps", needs.recent, size, "that lead to a checkpoint"))
    if needs.averages:
        states = min(AVERAGED, len(config.checkpoint_steps))
        text = f"two in float32, and copies of both at {states} checkpoints"
        found.append(Kept("averages", 2 + 2 * states, FLOAT, text))
    if needs.milestones:
        states = min(MILESTONES, len(config.checkpoint_steps) + 1)
        found.append(Kept("early states", states, size, f"{states} from step 0 on"))
    return tuple(found)


def branch_snapshots(config: StudyConfig) -> int:
    """Snapshots beyond the history's that branches of it fill, and keep for the next branch."""
    c = config.cascade
    depth = max((depth for depth, _ in c.shapes), default=0)
    # The last link of a chain is not pushed: nothing goes on from it.
    chained = [min(predictor(name).needs.reach, depth - 1) for name in c.predictors] if "chained" in c.kinds else []
    trained = [predictor(name).needs.reach for name in c.trained_predictors] if "trained" in c.kinds else []
    return max([0, *chained, *trained]) if depth else 0
