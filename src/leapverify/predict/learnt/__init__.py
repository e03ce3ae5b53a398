"""Predictors learnt from the histories of other runs, `introspection` and `wnn`, and the files they come in."""

from leapverify.predict.learnt.files import load_learnt, save_learnt
from leapverify.predict.learnt.introspection import Introspection, introspection
from leapverify.predict.learnt.networks import NETWORKS, Network
from leapverify.predict.learnt.wnn import Wnn, wnn

__all__ = ["NETWORKS", "Introspection", "Network", "Wnn", "introspection", "load_learnt", "save_learnt", "wnn"]
