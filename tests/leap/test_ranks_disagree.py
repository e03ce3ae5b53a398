"""Ranks that were given, see, or time something else than one another: one decision or one error, no endless wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from leap_ranks import INTERVAL, Run, losses, refused, way
from leapverify.leap.api import LeapVerify
from processes import run_ranks

STEPS = 3 * INTERVAL
ALWAYS = {"predictor": "linear", "criterion": "always"}


@pytest.mark.failure(10)
def test_options_that_differ_are_named_on_every_rank() -> None:
    def work() -> list[str]:
        rank = dist.get_rank()
        differing: list[dict[str, Any]] = [
            {"interval": 4 + rank},
            {"policy": ("fixed", "auto")[rank]},
            {"predictor": ("linear", "adam")[rank]},
            {"mode": ("live", "shadow")[rank]},
            {"alpha": (0.05, 0.01)[rank]},
            {"seed": rank},
        ]
        return [refused(lambda given=given: Run(way("ddp", 2)).leap(**given)) for given in differing]

    told, other = run_ranks(2, work)
    assert told == other
    for name, text in zip(("interval", "policy", "predictor", "mode", "alpha", "seed"), told, strict=True):
        assert text.startswith(f"{name} differs between ranks (")
        assert text.endswith("give every rank the same")


@pytest.mark.failure(10)
def test_ranks_that_hold_other_layers_arerefused() -> None:
    def work() -> str:
        model = nn.Linear(4, 2 + dist.get_rank())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return refused(lambda: LeapVerify(model, optimizer, mode="monitor", probes=torch.ones(2, 4)))

    assert set(run_ranks(2, work)) == {
        "the ranks train other parameters (weight of shape (2, 4) on rank 0, weight of shape (3, 4) on rank 1): every "
        "rank has to hold the same layers or parts of them; pipeline stages are not served"
    }


class FullyShardedDataParallel(nn.Module):
    """Goes by the name of the older wrapper."""


@pytest.mark.failure(10)
def test_the_older_wrapper_is_refused_with_the_remedy() -> None:
    def work() -> str:
        model = nn.Sequential(nn.Linear(2, 2), FullyShardedDataParallel())
        return refused(lambda: LeapVerify(model, torch.optim.SGD(model.parameters(), lr=0.1), mode="monitor"))

    own = "the model is wrapped in FullyShardedDataParallel, whose flat parameters are not served: use "
    assert all(own in text for text in run_ranks(2, work))


@pytest.mark.failure(10)
def test_other_losses_and_clocks_on_one_rank_lead_to_one_decision() -> None:
    """Rank 1 says that every leap is bad, and its clock runs a thousand times as fast."""

    def work() -> Any:
        own = dist.get_rank() == 1

        def loss(model: nn.Module, rows: Any) -> Tensor:
            return losses(model, rows) * (-1.0 if own else 1.0)

        found = []
        for budget in (None, 0.5):  # without one every checkpoint tries; with one the clock rules
            run = Run(way("ddp", 2))
            clock = {"clock": "wall", "step_tokens": None, "budget": budget}
            leap = run.leap(loss=loss, predictor="linear", **clock)
            if own:
                leap._driver.engine.ledger.part = _fast(leap._driver.engine.ledger)
            found.append(run.train(2 * STEPS, leap))
            assert leap.disabled is None
        return found

    decided, others = run_ranks(2, work)
    assert decided == others
    assert sum(event.verdict is not None for event in decided[0]) > 1


@pytest.mark.failure(10, 14)
def test_a_rank_that_draws_other_heldout_batches_is_found_out_before_any_counts_twice() -> None:
    def work() -> Any:
        rank = dist.get_rank()
        run = Run(way("ddp", 2))
        swapped = run.heldout[::-1] if rank else run.heldout
        told = refused(lambda: run.leap(heldout=swapped, **ALWAYS))
        shorter = run.leap(heldout=run.heldout[: 21 if rank else 30], **ALWAYS)
        run.train(8 * STEPS, shorter)
        return told, shorter.disabled, shorter.leapt

    (built, run, leapt), other = run_ranks(2, work)
    assert (built, run, leapt) == other
    assert "ranks 0 and 1 drew different held-out batches, so that some would count twice" in built
    assert run == built
    assert leapt > 0


@pytest.mark.failure(14)
def test_training_on_what_another_rank_verifies_on_is_noticed() -> None:
    def work() -> list[str]:
        run = Run(way("ddp", 2))
        draw = torch.Generator().manual_seed(0)
        heldout = [torch.randint(32, (6, 9), generator=draw) for _ in range(60)]
        leap = run.leap(mode="monitor", heldout=heldout)
        for _ in range(INTERVAL):
            run.train(1)
            leap.step(heldout[1] if dist.get_rank() == 0 else torch.arange(9).expand(6, 9))
        return [alert.kind for event in leap.events for alert in event.alerts]

    assert run_ranks(2, work) == [["overlap"]] * 2


def _fast(ledger: Any) -> Any:
    """A ledger's parts by a clock that runs too fast."""
    from contextlib import contextmanager

    part = ledger.part

    @contextmanager
    def fast(name: str, device: Any = None) -> Any:
        with part(name, device):
            before = ledger.seconds[name]
            yield
        ledger.seconds[name] += 1000.0 * (ledger.seconds[name] - before)

    return fast


@pytest.mark.failure(10)
def test_a_rank_that_comes_to_no_turn_is_waited_for_only_so_long() -> None:
    def work() -> str | None:
        run = Run(way("ddp", 2))
        leap = run.leap(patience_s=2.0, **ALWAYS)
        run.train(2 * INTERVAL, leap if dist.get_rank() == 0 else None)
        return leap.disabled

    told, other = run_ranks(2, work)
    assert told is not None
    assert "rank 0 waited in vain for the others" in told
    assert other is None


@pytest.mark.failure(10)
def test_a_rank_at_another_step_is_told_from_the_others() -> None:
    def work() -> str | None:
        run = Run(way("ddp", 2))
        leap = run.leap(**ALWAYS)
        leap._driver.engine.real = leap._driver.engine.ledger.steps = dist.get_rank()
        run.train(STEPS, leap)
        return leap.disabled

    told, other = run_ranks(2, work)
    assert told == other
    assert told is not None
    assert "the ranks have come apart (rank 0 at 'costs after step 4', rank 1 at 'costs after step 5')" in told
