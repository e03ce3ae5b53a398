"""The paper's claims, one by one: what each would take, what was measured, and the verdict that follows.

Every verdict comes from its rule and the numbers; docs/findings.md says which rules were changed after numbers had been
seen. A new claim is an entry in the `CLAIMS` of its file and a row in tests/analysis/test_findings.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from leapverify.claims import horizon, prediction, regimes, seeds, skill
from leapverify.claims.evidence import Evidence
from leapverify.claims.rule import Claim, ClaimResult, judge

CLAIMS: Mapping[str, Claim] = {
    claim.key: claim for part in (regimes, seeds, prediction, horizon, skill) for claim in part.CLAIMS
}
"""Key -> claim, in the order of the paper."""


def judge_findings(evidence: Evidence) -> list[ClaimResult]:
    """Every claim in the order of the paper.

    Args:
        evidence: the base study and its variations; what is missing leaves its claims undecided.
    """
    return [judge(claim, evidence) for claim in CLAIMS.values()]
