"""The paper's findings, one by one: what each would take, what was measured, and the verdict that follows.

Every verdict comes from its rule and the numbers; which rules were changed after numbers had been seen says
docs/findings.md.
"""

from __future__ import annotations

from leapverify.claims.evidence import Evidence
from leapverify.claims.horizon import horizon_findings
from leapverify.claims.prediction import predict_findings
from leapverify.claims.regimes import regime_findings
from leapverify.claims.rule import ClaimResult
from leapverify.claims.seeds import seed_findings
from leapverify.claims.skill import skill_findings


def judge_findings(evidence: Evidence) -> list[ClaimResult]:
    """Every claim in the order of the paper.

    Args:
        evidence: the base study and its variations; what is missing leaves its claims undecided.
    """
    return [
        *regime_findings(evidence),
        *seed_findings(evidence),
        *predict_findings(evidence),
        *horizon_findings(evidence),
        *skill_findings(evidence),
    ]


def decisive_intervals(findings: list[ClaimResult]) -> int:
    """How many intervals the verdicts rest on: of so many at 95 %, one in twenty may miss by chance."""
    return sum(len(finding.bars) for finding in findings)
