"""The local Lyapunov exponent: a second copy of the run, perturbed, on the same batches (SPEC 3).

lambda = (1/n) ln(|delta_n| / |delta_0|) per step; after n steps the difference is scaled back to |delta_0| along the
direction into which it has grown, moments included, so that the copy follows the run's own tangent.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from leapverify.core.weights import distance, norm
from leapverify.train.state import capture_rng, restore_rng

Step = Callable[[nn.Module, torch.optim.Optimizer], Tensor]


class Shadow:
    """The perturbed copy of a run.

    Args:
        model: the run's model at step 0; copied.
        make_optimizer: builds the copy's optimizer from its parameters, as the run's was built.
        epsilon: |delta_0| relative to the norm of the weights.
        seed: of the random direction.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        epsilon: float,
        seed: int,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.parameters)
        self._size = epsilon * norm(self.parameters)
        self._perturb(seed)

    def _perturb(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=generator).to(p) for p in self.parameters]
        scale = self._size / norm(direction)
        with torch.no_grad():
            for parameter, step in zip(self.parameters, direction, strict=True):
                parameter.add_(step, alpha=scale)

    def step_with(self, step: Step) -> None:
        """The step of the copy; the run's own step, taken next, draws the same random numbers (dropout masks).

        Args:
            step: the step that the run is about to take, as a function of model and optimizer.
        """
        streams = capture_rng()
        step(self.model, self.optimizer)
        restore_rng(streams)

    def exponent(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
        """lambda per step over the last `steps`, then scale the difference back to its first size."""
        run = [parameter for parameter in model.parameters() if parameter.requires_grad]
        grown = distance(self.parameters, run)
        if not grown > 0.0 or not math.isfinite(grown):
            return math.nan
        exponent = math.log(grown / self._size) / steps
        self._rescale(run, optimizer, self._size / grown)
        return exponent

    @torch.no_grad()
    def _rescale(self, run: list[nn.Parameter], optimizer: torch.optim.Optimizer, factor: float) -> None:
        for own, other in zip(self.parameters, run, strict=True):
            own.copy_(torch.lerp(other, own, factor))
            mine, theirs = self.optimizer.state[own], optimizer.state[other]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in mine:
                    mine[name].copy_(torch.lerp(theirs[name], mine[name], factor))
            if "exp_avg_sq" in mine:
                mine["exp_avg_sq"].clamp_(min=0.0)
