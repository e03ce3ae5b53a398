"""How far NiNo looks ahead: k in spacings of the snapshots, and which of its 40 columns that is."""

from __future__ import annotations

import math

import numpy as np

from leapverify.errors import Declined

REACH = 40
"""Columns of the networks' last layer: the furthest k."""


def published_k(planned_steps: int, period_steps: int = 1000) -> tuple[int, ...]:
    """k at each of the jumps of a run: round(linspace(sqrt 40, 1, max(1, T // period))^2).

    Args:
        planned_steps: T.
        period_steps: between jumps; the snapshots lie period / 5 apart.

    Raises:
        ValueError: no step, or no period.
    """
    if planned_steps < 1 or period_steps < 1:
        raise ValueError(f"{planned_steps} steps with a jump every {period_steps} are no plan: use at least 1 of each")
    count = max(1, planned_steps // period_steps)
    return tuple(int(each) for each in (np.linspace(math.sqrt(REACH), 1, count) ** 2).round())


def columns(k: float) -> tuple[tuple[int, float], ...]:
    """Columns, counted from 0, and their shares: between whole k the outputs are joined linearly; k = 0 is no change.

    Outputs are linear in the rows of the last layer, so one row, the sum of shares times rows, gives the joined output.

    Args:
        k: above 0, at most 40.
    """
    below = math.floor(k)
    share = k - below
    return tuple(
        (number - 1, each) for number, each in ((below, 1 - share), (below + 1, share)) if number >= 1 and each > 0
    )


def ahead(horizon: int, spacing: int, fixed: int | None) -> float:
    """k of a request: K / spacing, or the one that is set.

    Raises:
        Declined: more than the networks reach.
    """
    if fixed is not None:
        return float(fixed)
    if horizon > REACH * spacing:
        raise Declined(
            f"reaches {REACH} spacings on, that is {REACH * spacing} steps, and not {horizon}: predict fewer steps, or "
            "space the snapshots wider"
        )
    return horizon / spacing


def require_k(k: int | None) -> int | None:
    """A k that the networks have a column for.

    Raises:
        ValueError: another.
    """
    if k is not None and not 1 <= k <= REACH:
        raise ValueError(f"k = {k} is not a column of NiNo: use 1 to {REACH}, or none for K / spacing")
    return k
