"""The recognizer: probes -> fingerprint -> similarity -> regime, and two cheaper signals to compare with."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from leapverify.observe.probes import ProbeSet, paper_probes
from leapverify.observe.regimes import REGIMES, classify_regimes
from leapverify.observe.similarity import similarity
from leapverify.observe.thresholds import PAPER_TAU_HIGH, PAPER_TAU_LOW, Thresholds

if TYPE_CHECKING:
    from leapverify.observe.fingerprint import Fingerprinter
    from leapverify.observe.signals import loss_curvature, straightness

__all__ = [
    "PAPER_TAU_HIGH",
    "PAPER_TAU_LOW",
    "REGIMES",
    "Fingerprinter",
    "ProbeSet",
    "Thresholds",
    "classify_regimes",
    "loss_curvature",
    "paper_probes",
    "similarity",
    "straightness",
]

_NEED_TORCH = {"Fingerprinter": "fingerprint", "loss_curvature": "signals", "straightness": "signals"}


def __getattr__(name: str) -> object:
    # Analyses read labels and thresholds from records alone: they are not made to wait for torch.
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
