"""Steps that leave no trace: train on from a state, then have that state back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.train.state import capture_rng, restore_rng


@contextmanager
def branch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Do anything to the model and its optimizer inside; weights, buffers, moments, rates and RNG streams come back.

    Costs one copy of the weights and two of the moments for as long as it lasts.
    """
    tensors = [*model.parameters(), *model.buffers(), *_state_tensors(optimizer)]
    with torch.no_grad():
        kept = [tensor.detach().clone() for tensor in tensors]
    rates = [group["lr"] for group in optimizer.param_groups]
    training = model.training
    streams = capture_rng()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        model.train(training)
        restore_rng(streams)


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    states: list[dict[str, Any]] = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]
