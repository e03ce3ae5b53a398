"""The Bayes factor that the sequential test solves in closed form, and a test run over batches of gains."""

from __future__ import annotations

import math
from collections.abc import Iterable

from numpy.typing import ArrayLike

from leapverify.verify.sequential import MINIMUM, PRIOR, PairedTest


def log_bayes_factor(count: int, t: float, prior: float = PRIOR) -> float:
    """Logarithm of BF_n for some effect against none (the formula at the head of verify/sequential.py).

    Args:
        count: n, gains.
        t: mean over std/sqrt(n); may be infinite.
        prior: g.
    """
    c = 1.0 + count * prior
    share = 1.0 if math.isinf(t) else t * t / (t * t + count - 1.0)
    return -0.5 * math.log(c) - 0.5 * count * math.log1p(-share * (c - 1.0) / c)


def paired_test(
    batches: Iterable[ArrayLike], *, alpha: float = 0.05, prior: float = PRIOR, minimum: int = MINIMUM
) -> PairedTest:
    """Run one test over batches of gains; no further batch is drawn once it has decided."""
    test = PairedTest(alpha, prior, minimum)
    for gains in batches:
        if test.update(gains) is not None:
            break
    return test
