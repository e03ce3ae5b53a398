"""`rre` and `anderson`: exact on quadratic bowls, invariant, equal to the constrained least squares they solve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from context_fakes import Bowl
from leapverify.errors import Declined
from leapverify.predict import Predictor
from leapverify.predict.anderson import REGULARISATION, anderson, choice, fixed_point, rre
from leapverify.predict.predictor import require_request
from leapverify.trajectory.history import History

MODES = (0.15, 0.45, 0.7, 0.9)
"""How much of its distance to the optimum each mode keeps in one interval."""
SHAPES = [(2, 5), (3,), ()]


def split(point: Tensor) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(point.split(sizes), SHAPES, strict=True)]


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.reshape(-1).double() for each in tensors])


def bowl_run(snapshots: int, moved: float = 0.0) -> tuple[History, Tensor, Tensor]:
    """w <- w - eta H (w - optimum) from a start in the span of four eigenvectors, in float64; pushed in float32."""
    generator = torch.Generator().manual_seed(1)
    size = sum(math.prod(shape) for shape in SHAPES)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    keep = torch.tensor([*MODES, *[0.5] * (size - len(MODES))], dtype=torch.float64)
    recurrence = basis @ torch.diag(keep) @ basis.T
    optimum = torch.randn(size, generator=generator, dtype=torch.float64) + moved
    offset = basis[:, : len(MODES)].sum(1)
    history = History(split(optimum), snapshots)
    for number in range(snapshots):
        history.push(25 * number, split(optimum + offset))
        offset = recurrence @ offset
    return history, optimum, recurrence


@pytest.mark.parametrize("method", [rre(0.0), anderson((0.0,))], ids=["rre", "anderson"])
def test_finds_the_fixed_point_with_one_difference_more_than_modes(method: Predictor) -> None:
    for snapshots, largest_error in ((len(MODES) + 2, 3e-4), (12, 3e-4)):
        history, optimum, _ = bowl_run(snapshots)
        history.selection = Bowl(split(optimum))
        error = joined(method.predict(history, 1)) - optimum
        left = joined(history[-1].tensors) - optimum
        assert float(error.norm()) < largest_error * float(left.norm())


@pytest.mark.parametrize("method", [rre(0.0), anderson((0.0,))], ids=["rre", "anderson"])
def test_one_difference_fewer_is_not_enough(method: Predictor) -> None:
    history, optimum, _ = bowl_run(len(MODES) + 1)
    history.selection = Bowl(split(optimum))
    assert float((joined(method.predict(history, 1)) - optimum).norm()) > 1e-2


@pytest.mark.parametrize("regularisation", [1e-5, 1e-2])
def test_anderson_is_one_more_interval_from_where_rre_lands(regularisation: float) -> None:
    """sum_i c_i w_{i+1} = A(sum_i c_i w_i) for an affine A, as c sums to 1."""
    history, optimum, recurrence = bowl_run(6)
    history.selection = Bowl(split(optimum))
    reduced = joined(rre(regularisation).predict(history, 1))
    mixed = joined(anderson((regularisation,)).predict(history, 1))
    torch.testing.assert_close(mixed, optimum + recurrence @ (reduced - optimum), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("regularisation", [1e-8, 1e-5, 1e-1, 10.0])
def test_c_solves_the_constrained_least_squares(regularisation: float) -> None:
    """min |R c|^2 + lambda |R'R| |c|^2 with sum c = 1, by its Lagrange conditions."""
    r = np.random.default_rng(3).normal(size=(40, 6)) * [1, 2, 3, 0.1, 5, 1]
    gram = r.T @ r
    system = np.ones((7, 7))
    system[:6, :6], system[6, 6] = gram + regularisation * np.linalg.norm(gram, 2) * np.eye(6), 0
    wanted = np.linalg.solve(system, np.eye(7)[6])[:6]
    found = fixed_point(gram, regularisation)
    assert found is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    assert found.sum() == pytest.approx(1)


def test_what_stands_in_the_source_is_the_default() -> None:
    assert (REGULARISATION, rre().needs.reach) == (1e-5, 16)  # lambda; 15 differences


def test_a_large_lambda_gives_the_plain_mean() -> None:
    history, _, _ = bowl_run(6)
    mean = torch.stack([joined(each.tensors) for each in list(history)[:-1]]).mean(0)
    torch.testing.assert_close(joined(rre(1e9).predict(history, 1)), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lambdas", [(1e-5,), (1e-2,)])
def test_moves_scales_and_rotates_with_the_weights(lambdas: tuple[float]) -> None:
    history, optimum, _ = bowl_run(7)
    size = len(optimum)
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    shift = torch.linspace(-2, 2, size, dtype=torch.float64)
    turned = History(split(shift), 7)
    for each in history:
        turned.push(each.step, split(4 * turn @ joined(each.tensors) + shift))
    for ring in (history, turned):
        ring.selection = Bowl(split(optimum))
    for method in (rre(*lambdas), anderson(lambdas)):
        wanted = 4 * turn @ joined(method.predict(history, 1)) + shift
        torch.testing.assert_close(joined(method.predict(turned, 1)), wanted, rtol=1e-4, atol=1e-4)


class Losses:
    """Gives losses from a list and notes what was measured."""

    def __init__(self, *losses: float) -> None:
        self.losses, self.seen = list(losses), []

    def loss(self, weights: Sequence[Tensor]) -> float:
        self.seen.append(joined(weights))
        return self.losses[len(self.seen) - 1]


def test_anderson_takes_the_lambda_of_the_smallest_loss() -> None:
    history, _, _ = bowl_run(7)
    selection = Losses(2.0, math.nan, 1.0, 1.0, 3.0)
    history.selection = selection
    method = anderson()
    out = [torch.zeros(shape) for shape in SHAPES]
    predicted = joined(method.predict(history, 50, out=out))
    assert torch.equal(predicted, selection.seen[2])
    found = choice(require_request(method.needs, history, 1, None))
    assert (found.regularisation, found.losses) == (1e-5, (2.0, math.inf, 1.0, 1.0, 3.0))
    assert len(selection.seen) == 5


def test_anderson_declines_where_no_candidate_has_a_loss() -> None:
    history, _, _ = bowl_run(7)
    history.selection = Losses(*[math.nan] * 5)
    for _ in range(2):  # asked again, it does not measure again
        with pytest.raises(Declined, match="none of the 5 candidates has a finite held-out loss"):
            anderson().predict(history, 1)


def test_at_rest_nothing_moves_and_nothing_is_measured() -> None:
    history = History([torch.zeros(4)], 4)
    for step in range(4):
        history.push(step, [torch.full((4,), 0.3)])
    history.selection = Losses()
    for method in (rre(), rre(0.0), anderson()):
        assert torch.equal(method.predict(history, 9)[0], torch.full((4,), 0.3))


def test_a_steady_line_has_no_fixed_point_and_gives_the_mean() -> None:
    """All differences are the same: every c of sum 1 leaves the same residual, the shortest is the mean."""
    history = History([torch.zeros(2)], 5)
    for step in range(5):
        history.push(step, [torch.tensor([1.0, 2.0]) * step])
    torch.testing.assert_close(rre().predict(history, 1)[0], torch.tensor([1.5, 3.0]), rtol=1e-6, atol=1e-6)
