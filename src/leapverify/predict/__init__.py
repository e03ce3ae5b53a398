"""Predictors: where the weights will be K steps on."""

from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.catalogue import CATALOGUE, names, predictor
from leapverify.predict.predictor import (
    STRAIGHTNESS,
    Declined,
    Needs,
    Predictor,
    Prepares,
    missing,
    prepare,
    require_moments,
    require_request,
)

__all__ = [
    "CATALOGUE",
    "STRAIGHTNESS",
    "Declined",
    "Needs",
    "Predictor",
    "Prepares",
    "Workspace",
    "apply",
    "missing",
    "names",
    "predictor",
    "prepare",
    "reduce",
    "require_moments",
    "require_request",
]
