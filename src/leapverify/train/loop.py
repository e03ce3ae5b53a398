"""One training step; everything around it (when to observe, save, stop) belongs to the caller."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from leapverify.train.losses import mean_loss
from leapverify.train.windows import Batch


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    lr: float,
    *,
    grad_clip: float | None = 1.0,
    autocast: torch.dtype | None = None,
    count_padding: bool = False,
) -> Float32[Tensor, ""]:
    """Forward, backward, clip, step; nothing waits for the device, so the caller looks at the loss when it likes.

    Args:
        model: in training mode.
        optimizer: over the model's parameters.
        batch: on the model's device.
        lr: eta of this step, for every group.
        grad_clip: largest norm of all gradients together; None leaves them.
        autocast: precision of the forward pass; the weights' own by default.
        count_padding: train on predictions of padding too.

    Returns:
        The loss before the step, nats per token, detached.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss = mean_loss(model, batch, count_padding=count_padding, autocast=autocast)
    loss.backward()  # type: ignore[no-untyped-call]
    if grad_clip is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()
    return loss.detach()


def compile_body(model: nn.Module, **options: Any) -> None:
    """Compile the model's body in place; parameter names, hooks and the module itself stay what they are.

    The losses call the body and the head apart, so compiling the whole would leave the training step as it was.

    Args:
        model: a language model of `transformers`, or any other module, which is then compiled as a whole.
        options: as for `torch.compile`.
    """
    getattr(model, "base_model", model).compile(**options)
