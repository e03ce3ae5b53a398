"""`dmd-r` is exact on recurrences of rank r, `rank1` on a rank-one linear path; both equal slow float64 forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from leapverify.predict import predictor
from leapverify.predict.dmd import clipped, rolled
from leapverify.trajectory.history import History

DELTA = 20


def history_of(points: Sequence[np.ndarray], steps: Sequence[int] | None = None) -> History:
    history = History([torch.zeros(points[0].shape)], len(points))
    for number, point in enumerate(points):
        step = DELTA * number if steps is None else steps[number]
        history.push(step, [torch.from_numpy(point)])
    return history


def recurrence(a: np.ndarray, count: int, size: int = 30) -> list[np.ndarray]:
    """w_{i+1} = w_i + d_i, d_{i+1} = A d_i with A of rank r acting on r directions out of `size`."""
    rng = np.random.default_rng(len(a))
    basis = rng.normal(size=(size, len(a)))
    d, w = np.ones(len(a)), rng.normal(size=size)
    points = [w]
    for _ in range(count - 1):
        w = w + basis @ d
        d = a @ d
        points.append(w)
    return points


TURNING = 0.9 * np.array([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
CASES = {
    "one decaying mode": np.array([[0.8]]),
    "one that flips": np.array([[-0.7]]),
    "a steady drift": np.array([[1.0]]),
    "two decays": np.diag([0.9, 0.4]),
    "a turning decay": TURNING,
    "a parabola": np.array([[1.0, 1.0], [0.0, 1.0]]),
    "three": np.block([[TURNING, np.zeros((2, 1))], [np.zeros((1, 2)), np.array([[0.5]])]]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("intervals", [1, 2, 5])
def test_dmd_is_exact_on_a_recurrence_of_its_rank(case: str, more: int, intervals: int) -> None:
    a = CASES[case]
    rank = len(a)
    snapshots = rank + 2 + more
    points = recurrence(a, snapshots + intervals)
    predicted = predictor(f"dmd-{rank}").predict(history_of(points[:snapshots]), DELTA * intervals)[0].numpy()
    wanted = points[-1]
    # A double eigenvalue splits by the root of what rounding the snapshots changes, 2^-24 of 60.
    share = 2e-3 if case == "a parabola" else 2e-4
    assert np.abs(predicted - wanted).max() < share * np.abs(wanted - points[snapshots - 1]).max() + 1e-5


@pytest.mark.parametrize("case", ["two decays", "a turning decay", "a parabola"])
def test_a_rank_too_low_is_not_exact(case: str) -> None:
    points = recurrence(CASES[case], 9)
    predicted = predictor("dmd-1").predict(history_of(points[:6]), 3 * DELTA)[0].numpy()
    assert np.abs(predicted - points[-1]).max() > 1e-2


def test_a_rank_too_high_does_no_harm() -> None:
    points = recurrence(CASES["one decaying mode"], 12)
    predicted = predictor("dmd-4").predict(history_of(points[:8]), 4 * DELTA)[0].numpy()
    np.testing.assert_allclose(predicted, points[-1], rtol=1e-4, atol=1e-4)


def test_between_whole_intervals_it_lies_on_the_line_between_them() -> None:
    history = history_of(recurrence(CASES["a turning decay"], 7))
    below, above, between = (predictor("dmd-2").predict(history, k)[0] for k in (2 * DELTA, 3 * DELTA, 2 * DELTA + 5))
    torch.testing.assert_close(between, below + 0.25 * (above - below))
    near, one, now = (
        predictor("dmd-2").predict(history, 5)[0],
        predictor("dmd-2").predict(history, DELTA)[0],
        history[-1].tensors[0],
    )
    torch.testing.assert_close(near, now + 0.25 * (one - now))


def test_growth_is_held_to_the_unit_circle() -> None:
    """d doubles each interval: drawn back to 1 it goes on as long as the newest difference."""
    points = recurrence(np.array([[2.0]]), 5)
    predicted = predictor("dmd-1").predict(history_of(points), 3 * DELTA)[0].numpy()
    np.testing.assert_allclose(predicted, points[-1] + 3 * (points[-1] - points[-2]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_clipping_keeps_the_angles_and_the_eigenvalues_inside(seed: int) -> None:
    a = np.random.default_rng(seed).normal(size=(4, 4))
    before, after = (np.sort_complex(np.linalg.eigvals(each)) for each in (a, clipped(a)))
    wanted = np.sort_complex(before / np.maximum(np.abs(before), 1))
    np.testing.assert_allclose(np.sort_complex(after), wanted, atol=1e-8)
    inside = 0.9 * a / np.abs(before).max()
    assert np.array_equal(clipped(inside), inside)


def slow_dmd(points: Sequence[np.ndarray], rank: int, intervals: int) -> np.ndarray:
    """From whole matrices, by singular values and powers one by one; eigenvalues must lie inside the disc."""
    d = np.diff(np.stack(points, axis=1), axis=1)
    u, s, vt = np.linalg.svd(d[:, :-1], full_matrices=False)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    a = u.T @ d[:, 1:] @ vt.T / s
    assert np.abs(np.linalg.eigvals(a)).max() < 1
    z, total = u.T @ d[:, -1], points[-1].copy()
    for _ in range(intervals):
        z = a @ z
        total += u @ z
    return total


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dmd_equals_the_slow_form_on_noise(rank: int) -> None:
    rng = np.random.default_rng(7)
    clean = recurrence(CASES["three"], 9, size=60)
    points = [(each + 0.01 * rng.normal(size=60)).astype(np.float32).astype(np.float64) for each in clean]
    predicted = predictor(f"dmd-{rank}").predict(history_of(points), 4 * DELTA)[0].numpy()
    np.testing.assert_allclose(predicted, slow_dmd(points[-rank - 4 :], rank, 4), rtol=1e-5, atol=1e-5)


def test_a_long_way_takes_no_longer_and_stays_finite() -> None:
    history = history_of(recurrence(CASES["two decays"], 6))
    far, further = (predictor("dmd-2").predict(history, k)[0] for k in (10**6, 10**9))
    torch.testing.assert_close(far, further, rtol=1e-3, atol=1e-3)


def test_what_moved_only_just_now_gives_no_recurrence() -> None:
    points = [np.zeros(3), np.zeros(3), np.zeros(3), np.ones(3)]
    assert np.array_equal(predictor("dmd-2").predict(history_of(points), 50)[0].numpy(), np.ones(3))
    assert not rolled(np.zeros((3, 3)), 2, 2.5).any()


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="dmd-0 follows no mode: use a rank of at least 1"):
        predictor("dmd-0")


UNEVEN = (3, 50, 61, 100, 180, 200)


@pytest.mark.parametrize("horizon", [1, 40, 4000])
@pytest.mark.parametrize("count", [3, 6])
def test_rank1_is_exact_on_a_rank_one_linear_path(horizon: int, count: int) -> None:
    """At uneven steps as well, 20 times beyond the window and more."""
    rng = np.random.default_rng(0)
    base, direction = rng.normal(size=(5, 8)), rng.normal(size=(5, 8)) / 100
    points = [base + step * direction for step in UNEVEN[-count:]]
    predicted = predictor("rank1").predict(history_of(points, UNEVEN[-count:]), horizon)[0].numpy()
    moved = horizon * direction
    assert np.abs(predicted - points[-1] - moved).max() < 3e-6 * max(1, horizon / 100)


def slow_rank1(points: Sequence[np.ndarray], steps: Sequence[int], horizon: int) -> np.ndarray:
    """By the singular vectors of the whole M and numpy's own straight line."""
    m = np.stack([each - points[0] for each in points[1:]])
    u, s, vt = np.linalg.svd(m, full_matrices=False)
    slope, start = np.polyfit(steps, np.append(0.0, s[0] * u[:, 0]), 1)
    return points[0] + (start + slope * (steps[-1] + horizon)) * vt[0]


@pytest.mark.parametrize("horizon", [1, 40, 400])
def test_rank1_equals_the_slow_form_on_noise(horizon: int) -> None:
    rng = np.random.default_rng(1)
    base, direction = rng.normal(size=50), rng.normal(size=50) / 100
    points = [base + step * direction + 0.05 * rng.normal(size=50) for step in UNEVEN]
    points = [each.astype(np.float32).astype(np.float64) for each in points]
    predicted = predictor("rank1").predict(history_of(points, UNEVEN), horizon)[0].numpy()
    np.testing.assert_allclose(predicted, slow_rank1(points, UNEVEN, horizon), rtol=1e-5, atol=1e-5)


def test_tensors_do_not_know_one_another() -> None:
    left, right = recurrence(CASES["two decays"], 6), recurrence(CASES["one that flips"], 6)
    both = History([torch.zeros(30), torch.zeros(30)], 6)
    for number, pair in enumerate(zip(left, right, strict=True)):
        both.push(DELTA * number, [torch.from_numpy(each) for each in pair])
    for name in ("dmd-2", "rank1"):
        apart = [predictor(name).predict(history_of(each), 45)[0] for each in (left, right)]
        assert all(torch.equal(a, b) for a, b in zip(predictor(name).predict(both, 45), apart, strict=True))
