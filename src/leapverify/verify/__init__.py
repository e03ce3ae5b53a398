"""The validator: is the predicted state good? Criteria, the sequential paired test, and the held-out measurement."""

from leapverify.verify.comparison import Comparison, compare, losses_of, mean_loss_of, positions_of, require_criterion
from leapverify.verify.criteria import adaptive, gain_fraction, proximity, recent_sigma, steps_gained, strict
from leapverify.verify.distributed import DealtBatches, SharedLoss
from leapverify.verify.heldout import LossFunction, LossOutput
from leapverify.verify.passes import Passes, Ran, fetch
from leapverify.verify.sampling import Exhausted, FreshBatches
from leapverify.verify.sequential import Decision, PairedTest
from leapverify.verify.verifier import Measured, Trial, Verdict, Verifier

__all__ = [
    "Comparison",
    "DealtBatches",
    "Decision",
    "Exhausted",
    "FreshBatches",
    "LossFunction",
    "LossOutput",
    "Measured",
    "PairedTest",
    "Passes",
    "Ran",
    "SharedLoss",
    "Trial",
    "Verdict",
    "Verifier",
    "adaptive",
    "compare",
    "fetch",
    "gain_fraction",
    "losses_of",
    "mean_loss_of",
    "positions_of",
    "proximity",
    "recent_sigma",
    "require_criterion",
    "steps_gained",
    "strict",
]
