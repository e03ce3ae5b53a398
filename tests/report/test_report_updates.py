"""What the report says of updates that survive being stored, where a study sampled them, and that it is silent else."""

import csv
import json
import statistics

import pytest

from leapverify.analysis.study.survival import recorded, survival
from leapverify.report import build_report
from leapverify.report.kit.run import load_run
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures import build_figures
from leapverify.report.study.summary import findings, texts
from leapverify.report.study.tables_predict import tables_of_predictions

BFLOAT16 = {"training": {"steps": 150, "weights": "bfloat16", "rounding": "nearest"}}
SHARES = {1: [0.9, 0.10, 0.20], 2: [0.8, 0.20, 0.30], 3: [0.7, 0.30, None]}
"""Seed -> share of surviving updates at a transition checkpoint and at two stable ones."""


def sampled(tmp_path, maker, shares=SHARES, projection=0.4, config=None):
    """A run whose updates were sampled at three checkpoints of each seed."""
    rows = []
    for seed, of_seed in shares.items():
        for index, (share, regime) in enumerate(zip(of_seed, ("transition", "stable", "stable"), strict=True)):
            along = None if share is None else projection + 0.01 * seed
            rows.append(
                maker.checkpoint(seed, 50 * (index + 1), regime=regime, update_survival=share, update_projection=along)
            )
    tries = [maker.prediction(row.seed, row.step, "linear", 5, regime=row.regime) for row in rows]
    return maker.write_run(tmp_path / "run", config or BFLOAT16, {}, checkpoints=rows, predictions=tries)


def beside_table_8(run):
    tables = tables_of_predictions(Analysis(load_run(run)))
    names = [table.name for table in tables]
    return names, {table.name: table for table in tables}


def test_means_are_of_a_seeds_checkpoints_first_then_of_seeds(tmp_path, maker):
    run = load_run(sampled(tmp_path, maker))
    found = survival(run.checkpoints, "stable")
    per_seed = [0.15, 0.25, 0.30]
    assert [value for _, value in found.share.per_seed] == pytest.approx(per_seed)
    assert found.share.mean == pytest.approx(statistics.mean(per_seed))
    assert found.share.std == pytest.approx(statistics.stdev(per_seed))
    assert (found.share.n, found.share.seeds) == (5, 3)
    assert found.projection.mean == pytest.approx(0.42)
    assert survival(run.checkpoints, "chaotic").share.reason == "no update was sampled at a chaotic checkpoint"


def test_values_that_are_not_finite_are_left_out(tmp_path, maker):
    rows = [maker.checkpoint(1, 50 * i, regime="stable", update_survival=v) for i, v in ((1, 0.5), (2, float("nan")))]
    assert survival(rows, "stable").share.mean == 0.5
    assert not recorded([maker.checkpoint(1, 50)])


def test_the_numbers_stand_beside_table_8(tmp_path, maker):
    names, tables = beside_table_8(sampled(tmp_path, maker))
    assert names == ["table-06", "table-07", "table-08", "updates", "table-09", "table-10"]
    assert "23.3 ± 7.6 % of the weights that the optimizer meant to move" in tables["table-08"].note
    assert "(n = 5 checkpoints in 3 seeds; 95 % " in tables["table-08"].note
    assert "moved 0.42 ± 0.01 of the intended update" in tables["table-08"].note
    rows = {row["regime"]: row for row in csv.DictReader(tables["updates"].to_csv().splitlines())}
    assert float(rows["stable"]["survival_percent_mean"]) == pytest.approx(100 * 0.7 / 3)
    assert float(rows["transition"]["survival_percent_mean"]) == pytest.approx(80)
    assert rows["chaotic"]["projection_why"] == "no update was sampled at a chaotic checkpoint"
    assert "bfloat16, nearest rounding" in tables["updates"].note


def test_a_study_without_samples_says_nothing_of_them(full_run, maker, tmp_path):
    names, tables = beside_table_8(full_run)
    analysis = Analysis(load_run(full_run))
    assert "updates" not in names
    assert "To be read beside" not in tables["table-08"].note
    assert "updates" not in build_figures(analysis)
    assert "Updates that survive" not in texts(findings(analysis))
    never_stable = sampled(tmp_path, maker, {1: [0.9, None, None]})
    assert "Updates that survive: no update was sampled at a stable" in beside_table_8(never_stable)[1]["table-08"].note


@pytest.mark.parametrize(
    ("projection", "said"),
    [
        (0.4, "and the weights moved 0.42 of the intended update (95 % 0.40 to 0.44): acceptance that does not degrade "
         "with K must be told apart from weights that hardly move."),
        (0.98, "but those made up for the rest: the weights moved 1.00 of the intended update"),
    ],
)  # fmt: skip
def test_the_summary_warns_of_low_survival_and_knows_unbiased_rounding(tmp_path, maker, projection, said):
    text = texts(findings(Analysis(load_run(sampled(tmp_path, maker, projection=projection)))))
    assert "Updates that survive. At stable checkpoints only 23.3 % (95 % " in text
    assert said in text
    assert ("told apart from" in text) is (projection < 0.9)


def test_the_summary_is_silent_where_half_survives(tmp_path, maker):
    high = {seed: [0.9, 0.6, 0.7] for seed in SHARES}
    assert "Updates that survive" not in texts(findings(Analysis(load_run(sampled(tmp_path, maker, high)))))


def test_one_seed_has_no_interval_and_the_summary_says_so(tmp_path, maker):
    text = texts(findings(Analysis(load_run(sampled(tmp_path, maker, {1: [0.9, 0.1, 0.2]})))))
    assert "only 15.0 % (one seed, no interval) of the weights" in text


def test_the_page_shows_their_course(tmp_path, maker):
    run = sampled(tmp_path, maker)
    page = build_report(run).read_text()
    assert 'id="updates"' in page
    figure = json.loads((run / "figures" / "updates.json").read_text())
    drawn = [trace["y"] for trace in figure["data"]]
    assert [0.9, 0.1, 0.2] in drawn
    assert any(values[1:] == pytest.approx([0.2, 0.25]) for values in drawn)  # the mean over seeds
    assert (run / "tables" / "updates.md").is_file()
    float32 = build_figures(Analysis(load_run(sampled(tmp_path / "b", maker, config={"training": {"steps": 150}}))))
    assert "Weights in float32;" in float32["updates"].caption
