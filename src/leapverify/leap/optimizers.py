"""Optimizers: which ones the engine can serve, what they hold, Adam's state, and resetting moments."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leapverify.trajectory.history import OptimizerState
from leapverify.trajectory.optimizer_state import Rate

MASTER_COPIES = (
    "_amp_stash",
    "fp32_from_fp16_groups",
    "fp32_from_float16_groups",
    "fp16_groups",
    "float16_groups",
    "single_partition_of_fp32_groups",
    "shard_fp32_from_float16_groups",
    "fp32_partitioned_groups_flat",
    "bf16_groups",
)
"""Attributes of optimizers (apex, DeepSpeed, Megatron) that step on float32 copies and write the weights from them."""
STATE_WEIGHTS = ("ScheduleFree", "Lookahead", "DiLoCo")
"""Names of optimizers whose state holds a second copy of the weights, which a leap would leave behind."""
TIED_STATE = {
    "ASGD": "averages the weights in its state, and a leap would be averaged in as if it had been trained",
    "LBFGS": "builds its curvature from differences of weights and gradients, and would take one across the leap",
}
"""Optimizers whose state belongs to the path of the weights, by the name of their class or a base class."""


def as_optimizers(optimizer: Any) -> list[Optimizer]:
    """One optimizer or several, without the wrappers of Accelerate and the like.

    Raises:
        ValueError: none, or something that is no optimizer.
    """
    given = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    found = [_unwrapped(each) for each in given]
    for each in found:
        if not isinstance(each, Optimizer):
            raise ValueError(f"optimizer is a {type(each).__name__}: pass a torch.optim.Optimizer, or a list of them")
    if not found:
        raise ValueError("the list of optimizers is empty: pass those that train the model")
    return found


def _unwrapped(optimizer: Any) -> Any:
    # Wrappers may be optimizers themselves (Accelerate's is); what is inside takes the steps.
    while not _keeps_masters(optimizer):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer) or inner is optimizer:
            return optimizer
        optimizer = inner
    return optimizer


def _keeps_masters(optimizer: Any) -> bool:
    module = type(optimizer).__module__
    return module.startswith(("deepspeed.", "megatron.")) or any(hasattr(optimizer, name) for name in MASTER_COPIES)


def refuse_unsuited(optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers that would undo a leap.

    Raises:
        ValueError: an optimizer that rewrites the weights from copies of its own, keeps a second copy of them, or
            keeps a state that holds for their past path only.
    """
    for optimizer in optimizers:
        name = type(optimizer).__name__
        if _keeps_masters(optimizer):
            raise ValueError(
                f"optimizer {name} rewrites the weights from master copies of its own, so a leap would be undone at "
                "the next step: use mode='monitor' or 'shadow', or an optimizer that steps on the model's own weights"
            )
        if any(part in name for part in STATE_WEIGHTS):
            raise ValueError(
                f"optimizer {name} keeps a second copy of the weights in its state, which a leap would leave behind: "
                "use mode='monitor' or 'shadow'"
            )
        tied = next((TIED_STATE[each.__name__] for each in type(optimizer).__mro__ if each.__name__ in TIED_STATE), "")
        if tied:
            raise ValueError(f"optimizer {name} {tied}: use mode='monitor' or 'shadow'")


def held_by(optimizers: Sequence[Optimizer]) -> set[int]:
    """The ids of all parameters that the optimizers train."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def adam_state(
    optimizers: Sequence[Optimizer], parameters: Sequence[Tensor], step: int, rates: Sequence[Sequence[Sequence[float]]]
) -> OptimizerState | None:
    """Adam's state for predictors that read it; None where no single Adam trains all the parameters.

    Args:
        optimizers: those of the run.
        parameters: what predictions move.
        step: t, effective steps.
        rates: the coming learning rates per optimizer and group, that of step t + 1 first.
    """
    wanted = {id(parameter) for parameter in parameters}
    for optimizer, groups in zip(optimizers, rates, strict=True):
        if wanted <= held_by([optimizer]):
            try:
                return OptimizerState.from_optimizer(
                    optimizer, parameters, step=step, schedule=[_rate(step, coming) for coming in groups]
                )
            except ValueError:  # no Adam, or a form of it whose steps are not predicted: predictors decline
                return None
    return None


def _rate(step: int, coming: Sequence[float]) -> Rate:
    return lambda i: coming[min(max(i - step - 1, 0), len(coming) - 1)]


def reset_moments(optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter], undo: ExitStack) -> None:
    """Forget the moments of the parameters, and the step counts that correct their bias.

    Args:
        optimizers: those of the run.
        parameters: as the optimizers hold them.
        undo: on leaving it, everything is put back.
    """
    for optimizer in optimizers:
        starts = _starts(optimizer)
        _keep_states(optimizer, undo)
        for parameter in parameters:
            state = optimizer.state.pop(parameter, None)
            if state is not None and id(parameter) in starts:
                fresh = {"step": torch.zeros_like(state["step"]), "sum": torch.empty_like(state["sum"])}
                fresh["sum"].fill_(starts[id(parameter)])
                optimizer.state[parameter] = {**state, **fresh}


def _keep_states(optimizer: Optimizer, undo: ExitStack) -> None:
    before = dict(optimizer.state)

    def restore() -> None:
        optimizer.state.clear()
        optimizer.state.update(before)

    undo.callback(restore)


def _starts(optimizer: Optimizer) -> dict[int, float]:
    """What Adagrad's sums begin with, by the ids of the parameters: it makes its state once and relies on it."""
    if not isinstance(optimizer, torch.optim.Adagrad):
        return {}
    return {id(p): group["initial_accumulator_value"] for group in optimizer.param_groups for p in group["params"]}
