"""The validator where something is wrong: losses that are not finite, sets that are too small, losses of odd form."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from leapverify.verify import Measured, Verdict, Verifier
from leapverify.verify.heldout import loss_rows

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def per_sequence(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]).squeeze(1) - batch[1]) ** 2


def make_batches(count: int = 16, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 4, generator=generator), torch.randn(size, generator=generator)) for _ in range(count)]


def passed(verdict: Verdict) -> list[str]:
    """Names of the criteria that accept."""
    return [name for name in ("strict", "adaptive", "proximity", "paired") if getattr(verdict, name)]


# --- losses that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.failure(8)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_exploded_weights_fail_every_criterion(net: nn.Linear, value: float) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=16, budget=128)
    now = verifier.measure()
    with torch.no_grad():
        net.weight.fill_(value)
    verdict = verifier.verify(now, 10.0)
    assert not verdict.finite
    assert passed(verdict) == []
    assert verdict.paired_lower is None
    assert verdict.forward_passes == 2


@pytest.mark.failure(8)
def test_one_bad_sequence_beyond_the_fixed_set_is_enough(net: nn.Linear) -> None:
    batches = make_batches()
    batches[4][1][3] = 1e30
    verifier = Verifier(net, batches, per_sequence, sequences=16, budget=128)
    now = verifier.measure()
    assert math.isfinite(now.loss)
    assert not bool(torch.isfinite(now.losses).all())
    sane = Measured(now.loss, now.losses.nan_to_num(posinf=1.0), now.tokens, now.batches, now.ends, 0.0)
    verdict = verifier.verify(sane, 10.0)
    assert math.isfinite(verdict.loss)
    assert not verdict.finite
    assert passed(verdict) == []
    assert verdict.forward_passes == 5


@pytest.mark.failure(8)
def test_from_weights_whose_own_loss_is_not_a_number_nothing_is_accepted(net: nn.Linear) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=16, budget=128)
    good = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.weight.fill_(math.nan)
    now = verifier.measure()
    net.load_state_dict(good)
    verdict = verifier.verify(now, 10.0)
    assert verdict.finite
    assert passed(verdict) == []
    assert verdict.paired_sequences == 0


# --- forms of a loss ------------------------------------------------------------------------------------------------


def test_every_form_of_loss_becomes_two_vectors() -> None:
    for output, losses, tokens in (
        (2.5, [2.5], [1.0]),
        (torch.tensor(2.5), [2.5], [1.0]),
        (torch.tensor([2.5, 3.5]), [2.5, 3.5], [1.0, 1.0]),
        ((torch.tensor([2.5, 3.5]), torch.tensor([7, 9])), [2.5, 3.5], [7.0, 9.0]),
        ((torch.tensor(2.5), torch.tensor(257)), [2.5], [257.0]),
        ((torch.tensor([2.5], dtype=torch.bfloat16), torch.tensor([257])), [2.5], [257.0]),
    ):
        found = loss_rows(output)
        assert all(isinstance(part, Float[Tensor, "b"]) for part in found)
        assert [part.tolist() for part in found] == [losses, tokens]


# --- bad input --------------------------------------------------------------------------------------------------------


def test_an_empty_held_out_set_is_named(net: nn.Linear) -> None:
    with pytest.raises(ValueError, match=r"the held-out set is empty \(0 batches\): give at least one batch"):
        Verifier(net, [], per_sequence, sequences=1, budget=1)
    with pytest.raises(ValueError, match=r"the held-out set is empty \(0 batches\): give at least one batch"):
        Verifier(net, lambda: [], per_sequence, sequences=1, budget=1).measure()


def test_a_held_out_set_that_is_too_small_is_named(net: nn.Linear) -> None:
    with pytest.raises(ValueError, match="gives 16 losses where sequences = 20 are asked for: give more held-out data"):
        Verifier(net, make_batches(2), per_sequence, sequences=20, budget=20).measure()


def test_a_held_out_set_that_can_be_read_once_only_is_named(net: nn.Linear) -> None:
    with pytest.raises(ValueError, match="the held-out set is a list_iterator, which can be read only once"):
        Verifier(net, iter(make_batches()), per_sequence, sequences=1, budget=1)


def test_numbers_that_make_no_sense_are_named(net: nn.Linear) -> None:
    batches = make_batches()
    with pytest.raises(ValueError, match="sequences = 0"):
        Verifier(net, batches, per_sequence, sequences=0, budget=1)
    with pytest.raises(ValueError, match=r"budget = 7 is below sequences = 8: give a budget of at least 8"):
        Verifier(net, batches, per_sequence, sequences=8, budget=7)
    with pytest.raises(ValueError, match="epsilon = 0"):
        Verifier(net, batches, per_sequence, sequences=8, budget=8, epsilon=0)
    with pytest.raises(ValueError, match=r"alpha = 0\.7"):
        Verifier(net, batches, per_sequence, sequences=8, budget=8, alpha=0.7)
    verifier = Verifier(net, batches, per_sequence, sequences=8, budget=8)
    with pytest.raises(ValueError, match=r"sigma = -1\.0"):
        verifier.verify(verifier.measure(), -1.0)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: torch.ones(2, 3), r"shape \(2, 3\): return a scalar, one loss a sequence"),
        (lambda model, batch: torch.ones(0), r"shape \(0,\)"),
        (lambda model, batch: (torch.ones(3), torch.ones(2)), "3 losses and 2 token counts"),
        (lambda model, batch: (torch.ones(8), torch.zeros(8)), "count 0 tokens: give text, not padding"),
    ],
)
def test_a_loss_function_of_another_form_is_named(net: nn.Linear, loss: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verifier(net, make_batches(), loss, sequences=8, budget=8).measure()


def test_a_loss_function_that_changes_its_count_is_named(net: nn.Linear) -> None:
    sizes = iter([8, 8, 8, 5, 8, 8])

    def moody(model: nn.Module, batch: Batch) -> Tensor:
        return per_sequence(model, batch)[: next(sizes)]

    verifier = Verifier(net, make_batches(), moody, sequences=8, budget=24)
    now = verifier.measure()
    with pytest.raises(ValueError, match=r"other numbers of losses \(5 by batch 1\) than for the baseline \(8\)"):
        verifier.verify(now, 0.0)
