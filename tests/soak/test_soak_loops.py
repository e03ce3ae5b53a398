"""Loops of every odd kind, and models that change while they are trained: counted rightly, and never disturbed."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

import pytest

from soak._record import record, scale
from soak.odd_changes import CHANGES, TURNS, Outcome, changed
from soak.odd_loops import CALLS, MODES, OPTIMIZERS, Plan, differences

COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_loops.py"


@pytest.mark.failure(12)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_real_steps_are_counted_in_loops_of_every_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    start, chance = time.perf_counter(), random.Random(12)
    plans = [Plan.drawn(chance) for _ in range(scale(300))]
    ends = [(plan, differences(plan)) for plan in plans]
    lost = [each for each in ends if each[1]]
    record(
        "real_steps",
        rows=[12],
        command=COMMAND,
        injected=len(ends),
        survived=len(ends) - len(lost),
        lost=len(lost),
        seconds=time.perf_counter() - start,
        note=f"random loops: accumulation that changes in mid-run, steps skipped by GradScaler, by a scaler of one's"
        f" own or inside a fused optimizer, {len(OPTIMIZERS)} optimizers or pairs of them, {len(CALLS)} ways of calling"
        f" the engine, {len(MODES)} modes that leap nowhere; survived: the steps counted are those that moved a weight,"
        " checkpoints come once per interval of them, and the run ends as without the engine, to the bit",
        tables={
            "optimizers": _table("optimizer", [(plan.optimizer, wrong) for plan, wrong in ends]),
            "calls": _table("calls", [(plan.calls, wrong) for plan, wrong in ends]),
        },
    )
    assert not lost


@pytest.mark.failure(13)
def test_models_that_change_again_and_again_begin_a_new_history(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    start, chance = time.perf_counter(), random.Random(13)
    ends = [changed(chance) for _ in range(scale(300))]
    lost = [each for each in ends if each[1].wrong]
    outcomes = [outcome for _, outcome in ends]
    kinds = [(kind, outcome.wrong) for (*_, changes), outcome in ends for kind, _ in changes.values()]
    record(
        "changing_models",
        rows=[13],
        command=COMMAND,
        injected=len(ends),
        survived=len(ends) - len(lost),
        lost=len(lost),
        refused=sum(outcome.disabled is not None and not outcome.wrong for outcome in outcomes),
        seconds=time.perf_counter() - start,
        note=f"live runs of {TURNS} steps with 2 to 6 changes of {len(CHANGES)} kinds at random steps ({len(kinds)} in"
        f" all); {_sum(outcomes)}; survived: every checkpoint after a change says so and begins a new history, no other"
        " does, no snapshot or prediction mixes the forms, and the run ends as with the same changes and no engine, to"
        " the bit; refused: nothing that may be predicted was left, and the engine said so and switched itself off",
        tables={"changes": _table("change", kinds)},
    )
    assert not lost


def _table(column: str, ends: list[tuple[str, list[str]]]) -> list[dict[str, object]]:
    done = Counter(name for name, _ in ends)
    survived = Counter(name for name, wrong in ends if not wrong)
    return [{column: name, "injected": done[name], "survived": survived[name]} for name in sorted(done)]


def _sum(outcomes: list[Outcome]) -> str:
    told, predicted = sum(each.told for each in outcomes), sum(each.predicted for each in outcomes)
    return f"{told} checkpoints saw a change, {predicted} predictions were checked"
