"""Measures over seeds: spread of the loss, first entries, similarity per regime, and the rows of seeds.parquet."""

import statistics

import numpy as np
import pytest

from leapverify.analysis.study.seeds import compare_seeds, first_entries, loss_spread, mean_similarities
from leapverify.io.records import SeedMeasure, read, write


@pytest.fixture
def run(checkpoint):
    """Four seeds at five checkpoints; seed 4 is never stable."""
    entries = {1: (2, 3), 2: (1, 4), 3: (2, 4), 4: (1, 9)}
    return [
        checkpoint(
            seed=seed, step=50 * (i + 1), val_loss=3.0 / (i + 1) + 0.01 * seed,
            similarity=None if i == 0 else 0.9 + 0.01 * i,
            regime="unknown" if i == 0 else "stable" if i >= stable else "transition" if i >= transition else "chaotic",
        )
        for seed, (transition, stable) in entries.items()
        for i in range(5)
    ]  # fmt: skip


def test_spread_of_the_loss_equals_the_standard_librarys(run):
    spreads = loss_spread(run)
    assert [spread.step for spread in spreads] == [50, 100, 150, 200, 250]
    for spread in spreads:
        losses = [row.val_loss for row in run if row.step == spread.step]
        assert spread.mean == pytest.approx(statistics.mean(losses))
        assert spread.cv_percent == pytest.approx(100 * statistics.stdev(losses) / statistics.mean(losses))
        assert (spread.lowest, spread.highest, spread.n) == (min(losses), max(losses), 4)


def test_spread_covers_the_steps_that_all_seeds_have(run):
    assert [spread.step for spread in loss_spread([row for row in run if (row.seed, row.step) != (2, 250)])][-1] == 200


def test_spread_says_why_it_is_missing(run, checkpoint):
    assert {spread.reason for spread in loss_spread(run[:5])} == {"one seed has no spread over seeds"}
    diverged = [checkpoint(seed=1, val_loss=float("nan")), checkpoint(seed=2)]
    (spread,) = loss_spread(diverged)
    assert (spread.cv_percent, spread.reason) == (None, "a seed's validation loss is not finite")


def test_first_entries_by_hand(run):
    chaotic, transition, stable = first_entries(run)
    assert (chaotic.regime, dict(chaotic.per_seed), chaotic.never) == ("chaotic", {1: 100, 3: 100}, (2, 4))
    assert dict(transition.per_seed) == {1: 150, 2: 100, 3: 150, 4: 100}
    assert (transition.mean, transition.std) == (125, pytest.approx(statistics.stdev([150, 100, 150, 100])))
    assert (stable.earliest, stable.latest, stable.never, stable.n) == (200, 250, (4,), 3)


def test_first_entries_give_the_papers_row_for_1_5b(checkpoint):
    rows = [checkpoint(seed=42 + i, step=step) for i, step in enumerate([1350, 1350, 1400, 1400])]
    (transition,) = first_entries(rows, regimes=["transition"])
    assert (transition.mean, round(transition.std), transition.earliest, transition.latest) == (1375, 29, 1350, 1400)


def test_a_regime_that_nobody_enters_says_so(checkpoint):
    (stable,) = first_entries([checkpoint()], regimes=["stable"])
    assert (stable.mean, stable.earliest, stable.never) == (None, None, (1,))
    assert stable.reason == "no seed ever entered this regime"


def test_similarities_are_averaged_within_seeds_first(checkpoint):
    rows = [checkpoint(seed=1, step=step, similarity=0.8) for step in (50, 100, 150)]
    rows += [checkpoint(seed=2, similarity=1.0), checkpoint(seed=2, step=100, similarity=float("nan"))]
    chaotic, transition, _ = mean_similarities(rows)
    assert (transition.mean, transition.n, transition.seeds) == (pytest.approx(0.9), 4, 2)
    assert (chaotic.mean, chaotic.reason) == (None, "no seed was ever in this regime")


def test_compare_seeds_holds_every_measure_and_survives_the_file(run, tmp_path):
    rng = np.random.default_rng(0)
    fingerprints = {seed: {step: rng.normal(size=(9, 4)) for step in (0, 50, 250)} for seed in (1, 2, 3, 4)}
    rows = compare_seeds(run, fingerprints, shuffles=10)
    count = {name: sum(row.measure == name for row in rows) for name in {row.measure for row in rows}}
    assert count == {
        "final_val_loss": 4, "loss_cv_percent": 5, "agreement_modal": 1, "agreement_unanimous": 1, "first_entry": 12,
        "mean_similarity": 15, "cka": 12, "procrustes": 12, "rsa": 12,
    }  # fmt: skip
    write(tmp_path / "seeds.parquet", SeedMeasure, rows)
    assert read(tmp_path / "seeds.parquet", SeedMeasure) == rows


def test_compare_seeds_agrees_with_the_functions_it_gathers(run):
    rows = {(row.measure, row.step, row.regime, row.seed_a): row.value for row in compare_seeds(run, {}, shuffles=10)}
    assert rows["final_val_loss", 250, None, 3] == next(row.val_loss for row in run if (row.seed, row.step) == (3, 250))
    assert rows["loss_cv_percent", 250, None, None] == loss_spread(run)[-1].cv_percent
    assert rows["first_entry", None, "stable", 1] == 200
    assert rows["first_entry", None, "stable", 4] is None
    assert rows["mean_similarity", None, "stable", None] == mean_similarities(run)[2].mean
    assert rows["mean_similarity", None, "stable", 4] is None


def test_one_seed_alone_still_gives_its_rows(run):
    rows = compare_seeds(run[:5], {1: {50: np.eye(5)}})
    assert {row.measure for row in rows if row.value is not None} == {
        "final_val_loss",
        "first_entry",
        "mean_similarity",
    }


def test_no_checkpoints_and_doubled_ones_are_refused(checkpoint):
    with pytest.raises(ValueError, match="there are no checkpoints to compare: run the study first"):
        compare_seeds([], {})
    with pytest.raises(ValueError, match="seed 1 has step 50 twice: give each checkpoint once"):
        compare_seeds([checkpoint(), checkpoint()], {})
