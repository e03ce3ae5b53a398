"""What predictors read beside snapshots, such as held-out losses; kept or drawn only where a predictor needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.core.weights import Tensors
from leapverify.errors import Declined
from leapverify.verify.distributed import SharedLoss
from leapverify.verify.sampling import Exhausted
from leapverify.verify.selection import BatchGradients, HeldoutSelection


class HeldoutSampler:
    """Held-out losses and gradients of one checkpoint, on batches that are drawn when a predictor first asks for them.

    The batches come from the attempt's own draw, which gives none twice within a checkpoint: what a predictor has
    chosen or descended on is never what its prediction is verified on. A prediction that is made again finds the same
    batches. Losses and gradients are taken in eval mode and leave no trace: modes, buffers, random streams and the
    gradients of the user's training stay bit-identical.

    On several ranks each takes its own batch, and all get the same mean of the gradients, weighted by tokens.

    Args:
        model: the model.
        parameters: those that the history holds, in its order; whole ones where gradients are asked for.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), of all shares where there are several.
        draw: gives a fresh held-out batch; raises `Exhausted` rather than give one again.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[Tensor], loss: SharedLoss, draw: Callable[[], Any]
    ) -> None:
        self._model, self._parameters, self._loss, self._draw = model, parameters, loss, draw
        self._tokens = 1.0
        self._selection: HeldoutSelection | None = None
        self._gradients: BatchGradients | None = None
        self._batches: list[Any] = []

    @property
    def positions(self) -> int:
        """Forward positions that everything so far came to; a gradient counts three times its batch."""
        return sum(each.positions for each in (self._selection, self._gradients) if each is not None)

    def loss(self, weights: Tensors) -> float:
        """Mean held-out loss with these weights in the model, nats per token, always on the same batch.

        Raises:
            Declined: no fresh batch is left.
        """
        if self._selection is None:
            self._selection = HeldoutSelection(self._model, self._parameters, self._loss, [self._fresh()])
        return self._selection.loss(weights)

    def gradient(self, weights: Tensors, draw: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Loss and gradients with these weights in the model, on the batch of a number.

        Raises:
            Declined: no fresh batch is left.
        """
        if self._gradients is None:
            self._gradients = BatchGradients(self._model, self._parameters, self._mean, self._batch)
        loss, gradients = self._gradients.gradient(weights, draw)
        return (loss, gradients) if self._loss.ranks.alone else self._mean_of_ranks([loss, *gradients])

    def _mean_of_ranks(self, found: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        flat = torch.cat([each.reshape(-1).double() for each in found])
        sums = self._loss.ranks.sum("gradients", torch.cat([flat * self._tokens, flat.new_tensor([self._tokens])]))
        parts = torch.split((sums[:-1] / sums[-1]).float(), [each.numel() for each in found])
        loss, *gradients = (part.view(each.shape) for part, each in zip(parts, found, strict=True))
        return loss, gradients

    def _mean(self, model: nn.Module, batch: Any) -> Tensor:
        """Token-weighted mean loss of a batch, with its graph."""
        losses, tokens = found if isinstance(found := self._loss.own(model, batch), tuple) else (found, None)
        if not isinstance(losses, Tensor) or not losses.requires_grad:
            raise Declined("needs gradients, the loss function returns a number without any")
        self._tokens = float(losses.numel() if tokens is None else tokens.sum())
        return losses.mean() if tokens is None else (losses * tokens).sum() / tokens.sum()

    def _batch(self, draw: int) -> Any:
        while len(self._batches) <= draw:
            self._batches.append(self._fresh())
        return self._batches[draw]

    def _fresh(self) -> Any:
        try:
            return self._draw()
        except Exhausted as error:
            raise Declined("needs a fresh held-out batch, this checkpoint has used all that it may") from error
