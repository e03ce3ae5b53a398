"""Predictors that read Adam's moments: adam, adam-constant, xgrad, and the paper's momentum.

A step i of AdamW with zero gradient multiplies m by beta1 and v by beta2 and moves theta to
(1 - eta_i lambda) theta - eta_i m_i / (1 - beta1^n) / (sqrt(v_i / (1 - beta2^n)) + eps), n = steps taken so far.
K of them are P theta - m sum_i w_i / (a_i sqrt(v) + eps), with scalars P, w_i, a_i that all elements share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from leapverify.predict.blockwise import Kernel, Workspace, apply
from leapverify.predict.formula import Formula
from leapverify.predict.predictor import Needs, Request, require_moments
from leapverify.predict.quadrature import compress
from leapverify.trajectory.history import OptimizerState

NEEDS = Needs(1, optimizer_state=True)
DIRECT_TERMS = 3
"""Terms of a motion that are added to the weights one by one."""


def adam() -> Formula:
    """K AdamW steps with zero gradient, in closed form; moves at most about beta1 / (1 - beta1) steps' worth.

    Example:
        >>> from leapverify.trajectory.history import GroupHyper
        >>> hyper = GroupHyper(beta1=0.9, beta2=0.99, eps=0.0, weight_decay=0.0)
        >>> state = OptimizerState((), (), (), (), (hyper,), (lambda step: 0.1,), step=1000)
        >>> round(coasting(state, group=0, taken=1000, horizon=1).terms[0][0], 4)  # theta - 0.0905 m / sqrt(v)
        0.0905
    """
    return _along_moments("adam", coasting)


def adam_constant() -> Formula:
    """theta_t - (sum of the next K etas) m_hat / (sqrt(v_hat) + eps): constant velocity, no weight decay.

    Example:
        >>> adam_constant().needs.optimizer_state
        True
    """
    return _along_moments("adam-constant", constant_velocity)


def xgrad() -> Formula:
    """theta_t - K eta m_hat / (sqrt(v_hat) + eps): K steps along Adam's present one, at the rate of the coming step.

    At a constant rate this is `adam-constant`; where a schedule changes it, that one sums up the rates to come.
    Source: XGrad, Guan et al., TPAMI 2024.
    Claim: higher accuracy than the optimizer alone, on images, language and image generation, where it predicts a step
    ahead at every step and only takes the gradient there; it never trains on from the predicted weights, as here.
    Cost: three reads, of theta, m and v, and a write.

    Example:
        >>> xgrad().needs.snapshots
        1
    """
    return _along_moments("xgrad", present_rate)


def momentum(scale: float = 1.0) -> Formula:
    """theta_t + scale K m / sqrt(v + eps) (paper, eq. 3, as printed: no learning rate, no minus sign).

    Args:
        scale: factor of the displacement.

    Example:
        >>> momentum(scale=-0.1).name
        'momentum'
    """
    return Formula("momentum", NEEDS, lambda request: _write_momentum(request, scale))


def _write_momentum(request: Request, scale: float) -> None:
    state, workspace = require_moments(request.history, request.now), Workspace(request.out)
    for i, target in enumerate(request.out):
        hyper = state.hyper[state.groups[i]]
        decay = hyper.beta2**state.idle
        shift, factor = hyper.eps / decay, scale * request.horizon * hyper.beta1**state.idle / decay**0.5

        def kernel(
            result: Tensor, pieces: Sequence[Tensor], scratch: Workspace, shift: float = shift, value: float = factor
        ) -> None:
            now, m, v = pieces
            # One reciprocal root is cheaper than a root and a division.
            inverse = torch.add(v, shift, out=scratch.like("inverse", v)).rsqrt_()
            torch.addcmul(now, m, inverse, value=value, out=result)

        apply(kernel, target, (request.now[i], state.m[i], state.v[i]), workspace)


@dataclass(frozen=True)
class Motion:
    """theta_hat = keep theta - m sum_j weight_j / (sqrt(v) + shift_j), for one tensor."""

    keep: float
    terms: tuple[tuple[float, float], ...]
    """(weight, shift) of each term."""


Rule: TypeAlias = Callable[[OptimizerState, int, int, int], Motion]
"""(state, group, steps taken, K) -> motion."""


def _along_moments(name: str, rule: Rule) -> Formula:
    """A motion along m / (sqrt(v) + eps), its scalars given by a rule."""

    def write(request: Request) -> None:
        state, workspace = require_moments(request.history, request.now), Workspace(request.out)
        keys = set(zip(state.groups, state.steps, strict=True))
        motions = {key: rule(state, *key, request.horizon) for key in keys}
        for i, target in enumerate(request.out):
            motion = motions[state.groups[i], state.steps[i]]
            if motion.terms:
                apply(_kernel(motion), target, (request.now[i], state.m[i], state.v[i]), workspace)
            else:
                apply(_scale(motion.keep), target, (request.now[i],), workspace)

    return Formula(name, NEEDS, write)


def _kernel(motion: Motion) -> Kernel:
    """The kernel of a motion; inputs theta, m, v."""
    # Each term added to theta rounds once to its last digit: a long sum is taken by itself and added once.
    by_itself = len(motion.terms) > DIRECT_TERMS

    def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace) -> None:
        theta, m, v = pieces
        root = torch.sqrt(v, out=scratch.like("root", v))
        # The last use of the root may overwrite it; one block less stays in the cache.
        divisor = root if len(motion.terms) == 1 else scratch.like("divisor", v)
        base = result.zero_() if by_itself else _kept(theta, motion.keep, result)
        for weight, shift in motion.terms:
            torch.add(root, shift, out=divisor)
            base = torch.addcdiv(base, m, divisor, value=-weight, out=result)
        if by_itself:
            result.add_(_kept(theta, motion.keep, divisor))

    return kernel


def _kept(theta: Tensor, keep: float, out: Tensor) -> Tensor:
    return theta if keep == 1 else torch.mul(theta, keep, out=out)


def _scale(keep: float) -> Kernel:
    def kernel(result: Tensor, pieces: Sequence[Tensor], _: Workspace) -> None:
        torch.mul(pieces[0], keep, out=result)

    return kernel


def coasting(state: OptimizerState, group: int, taken: int, horizon: int) -> Motion:
    """The motion of K AdamW steps with zero gradient."""
    if taken == 0:  # AdamW does not touch a parameter that never had a gradient
        return Motion(1.0, ())
    hyper = state.hyper[group]
    i = np.arange(1, horizon + 1)
    eta = np.array([state.lr[group](state.step + int(number)) for number in i])
    shrink = 1 - eta * hyper.weight_decay
    after = np.append(np.cumprod(shrink[::-1])[::-1], 1.0)  # product of the shrinkings from step i on
    weights = eta * after[1:] * hyper.beta1 ** (state.idle + i) / (1 - hyper.beta1 ** (taken + i))
    nodes = np.sqrt(hyper.beta2 ** (state.idle + i) / (1 - hyper.beta2 ** (taken + i)))
    few, shares = compress(nodes, weights, hyper.eps)
    terms = tuple((_single(z / b), _single(hyper.eps / b)) for b, z in zip(few, shares, strict=True))
    return Motion(_single(after[0]), terms)


def _single(value: float) -> float:
    """A factor for float32 tensors: infinite where torch would refuse it as too large."""
    return float(value) if abs(value) <= torch.finfo(torch.float32).max else math.copysign(math.inf, value)


def constant_velocity(state: OptimizerState, group: int, taken: int, horizon: int) -> Motion:
    """theta_t - (sum of the next K etas) m_hat / (sqrt(v_hat) + eps)."""
    eta_sum = sum(state.lr[group](state.step + i) for i in range(1, horizon + 1)) if taken else 0.0
    return _along_present_step(state, group, taken, eta_sum)


def present_rate(state: OptimizerState, group: int, taken: int, horizon: int) -> Motion:
    """theta_t - K eta m_hat / (sqrt(v_hat) + eps), eta that of the coming step."""
    return _along_present_step(state, group, taken, horizon * state.lr[group](state.step + 1) if taken else 0.0)


def _along_present_step(state: OptimizerState, group: int, taken: int, distance: float) -> Motion:
    """theta_t - distance m_hat / (sqrt(v_hat) + eps)."""
    if taken == 0:
        return Motion(1.0, ())
    hyper = state.hyper[group]
    root = (hyper.beta2**state.idle / (1 - hyper.beta2**taken)) ** 0.5
    weight = distance * hyper.beta1**state.idle / (1 - hyper.beta1**taken)
    return Motion(1.0, ((_single(weight / root), _single(hyper.eps / root)),))
