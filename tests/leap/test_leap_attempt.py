"""One attempt on its own: no held-out batch twice, what is credited, and weights that a history rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leapverify.leap.attempt import Attempt, Attempter, BatchSize
from leapverify.leap.ledger import Ledger
from leapverify.leap.live_weights import LiveWeights, Storage
from leapverify.leap.policy.base import Proposal, Situation
from leapverify.leap.policy.line_search import LineSearch
from leapverify.verify import FreshBatches
from leapverify.verify.distributed import SharedLoss
from marks import slow

WIDTH, ROWS = 20, 16
SIZE = BatchSize(ROWS, ROWS)
EXACT = [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]
ROUNDED = [
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.float64, torch.float32),
    (torch.float64, torch.bfloat16),
    (torch.bfloat16, torch.float16),
    (torch.float16, torch.bfloat16),
]


def null(model: nn.Module, batch: Tensor) -> Tensor:
    """Of mean 0 whatever the weights."""
    return model(batch)[:, 0]


class Bench:
    """A linear model with two snapshots, one step apart, and an attempter on it."""

    def __init__(
        self,
        before: Tensor,
        now: Tensor,
        draw: Callable[[], Any],
        loss: Callable[..., Any] = null,
        *,
        history: torch.dtype = torch.float32,
        criterion: str = "paired",
        alpha: float = 0.05,
    ) -> None:
        self.model = nn.Linear(now.shape[1], 1, bias=False).to(now.dtype)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.weights = LiveWeights(self.model, [optimizer], None, Storage(2, history))
        for step, weight in enumerate((before, now)):
            self.model.weight.data.copy_(weight)
            self.weights.history.push(step, self.weights.tensors)
        ledger = Ledger("wall", None, None)
        self.attempter = Attempter(
            self.model,
            self.weights,
            SharedLoss(loss, ledger.ranks),
            draw,
            ledger,
            SIZE,
            lambda horizon: None,
            alpha=alpha,
            sequences=256,
            criterion=criterion,
        )

    def attempt(self, predictor: str = "linear", horizon: int = 2, *, keep: bool = False) -> Attempt:
        return self.attempter.attempt(Proposal(predictor, horizon), lambda attempt: keep)

    def probe(self) -> Callable[[Proposal], float | None]:
        return self.attempter.probe()


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def situation() -> Situation:
    return Situation(
        step=10,
        effective_step=10,
        interval=8,
        since_leap=10,
        regime="stable",
        similarity=1.0,
        straightness=1.0,
        snapshots=2,
        step_cost=1.0,
        attempt_cost=0.0,
        allowance=math.inf,
        decaying=False,
        remaining=None,
    )


# --- no batch twice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, slow(8), slow(16)])
def test_a_line_search_that_gains_nothing_is_accepted_at_most_at_the_stated_rate(count: int) -> None:
    generator, runs, alpha, accepted, attempts = torch.Generator().manual_seed(count), 300, 0.05, 0, 0
    for _ in range(runs):
        fresh = FreshBatches([normal(generator, ROWS, WIDTH) for _ in range(count)])
        bench = Bench(normal(generator, 1, WIDTH), normal(generator, 1, WIDTH), fresh.draw, alpha=alpha)
        choice = LineSearch().choose(situation(), bench.probe())
        assert fresh.draws == 1
        if choice.proposal is not None:
            found = bench.attempt("linear", choice.proposal.horizon)
            attempts += 1
            accepted += found.status == "accepted"
        assert fresh.draws <= count
    assert attempts > runs / 4
    assert accepted <= attempts * alpha + 3.0 * math.sqrt(attempts * alpha * (1.0 - alpha))


def test_a_probe_takes_one_batch_and_gives_nothing_where_none_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    fresh = FreshBatches([normal(generator, ROWS, WIDTH)])
    bench = Bench(normal(generator, 1, WIDTH), normal(generator, 1, WIDTH), fresh.draw)
    first, second = bench.probe(), bench.probe()
    assert first(Proposal("linear", 1)) is not None
    assert first(Proposal("linear", 2)) is not None
    assert second(Proposal("linear", 1)) is None
    assert fresh.draws == 1
    attempt = bench.attempt()
    assert (attempt.status, attempt.reason) == ("rejected", "the held-out sequences do not tell (n = 0)")


# --- what is credited -------------------------------------------------------------------------------------------------


def course(slope: float, noise: float = 0.5, criterion: str = "paired") -> Bench:
    """Weights 10, 11 and a loss of -slope x weight and noise in proportion: a leap of K gains K slope."""
    generator = torch.Generator().manual_seed(1)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model.weight[0, 0] * (noise * batch - slope)  # type: ignore[index,operator]

    return Bench(
        torch.full((1, 1), 10.0), torch.full((1, 1), 11.0), lambda: normal(generator, ROWS), loss, criterion=criterion
    )


def test_the_credit_is_the_lower_bound_over_the_fall_of_the_loss() -> None:
    found = course(1.0).attempt(horizon=4)
    compared = found.comparison
    assert found.status == "accepted"
    assert compared is not None
    assert found.steps_gained == pytest.approx(4.0, rel=1e-4)
    assert found.steps_credit == pytest.approx(4.0 * compared.lower / compared.gain, rel=1e-4)
    assert 0.0 < found.steps_credit < found.steps_gained


@pytest.mark.parametrize(("criterion", "slope"), [("strict", 1.0), ("always", 1.0)])
def test_without_a_bound_half_is_credited(criterion: str, slope: float) -> None:
    found = course(slope, criterion=criterion).attempt(horizon=4)
    assert found.steps_gained == pytest.approx(4.0, rel=1e-4)
    assert found.steps_credit == pytest.approx(2.0, rel=1e-4)


def test_nothing_is_credited_without_a_fall_or_without_an_accept() -> None:
    rising = course(-1.0, criterion="always").attempt(horizon=4)
    assert (rising.status, rising.steps_gained, rising.steps_credit) == ("accepted", None, None)
    refused = course(-1.0).attempt(horizon=4)
    assert (refused.status, refused.steps_gained, refused.steps_credit) == ("rejected", None, None)


def test_a_loss_that_was_made_worse_credits_no_less_than_nothing() -> None:
    def bowl(model: nn.Module, batch: Tensor) -> Tensor:
        return (model.weight[0, 0] - 11.0).square() + 0.0 * batch  # type: ignore[index,operator]

    bench = Bench(
        torch.full((1, 1), 10.0), torch.full((1, 1), 11.0), lambda: torch.zeros(ROWS), bowl, criterion="always"
    )
    found = bench.attempt(horizon=2)
    assert (found.steps_gained, found.steps_credit) == (pytest.approx(-4.0), 0.0)


def test_false_accepts_are_credited_little() -> None:
    """Where nothing is gained, gain and fall are the same noise: the estimate says K, whatever K is."""
    generator, credits, estimates = torch.Generator().manual_seed(7), [], []
    for _ in range(300):
        now, step = normal(generator, 2, 1, WIDTH)
        bench = Bench(now - step, now, lambda: normal(generator, ROWS, WIDTH), alpha=0.2)
        found = bench.attempt(horizon=8)
        if found.status == "accepted":
            credits.append(found.steps_credit)
            estimates.append(found.steps_gained)
    assert len(credits) > 5
    assert estimates == pytest.approx([8.0] * len(estimates), rel=1e-2)
    assert sum(credits) / len(credits) < 2.0


# --- weights that a history rounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "history"), EXACT + ROUNDED)
def test_hold_leaves_theta_t_exactly(weights: torch.dtype, history: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = 10.0 ** torch.linspace(-9, 3, 400, dtype=torch.float64)
    before, now = (normal(generator, 1, 400) * scale).to(weights), (normal(generator, 1, 400) * scale).to(weights)
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(model.weight.detach().clone())  # type: ignore[operator]
        return batch

    bench = Bench(before, now, lambda: torch.randn(ROWS), loss, history=history, criterion="always")
    rounds = not torch.equal(bench.weights.history[-1].tensors[0].to(weights), now)
    assert rounds == ((weights, history) in ROUNDED)
    kept: list[Tensor] = []
    bench.attempt("hold", keep=True)
    kept.append(bench.model.weight.detach().clone())
    assert torch.equal(seen[0], now)
    assert torch.equal(seen[1], now)
    assert torch.equal(kept[0], now)


@pytest.mark.parametrize(("weights", "history"), ROUNDED[:4])
def test_a_leap_adds_to_theta_t_what_the_snapshots_say(weights: torch.dtype, history: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    before, now = normal(generator, 1, 50).to(weights), normal(generator, 1, 50).to(weights)
    bench = Bench(before, now, lambda: torch.randn(ROWS), lambda model, batch: batch, history=history)
    bench.attempter.criterion = "always"
    bench.attempt("linear", 3, keep=True)
    move = 3 * (now.to(history).double() - before.to(history).double())
    torch.testing.assert_close(bench.model.weight.data.double(), now.double() + move, rtol=1e-6, atol=1e-6)


def test_theta_t_comes_back_from_a_rounded_history() -> None:
    generator = torch.Generator().manual_seed(0)
    before, now = normal(generator, 1, 50), normal(generator, 1, 50)
    bench = Bench(before, now, lambda: torch.randn(ROWS), lambda model, batch: batch, history=torch.bfloat16)
    assert bench.attempt("linear").status == "rejected"
    assert torch.equal(bench.model.weight.data, now)
    bench.probe()(Proposal("linear", 2))
    assert torch.equal(bench.model.weight.data, now)


def test_weights_beyond_the_range_of_the_history_are_refused() -> None:
    before, now = torch.full((1, 4), 1.0), torch.full((1, 4), 1e6)
    bench = Bench(before, now, lambda: torch.randn(ROWS), lambda model, batch: batch, history=torch.float16)
    assert bench.attempt("hold").status == "nonfinite"
    assert torch.equal(bench.model.weight.data, now)
