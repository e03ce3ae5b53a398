"""Held-out losses and gradients that predictors may ask for while they look for a prediction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.core.shards import is_spread, local, reshard
from leapverify.core.undisturbed import undisturbed
from leapverify.core.weights import Tensors, copy_, require_same_shapes
from leapverify.verify.comparison import positions_of
from leapverify.verify.heldout import LossFunction
from leapverify.verify.passes import fetch, forward

GRADIENT_PASSES = 3
"""Forward passes that a gradient costs as much as: its own, and a backward pass of two products for each of its one."""


class HeldoutSelection:
    """Mean loss of candidates on a few held-out batches, which the verifier should not read: see `Selection`.

    Args:
        model: holds the parameters; it is left undisturbed.
        parameters: in the order of the history's tensors; of DTensors, as the model holds them at this time, the local
            parts are meant.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), nats per token; over several ranks one that gives all
            of them the same numbers (`SharedLoss`), so that they choose alike.
        batches: on the model's device.

    Raises:
        ValueError: no batches.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[Tensor], loss: LossFunction, batches: Sequence[Any]
    ) -> None:
        if not batches:
            raise ValueError("there is nothing to choose candidates by (0 batches): give at least one held-out batch")
        self._model, self._loss, self._batches = model, loss, list(batches)
        self._parameters = [local(each) for each in parameters]
        self._each = sum(map(positions_of, self._batches))
        self.positions = 0
        """Positions run forward so far; whoever counts costs reads it and sets it back to 0."""

    def loss(self, weights: Tensors) -> float:
        """Token-weighted mean loss with these weights in the model, nats per token; the host waits for it.

        Args:
            weights: of the parameters' shapes; those that are the parameters are measured where they are, others are
                copied into the model, which has its own bits back afterwards.

        Raises:
            ValueError: other shapes, or a loss function that returns something else.
        """
        reshard(self._model)
        with standing_in(self._parameters, weights):
            try:
                sent = forward(self._model, self._loss, self._batches, sys.maxsize)
            finally:
                reshard(self._model)
        self.positions += self._each
        (ran,), _ = fetch([sent])
        return float((ran.losses * ran.tokens).sum() / ran.tokens.sum())


class BatchGradients:
    """Loss and gradients on training batches by their number: see `Gradients`.

    The model runs in eval mode: without dropout the same weights and the same draw give the same bits.

    Args:
        model: holds the parameters; its modes, buffers, random streams and `.grad` are left as they are.
        parameters: in the order of the history's tensors; each requires a gradient, and is whole.
        loss: (model, batch) -> scalar mean loss, differentiable.
        batch_of: the batch of a draw, on the model's device; the same one for the same number until the next push.

    Raises:
        ValueError: a parameter that ranks hold in parts.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[Tensor],
        loss: Callable[[nn.Module, Any], Tensor],
        batch_of: Callable[[int], Any],
    ) -> None:
        if is_spread(parameters):
            raise ValueError(
                "gradients are not taken of parameters that ranks hold in parts: use other predictors there"
            )
        self._model, self._parameters, self._loss, self._batch_of = model, list(parameters), loss, batch_of
        self.positions = 0
        """Positions run so far, three for each of a batch; whoever counts costs reads it and sets it back to 0."""

    def gradient(self, weights: Tensors, draw: int) -> tuple[Tensor, Sequence[Tensor]]:
        """The mean loss with these weights in the model, a scalar, and its gradients, float32, both on its device.

        Args:
            weights: as for `HeldoutSelection.loss`.
            draw: number of the batch.

        Raises:
            ValueError: other shapes.
        """
        batch = self._batch_of(draw)
        # DistributedDataParallel would wait for a backward pass that ends in `.grad`.
        alone = self._model.no_sync() if isinstance(self._model, nn.parallel.DistributedDataParallel) else nullcontext()
        with standing_in(self._parameters, weights), undisturbed(self._model), alone, torch.enable_grad():
            loss = self._loss(self._model, batch)
            found = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        self.positions += GRADIENT_PASSES * positions_of(batch)
        # Those of an embedding may come sparse.
        return loss.detach(), [each.to_dense().float() if each.is_sparse else each.float() for each in found]


@contextmanager
def standing_in(parameters: Sequence[Tensor], weights: Tensors) -> Iterator[None]:
    """Run a block with other weights in the parameters, which have their own bits back afterwards.

    Weights that lie in the memory of their parameter are there already, and nothing is copied for them.

    Raises:
        ValueError: other shapes.
    """
    require_same_shapes(parameters, weights, "the candidate")
    strangers = [(own, other) for own, other in zip(parameters, weights, strict=True) if not _same(own, other)]
    kept = [own.detach().clone() for own, _ in strangers]
    # Cloned too where a weight shares memory with a parameter that is about to be written.
    places = {own.untyped_storage().data_ptr() for own, _ in strangers}
    others = [other.clone() if other.untyped_storage().data_ptr() in places else other for _, other in strangers]
    owns = [own for own, _ in strangers]
    try:
        copy_(owns, others)
        yield
    finally:
        copy_(owns, kept)


def _same(own: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape are the same memory, read in the same way."""
    if own is other:
        return True
    return (
        own.data_ptr() == other.data_ptr()
        and own.stride() == other.stride()
        and own.dtype == other.dtype
        and own.device == other.device
    )
