"""Several seeds of one small model trained as one: every weight stacked along a new first dimension.

A narrow model leaves a processor waiting for its own operations to be issued; stacked, S seeds issue as many as one.
The seeds share nothing: batches, gradients, clipping and moments are each seed's own, and the losses are those of
separate runs within float rounding. For models that draw nothing at random (dropout 0), in float32 or under autocast,
with what can be mapped over: language models of `transformers` and plain modules, attention without flash kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from leapverify.train.losses import static_token_losses

MakeOptimizer = Callable[[list[Any]], torch.optim.Optimizer]


class Stacked:
    """Models of one architecture and their optimizer, stacked; the models themselves are left as they are.

    What is frozen in them stays frozen.

    Args:
        models: one per seed; their present weights are copied.
        make_optimizer: an optimizer over the stacked parameters that works element by element, such as AdamW, and
            beginning anew.
        grad_clip: largest norm of the gradients of each seed; None leaves them.
        autocast: precision of the forward pass; the weights' own by default.

    Raises:
        ValueError: no model, parameters of different shapes or types or frozen in one model only, or a model that
            would draw dropout masks.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        make_optimizer: MakeOptimizer,
        *,
        grad_clip: float | None = 1.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        _check(models)
        stacked, self._buffers = stack_module_state(list(models))
        self.parameters: dict[str, Tensor] = {
            name: nn.Parameter(value.detach(), requires_grad=value.requires_grad) for name, value in stacked.items()
        }
        self.optimizer = make_optimizer(list(self.parameters.values()))
        # Only lends its structure: in a call, the weights of a seed stand in the place of its own.
        self._call = _Call(models[0], autocast)
        self._grad_clip = grad_clip
        self._losses = vmap(self._one)

    def step(self, tokens: Int64[Tensor, "s b t"], lr: float) -> Float32[Tensor, " s"]:
        """One step of every seed on batches without padding; the losses before it, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = self.losses(tokens)
        # The weights of a seed are in its own loss only, so the gradient of the sum is every seed's own.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        if self._grad_clip is not None:
            self._clip(self._grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    def losses(self, tokens: Int64[Tensor, "s b t"]) -> Float32[Tensor, " s"]:
        """Every seed's mean loss on its own batch."""
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be mapped over
            return self._losses(self.parameters, self._buffers, tokens)

    def weights(self, seed: int) -> dict[str, Tensor]:
        """Weights of the seed that stands at this place, sharing memory with the stack."""
        return {name: value.detach()[seed] for name, value in self.parameters.items()}

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return functional_call(
            self._call, {f"model.{name}": value for name, value in (parameters | buffers).items()}, (tokens,)
        )

    @torch.no_grad()
    def _clip(self, largest: float) -> None:
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        squares = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0)
        scale = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


class _Call(nn.Module):
    """The mean loss of a model, as a module."""

    def __init__(self, model: nn.Module, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.model, self._autocast = model, autocast

    def forward(self, tokens: Tensor) -> Tensor:
        return static_token_losses(self.model, tokens, self._autocast).mean()


def _check(models: Sequence[nn.Module]) -> None:
    if not models:
        raise ValueError("0 models leave nothing to stack: give at least one")
    kinds = [
        {name: (value.shape, value.dtype, value.requires_grad) for name, value in model.named_parameters()}
        for model in models
    ]
    for number, each in enumerate(kinds):
        if each != kinds[0]:
            raise ValueError(f"model {number} has other parameters than model 0: stack models of one architecture")
    drops = [name for name, part in models[0].named_modules() if _drops(part)]
    if drops:
        raise ValueError(f"{drops[0]} draws dropout masks, which stacked models cannot share: set dropout to 0")


def _drops(part: nn.Module) -> bool:
    share = part.p if isinstance(part, nn.Dropout) else getattr(part, "attention_dropout", 0.0)
    return isinstance(share, int | float) and share > 0
