"""The instrument for training trajectories: regimes, weight prediction, and leaps that a held-out check approves.

In a training loop of your own
    `LeapVerify`        watches, tries or takes leaps
    `LeapConfig`        its options
    `AnnealMemory`      which states its `anneal` keeps, and where
    `LeapEvent`         what it did at a checkpoint

Predict and verify
    `History`           snapshots of the weights, and what predictors read beside them
    `predictor`         a predictor by its name
    `Declined`          raised by a predictor that has less than it needs
    `Verifier`          held-out losses, and the verdict on predicted weights

Observe
    `Fingerprinter`     activations on fixed probes
    `similarity`        of two fingerprints of one run
    `linear_cka`        of two fingerprints of different runs
    `Thresholds`, `classify_regimes`    from similarities to regimes

Recorded runs
    `open_trajectory`   weights and optimizer states of a recorded run, whoever wrote it
    `run_study`         trains seeds by the paper's protocol and writes a report
    `load_study`        reads what a study recorded

Errors stand in `leapverify.errors`. Names are fetched when they are first used: `import leapverify` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leapverify.analysis.study.geometry import linear_cka
    from leapverify.errors import Declined
    from leapverify.leap.anneal.averages import AnnealMemory
    from leapverify.leap.api import LeapVerify
    from leapverify.leap.config import LeapConfig
    from leapverify.leap.event import LeapEvent
    from leapverify.observe import Fingerprinter, Thresholds, classify_regimes, similarity
    from leapverify.predict import predictor
    from leapverify.study.folder import load_study
    from leapverify.study.run import run_study
    from leapverify.study.source import open_trajectory
    from leapverify.trajectory.history import History
    from leapverify.verify import Verifier

__version__ = "0.2.0"

_HOMES = {
    "LeapVerify": "leap.api",
    "LeapConfig": "leap.config",
    "AnnealMemory": "leap.anneal.averages",
    "LeapEvent": "leap.event",
    "History": "trajectory.history",
    "predictor": "predict",
    "Declined": "errors",
    "Verifier": "verify",
    "Fingerprinter": "observe",
    "similarity": "observe",
    "linear_cka": "analysis.study.geometry",
    "Thresholds": "observe",
    "classify_regimes": "observe",
    "open_trajectory": "study.source",
    "run_study": "study.run",
    "load_study": "study.folder",
}

__all__ = [
    "AnnealMemory",
    "Declined",
    "Fingerprinter",
    "History",
    "LeapConfig",
    "LeapEvent",
    "LeapVerify",
    "Thresholds",
    "Verifier",
    "classify_regimes",
    "linear_cka",
    "load_study",
    "open_trajectory",
    "predictor",
    "run_study",
    "similarity",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'leapverify' has no attribute {name!r}: it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(f"leapverify.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
