"""Acceptance criteria on two mean held-out losses, and what a prediction was worth (SPEC 5).

A loss that is not a number never passes: every comparison with NaN is false. Losses are in nats per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def strict(loss_now: float, loss_predicted: float) -> bool:
    """Whether the prediction lowers the loss: L_hat < L_t."""
    return loss_predicted < loss_now


def adaptive(loss_now: float, loss_predicted: float, sigma: float) -> bool:
    """Whether the prediction stays within the loss's recent spread: L_hat < L_t + sigma.

    Args:
        loss_now: L_t, nats per token.
        loss_predicted: L_hat, nats per token.
        sigma: what `recent_sigma` gives for the checkpoints up to t, nats per token.

    Raises:
        ValueError: sigma is negative or not finite.
    """
    if not 0.0 <= sigma < math.inf:
        raise ValueError(f"sigma = {sigma} is no standard deviation: give a finite number that is at least 0")
    return loss_predicted < loss_now + sigma


def proximity(loss_now: float, loss_predicted: float, epsilon: float = 0.05) -> bool:
    """Whether the loss hardly changes: abs(L_hat - L_t) < epsilon L_t.

    Raises:
        ValueError: epsilon is not above 0.
    """
    if not epsilon > 0.0:
        raise ValueError(f"epsilon = {epsilon} admits no loss at all: give a share above 0, such as 0.05")
    return abs(loss_predicted - loss_now) < epsilon * loss_now


def recent_sigma(losses: Sequence[float], window: int = 10) -> float:
    """Sample standard deviation of the held-out losses of the last checkpoints, the margin of `adaptive`.

    sigma = sqrt(sum_i (L_i - mean)^2 / (w - 1)) over the last w = min(window, len(losses)) losses.

    Args:
        losses: held-out losses of the checkpoints up to and including now, oldest first, nats per token.
        window: w, checkpoints.

    Returns:
        sigma; 0.0 with fewer than two finite losses in the window, so that `adaptive` is then `strict`.

    Raises:
        ValueError: the window is shorter than two checkpoints.
    """
    if window < 2:
        raise ValueError(f"window = {window} checkpoints have no standard deviation: give at least 2")
    recent = [loss for loss in losses[-window:] if math.isfinite(loss)]
    return float(np.std(recent, ddof=1)) if len(recent) > 1 else 0.0


def gain_fraction(loss_now: float, loss_predicted: float, loss_actual: float | None) -> float | None:
    """Share of the real gain that the prediction reached: g = (L_t - L_hat) / (L_t - L_{t+K}).

    Args:
        loss_now: L_t, nats per token.
        loss_predicted: L_hat, nats per token.
        loss_actual: L_{t+K} after K real steps; None where the run ended before.

    Returns:
        g; None where it has no meaning: L_{t+K} is unknown, a loss is not finite, or the run itself did not
        improve (L_{t+K} >= L_t), where a ratio would turn its sign or divide by nothing.
    """
    if loss_actual is None or not all(map(math.isfinite, (loss_now, loss_predicted, loss_actual))):
        return None
    improvement = loss_now - loss_actual
    return (loss_now - loss_predicted) / improvement if improvement > 0.0 else None


def steps_gained(
    step: int,
    loss_now: float,
    loss_predicted: float,
    curve_steps: Sequence[int],
    curve_losses: Sequence[float],
) -> int | None:
    """How many real steps from t the run needed to first reach L_hat.

    min{u > t : L_u <= L_hat} - t over the measured steps u; 0 if L_hat >= L_t or L_hat is not a number.

    Args:
        step: t.
        loss_now: L_t, nats per token.
        loss_predicted: L_hat, nats per token.
        curve_steps: measured steps of the run, in any order.
        curve_losses: held-out losses at those steps, nats per token.

    Returns:
        The number of steps; None if no measured step after t reached L_hat.

    Raises:
        ValueError: steps and losses differ in number.
    """
    if len(curve_steps) != len(curve_losses):
        raise ValueError(f"{len(curve_steps)} steps and {len(curve_losses)} losses make no curve: give one loss a step")
    if not loss_predicted < loss_now:
        return 0
    reached = (u for u, loss in zip(curve_steps, curve_losses, strict=True) if u > step and loss <= loss_predicted)
    first = min(reached, default=None)
    return None if first is None else first - step
