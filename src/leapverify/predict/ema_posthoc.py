"""`ema-posthoc`: a running average of a width that nobody kept, from averages of two other widths."""

from __future__ import annotations

from leapverify.core.pinned import copy_ahead
from leapverify.errors import Declined
from leapverify.predict.combination import chained, combine
from leapverify.predict.formula import Formula
from leapverify.predict.predictor import Needs, Request
from leapverify.trajectory.averages import Profile, exponent, mixture


def ema_posthoc(width: float = 0.15) -> Formula:
    """sum_i x_i theta_bar_i, the power average of a relative width, put together from averages that were kept.

    theta_bar_i are the two running averages of `PowerAverages`, as they were at some states of the run. x, of sum 1, is
    the least-squares solution for the profile tau^gamma of the width wanted (see `mixture`). K plays no part. With 8
    copies of each average a width of 0.15 is met to within 9 % of the profile's norm, 6 % on average, from 20 states
    on. The widths that are kept, 0.05 and 0.10, are met exactly.

    Source: Karras et al., CVPR 2024 ("Analyzing and improving the training dynamics of diffusion models").
    Claim: the quality of image diffusion models depends sharply on the width, and the best one can be picked after
    training.
    Cost: a read of every copy that the solution uses and a write; the run keeps 2 + 2 x copies float32 states.

    Args:
        width: relative to the run's length, above 0.

    Raises:
        ValueError: no power average has that width.

    Example:
        >>> round(exponent(0.15), 2)  # gamma
        3.56
    """
    gamma = exponent(width)
    return Formula("ema-posthoc", Needs(1, averages=True, horizon=False), lambda request: _write(request, gamma))


def _write(request: Request, gamma: float) -> None:
    averages, step = request.history.averages, request.snapshots[0].step
    assert averages is not None  # `require_request` has looked
    if averages.step != step:
        ends = "are empty" if averages.step is None else f"end at step {averages.step}"
        raise Declined(f"needs running averages up to step {step}, these {ends}")
    states = averages.states
    x, _ = mixture([each.profile for each in states], Profile(averages.count, gamma))
    # Positive factors first: then their partial sums stay positive, as `chained` needs them.
    order = [i for i in sorted(range(len(x)), key=lambda i: -x[i]) if x[i]]
    points = [states[i].tensors for i in order]
    if len(points) == 1:
        copy_ahead(request.out, points[0])
    else:
        combine(request.out, points, chained([x[i] for i in order[1:]]))
