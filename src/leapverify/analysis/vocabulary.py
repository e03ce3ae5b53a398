"""The words that records and pages share: regimes, criteria of acceptance, and the predictors that are controls."""

REGIMES = ("chaotic", "transition", "stable")
LABELS = ("unknown", *REGIMES)
"""What a checkpoint may carry: the first one, which has no similarity yet, is `unknown`."""
ALL = "all"
"""As a regime: predictions from every regime."""
CRITERIA = ("strict", "adaptive", "proximity", "paired")
CONTROLS = ("hold", "random")
"""Predictors that know nothing: it takes no skill to reach what they reach."""
