"""theta_t + d1 sum_{i=1..K} rho^i / Delta: the line through the last two snapshots, its slope shrinking each step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.predict import Needs, Workspace, apply, require_request
from leapverify.trajectory.history import History

NEEDS = Needs(snapshots=2)


@dataclass(frozen=True)
class Damped:
    """theta_t + d1 sum_{i=1..K} rho^i / Delta; what stands here is what `leapverify predictors damped` says."""

    rho: float = 0.98
    name: str = "damped"
    needs: Needs = NEEDS

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Sequence[Tensor] | None = None) -> Sequence[Tensor]:
        """theta_hat, K = horizon steps on."""
        request = require_request(self.needs, history, horizon, out)
        now, before = (snapshot.tensors for snapshot in request.snapshots)
        s = sum(self.rho**i for i in range(1, horizon + 1)) / request.lags[1]

        def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace) -> None:
            torch.lerp(pieces[0], pieces[1], -s, out=result)  # theta_t - s (theta_{t-Delta} - theta_t)

        for target, *inputs in zip(request.out, now, before, strict=True):
            apply(kernel, target, inputs, Workspace(request.out))
        return request.out
