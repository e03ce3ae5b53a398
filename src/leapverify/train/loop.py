"""One training step; everything around it (when to observe, save, stop) belongs to the caller."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from leapverify.train.batches import Batch
from leapverify.train.losses import mean_loss

MeanLoss = Callable[[nn.Module, Batch], Tensor]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    lr: float,
    *,
    grad_clip: float | None = 1.0,
    loss: MeanLoss = mean_loss,
) -> Float32[Tensor, ""]:
    """Forward, backward, clip, step; nothing waits for the device, so the caller looks at the loss when it likes.

    Gradients are let go of at the end: they would lie beside all that is done between two steps.

    Args:
        model: in training mode, without gradients.
        optimizer: over the model's parameters.
        batch: on the model's device.
        lr: eta of this step, for every group.
        grad_clip: largest norm of all gradients together; None leaves them.
        loss: what to lower.

    Returns:
        The loss before the step, nats per token, detached.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    found = loss(model, batch)
    found.backward()  # type: ignore[no-untyped-call]
    if grad_clip is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found.detach()
