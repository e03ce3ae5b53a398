"""The validator: is the predicted state good? Criteria, the sequential paired test, and the held-out measurement."""

from leapverify.verify.criteria import adaptive, gain_fraction, proximity, recent_sigma, steps_gained, strict
from leapverify.verify.sequential import Decision, PairedTest, paired_test
from leapverify.verify.verifier import Measured, Verdict, Verifier

__all__ = [
    "Decision",
    "Measured",
    "PairedTest",
    "Verdict",
    "Verifier",
    "adaptive",
    "gain_fraction",
    "paired_test",
    "proximity",
    "recent_sigma",
    "steps_gained",
    "strict",
]
