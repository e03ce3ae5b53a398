"""The part of an Adam optimizer that predictors read: moments, step counts, hyper-parameters and coming rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from leapverify.core.shards import local
from leapverify.core.weights import Tensors, require_same_shapes

Rate: TypeAlias = Callable[[int], float]
"""eta of optimizer step number i, counted from 1: the rate of the step from theta_{i-1} to theta_i."""


@dataclass(frozen=True)
class GroupHyper:
    """Constants of one parameter group."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
    """Decoupled: theta is multiplied by 1 - eta weight_decay in each step."""


@dataclass(frozen=True)
class OptimizerState:
    """Adam's moments for a list of tensors, at step t; views, not copies; of spread tensors this rank's parts.

    The moments of the present step are beta1^idle m and beta2^idle v: steps without gradient that were
    taken in thought only (`decayed`) change numbers here, not tensors.
    """

    m: tuple[Tensor, ...]
    """First moments, one per tensor, or empty where the optimizer has taken no step."""
    v: tuple[Tensor, ...]
    """Second moments, likewise."""
    steps: tuple[int, ...]
    """Steps that the optimizer has taken on each tensor; 0 where it never had a gradient."""
    groups: tuple[int, ...]
    """Group of each tensor."""
    hyper: tuple[GroupHyper, ...]
    """Constants, one per group."""
    lr: tuple[Rate, ...]
    """Rates, one per group."""
    step: int
    """t."""
    idle: int = 0
    """Steps without gradient since the moments were stored."""

    def __post_init__(self) -> None:
        if self.step < 0 or self.idle < 0:
            raise ValueError(f"step {self.step} and idle {self.idle} must not be negative: count steps from 0")
        if len(self.lr) != len(self.hyper):
            raise ValueError(f"{len(self.lr)} rates for {len(self.hyper)} groups: pass one rate per group")
        if not (len(self.m) == len(self.v) == len(self.steps)) or len(self.groups) != len(self.steps):
            raise ValueError(
                f"{len(self.m)} m, {len(self.v)} v, {len(self.steps)} steps and {len(self.groups)} groups: "
                "pass one of each per tensor"
            )
        if any(not 0 <= group < len(self.hyper) for group in self.groups):
            raise ValueError(f"groups {self.groups} name a group that is not there: {len(self.hyper)} are given")

    @classmethod
    def from_optimizer(
        cls,
        optimizer: torch.optim.Optimizer,
        parameters: Tensors,
        *,
        step: int,
        schedule: Rate | Sequence[Rate] | None = None,
    ) -> OptimizerState:
        """Views of the state of torch.optim.AdamW, or of Adam without weight decay.

        Args:
            optimizer: the optimizer, as it is after step t.
            parameters: the tensors that are predicted, each one of the optimizer's.
            step: t, the number of the last step on the scale of `schedule`.
            schedule: eta by step number, one for all groups or one per group; None holds the groups' present rates.

        Raises:
            ValueError: another optimizer, amsgrad, maximize, coupled weight decay, or a parameter it does not hold.
        """
        _require_adam(optimizer)
        place = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
        missing = [position for position, parameter in enumerate(parameters) if id(parameter) not in place]
        if missing:
            raise ValueError(
                f"the optimizer does not hold the parameter at position {missing[0]}: pass the parameters it was "
                "built with"
            )
        hyper = tuple(_hyper(group) for group in optimizer.param_groups)
        lr = _rates(schedule, [float(group["lr"]) for group in optimizer.param_groups])
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        if not any("exp_avg" in state for state in states):
            return cls((), (), (), (), hyper, lr, step)
        return cls(
            m=tuple(_moment(state, "exp_avg", p) for state, p in zip(states, parameters, strict=True)),
            v=tuple(_moment(state, "exp_avg_sq", p) for state, p in zip(states, parameters, strict=True)),
            steps=_step_counts(states),
            groups=tuple(place[id(parameter)] for parameter in parameters),
            hyper=hyper,
            lr=lr,
            step=step,
        )

    @classmethod
    def from_tensors(
        cls,
        names: Sequence[str],
        tensors: Mapping[str, Tensor],
        *,
        step: int,
        steps: int | Sequence[int],
        hyper: GroupHyper | Sequence[GroupHyper],
        lr: Rate | Sequence[Rate],
        groups: Sequence[int] | None = None,
    ) -> OptimizerState:
        """The state from named tensors, as a file holds them.

        Args:
            names: the names of the tensors that are predicted, in order.
            tensors: m under `exp_avg.NAME` and v under `exp_avg_sq.NAME`.
            step: t.
            steps: steps taken, one number for all tensors or one each.
            hyper: constants, of the one group or of each.
            lr: rates, of all groups or of each.
            groups: group of each tensor; None puts all into the first.

        Raises:
            ValueError: a moment is missing.
        """
        for key in (f"{moment}.{name}" for name in names for moment in ("exp_avg", "exp_avg_sq")):
            if key not in tensors:
                raise ValueError(f"{key} is missing among the saved moments: save the optimizer with the weights")
        constants = (hyper,) if isinstance(hyper, GroupHyper) else tuple(hyper)
        return cls(
            m=tuple(local(tensors[f"exp_avg.{name}"]) for name in names),
            v=tuple(local(tensors[f"exp_avg_sq.{name}"]) for name in names),
            steps=(steps,) * len(names) if isinstance(steps, int) else tuple(steps),
            groups=(0,) * len(names) if groups is None else tuple(groups),
            hyper=constants,
            lr=_rates(lr, [0.0] * len(constants)),
            step=step,
        )

    def rounded(self, dtype: torch.dtype) -> OptimizerState:
        """The state as it is after storing both moments in a narrower type, which is also how they are kept here.

        v below the type's smallest number becomes 0: with float16, where a gradient is below about 2e-4.
        """
        return replace(
            self,
            m=tuple(each.to(dtype, copy=True) for each in self.m),
            v=tuple(each.to(dtype, copy=True) for each in self.v),
        )

    def decayed(self, horizon: int) -> OptimizerState:
        """The state after `horizon` steps with zero gradient: m beta1^K, v beta2^K, all counts K higher; no copies."""
        if horizon < 0:
            raise ValueError(f"horizon {horizon} is negative: count the steps from 0")
        counts = tuple(count + horizon if count else 0 for count in self.steps)
        return replace(self, steps=counts, step=self.step + horizon, idle=self.idle + horizon)

    def require_shapes(self, tensors: Tensors) -> None:
        """Refuse tensors that these moments do not belong to (ValueError)."""
        require_same_shapes(tensors, self.m, "the optimizer state's m")
        require_same_shapes(tensors, self.v, "the optimizer state's v")


def _require_adam(optimizer: torch.optim.Optimizer) -> None:
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise ValueError(f"optimizer {name} is not torch.optim.AdamW or Adam: pass one of these, unwrapped")
    for group in optimizer.param_groups:
        for flag in ("amsgrad", "maximize"):
            if group.get(flag):
                raise ValueError(f"{flag}=True of {name} is not predicted: build the optimizer with {flag}=False")
        decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
        if group["weight_decay"] and not decoupled:
            raise ValueError(
                f"weight_decay={group['weight_decay']} of {name} enters the gradient: use torch.optim.AdamW, "
                "or weight_decay=0"
            )


def _hyper(group: Mapping[str, Any]) -> GroupHyper:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return GroupHyper(beta1, beta2, float(group["eps"]), float(group["weight_decay"]))


def _rates(schedule: Rate | Sequence[Rate] | None, present: Sequence[float]) -> tuple[Rate, ...]:
    if schedule is None:
        return tuple(_constant(rate) for rate in present)
    return (schedule,) * len(present) if callable(schedule) else tuple(schedule)


def _constant(rate: float) -> Rate:
    return lambda _: rate


def _moment(state: Mapping[str, Tensor], key: str, parameter: Tensor) -> Tensor:
    # A parameter that never had a gradient has no moments: zeros of its shape that take no memory.
    if key in state:
        return local(state[key])
    return torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(local(parameter).shape)


def _step_counts(states: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    counts = [local(torch.as_tensor(state.get("step", 0.0))) for state in states]
    device = next((count.device for count in counts if count.device.type != "cpu"), torch.device("cpu"))
    # Fused and capturable optimizers count on the device: one transfer brings all counts.
    return tuple(int(n) for n in torch.stack([c.to(device, torch.float64).reshape(()) for c in counts]).tolist())
