"""NiNo: networks, trained on the histories of other models, that predict parameters from five of their states."""

from leapverify.predict.nino.graph import nino
from leapverify.predict.nino.mlp import nino_mlp
from leapverify.predict.nino.schedule import published_k

__all__ = ["nino", "nino_mlp", "published_k"]
