"""Regime agreement across seeds, in both forms, beside what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from leapverify.analysis.study.timelines import by_seed, common_steps
from leapverify.io.records import Checkpoint


@dataclass(frozen=True, slots=True)
class Agreement:
    """Do seeds carry the same regime label at the same step?"""

    modal: float | None
    """Mean over checkpoints of the share of seeds in the most common regime (the paper's number)."""
    unanimous: float | None
    """Share of checkpoints at which all seeds agree (the paper's words)."""
    modal_chance: tuple[float, float, float] | None
    """Mean, 2.5 % and 97.5 % quantile of `modal` with each seed's labels shifted circularly in time."""
    unanimous_chance: tuple[float, float, float] | None
    n: int
    """Checkpoints."""
    seeds: int
    reason: str | None


def agreement(checkpoints: Sequence[Checkpoint], *, shuffles: int = 200, seed: int = 0) -> Agreement:
    """Regime agreement in both forms, over the steps that all seeds recorded, the `unknown` first one included.

    modal = mean_t max_r share of seeds in r;  unanimous = mean_t [all seeds in one r]. Chance: each seed's labels are
    shifted circularly by a random number of checkpoints (those where every seed is `unknown` stay), which keeps how
    much of each regime a seed has and how long it lasts, and forgets when.

    Args:
        checkpoints: the records of all seeds.
        shuffles: random shifts; 0 leaves the chance levels out.
        seed: of the shifts.

    Returns:
        The agreement; None with a reason for fewer than two seeds, or no common step.

    Source: Leap+Verify, Table 5; the paper's figures are multiples of 1/200 and 1/160, so they are the modal form.
    """
    seeds = by_seed(checkpoints)
    steps = common_steps(seeds)
    if len(seeds) < 2 or not steps:
        reason = "one seed cannot agree with another" if len(seeds) < 2 else "the seeds share no step"
        return Agreement(None, None, None, None, len(steps), len(seeds), reason)
    labels = np.array([[of_seed[step].regime for step in steps] for of_seed in seeds.values()])
    codes = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    (modal,), (unanimous,) = agreement_of(codes[None])
    if shuffles == 0:
        return Agreement(float(modal), float(unanimous), None, None, len(steps), len(seeds), None)
    moving = ~(labels == "unknown").all(axis=0)
    shuffled = np.tile(codes, (shuffles, 1, 1))
    shuffled[:, :, moving] = _shifted(codes[:, moving], shuffles, np.random.default_rng(seed))
    chance_modal, chance_unanimous = agreement_of(shuffled)
    return Agreement(
        float(modal), float(unanimous), _range(chance_modal), _range(chance_unanimous), len(steps), len(seeds), None
    )


def _shifted(
    codes: Int[np.ndarray, "seeds checkpoints"], shuffles: int, generator: np.random.Generator
) -> Int[np.ndarray, "shuffles seeds checkpoints"]:
    seeds, length = codes.shape
    shifts = generator.integers(max(length, 1), size=(shuffles, seeds, 1))
    places = (np.arange(length) + shifts) % max(length, 1)
    return codes[np.arange(seeds)[None, :, None], places]


def agreement_of(
    codes: Int[np.ndarray, "shuffles seeds checkpoints"],
) -> tuple[Float[np.ndarray, " shuffles"], Float[np.ndarray, " shuffles"]]:
    """Modal and unanimous agreement of labels that are given as integers."""
    same = codes[:, :, None, :] == codes[:, None, :, :]  # (shuffles, seeds, seeds, checkpoints)
    share = same.mean(axis=-2).max(axis=-2)  # the most common regime is that of the seed with most company
    return share.mean(axis=-1), (share == 1.0).mean(axis=-1)


def _range(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)
