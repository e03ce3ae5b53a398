"""Policies by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from leapverify.leap.policy.auto import Auto
from leapverify.leap.policy.base import Policy
from leapverify.leap.policy.fixed import Fixed
from leapverify.leap.policy.line_search import LineSearch

NAMES = ("auto", "fixed", "line-search")
"""What `make_policy` knows."""


def make_policy(
    policy: str | Policy,
    *,
    predictor: str | None = None,
    predictors: Sequence[str] | None = None,
    horizon: int | None = None,
    horizons: Sequence[int] | None = None,
    leap_in_decay: bool = False,
) -> Policy:
    """The policy of a name, or the given one.

    Args:
        policy: one of `NAMES`, or an object that satisfies `Policy`.
        predictor: the one predictor; None for the policy's own choice.
        predictors: several, for `auto`.
        horizon: K of `fixed`, the first K of `line-search`, the only one of `auto`; steps.
        horizons: several, for `auto`.
        leap_in_decay: whether to leap in the schedule's final decay too.

    Raises:
        ValueError: an unknown name (near ones are listed), or settings that the policy does not have.
    """
    given = {"predictor": predictor, "predictors": predictors, "horizon": horizon, "horizons": horizons}
    if not isinstance(policy, str):
        return _own(policy, [name for name, value in given.items() if value is not None])
    if policy not in NAMES:
        near = difflib.get_close_matches(policy, NAMES, n=2, cutoff=0.4) or NAMES
        raise ValueError(f"unknown policy {policy!r}: did you mean {', '.join(near)}?")
    for one, several in (("predictor", "predictors"), ("horizon", "horizons")):
        if given[several] is None:
            continue
        if policy != "auto":
            raise ValueError(f"policy {policy} takes no {several}: give {one}, or use policy auto")
        if given[one] is not None:
            raise ValueError(f"{one} = {given[one]!r} and {several} were both given: give one of the two")
    if policy == "auto":
        return Auto(
            predictors if predictor is None else (predictor,),
            horizons if horizon is None else (horizon,),
            leap_in_decay=leap_in_decay,
        )
    kind = Fixed if policy == "fixed" else LineSearch
    return kind(predictor or "linear", horizon, leap_in_decay=leap_in_decay)


def _own(policy: Policy, settings: Sequence[str]) -> Policy:
    """The user's own policy, which brings its settings along."""
    if isinstance(policy, type) or not isinstance(policy, Policy):
        what = policy.__name__ if isinstance(policy, type) else type(policy).__name__
        raise ValueError(f"{what} is no policy: give {', '.join(NAMES)}, or an object with choose, learn and a state")
    if settings:
        raise ValueError(f"{', '.join(settings)} cannot be set for a policy object: set it where the object is made")
    return policy
