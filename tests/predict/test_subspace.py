"""`subspace`: finds the minimum of a quadratic loss over the span of the displacements, within its border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict import predictor, require_request
from leapverify.predict.subspace import coefficients, trust_region
from leapverify.trajectory.history import History

SHAPES = [(4, 3), (6,), (0, 2), ()]
SIZES = [math.prod(shape) for shape in SHAPES]


def split(point: Tensor) -> list[Tensor]:
    return [part.view(shape) for part, shape in zip(point.split(SIZES), SHAPES, strict=True)]


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().reshape(-1).double() for each in tensors])


class Quadratic:
    """L(w) = (w - optimum)' H (w - optimum) / 2; every draw shifts the optimum by its own noise."""

    def __init__(self, hessian: Tensor, optimum: Tensor, noise: float = 0.0) -> None:
        self.hessian, self.optimum, self.noise = hessian, optimum, noise
        self.draws: list[int] = []

    def gradient(self, weights: Sequence[Tensor], draw: int) -> tuple[Tensor, Sequence[Tensor]]:
        self.draws.append(draw)
        off = joined(weights) - self.optimum
        off = off + self.noise * torch.randn(len(off), generator=torch.Generator().manual_seed(draw)).double()
        return off @ self.hessian @ off / 2, split((self.hessian @ off).float())


def walk(snapshots: int = 5, steps: Sequence[int] = (10, 20, 25, 50, 60)) -> History:
    generator = torch.Generator().manual_seed(6)
    point = torch.randn(sum(SIZES), generator=generator)
    history = History(split(point), 5)
    for step in steps[-snapshots:]:
        history.push(step, split(point))
        point = point + 0.1 * torch.randn(len(point), generator=generator)
    return history


def bowl_hessian(blocks: bool = False) -> Tensor:
    root = torch.randn(sum(SIZES), sum(SIZES), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    if blocks:
        root = root * torch.block_diag(*[torch.ones(size, size, dtype=torch.float64) for size in SIZES if size])
    return root @ root.T / len(root) + 0.1 * torch.eye(len(root), dtype=torch.float64)


def displacements(history: History) -> Tensor:
    points = torch.stack([joined(each.tensors) for each in history])
    return points[1:] - points[:-1]


@pytest.mark.parametrize("snapshots", [3, 4, 5])
def test_finds_a_minimum_in_the_span_for_m_plus_two_gradients(snapshots: int) -> None:
    history = walk(snapshots)
    d, now = displacements(history), joined(history[-1].tensors)
    c = torch.tensor([0.3, -0.9, 0.5, -0.2], dtype=torch.float64)[: snapshots - 1]
    loss = Quadratic(bowl_hessian(), now + c @ d)
    history.gradients = loss
    predicted = joined(predictor("subspace").predict(history, 10))
    torch.testing.assert_close(predicted, now + c @ d, rtol=1e-4, atol=1e-5)
    assert loss.draws == [0] * snapshots + [1]
    np.testing.assert_allclose(
        coefficients(require_request(predictor("subspace").needs, history, 1, None))[0], c, rtol=1e-3, atol=1e-4
    )


def test_an_optimum_outside_the_span_is_approached_as_least_squares_would() -> None:
    history = walk()
    d, now, hessian = displacements(history), joined(history[-1].tensors), bowl_hessian()
    off = 0.2 * torch.randn(len(now), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    history.gradients = Quadratic(hessian, now + off)
    wanted = now + torch.linalg.solve(d @ hessian @ d.T, d @ hessian @ off) @ d
    torch.testing.assert_close(joined(predictor("subspace").predict(history, 10)), wanted, rtol=1e-4, atol=1e-5)


def test_each_tensor_has_its_own_coefficients_where_curvature_does_not_cross() -> None:
    history = walk()
    d, now, hessian = displacements(history), joined(history[-1].tensors), bowl_hessian(blocks=True)
    c = torch.tensor([[0.3, -0.9, 0.5, -0.2], [-0.5, 0.1, 0.0, 0.4], [0.0] * 4, [0.2, 0.2, 0.2, 0.2]]).double()
    optimum = now + (c.repeat_interleave(torch.tensor(SIZES), dim=0).T * d).sum(0)
    history.gradients = Quadratic(hessian, optimum)
    apart = joined(predictor("subspace-layers").predict(history, 10))
    torch.testing.assert_close(apart, optimum, rtol=1e-4, atol=1e-4)
    together = joined(predictor("subspace").predict(history, 10))
    assert float((together - optimum).norm()) > 0.05


def test_the_second_batch_halves_the_noise() -> None:
    """Over a quadratic, the result is the mean of the minima over the two batches."""
    history = walk()
    d, now, hessian = displacements(history), joined(history[-1].tensors), bowl_hessian()
    loss = Quadratic(hessian, now, noise=0.1)
    history.gradients = loss
    noise = [0.1 * torch.randn(len(now), generator=torch.Generator().manual_seed(draw)).double() for draw in (0, 1)]
    minima = [torch.linalg.solve(d @ hessian @ d.T, -d @ hessian @ each) for each in noise]
    wanted = now + sum(minima) / 2 @ d
    torch.testing.assert_close(joined(predictor("subspace").predict(history, 10)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("curvature", [0.0, -1.0, 1e-6])
@pytest.mark.parametrize("name", ["subspace", "subspace-layers"])
def test_it_never_goes_further_than_the_window_was_long(curvature: float, name: str) -> None:
    history = walk()
    now, d = joined(history[-1].tensors), displacements(history)
    history.gradients = Quadratic(curvature * torch.eye(len(now), dtype=torch.float64), now + 1e4)
    moved = predictor(name).predict(history, 10)
    assert float((joined(moved) - now).norm()) <= float(d.norm(dim=1).sum()) * (1 + 1e-6)


def test_asking_again_takes_no_more_gradients() -> None:
    history = walk()
    loss = Quadratic(bowl_hessian(), joined(history[-1].tensors) + 0.1)
    history.gradients = loss
    first = predictor("subspace").predict(history, 10)
    again = predictor("subspace").predict(history, 90)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(loss.draws) == 6


def test_declines_gradients_that_are_not_finite_and_does_not_ask_again() -> None:
    history = walk()
    loss = Quadratic(bowl_hessian(), joined(history[-1].tensors) * math.nan)
    history.gradients = loss
    for _ in range(2):
        with pytest.raises(Declined, match="a gradient along the last displacements is not finite"):
            predictor("subspace").predict(history, 10)
    assert len(loss.draws) == 5


def test_at_rest_it_asks_for_nothing() -> None:
    history = History([torch.ones(3)], 4)
    for step in range(4):
        history.push(step, [torch.ones(3)])
    history.gradients = Quadratic(torch.eye(3).double(), torch.zeros(3).double())
    assert torch.equal(predictor("subspace").predict(history, 10)[0], torch.ones(3))
    assert history.gradients.draws == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.1, 1.0, 100.0])
def test_the_border_holds_and_nothing_inside_is_lower(seed: int, radius: float) -> None:
    """Against 20,000 random points of the disc, for Hessians of any signs."""
    rng = np.random.default_rng(seed)
    g, root = rng.normal(size=3), rng.normal(size=(3, 3))
    hessian = root @ root.T if seed < 2 else root + root.T
    u = trust_region(g, hessian, radius)
    assert np.linalg.norm(u) <= radius * (1 + 1e-9)
    others = rng.normal(size=(20000, 3))
    others *= (radius * rng.uniform(size=(20000, 1)) ** (1 / 3)) / np.linalg.norm(others, axis=1, keepdims=True)
    values = others @ g + np.einsum("ni,ij,nj->n", others, hessian, others) / 2
    assert g @ u + u @ hessian @ u / 2 <= values.min() + 1e-9
    assert not trust_region(np.zeros(3), hessian, radius).any()
