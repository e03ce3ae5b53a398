"""The paired comparison of two states: the gains of the test, no more passes than needed, no trace, its error rate."""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.verify import Comparison, Exhausted, FreshBatches, PairedTest, compare, mean_loss_of, positions_of

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """A model with everything that evaluation could disturb: running statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(x))).squeeze(1)


def per_sequence(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]) ** 2


def scalar(model: nn.Module, batch: Batch) -> Tensor:
    return per_sequence(model, batch).mean()


def counted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    return per_sequence(model, batch), torch.arange(len(batch[1])) + 3 * batch[1].abs().round()


def make_batches(count: int = 64, size: int = 8, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(size, 4, generator=generator) for _ in range(count)]
    return [(x, x.sum(1) + torch.randn(size, generator=generator)) for x in xs]


class Run:
    """A model, its theta_t and theta_hat, and a log of what was asked of it."""

    def __init__(self, shift: float, batches: list[Batch] | None = None) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.model.norm(torch.randn(32, 4))
        self.now = copy.deepcopy(self.model.state_dict())
        self.predicted = copy.deepcopy(self.now)
        self.predicted["out.weight"] += shift * (1.0 - self.predicted["out.weight"])
        self.rest: Iterator[Batch] = iter(batches or make_batches())
        self.log: list[str] = []

    def to_now(self) -> None:
        self.log.append("now")
        self.model.load_state_dict(self.now)

    def to_predicted(self) -> None:
        self.log.append("predicted")
        self.model.load_state_dict(self.predicted)

    def draw(self) -> Batch:
        self.log.append("draw")
        return next(self.rest)

    def compare(self, loss: Callable[..., Any] = per_sequence, **options: Any) -> Comparison:
        return compare(self.model, loss, self.draw, to_now=self.to_now, to_predicted=self.to_predicted, **options)

    def losses(self, state: dict[str, Tensor], batches: tuple[Batch, ...], loss: Callable[..., Any]) -> list[Any]:
        """What the loss function says of a state, batch by batch, in float64."""
        twin = copy.deepcopy(self.model).double().eval()
        twin.load_state_dict(state)
        with torch.no_grad():
            return [loss(twin, (x.double(), y.double())) for x, y in batches]


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.4, 0.01, -0.3])
def test_the_numbers_against_a_slow_reference(shift: float) -> None:
    run = Run(shift)
    found = run.compare(counted)
    rows = [run.losses(state, found.batches, counted) for state in (run.now, run.predicted)]
    now, predicted = (torch.cat([losses for losses, _ in each]) for each in rows)
    tokens = torch.cat([each for _, each in rows[0]]).double()
    torch.testing.assert_close(found.losses_now, now, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tokens, tokens)
    assert found.sequences == len(now) == 8 * len(found.batches)
    assert found.loss_now == pytest.approx(float(now @ tokens / tokens.sum()), rel=1e-5)
    assert found.loss_predicted == pytest.approx(float(predicted @ tokens / tokens.sum()), rel=1e-5)
    assert found.gain == pytest.approx(found.loss_now - found.loss_predicted, abs=1e-12)
    gains = (now - predicted) * tokens / tokens.mean()
    test = PairedTest(0.05)
    decision = test.update(gains.numpy())
    assert found.lower == pytest.approx(test.bounds.lower, rel=1e-3, abs=1e-5)
    assert found.accepted == (decision is not None and decision.value == "accept")


def test_better_weights_are_accepted_and_worse_ones_refused() -> None:
    better, worse = Run(0.4).compare(), Run(-0.4).compare()
    assert (better.accepted, better.decision) == (True, "accepted")
    assert (worse.accepted, worse.decision) == (False, "worse")
    assert better.gain > better.lower > 0.0 > worse.gain > worse.lower


def test_equal_weights_gain_exactly_nothing_and_stay_open_to_the_end_of_the_budget() -> None:
    found = Run(0.0).compare(budget=100)
    assert (found.accepted, found.decision, found.gain, found.lower) == (False, "open", 0.0, 0.0)
    assert found.loss_now == found.loss_predicted
    assert (found.sequences, found.positions) == (96, 2 * 96)


def test_rounds_double_and_each_runs_theta_t_first() -> None:
    run = Run(0.0)
    run.compare(budget=1000 // 8)
    assert run.log == [
        *["draw", "draw", "predicted"],
        *["draw", "now", "predicted"],
        *["draw"] * 2,
        *["now", "predicted"],
        *["draw"] * 4,
        *["now", "predicted"],
        *["draw"] * 6,
        *["now", "predicted"],
    ]


def test_a_clear_answer_takes_one_round_and_leaves_the_predicted_weights_in_place() -> None:
    run = Run(0.4, make_batches(8, 32))
    found = run.compare()
    assert run.log == ["draw", "predicted"]
    assert (found.sequences, len(found.batches)) == (32, 1)
    assert torch.equal(run.model.out.weight, run.predicted["out.weight"])


def test_a_batch_larger_than_the_budget_is_used_once() -> None:
    assert Run(0.0, make_batches(4, 64)).compare(budget=20).sequences == 64


def test_scalar_losses_make_the_batch_the_unit() -> None:
    found = Run(0.4).compare(scalar)
    assert (found.accepted, found.sequences, len(found.batches)) == (True, 16, 16)
    assert found.tokens.tolist() == [1.0] * 16
    assert Run(0.0).compare(scalar, budget=20).sequences == 20


def test_the_unit_of_the_tokens_does_not_matter() -> None:
    plain = Run(0.02).compare(counted)
    scaled = Run(0.02).compare(lambda model, batch: (counted(model, batch)[0], 64 * counted(model, batch)[1]))
    assert (scaled.decision, scaled.gain, scaled.lower) == (plain.decision, plain.gain, plain.lower)


@pytest.mark.failure(6)
def test_comparing_leaves_no_trace_but_the_weights() -> None:
    run = Run(0.02)
    run.model.train()
    run.model.drop.eval()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    run.compare(lambda model, batch: per_sequence(model, batch) + 0.0 * torch.rand(8) * random.random())
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert (run.model.norm.training, run.model.drop.training) == (True, False)
    for name, buffer in run.model.named_buffers():
        assert torch.equal(buffer, run.now[name]), name


def test_batches_that_a_function_draws_at_random_are_different_ones() -> None:
    def random_batch() -> Batch:
        x = torch.randn(8, 4)
        return x, x.sum(1)

    run = Run(0.0)
    found = compare(
        run.model, per_sequence, FreshBatches(random_batch).draw, to_now=run.to_now, to_predicted=run.to_predicted
    )
    assert found.sequences == 256
    assert len({float(x[0, 0]) for x, _ in found.batches}) == 32


# --- a set that ends --------------------------------------------------------------------------------------------------


class Short(Run):
    """A run whose held-out set has a few batches of 8."""

    def __init__(self, shift: float, count: int) -> None:
        super().__init__(shift)
        self.fresh = FreshBatches(make_batches(count))

    def draw(self) -> Batch:
        self.log.append("draw")
        return self.fresh.draw()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_a_set_that_ends_is_a_budget_that_is_spent(count: int) -> None:
    run = Short(0.0, count)
    found = run.compare()
    assert (found.accepted, found.decision) == (False, "open")
    assert (found.sequences, found.positions) == (8 * count, 16 * count)
    assert len({id(batch[0]) for batch in found.batches}) == count
    assert (found.gain, found.lower) == (0.0, 0.0)
    assert run.log[-2:] == ["predicted", "draw"]  # nothing is put back in vain


def test_a_clear_answer_needs_no_more_than_the_set_has() -> None:
    assert Short(0.4, 6).compare().decision == "accepted"
    assert Short(-0.4, 6).compare().decision == "worse"


def test_fewer_gains_than_the_test_needs_stay_open_at_half_the_cost() -> None:
    run = Short(0.4, 1)
    found = run.compare()
    assert (found.accepted, found.decision, found.sequences, found.positions) == (False, "open", 8, 8)
    assert found.loss_now == pytest.approx(mean_loss_of(run.model, per_sequence, found.batches))
    assert (found.loss_predicted, found.gain, found.lower) == (None, None, None)
    assert "predicted" not in run.log


@pytest.mark.parametrize(("criterion", "accepted"), [("strict", True), ("always", True), ("never", False)])
def test_the_controls_decide_by_what_there_is(criterion: str, accepted: bool) -> None:
    found = Short(0.4, 1).compare(criterion=criterion)
    assert (found.accepted, found.sequences, found.positions) == (accepted, 8, 16)
    assert found.gain > 0.0


@pytest.mark.parametrize("criterion", ["paired", "strict", "always", "never"])
def test_without_any_batch_nothing_is_decided(criterion: str) -> None:
    run = Short(0.4, 1)
    run.fresh.draw()
    found = run.compare(criterion=criterion)
    assert (found.accepted, found.decision, found.sequences, found.positions) == (False, "open", 0, 0)
    assert (found.loss_now, found.loss_predicted, found.gain, found.lower) == (None, None, None, None)
    assert (found.batches, len(found.losses_now), len(found.tokens)) == ((), 0, 0)


def test_a_loss_that_is_not_finite_is_said_of_few_gains_too() -> None:
    run = Short(0.4, 1)
    with torch.no_grad():
        run.model.out.weight.fill_(math.nan)
    assert run.compare().decision == "non-finite"


def test_what_else_draw_raises_is_passed_on() -> None:
    def broken() -> Batch:
        raise OSError("disk")

    run = Run(0.0)
    with pytest.raises(OSError, match="disk"):
        compare(run.model, per_sequence, broken, to_now=run.to_now, to_predicted=run.to_predicted)
    assert not issubclass(Exhausted, (ValueError, OSError))


# --- the controls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "shift", "accepted"),
    [("strict", 0.1, True), ("strict", -0.1, False), ("always", -0.1, True), ("never", 0.4, False)],
)
def test_the_controls_decide_after_the_first_round(criterion: str, shift: float, accepted: bool) -> None:
    run = Run(shift)
    found = run.compare(criterion=criterion)
    assert (found.accepted, found.decision) == (accepted, "accepted" if accepted else "worse")
    assert run.log == ["draw", "draw", "predicted"]
    assert (found.sequences, found.positions, found.lower) == (16, 32, None)
    assert found.gain is not None


# --- what is not finite -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["paired", "strict", "always", "never"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_prediction_that_explodes_is_never_accepted(criterion: str, value: float) -> None:
    run = Run(0.4)
    run.predicted["out.weight"].fill_(value)
    found = run.compare(criterion=criterion)
    assert (found.accepted, found.decision) == (False, "non-finite")
    assert math.isfinite(found.loss_now)
    assert (found.loss_predicted, found.gain, found.lower) == (None, None, None)
    assert (found.sequences, found.positions) == (16, 32)


def test_from_weights_whose_own_loss_is_not_finite_nothing_is_accepted() -> None:
    run = Run(0.4)
    with torch.no_grad():
        run.model.out.weight.fill_(math.nan)
    found = run.compare(criterion="always")
    assert (found.accepted, found.decision, found.loss_now) == (False, "non-finite", None)
    assert run.log == ["draw", "draw"]


def test_a_loss_that_explodes_in_a_later_round_ends_it_there() -> None:
    batches = make_batches()
    batches[3][1][0] = 1e30
    found = Run(0.0, batches).compare()
    assert (found.accepted, found.decision, found.sequences) == (False, "non-finite", 40)


# --- the error rate ---------------------------------------------------------------------------------------------------


def test_null_improvements_are_accepted_at_most_at_the_stated_rate() -> None:
    """Losses base + theta e with e of mean 0: going from theta = 0 to 1 changes nothing on average."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(1, 1, bias=False)
    theta = model.weight.data

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return 2.0 + theta.item() * batch

    runs, alpha, accepted = 400, 0.05, 0
    for _ in range(runs):
        theta.zero_()
        found = compare(
            model,
            loss,
            lambda: torch.randn(16, generator=generator),
            to_now=theta.zero_,  # type: ignore[arg-type]
            to_predicted=lambda: theta.fill_(1.0),  # type: ignore[arg-type]
            alpha=alpha,
            budget=512,
        )
        accepted += found.accepted
    assert accepted <= runs * alpha + 2.0 * math.sqrt(runs * alpha * (1.0 - alpha))
    assert accepted > 0


def null_accepts(count: int, runs: int, *, again: bool) -> int:
    """False accepts with sets of so many batches of 16, two decisions a set; `again` gives batches repeatedly."""
    generator = torch.Generator().manual_seed(count)
    model = nn.Linear(20, 1, bias=False)
    weight, accepted = model.weight.data, 0
    for _ in range(runs // 2):
        batches = [torch.randn(16, 20, generator=generator) for _ in range(count)]
        fresh, repeated = FreshBatches(batches), itertools.cycle(batches)
        for _ in range(2):
            fresh.open_window()
            now, predicted = torch.randn(2, 1, 20, generator=generator)
            weight.copy_(now)
            found = compare(
                model,
                lambda model, batch: model(batch)[:, 0],  # of mean 0 whatever the weights
                repeated.__next__ if again else fresh.draw,
                to_now=lambda now=now: weight.copy_(now),  # type: ignore[misc]
                to_predicted=lambda predicted=predicted: weight.copy_(predicted),  # type: ignore[misc]
                alpha=0.05,
            )
            assert again or found.sequences <= 16 * count
            accepted += found.accepted
    return accepted


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_null_improvements_on_a_small_set_are_accepted_at_most_at_the_stated_rate(count: int) -> None:
    assert null_accepts(count, 300, again=False) <= 300 * 0.05 + 3.0 * math.sqrt(300 * 0.05 * 0.95)


def test_copies_of_sequences_would_break_the_stated_rate() -> None:
    assert null_accepts(2, 200, again=True) > 200 * 0.05 + 3.0 * math.sqrt(200 * 0.05 * 0.95)


# --- positions and means ----------------------------------------------------------------------------------------------


@dataclass
class Held:
    mask: Tensor
    ids: Tensor


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(4, 7, dtype=torch.int64), 28),
        ({"input_ids": torch.zeros(2, 5, dtype=torch.int32), "labels": torch.zeros(2, dtype=torch.int64)}, 10),
        ((torch.randn(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64)), 6),
        ([torch.randn(3, 2), {"ids": torch.zeros(3, 9, dtype=torch.int64)}], 27),
        (Held(torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.int64)), 8),
        (torch.tensor(3.0), 1),
        ("text", 1),
        (Held, 1),
    ],
)
def test_positions_of_any_batch(batch: Any, expected: int) -> None:
    assert positions_of(batch) == expected


def test_the_mean_loss_is_weighted_by_tokens() -> None:
    run, batches = Run(0.0), make_batches(3)
    rows = run.losses(run.now, tuple(batches), counted)
    losses, tokens = torch.cat([each for each, _ in rows]), torch.cat([each for _, each in rows])
    assert mean_loss_of(run.model, counted, batches) == pytest.approx(float(losses @ tokens / tokens.sum()), rel=1e-5)
    assert run.model.training
    with pytest.raises(ValueError, match=r"no held-out batch was given \(0 batches\)"):
        mean_loss_of(run.model, counted, [])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: None, "the loss function returned nothing: return a scalar, one loss a sequence"),
        (lambda model, batch: torch.ones(2, 3), r"a tensor of shape \(2, 3\): return a scalar"),
        (lambda model, batch: torch.ones(0), r"a tensor of shape \(0,\)"),
        (lambda model, batch: (torch.ones(3), torch.ones(2)), "3 losses and 2 token counts"),
        (lambda model, batch: (torch.ones(2), torch.ones(2), 1), "a tuple of 3: return a scalar"),
        (lambda model, batch: {"loss": torch.ones(2)}, "a dict, which is no loss: return a scalar"),
        (lambda model, batch: (torch.ones(8), torch.zeros(8)), "count 0 tokens: give text, not padding"),
    ],
)
def test_a_loss_function_of_another_form_is_named(loss: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Run(0.1).compare(loss)


def test_a_loss_function_that_changes_its_count_is_named() -> None:
    sizes = iter([8, 8, 8, 5])

    def moody(model: nn.Module, batch: Batch) -> Tensor:
        return per_sequence(model, batch)[: next(sizes)]

    with pytest.raises(ValueError, match=r"gave \[8, 5\] losses for batches of which it gave \[8, 8\] before"):
        Run(0.1).compare(moody)


def test_numbers_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="criterion 'best' is unknown: use paired, strict, always, never"):
        Run(0.1).compare(criterion="best")
    with pytest.raises(ValueError, match="a budget of 15 sequences decides nothing by 'paired': give at least 16"):
        Run(0.1).compare(budget=15)
    with pytest.raises(ValueError, match="a budget of 0 sequences decides nothing by 'never': give at least 1"):
        Run(0.1).compare(budget=0, criterion="never")
    with pytest.raises(ValueError, match=r"alpha = 0\.7"):
        Run(0.1).compare(alpha=0.7)
