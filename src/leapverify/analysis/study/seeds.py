"""Comparing seeds: spread of the loss, when and where they share a regime, and what their fingerprints share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leapverify.analysis.over_seeds import OverSeeds, fields_of, summarise, summarise_all
from leapverify.analysis.study.agreement import Agreement, agreement
from leapverify.analysis.study.pairs import compare_fingerprints
from leapverify.analysis.study.timelines import by_seed, common_steps
from leapverify.analysis.vocabulary import REGIMES
from leapverify.io.records import Checkpoint, SeedMeasure


@dataclass(frozen=True, slots=True)
class LossSpread:
    """The spread of the validation loss over seeds at one step: its course is the ensemble's collapse."""

    step: int
    mean: float | None
    """Nats per token."""
    std: float | None
    cv_percent: float | None
    """100 std / mean, sample standard deviation."""
    lowest: float | None
    highest: float | None
    n: int
    """Seeds."""
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstEntry(OverSeeds):
    """The step at which seeds first enter a regime; seeds that never do are left out of the mean and named."""

    regime: str
    earliest: int | None
    latest: int | None
    never: tuple[int, ...]
    """Seeds that never entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeSimilarity(OverSeeds):
    """Mean similarity in a regime: of each seed, then over seeds; `n` counts checkpoints."""

    regime: str


def compare_seeds(
    checkpoints: Sequence[Checkpoint],
    fingerprints: Mapping[int, Mapping[int, NDArray[np.floating]]],
    *,
    shuffles: int = 200,
    seed: int = 0,
    null_steps: int | None = 10,
) -> list[SeedMeasure]:
    """Every measure that compares seeds, in long form (the rows of `seeds.parquet`).

    Args:
        checkpoints: the records of all seeds.
        fingerprints, shuffles, seed, null_steps: as in `pairs.compare_fingerprints`.

    Returns:
        Per seed `final_val_loss`, `first_entry` (null: never) and `mean_similarity` (null: not in that regime), the
        latter also over seeds (no seed given); per step `loss_cv_percent`; once `agreement_modal` and
        `agreement_unanimous`, whose null is each seed's labels shuffled over checkpoints; per pair and step `cka`,
        `procrustes` and `rsa`.

    Raises:
        ValueError: no checkpoints; a step twice in a seed; fingerprints of different numbers of probes.
    """
    rows = [
        _row("final_val_loss", step=last.step, seed_a=which, value=last.val_loss) for which, last in _last(checkpoints)
    ]
    rows += [_row("loss_cv_percent", step=spread.step, value=spread.cv_percent) for spread in loss_spread(checkpoints)]
    rows += _agreement_rows(agreement(checkpoints, shuffles=shuffles, seed=seed))
    for entry in first_entries(checkpoints):
        of_seed = dict(entry.per_seed)
        for which in sorted([*of_seed, *entry.never]):
            rows.append(_row("first_entry", regime=entry.regime, seed_a=which, value=of_seed.get(which)))
    everyone = sorted(by_seed(checkpoints))
    for regime in mean_similarities(checkpoints):
        of_seed = dict(regime.per_seed)
        rows.append(_row("mean_similarity", regime=regime.regime, value=regime.mean))
        rows += [_row("mean_similarity", regime=regime.regime, seed_a=s, value=of_seed.get(s)) for s in everyone]
    return rows + compare_fingerprints(fingerprints, shuffles=shuffles, seed=seed, null_steps=null_steps)


def loss_spread(checkpoints: Sequence[Checkpoint]) -> list[LossSpread]:
    """Spread of the validation loss over seeds at every step that all seeds recorded.

    CV = std / mean, sample standard deviation. Source: Leap+Verify, Table 3 and section 4.4 (the last step, and the
    ensemble's collapse).
    """
    seeds = by_seed(checkpoints)
    return [_spread(step, [of_seed[step].val_loss for of_seed in seeds.values()]) for step in common_steps(seeds)]


def first_entries(checkpoints: Sequence[Checkpoint], *, regimes: Sequence[str] = REGIMES) -> list[FirstEntry]:
    """First step at which each seed carries each regime's label. Source: Leap+Verify, Table 4.

    Args:
        checkpoints: the records of all seeds.
        regimes: in the order wanted.

    Returns:
        One row per regime; mean, std and range over the seeds that entered.
    """
    seeds = by_seed(checkpoints)
    return [_first_entry(seeds, regime) for regime in regimes]


def mean_similarities(checkpoints: Sequence[Checkpoint]) -> list[RegimeSimilarity]:
    """Mean of the configured similarity in each regime, per seed and then over seeds. Source: Leap+Verify, Table 2."""
    missing, found = "no seed was ever in this regime", []
    known = [row for row in checkpoints if row.similarity is not None and np.isfinite(row.similarity)]
    for regime in REGIMES:
        values = [(row.seed, row.similarity or 0.0) for row in known if row.regime == regime]
        summary = summarise_all(values, lambda of_seed: float(np.mean(of_seed)), missing=missing)
        found.append(RegimeSimilarity(**fields_of(summary), regime=regime))
    return found


def _last(checkpoints: Sequence[Checkpoint]) -> list[tuple[int, Checkpoint]]:
    return [(which, of_seed[max(of_seed)]) for which, of_seed in by_seed(checkpoints).items()]


def _spread(step: int, losses: Sequence[float]) -> LossSpread:
    if len(losses) < 2 or not np.isfinite(losses).all():
        reason = "one seed has no spread over seeds" if len(losses) < 2 else "a seed's validation loss is not finite"
        return LossSpread(step, None, None, None, None, None, len(losses), reason)
    mean, std = float(np.mean(losses)), float(np.std(losses, ddof=1))
    return LossSpread(step, mean, std, 100 * std / mean, min(losses), max(losses), len(losses), None)


def _first_entry(seeds: Mapping[int, Mapping[int, Checkpoint]], regime: str) -> FirstEntry:
    entered = {}
    for which, of_seed in seeds.items():
        steps = [step for step, row in of_seed.items() if row.regime == regime]
        if steps:
            entered[which] = float(min(steps))
    never = tuple(which for which in seeds if which not in entered)
    summary = summarise(entered, n=len(entered), missing="no seed ever entered this regime")
    earliest, latest = (int(min(entered.values())), int(max(entered.values()))) if entered else (None, None)
    return FirstEntry(**fields_of(summary), regime=regime, earliest=earliest, latest=latest, never=never)


def _agreement_rows(found: Agreement) -> list[SeedMeasure]:
    return [
        _row("agreement_modal", value=found.modal, null=found.modal_chance),
        _row("agreement_unanimous", value=found.unanimous, null=found.unanimous_chance),
    ]


def _row(
    measure: str,
    *,
    step: int | None = None,
    regime: str | None = None,
    seed_a: int | None = None,
    value: float | None = None,
    null: tuple[float, float, float] | None = None,
) -> SeedMeasure:
    mean, low, high = null or (None, None, None)
    return SeedMeasure(measure, step, regime, seed_a, None, value, mean, low, high, None)
