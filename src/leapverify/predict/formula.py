"""A predictor that is a function of a checked request: what most files of this folder return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.trajectory.history import History


@dataclass(frozen=True)
class Formula:
    """A `Predictor` from its name, what it needs, and the function that writes theta_hat."""

    name: str
    needs: Needs
    write: Callable[[Request], object]
    """Writes theta_hat into `request.out`."""
    read: Callable[[Request], object] | None = None
    """Reads from the device what `write` has to know on the host; its result is kept until the next push."""
    operations: Callable[[History], float] | None = None
    """Floating-point operations of a prediction's network; None: it has no network."""

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        self.write(request)
        return request.out

    @torch.no_grad()
    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        if self.read is not None:
            self.read(require_request(self.needs, history, 1, out))
