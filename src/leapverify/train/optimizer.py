"""AdamW as the reference runs use it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import ParamsT

from leapverify.core.weights import block_size, blocks

_LOST = 0xFFFF
"""The bits of a float32 that a bfloat16 has no place for."""
_REFUSED = ("amsgrad", "maximize", "capturable", "differentiable", "fused")


def stochastic_round_(out: Tensor, value: Tensor, noise: Tensor) -> None:
    """out = value, rounded up with the probability of its distance to the bfloat16 below, else down (in magnitude).

    Args:
        out: bfloat16 tensor that is written.
        value: float32; infinities and NaN stay what they are, values that bfloat16 has never change.
        noise: int32, uniform over 0 .. 65535.
    """
    kept = (value.view(torch.int32) + noise) & ~_LOST
    # A NaN's pattern may carry over into the sign, or lose the bits that make it one.
    out.copy_(torch.where(value.isfinite(), kept.view(torch.float32), value))


def stream_seed(seed: int, step: int, tensor: int, block: int) -> int:
    """The seed of the random bits of one block of one tensor in one step: 63 bits of a hash of all four.

    A CPU's generator takes the lower 32 only: of N blocks about N^2 / 2^33 pairs draw the same bits there.
    """
    digest = hashlib.blake2b(f"{seed} {step} {tensor} {block}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StochasticAdamW(torch.optim.AdamW):
    """AdamW that computes each step in float32 and rounds bfloat16 results stochastically, weights and moments alike.

    Float32 parameters are stepped without rounding. The random bits follow from (seed, the tensor's step count, its
    number, block): nothing of them is saved, a resumed run draws the same, and no global random stream moves. Devices
    of different kinds draw different bits.

    Args:
        params: parameters or groups; bfloat16 or float32.
        lr: eta.
        betas: of the two moments.
        eps: added to the root of v_hat.
        weight_decay: decoupled.
        seed: of the rounding.
        compiled: each block as one kernel by torch.compile; None: on anything but a CPU.
        options: of torch.optim.AdamW; those that change the step are refused.

    Raises:
        ValueError: amsgrad, maximize or another form of the step, or parameters of another type.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        seed: int = 0,
        compiled: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **{"foreach": False, "fused": False, **options})
        # Among the defaults, which copies and pickles of an optimizer keep, and no group carries.
        self.defaults |= {"rounding_seed": seed, "rounding_compiled": compiled}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as every optimizer does, if its step is one that this one takes."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for flag in _REFUSED:
            if group.get(flag):
                self.param_groups.pop()
                raise ValueError(f"{flag}=True is no step that StochasticAdamW takes: leave it False")
        for parameter in group["params"]:
            if parameter.dtype not in (torch.bfloat16, torch.float32):
                self.param_groups.pop()
                raise ValueError(
                    f"a parameter is {parameter.dtype}, which StochasticAdamW does not round: use bfloat16 or float32"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        generator = cache(torch.Generator)
        constants = cache(lambda number, step, device: _constants(groups[number], step, device))
        everything = ((number, parameter) for number, group in enumerate(groups) for parameter in group["params"])
        for tensor, (number, parameter) in enumerate(everything):
            if parameter.grad is not None:
                device = parameter.device
                numbers = constants(number, self._counted(parameter), device)
                self._advance(parameter, tensor, numbers, generator(device))
        return loss

    def _counted(self, parameter: Tensor) -> int:
        """Count the step that a parameter is about to take, and give it moments before its first."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        return int(state["step"])

    def _advance(
        self, parameter: Tensor, tensor: int, constants: tuple[Tensor, ...], generator: torch.Generator
    ) -> None:
        state, device, kernel = self.state[parameter], parameter.device, self._kernel(parameter.device)
        seed, step = self.defaults["rounding_seed"], int(state["step"])
        rounded = parameter.dtype == torch.bfloat16
        assert parameter.grad is not None
        tensors = (parameter, state["exp_avg"], state["exp_avg_sq"], parameter.grad)
        for block, index in enumerate(blocks(parameter.shape, block_size(device))):
            pieces = [each[index] for each in tensors]
            if all(each.is_contiguous() for each in pieces):
                # Flat, lest a compiled kernel be made again for every form of tensor, and given up after a few.
                pieces = [each.view(-1) for each in pieces]
            theta, m, v, gradient = pieces
            bits = None
            if rounded:
                generator.manual_seed(stream_seed(seed, step, tensor, block))
                bits = torch.empty(theta.shape, dtype=torch.int64, device=device).random_(generator=generator)
            kernel(theta, m, v, gradient, bits, constants)

    def _kernel(self, device: torch.device) -> Callable[..., None]:
        compiled = self.defaults["rounding_compiled"]
        return _compiled() if compiled or (compiled is None and device.type != "cpu") else adamw_block_


def adamw_block_(
    theta: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
    bits: Tensor | None,
    constants: tuple[Tensor, ...],
) -> None:
    """One AdamW step of one block, in place, in float32; with random bits the three results are rounded by them.

    Args:
        theta: weights.
        m: first moment.
        v: second moment.
        gradient: g.
        bits: int64, 48 uniform low bits for each element; None stores the results as they are.
        constants: as `_constants` gives them.
    """
    keep, beta2, fresh1, fresh2, rate, root, eps = constants
    g = gradient.float()
    first = torch.lerp(m.float(), g, fresh1)
    second = v.float() * beta2 + g * g * fresh2
    moved = theta.float() * keep - rate * first / (second.sqrt() * root + eps)
    for shift, (out, value) in enumerate(((theta, moved), (m, first), (v, second))):
        if bits is None:
            out.copy_(value)
        else:
            stochastic_round_(out, value, ((bits >> 16 * shift) & _LOST).int())


def _constants(group: dict[str, Any], step: int, device: torch.device) -> tuple[Tensor, ...]:
    """The numbers of a step, worked out in float64; tensors, lest a compiled kernel be made again for every value."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    lr = float(group["lr"])
    numbers = (1 - lr * group["weight_decay"], beta2, 1 - beta1, 1 - beta2,
               lr / (1 - beta1**step), (1 - beta2**step) ** -0.5, group["eps"])  # fmt: skip
    # Filled one by one: no copy from the host, which would wait for the device.
    return tuple(torch.full((), number, dtype=torch.float32, device=device) for number in numbers)


@cache
def _compiled() -> Callable[..., None]:
    return torch.compile(adamw_block_, dynamic=True)


def build_optimizer(
    parameters: Iterable[Parameter],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    device: torch.device | str = "cpu",
    *,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    seed: int = 0,
) -> torch.optim.AdamW:
    """AdamW over all given parameters in one group, fused where the device has such a kernel.

    The fused kernel computes a step of bfloat16 weights and moments in float32 and rounds each result once, to
    nearest; the unfused ones round in between as well.

    Args:
        parameters: those without gradient are left out.
        lr: eta.
        betas: of the two moments.
        eps: added to the root of v_hat.
        weight_decay: decoupled.
        device: of the parameters.
        rounding: of a step's results where the parameters are bfloat16; their moments are bfloat16 too.
        seed: of stochastic rounding.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    moved = [parameter for parameter in parameters if parameter.requires_grad]
    if not moved:
        raise ValueError("no parameter requires a gradient: unfreeze at least one before building the optimizer")
    if rounding == "stochastic":
        return StochasticAdamW(moved, lr, betas, eps, weight_decay, seed=seed)
    fused = torch.device(device).type in ("cpu", "cuda")
    return torch.optim.AdamW(moved, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
