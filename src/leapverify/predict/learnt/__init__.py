"""Predictors learnt from the histories of other runs, `introspection` and `wnn`, and the files they come in."""

from leapverify.predict.learnt.files import load_learnt, save_learnt
from leapverify.predict.learnt.introspection import introspection
from leapverify.predict.learnt.networks import NETWORKS, LearntNetwork
from leapverify.predict.learnt.wnn import wnn

__all__ = ["NETWORKS", "LearntNetwork", "introspection", "load_learnt", "save_learnt", "wnn"]
