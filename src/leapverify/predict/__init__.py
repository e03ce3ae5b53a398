"""Predictors: where the weights will be K steps on."""

from leapverify.predict.catalogue import CATALOGUE, names, predictor
from leapverify.predict.predictor import Declined, Needs, Predictor, Prepares, prepare

__all__ = ["CATALOGUE", "Declined", "Needs", "Predictor", "Prepares", "names", "predictor", "prepare"]
