"""What has to be the same to the last bit on the device as well: a resumed run, and a run that refused its leaps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from job import Sitting, found

from leapverify.config.resolved import Resolved
from leapverify.leap.api import LeapVerify
from leapverify.runs import StudyError
from leapverify.runs.progress import Progress
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.folder import Study
from leapverify.study.run import run_study
from leapverify.train.losses import sequence_losses
from leapverify.train.state import capture_rng

SHORT: Mapping[str, Any] = {
    "seeds": [42],
    "training__steps": 20,
    "training__warmup_steps": 2,
    "observe__interval_steps": 5,
    "sweep__predictors": ["linear", "adam"],
    "sweep__horizons": [5],
    "cascade__kinds": [],
}
"""A study of four checkpoints."""
HELDOUT_BATCHES = 12


class Interrupted(Exception):
    """Raised in the middle of a study."""


def resume(sitting: Sitting) -> Mapping[str, Any]:
    """A short study whole, whole again, and stopped in the middle; the second says what the device itself repeats."""
    config = sitting.config("gpt2-124m", **SHORT)
    middle = config.checkpoint_steps[len(config.checkpoint_steps) // 2 - 1]

    def stop(progress: Progress) -> None:
        if progress.phase == "checkpoint" and progress.step == middle:
            raise Interrupted(f"stopped at step {middle}, as it should be")

    whole, again = (run_study(config, sitting.state / name, device=sitting.device) for name in ("whole", "again"))
    stopped = sitting.state / "stopped"
    try:
        run_study(config, stopped, device=sitting.device, watcher=stop)
        raise RuntimeError(f"the study in {stopped.name} was not stopped at step {middle}: mend the job")
    except StudyError as error:
        if "as it should be" not in str(error):
            raise
    resumed = run_study(config, stopped, device=sitting.device)
    return found(
        len(config.checkpoint_steps),
        stopped_at_step=middle,
        repeated=_compared(whole, again),
        resumed=_compared(whole, resumed),
    )


def _compared(one: Study, other: Study) -> dict[str, Any]:
    """Losses at every step that they were measured at, and the last weights."""
    (seed,), last = one.config.seeds, one.config.training.steps
    a, b = one.weights(seed, last), other.weights(seed, last)
    losses = [abs(p.heldout_loss - q.heldout_loss) for p, q in zip(one.curve, other.curve, strict=True)]
    return {
        "bit_identical": all(torch.equal(a[name], b[name]) for name in a) and max(losses) == 0,
        "largest_difference_of_weights": max(float((a[name] - b[name]).abs().max()) for name in a),
        "largest_difference_of_losses": max(losses),
    }


def rejected_leap(sitting: Sitting) -> Mapping[str, Any]:
    """Leaps that are predicted, verified and refused: weights, moments and random streams before and after."""
    config = Resolved.of(sitting.config("gpt2-124m", seeds=[42]))
    a = build(config, 42, sitting.device, open_corpus(config))
    held = [a.batch(10**6 + number) for number in range(HELDOUT_BATCHES)]
    leap = LeapVerify(
        a.model,
        a.optimizer,
        heldout=held,
        loss=partial(_losses, autocast=a.autocast),
        interval=4,
        policy="fixed",
        horizon=8,
        criterion="never",
        budget=1.0,
        clock="tokens",
        step_tokens=1e5,
    )
    same = True
    for number in range(1, 25):
        a.train(number, number, 1)
        before = _digest(a)
        leap.step()
        same = same and _digest(a) == before
    report = leap.report()
    leap.close()
    if not report["attempts"]:
        raise RuntimeError("no leap was tried in 24 steps: mend the job")
    return found(report["attempts"], accepted=report["accepted"], bit_identical=same)


def _losses(model: torch.nn.Module, batch: Any, autocast: torch.dtype | None) -> Any:
    return sequence_losses(model, batch, autocast=autocast)


def _digest(a: Any) -> str:
    """Of weights, moments and random streams."""
    states = [value for state in a.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    found = hashlib.sha256()
    for each in [*a.model.parameters(), *a.model.buffers(), *states]:
        found.update(each.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    found.update(repr(capture_rng()).encode())
    return found.hexdigest()
