"""Records with every field filled, for tests that care about a few of them."""

from collections.abc import Callable
from typing import Any

import pytest

from leapverify.io.records import Checkpoint, Prediction

CHECKPOINT: dict[str, Any] = {
    "seed": 1, "step": 50, "lr": 1e-3, "eta_sum": 0.05, "train_loss": 2.0, "heldout_loss": 2.0, "val_loss": 2.0,
    "similarity": 0.99, "similarity_concatenated": 0.99, "similarity_per_probe": 0.99, "similarity_centred": 0.9,
    "regime": "transition", "straightness": 0.5, "loss_curvature": 0.01, "lyapunov": None, "tokens": 1000,
    "elapsed_s": 1.0, "train_s": 0.5, "observe_s": 0.1, "evaluate_s": 0.1, "sweep_s": 0.1, "cascade_s": 0.0,
    "snapshot_s": 0.1, "lyapunov_s": 0.0,
}  # fmt: skip
PREDICTION: dict[str, Any] = {
    "seed": 1, "step": 50, "regime": "stable", "predictor": "linear", "horizon": 5, "status": "ok", "reason": None,
    "loss_now": 2.0, "loss_predicted": 1.9, "loss_actual": 1.8, "sigma": 0.1, "strict": True, "adaptive": True,
    "proximity": True, "paired": True, "paired_lower": 0.01, "paired_sequences": 64, "gain_fraction": 0.5,
    "steps_gained": 5, "predict_s": 0.1, "verify_s": 0.2,
}  # fmt: skip


@pytest.fixture
def checkpoint() -> Callable[..., Checkpoint]:
    return lambda **changes: Checkpoint(**{**CHECKPOINT, **changes})


@pytest.fixture
def prediction() -> Callable[..., Prediction]:
    return lambda **changes: Prediction(**{**PREDICTION, **changes})
