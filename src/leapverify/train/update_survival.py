"""How much of an optimizer's update survives being stored: at eta = 5e-5 most updates of a bfloat16 weight do not.

AdamW means to move a weight by u = -eta (m_hat / (sqrt(v_hat) + eps) + lambda theta). What is stored is theta + u,
rounded to the type of the weights: where abs(u) is below half the distance to the next number, rounding to nearest
stores theta again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn import Parameter

from leapverify.core.partition import first_element
from leapverify.core.shards import Shards, local


@dataclass(frozen=True)
class Survival:
    """What became of one step's update, over a sample of the weights' elements."""

    share: float | None
    """Of the elements that the optimizer meant to move (u != 0), the share whose stored value changed."""
    projection: float | None
    """<stored change, u> / <u, u>: 1 where the weights moved as meant, at least in the mean."""
    elements: int
    """n, the elements with u != 0; where there are none, or u is not finite, the other two are None."""


@dataclass(frozen=True)
class _DeviceSample:
    """The sampled elements on one device, all parameters' behind one another."""

    device: torch.device
    parameters: list[Parameter]
    groups: list[int]
    indices: list[Int64[Tensor, " k"]]
    owner: Int64[Tensor, " n"]
    """The place of each element's parameter among them."""

    def take(self, tensors: Iterable[Tensor | None]) -> Float64[Tensor, " n"]:
        """The sampled elements of one tensor for each parameter; 0 where there is none."""
        pairs = zip(tensors, self.indices, strict=True)
        pieces = [
            torch.zeros(len(i), device=self.device) if each is None else torch.take(local(each), i) for each, i in pairs
        ]
        return torch.cat(pieces).double()

    def counts(self, states: Iterable[dict[str, Any]]) -> Float64[Tensor, " p"]:
        """The parameters' step counts, copied."""
        steps = [state.get("step") for state in states]
        none = next((step for step in steps if step is not None), torch.zeros(()))
        return torch.stack([torch.zeros_like(none) if s is None else s for s in steps]).to(self.device, torch.float64)


@dataclass(frozen=True)
class _Before:
    """What a step is compared with."""

    theta: Float64[Tensor, " n"]
    counts: Float64[Tensor, " p"]


class UpdateSample:
    """Watches one optimizer step through a fixed sample of elements, and changes nothing in it.

    Use: `with sample: train_step(...)`, then `sample.read()`. The update is worked out from the moments as they are
    stored after the step, so that u carries their rounding (below 1 % of each element where they are bfloat16).

    Args:
        optimizer: torch.optim.AdamW, or made from it.
        parameters: those whose elements are sampled, each one of the optimizer's.
        elements: how many are drawn, uniformly over all elements, those drawn twice counted once; of parameters with
            no more than that, all are taken.
        seed: of the draw; no global random stream moves.
        shards: how the parameters are spread over ranks, which then all `read` at the same point; the sample is that
            of one process, each rank looking at the elements that it holds. None: they are whole.

    Raises:
        ValueError: another optimizer, amsgrad, maximize, no element, or a parameter that it does not hold.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[Parameter],
        elements: int = 2**20,
        seed: int = 0,
        shards: Shards | None = None,
    ) -> None:
        self._optimizer, self._parameters, self._shards = optimizer, list(parameters), shards
        _require_adamw(optimizer)
        place = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
        missing = [position for position, parameter in enumerate(self._parameters) if id(parameter) not in place]
        if missing:
            raise ValueError(
                f"the optimizer does not hold the parameter at position {missing[0]}: sample those it was built with"
            )
        groups = [place[id(parameter)] for parameter in self._parameters]
        drawn = _draw(self._parameters, elements, seed)
        if shards is not None:
            drawn = [_held(*each) for each in zip(drawn, self._parameters, shards.counted, strict=True)]
        self._parts = _parts(self._parameters, groups, drawn)
        self._before: list[_Before] = []
        self._sums: list[Float64[Tensor, " 4"]] | None = None

    @torch.no_grad()
    def __enter__(self) -> UpdateSample:
        """Keep the sampled weights as they are before the step."""
        self._sums = None
        self._before = [_Before(part.take(part.parameters), part.counts(self._states(part))) for part in self._parts]
        return self

    @torch.no_grad()
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Compare; the sums stay on the device until they are read."""
        before, self._before = self._before, []
        if kind is None:
            groups = self._optimizer.param_groups
            pairs = zip(self._parts, before, strict=True)
            self._sums = [_sums(part, each, self._states(part), groups) for part, each in pairs]

    def _states(self, part: _DeviceSample) -> list[dict[str, Any]]:
        return [self._optimizer.state.get(parameter, {}) for parameter in part.parameters]

    def read(self) -> Survival:
        """What became of the update; waits for the device.

        Raises:
            ValueError: no step was taken inside `with`.
        """
        if self._sums is None:
            raise ValueError("no step was watched: take one inside `with sample:` before reading it")
        total = torch.zeros(4, dtype=torch.float64)
        if self._sums:
            device = self._sums[0].device
            total = torch.stack([each.to(device) for each in self._sums]).sum(0)
        if self._shards is not None:
            total = self._shards.ranks.sum("survival of an update", total)
        meant, changed, along, square = total.tolist()
        share = changed / meant if meant else None
        if not meant or not math.isfinite(along) or not math.isfinite(square):
            return Survival(None, None, int(meant))
        return Survival(share, along / square, int(meant))


def _require_adamw(optimizer: torch.optim.Optimizer) -> None:
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.AdamW):
        raise ValueError(f"optimizer {name} is not torch.optim.AdamW: its update is not known here, use AdamW")
    for flag in ("amsgrad", "maximize"):
        if any(group.get(flag) for group in optimizer.param_groups):
            raise ValueError(f"{flag}=True of {name} is another update: build the optimizer with {flag}=False")


def _draw(parameters: list[Parameter], elements: int, seed: int) -> list[Int64[Tensor, " n"]]:
    """Positions in each parameter, ascending, on its device."""
    sizes = [parameter.numel() for parameter in parameters]
    total = sum(sizes)
    if elements < 1 or not total:
        raise ValueError(f"a sample of {elements} of {total} elements is empty: sample 1 of 1 at least")
    if total <= elements:
        return [torch.arange(size, device=p.device) for size, p in zip(sizes, parameters, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.unique(torch.randint(total, (elements,), generator=generator))
    ends = torch.tensor(sizes).cumsum(0)
    counts = torch.searchsorted(drawn, ends).diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist()
    starts = (ends - torch.tensor(sizes)).tolist()
    parts = zip(torch.split(drawn, counts), starts, parameters, strict=True)
    return [(part - start).to(parameter.device) for part, start, parameter in parts]


def _held(drawn: Int64[Tensor, " n"], parameter: Parameter, counted: bool) -> Int64[Tensor, " k"]:
    """Of the positions drawn from a parameter those in the part that this rank holds and counts, by its own numbers."""
    here = drawn - first_element(parameter)
    return here[(here >= 0) & (here < (local(parameter).numel() if counted else 0))]


def _parts(parameters: list[Parameter], groups: list[int], indices: list[Int64[Tensor, " k"]]) -> list[_DeviceSample]:
    """The drawn elements by device; parameters of which none was drawn are left out."""
    parts: dict[torch.device, _DeviceSample] = {}
    for parameter, group, index in zip(parameters, groups, indices, strict=True):
        if len(index):
            nothing = torch.empty(0, dtype=torch.int64)
            part = parts.setdefault(parameter.device, _DeviceSample(parameter.device, [], [], [], nothing))
            part.parameters.append(parameter)
            part.groups.append(group)
            part.indices.append(index)
    return [replace(part, owner=_owner(part)) for part in parts.values()]


def _owner(part: _DeviceSample) -> Int64[Tensor, " n"]:
    counts = torch.tensor([len(index) for index in part.indices])
    return torch.repeat_interleave(torch.arange(len(counts)), counts).to(part.device)


def _sums(
    part: _DeviceSample, before: _Before, states: list[dict[str, Any]], groups: list[dict[str, Any]]
) -> Float64[Tensor, " 4"]:
    """Elements that were to move, those of them that did, <change, u> and <u, u>."""
    own = [groups[number] for number in part.groups]
    numbers = [[float(g["lr"]), *map(float, g["betas"]), g["eps"], g["weight_decay"]] for g in own]
    lr, beta1, beta2, eps, decay = torch.tensor(numbers, dtype=torch.float64).to(part.device).unbind(1)
    steps, at = part.counts(states), part.owner
    m_hat = part.take(state.get("exp_avg") for state in states) / (1 - beta1**steps)[at]
    v_hat = part.take(state.get("exp_avg_sq") for state in states) / (1 - beta2**steps)[at]
    u = -lr[at] * (m_hat / (v_hat.sqrt() + eps[at]) + decay[at] * before.theta)
    # Without a gradient the optimizer passes a parameter by, whatever its moments say.
    u = torch.where((steps > before.counts)[at], u, 0.0)
    change = part.take(part.parameters) - before.theta
    meant = u != 0
    return torch.stack([meant.sum().double(), (meant & (change != 0)).sum().double(), change @ u, u @ u])
