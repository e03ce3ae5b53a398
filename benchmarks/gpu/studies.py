"""What a result says of a finished study."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from job import BENCHMARKS, Sitting, found, plain
from timing import as_accelerator, rates

from leapverify.analysis.over_seeds import summarise
from leapverify.analysis.study.acceptance import acceptance, averages
from leapverify.analysis.study.costs import costs
from leapverify.capacity.cost import vocabulary_of
from leapverify.config.resolved import Resolved
from leapverify.study.folder import Study

sys.path.append(str(BENCHMARKS))

from _floors import Floors, seconds

SUMMARY = ("mean", "std", "low", "high", "n", "reason")
CELL = ("regime", "predictor", "horizon", *SUMMARY)


def study_result(sitting: Sitting, study: Study) -> Mapping[str, Any]:
    """Losses, regimes, acceptance, cascades, seconds, and the steps beside their floor; n counts the seeds."""
    rows = study.checkpoints
    last = rows[-1].step
    final = {row.seed: row.val_loss for row in rows if row.step == last}
    return found(
        len(final),
        steps=last,
        seeds=sorted(final),
        final_validation_loss=plain(summarise(final, n=len(final)), *SUMMARY),
        checkpoints_by_regime=dict(Counter(row.regime for row in rows)),
        similarity_by_step={row.step: row.similarity for row in rows if row.seed == rows[0].seed},
        acceptance=[
            {"criterion": criterion, **plain(rate, *CELL, "accepted", "declined", "nonfinite")}
            for criterion in ("strict", "proximity", "paired")
            for rate in acceptance(study.predictions, criterion)
        ],
        loss_ratio=[plain(row, *CELL) for row in averages(study.predictions, "loss_ratio", regimes=["all"])],
        cascades=_cascades(study),
        across_seeds=[plain(row, *row.__dataclass_fields__) for row in study.seeds],
        update_survival=_mean([row.update_survival for row in rows]),
        update_projection=_mean([row.update_projection for row in rows]),
        seconds={cost.part: cost.seconds for cost in costs(rows)},
        seconds_of_training={cost.part: cost.of_training for cost in costs(rows)},
        training_step=_training_step(sitting, study),
    )


def _cascades(study: Study) -> list[dict[str, Any]]:
    """Every link: how often its prediction lowered the loss, and the loss it ended with over that of its start."""
    groups: dict[tuple[str, str, int, int, int], list[Any]] = defaultdict(list)
    for row in study.cascades:
        groups[row.kind, row.predictor, row.depth, row.horizon, row.link].append(row)
    names = ("kind", "predictor", "depth", "horizon", "link")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "n": len(links),
            "strict": _mean([None if link.strict is None else float(link.strict) for link in links]),
            "loss_ratio": _mean([None if link.loss is None else link.loss / link.loss_start for link in links]),
            "weight_drift": _mean([link.weight_drift for link in links]),
        }
        for key, links in sorted(groups.items())
    ]


def _training_step(sitting: Sitting, study: Study) -> dict[str, float] | None:
    """Seconds of a step, over all of them, and the least that it can take at the rates that the device shows now."""
    config, t = Resolved.of(study.config), study.config.training
    trained = sum(row.train_s for row in study.checkpoints)
    if not trained:
        return None
    step_s = trained / (len(study.checkpoints) * study.config.observe.interval_steps)
    device = as_accelerator(rates(sitting.device, small=sitting.reduced, repeats=3))
    floor_s = seconds(Floors(config.settings, [], vocab_size=vocabulary_of(config)).training_step(), device)
    return {
        "step_s": step_s,
        "floor_s": floor_s,
        "share_of_floor": floor_s / step_s,
        "tokens_per_s": t.batch_size * t.sequence_length / step_s,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
