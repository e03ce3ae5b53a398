"""The engine in a loop of Accelerate: its wrapped optimizer and scheduler, accumulation, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lazily import Lazily
from leapverify import LeapVerify
from leapverify.integrations.losses import causal_losses
from stdlib_gpt2 import ALWAYS, batches, same_weights, small_gpt2, windows

accelerate, state = Lazily("accelerate"), Lazily("accelerate.state", "accelerate")
TURNS = 40


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Accelerate keeps its state in the process: each test has its own."""
    yield
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


class Run:
    """A loop as Accelerate's documentation has it."""

    def __init__(self, accumulate: int = 1, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        model = small_gpt2()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=200)
        loader = torch.utils.data.DataLoader(windows(0, 64), batch_size=4)
        self.model, self.optimizer, self.scheduler, self.loader = self.accelerator.prepare(
            model, optimizer, scheduler, loader
        )
        self.leap = LeapVerify(
            self.accelerator.unwrap_model(self.model),
            self.optimizer,
            heldout=batches(72, 64),
            loss=causal_losses,
            scheduler=self.scheduler,
            **{**ALWAYS, **options},
        )
        self.accelerator.register_for_checkpointing(self.leap)

    def turns(self, first: int, last: int) -> None:
        """Turns of the loop; each has a random stream of its own, so that a resumed loop draws the same."""
        rows = list(self.loader)
        for turn in range(first, last):
            torch.manual_seed(turn)
            with self.accelerator.accumulate(self.model):
                losses, _ = causal_losses(self.model, {"input_ids": rows[turn % len(rows)]})
                self.accelerator.backward(losses.mean())
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            self.leap.step()


@pytest.mark.failure(7)
def test_watching_leaves_the_weights_as_they_are() -> None:
    runs = []
    for mode in ("off", "monitor", "shadow"):
        run = Run(mode=mode)
        run.turns(0, TURNS)
        runs.append(run)
        assert run.leap.disabled is None
    assert all(same_weights(runs[0].model, each.model) for each in runs[1:])


def test_leaps_move_weights_and_schedule() -> None:
    run = Run()
    run.turns(0, TURNS)
    assert run.leap.disabled is None
    assert run.leap.leapt >= 15
    assert run.leap.effective_step == TURNS + run.leap.leapt
    assert run.scheduler.scheduler.last_epoch == run.leap.effective_step


@pytest.mark.failure(12)
def test_accumulated_batches_count_as_one_step() -> None:
    run = Run(accumulate=4, mode="monitor")
    run.turns(0, 48)
    assert [event.step for event in run.leap.events] == [4, 8, 12]


@pytest.mark.failure(5)
def test_save_state_and_load_state_take_the_engine_with_them(tmp_path: Path) -> None:
    whole = Run()
    whole.turns(0, 20)
    assert whole.leap.leapt > 0
    whole.accelerator.save_state(str(tmp_path))
    whole.turns(20, TURNS)
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()
    again = Run()
    again.accelerator.load_state(str(tmp_path))
    again.turns(20, TURNS)
    assert again.leap.leapt == whole.leap.leapt
    assert again.leap.effective_step == whole.leap.effective_step
    assert same_weights(again.model, whole.model)
