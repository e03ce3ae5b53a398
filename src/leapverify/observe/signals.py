"""Two recognizers cheaper than a fingerprint: straightness of the path, and curvature of the loss curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from leapverify.core.shards import Shards

_BLOCK = 1 << 20
"""Elements converted to float64 at a time, so that no whole tensor is copied."""


def straightness(
    theta_t: Sequence[Float[Tensor, " ..."]],
    theta_1: Sequence[Float[Tensor, " ..."]],
    theta_2: Sequence[Float[Tensor, " ..."]],
    *,
    shards: Shards | None = None,
) -> float:
    """Straightness c_t = cos(theta_t - theta_{t-Delta}, theta_{t-Delta} - theta_{t-2Delta}), between -1 and 1.

    Args:
        theta_t: the weights now, any shapes.
        theta_1: the weights one checkpoint ago, the same shapes.
        theta_2: the weights two checkpoints ago, the same shapes.
        shards: how the weights are spread over ranks, which then all call this; None: they are whole.

    Returns:
        The cosine over all tensors together, accumulated in float64; NaN where a displacement is zero or not finite.

    Raises:
        ValueError: the three lists do not have the same shapes.
    """
    _check_shapes(theta_t, theta_1, theta_2)
    device = theta_t[0].device
    each = torch.stack([_products(*three).to(device) for three in zip(theta_t, theta_1, theta_2, strict=True)])
    sums = each if shards is None else shards.sum("straightness", each)
    dot, new, old = sums.sum(0).tolist()
    if not (math.isfinite(dot) and new > 0.0 and old > 0.0):
        return math.nan
    return max(-1.0, min(1.0, dot / (math.sqrt(new) * math.sqrt(old))))


def _products(now: Tensor, before: Tensor, earlier: Tensor) -> Float[Tensor, " 3"]:
    """The dot product and the two squared norms of a tensor's last two displacements, in float64."""
    sums = torch.zeros(3, dtype=torch.float64, device=now.device)
    flat = (tensor.detach().reshape(-1) for tensor in (now, before, earlier))
    for a, b, c in zip(*(torch.split(tensor, _BLOCK) for tensor in flat), strict=True):
        middle = b.double()
        new, old = a.double() - middle, middle - c.double()
        sums += torch.stack([new @ old, new @ new, old @ old])
    return sums


def _check_shapes(theta_t: Sequence[Tensor], theta_1: Sequence[Tensor], theta_2: Sequence[Tensor]) -> None:
    counts = (len(theta_t), len(theta_1), len(theta_2))
    if len(set(counts)) != 1 or counts[0] == 0:
        raise ValueError(f"the three sets of weights hold {counts} tensors: give the same tensors three times")
    for i, tensors in enumerate(zip(theta_t, theta_1, theta_2, strict=True)):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(set(shapes)) != 1:
            raise ValueError(f"tensor {i} has shapes {shapes} in the three sets of weights: give the same tensors")


def loss_curvature(losses: Sequence[float]) -> float | None:
    """Second difference of the loss curve, L_t - 2 L_{t-Delta} + L_{t-2Delta}, nats per token.

    Args:
        losses: held-out losses of the checkpoints up to now, oldest first.

    Returns:
        The second difference of the last three; None with fewer.
    """
    if len(losses) < 3:
        return None
    earlier, before, now = losses[-3:]
    return now - 2.0 * before + earlier
