"""The instrument for training trajectories: regimes, weight prediction, and leaps that a held-out check approves."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leapverify.leap.anneal.averages import AnnealMemory
    from leapverify.leap.api import LeapVerify
    from leapverify.leap.event import LeapEvent
    from leapverify.observe import Fingerprinter, Thresholds, classify_regimes, similarity
    from leapverify.predict import predictor
    from leapverify.study.folder import load_study
    from leapverify.study.run import run_study
    from leapverify.study.source import open_trajectory
    from leapverify.trajectory.history import History
    from leapverify.verify import Verifier

__version__ = "0.2.0"

__all__ = [
    "AnnealMemory",
    "Fingerprinter",
    "History",
    "LeapEvent",
    "LeapVerify",
    "Thresholds",
    "Verifier",
    "classify_regimes",
    "load_study",
    "open_trajectory",
    "predictor",
    "run_study",
    "similarity",
]

_HOMES = {
    "AnnealMemory": "leapverify.leap.anneal.averages",
    "Fingerprinter": "leapverify.observe",
    "History": "leapverify.trajectory.history",
    "LeapEvent": "leapverify.leap.event",
    "LeapVerify": "leapverify.leap.api",
    "Thresholds": "leapverify.observe",
    "Verifier": "leapverify.verify",
    "classify_regimes": "leapverify.observe",
    "load_study": "leapverify.study.folder",
    "open_trajectory": "leapverify.study.source",
    "predictor": "leapverify.predict",
    "run_study": "leapverify.study.run",
    "similarity": "leapverify.observe",
}


def __getattr__(name: str) -> object:
    # Names are fetched on first use, so that `import leapverify` and the command line's help need no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'leapverify' has no attribute {name!r}: it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
