"""Running averages of a trajectory from which any later average can be put together (Karras et al. 2024).

theta_bar_n = beta theta_bar_{n-1} + (1 - beta) theta_n, beta = (1 - 1/n)^(gamma + 1), gives state i of n the weight
(i^(gamma+1) - (i-1)^(gamma+1)) / n^(gamma+1): the integral, from i - 1 to i, of the profile

    p(tau) = (gamma + 1) tau^gamma / n^(gamma+1),   0 <= tau <= n,

which has the same form at every n. Its width is the standard deviation of tau as a share of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapverify.core.weights import Tensors, copy_
from leapverify.trajectory.milestones import Milestones

AVERAGED = 8
"""States at which copies of the averages are kept."""
WIDEST = 1 / math.sqrt(12)
"""Width of the plain mean of all states, gamma = 0."""
RIDGE = 1e-9
"""Of the least squares, as a share of the profiles' mean square: keeps factors of nearly equal averages small."""


def exponent(width: float) -> float:
    """gamma of the profile with this width: width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Raises:
        ValueError: a width that is not above 0 and at most that of the plain mean.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"width {width} is no width of a power average: use one above 0 and below {WIDEST:.3f}")
    square = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - square, 12.0 - square])
    return max(0.0, float(max(root.real for root in roots if abs(root.imag) < 1e-6)))


WIDTHS = (0.05, 0.10)
"""Relative widths of the two averages that are kept."""
EXPONENTS = tuple(map(exponent, WIDTHS))
"""Their gamma: 16.97 and 6.94."""


class Profile(NamedTuple):
    """How much of each state is in an average."""

    states: int
    """n, taken so far."""
    gamma: float


def overlap(a: Profile, b: Profile) -> float:
    """integral of p_a p_b over all tau."""
    (n, gamma), (later, gamma_later) = sorted((a, b))
    share = (gamma + 1) * (gamma_later + 1) / (gamma + gamma_later + 1)
    return share * (n / later) ** gamma_later / later


def mixture(kept: Sequence[Profile], wanted: Profile) -> tuple[list[float], float]:
    """Factors x, of sum 1, with which the averages of these profiles come nearest to the one that is wanted.

    Least squares of sum_i x_i p_i - p over tau, in float64, from the inner products above. They are solved for the
    differences to the nearest single profile: one that is kept comes out as itself alone.

    Args:
        kept: at least one.
        wanted: of any gamma.

    Returns:
        x, and the norm of what is left of p as a share of the norm of p.
    """
    gram = np.array([[overlap(a, b) for b in kept] for a in kept])
    beside = np.array([overlap(each, wanted) for each in kept])
    square = overlap(wanted, wanted)
    x = np.zeros(len(kept))
    nearest = int(np.argmin(np.diag(gram) - 2 * beside + square))
    rest = np.array([i for i in range(len(kept)) if i != nearest], dtype=int)
    to_nearest = gram[rest, nearest]
    between = gram[np.ix_(rest, rest)] - to_nearest[:, None] - to_nearest + gram[nearest, nearest]
    towards = (beside[rest] - to_nearest) - (beside[nearest] - gram[nearest, nearest])
    if len(rest) and towards.any():
        x[rest] = np.linalg.solve(between + RIDGE * np.trace(between) / len(rest) * np.eye(len(rest)), towards)
    x[nearest] = 1 - x.sum()
    left = max(0.0, float(x @ gram @ x - 2 * x @ beside + square))
    return x.tolist(), math.sqrt(left / square)


@dataclass(frozen=True)
class Averaged:
    """One running average as it once was; the tensors belong to the averages and must not be written."""

    profile: Profile
    tensors: tuple[Tensor, ...]


class PowerAverages:
    """Two averages with power-function weights, and copies of both as they were at some states from the first on.

    All float32, beside the states that are pushed: two averages and `kept` copies of each. The copies lie about evenly
    over the run so far (`Milestones`), for an average that is much wider than the two needs old ones.

    Args:
        kept: states at which copies are kept, at least 3; always the first and the newest.

    Raises:
        ValueError: fewer than 3.
    """

    def __init__(self, kept: int = AVERAGED) -> None:
        self._copies = Milestones(kept)
        self._running: list[tuple[Tensor, ...]] = []
        self.step: int | None = None
        """Step of the newest state; None before the first."""
        self.count = 0
        """States taken."""

    @property
    def states(self) -> list[Averaged]:
        """The copies of both averages, oldest first."""
        return [
            Averaged(Profile(copy.step, gamma), copy.tensors[i * size : (i + 1) * size])
            for copy in self._copies
            if (size := len(copy.tensors) // len(EXPONENTS))
            for i, gamma in enumerate(EXPONENTS)
        ]

    @torch.no_grad()
    def push(self, step: int, tensors: Tensors) -> None:
        """Take a state into both averages and keep copies of them.

        Args:
            step: above the newest one's; the averages count states, whatever the steps between them.
            tensors: the weights.

        Raises:
            ValueError: the step does not increase.
        """
        if self.step is not None and step <= self.step:
            raise ValueError(f"step {step} does not follow step {self.step}: push increasing steps, or reset()")
        self.step, self.count = step, self.count + 1
        for gamma, averages in zip(EXPONENTS, self._buffers(tensors), strict=True):
            if self.count == 1:
                copy_(averages, tensors)
            else:
                share = 1 - (1 - 1 / self.count) ** (gamma + 1)
                for average, state in zip(averages, tensors, strict=True):
                    average.lerp_(state.to(average.dtype), share)
        self._copies.push(self.count, [each for averages in self._running for each in averages])

    def reset(self) -> None:
        """Begin anew, in the same buffers."""
        self._copies.reset()
        self.step, self.count = None, 0

    def state_dict(self) -> dict[str, Tensor]:
        """Counts and all averages, for a file; the tensors are the averages' own: copy or save them before a push."""
        counts = {"count": torch.tensor(self.count), "step": torch.tensor(-1 if self.step is None else self.step)}
        running = {f"running.{i}.{p}": each for i, all_ in enumerate(self._running) for p, each in enumerate(all_)}
        copies = {f"copy.{one.step}.{p}": each for one in self._copies for p, each in enumerate(one.tensors)}
        return counts | (running | copies if self.count else {})

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], like: Tensors | None = None) -> None:
        """Go on from a state that `state_dict` gave.

        Args:
            state: as saved, on any device.
            like: tensors on whose devices the averages are kept; None for those of the state.
        """
        self.reset()
        self.count = int(state["count"])
        if not self.count:
            return
        self.step = int(state["step"])
        saved = [_in_order(state, f"running.{i}.") for i in range(len(EXPONENTS))]
        for averages, values in zip(self._buffers(like or saved[0]), saved, strict=True):
            copy_(averages, values)
        flat = [each for averages in self._running for each in averages]
        for at in sorted({int(key.split(".")[1]) for key in state if key.startswith("copy.")}):
            self._copies.push(at, _in_order(state, f"copy.{at}."), like=flat)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor shares memory with an average or a copy of one."""
        place = tensor.untyped_storage().data_ptr()
        running = (each for averages in self._running for each in averages)
        return self._copies.holds(tensor) or any(place == each.untyped_storage().data_ptr() != 0 for each in running)

    def _buffers(self, like: Tensors) -> list[tuple[Tensor, ...]]:
        """The running averages, allocated when first asked for."""
        if not self._running:
            self._running = [
                tuple(torch.empty(each.shape, dtype=torch.float32, device=each.device) for each in like)
                for _ in EXPONENTS
            ]
        return self._running


def _in_order(state: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    """The tensors whose names are this and a position."""
    found = {int(key.removeprefix(prefix)): value for key, value in state.items() if key.startswith(prefix)}
    return [found[position] for position in sorted(found)]
