"""What the report may say: beside which control, from how many values, and when it cannot say."""

import csv
import dataclasses
import re

import pytest

from leapverify.analysis.study.cascades import NO_HOLD
from leapverify.analysis.study.pairs import pairs_interval
from leapverify.analysis.study.skill import Skill
from leapverify.analysis.vocabulary import CRITERIA
from leapverify.analysis.wording import verdict
from leapverify.io import records
from leapverify.io.records import CascadeLink
from leapverify.report import build_report
from leapverify.report.kit.run import load_run
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures import build_figures
from leapverify.report.study.summary import findings, texts, tiles
from leapverify.report.study.summary_predict import skill
from leapverify.report.study.tables_more import cascades, gains

CANNOT = "cannot say that it beats a random step"


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [(0.1, 0.5, 4, "above"), (-0.5, -0.1, 4, "below"), (-0.1, 0.5, 4, None), (0.0, 0.5, 4, None),
     (0.1, 0.5, 2, None), (None, None, 4, None)],
)  # fmt: skip
def test_a_verdict_needs_an_interval_clear_of_the_null(low, high, seeds, expected):
    assert verdict(low, high, seeds) == expected


def test_an_interval_over_pairs_draws_seeds():
    pairs = {(a, b): 0.5 for a in range(4) for b in range(a + 1, 4)}
    interval, seeds = pairs_interval(pairs)
    assert seeds == 4
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.5, 0.5))
    assert pairs_interval({(1, 2): 0.5})[1] == 2


def strict_run(tmp_path, maker, hits: dict[str, list[list[bool]]], **changes: object):
    """Stable checkpoints of one list of verdicts per seed and predictor, K = 5."""
    rows, tries = [], []
    for seed in range(len(next(iter(hits.values())))):
        for index in range(max(len(of_seed[seed]) for of_seed in hits.values())):
            step = 50 * (index + 1)
            rows.append(maker.checkpoint(seed, step, regime="stable"))
            for name, of_seed in hits.items():
                if index < len(of_seed[seed]):
                    tries.append(
                        maker.prediction(seed, step, name, 5, regime="stable", strict=of_seed[seed][index], **changes)
                    )
    return maker.write_run(tmp_path / "run", {}, {}, checkpoints=rows, predictions=tries)


def said_of(run) -> tuple[str, str]:
    analysis = Analysis(load_run(run))
    tile = next(tile for tile in tiles(analysis) if tile.label.startswith("best strict"))
    return texts(findings(analysis)), tile.about


def test_a_rate_stands_beside_that_of_a_random_step(tmp_path, maker):
    half = [True, False] * 4
    text, tile = said_of(strict_run(tmp_path, maker, {"linear": [half] * 4, "random": [half] * 4}))
    assert "a random step 50 % in the same cell: " + CANNOT in text
    assert "a random step 50 %: " + CANNOT in tile


def test_a_rate_that_beats_a_random_step_in_every_seed_is_said_to(tmp_path, maker):
    best = [[True] * 7 + [False], [True] * 8, [True] * 8, [True] * 7 + [False]]
    text, tile = said_of(strict_run(tmp_path, maker, {"linear": best, "random": [[True, False] * 4] * 4}))
    assert re.search(r"it beats a random step \(by 44 points, paired by seed, 95 % \d+ to \d+\)", text)
    assert tile.endswith("it beats a random step")


def test_equal_differences_need_rates_that_lie_apart(tmp_path, maker):
    few = {"linear": [[True]] * 3, "random": [[False]] * 3}
    assert CANNOT in said_of(strict_run(tmp_path / "few", maker, few))[0]
    many = {"linear": [[True] * 10] * 3, "random": [[False] * 10] * 3}
    assert "it beats a random step (by 100 points" in said_of(strict_run(tmp_path / "many", maker, many))[0]


def test_two_seeds_beat_nothing(tmp_path, maker):
    run = strict_run(tmp_path, maker, {"linear": [[True] * 20] * 2, "random": [[False] * 20] * 2})
    assert CANNOT in said_of(run)[0]


def test_without_a_random_step_nothing_is_said_to_be_beaten(tmp_path, maker):
    text, _ = said_of(strict_run(tmp_path, maker, {"linear": [[True] * 4] * 4}))
    assert "no random step was tried in the same cell: " + CANNOT in text


def test_mean_over_seeds_and_pooled_count_are_named(tmp_path, maker):
    run = strict_run(tmp_path, maker, {"linear": [[True], [True, False, False], [True]]})
    assert re.search(r"mean over seeds 78 % \(.*?\), pooled 3 of 5 predictions in 3 seeds", said_of(run)[0])


def test_gain_says_what_it_rests_on(tmp_path, maker):
    text, _ = said_of(strict_run(tmp_path, maker, {"linear": [[True] * 2] * 4}, gain_fraction=0.4))
    assert "from n = 8, 0 left out because the run itself did not improve or had ended" in text
    assert "cannot say, a seed has only 2 values" in text
    rows = {"linear": [[True] * 4] * 4}
    text, _ = said_of(strict_run(tmp_path / "b", maker, rows, gain_fraction=None))
    assert "No gain fraction exists there" in text
    run = strict_run(tmp_path / "c", maker, rows, gain_fraction=0.4, steps_gained=None)
    assert re.search(r"from n = 16, 0 left out .*?: above 0\.", said_of(run)[0])
    line = next(row for row in read(gains(Analysis(load_run(run)))) if row["regime"] == "stable")
    assert (line["against_0"], line["fewest_in_a_seed"], line["never_reached"]) == ("above 0", "4", "16")
    assert line["steps_gained_why"] == "the median of 4 seeds lies beyond the end of the run"


def test_steps_gained_have_their_resolution(full_run):
    table = gains(Analysis(load_run(full_run)))
    assert "losses are recorded every 5 steps" in table.note
    linear = next(row for row in read(table) if (row["regime"], row["predictor"], row["K"]) == ("stable", "hold", "5"))
    assert linear["against_0"] == "cannot say"
    assert linear["steps_gained_mean"] or linear["steps_gained_why"]


def clocked(full_run, **changes: object) -> str:
    """What is said of recognizers when every cell is replaced by one made up here."""
    analysis = Analysis(load_run(full_run))
    rows = []
    for name, signals in (("linear", ("similarity", "straightness")), ("adam", ("similarity", "straightness"))):
        for horizon in (5, 10):
            base = Skill("step", name, horizon, "strict", 0.2, 0.1, 0.3, 40, 20, 4, None)
            rows.append(base)
            for signal in signals:
                found = dataclasses.replace(
                    base, signal=signal, auc=0.85, low=0.7, high=0.9, clock=0.8, beyond_clock=0.05,
                    beyond_low=-0.1, beyond_high=0.2,
                )  # fmt: skip
                changed = changes if name == "linear" and signal == "similarity" else {}
                rows.append(dataclasses.replace(found, **changed))  # type: ignore[arg-type]
    analysis.__dict__["skills"] = {"strict": rows}
    return skill(analysis).text


def test_a_higher_area_than_the_clock_is_not_enough(full_run):
    text = clocked(full_run)
    assert "cannot say that the similarity does in any of 4 cells" in text
    assert "Earlier checkpoints succeed more often in 4 of 4 cells" in text
    assert "beats the clock in" not in text


def test_the_clock_is_beaten_where_the_difference_is_clear(full_run):
    text = clocked(full_run, beyond_low=0.01)
    assert "the similarity does in 2 of 4 cells, of 1 of 2 predictors (linear)" in text
    assert "near-copies" in text


def test_agreement_names_the_schedule(full_run):
    text = texts(findings(Analysis(load_run(full_run))))
    assert "shifted circularly in time" in text
    assert "share one learning-rate schedule" in text


def test_cascades_without_hold_say_so(full_run):
    analysis = Analysis(load_run(full_run))
    trained = [row for row in read(cascades(analysis)) if row["kind"] == "trained"]
    assert {row["against_hold_why"] for row in trained} == {NO_HOLD}
    assert NO_HOLD in build_figures(analysis)["cascades"].caption


def test_trained_cascades_stand_beside_hold(tmp_path, maker):
    run = maker.make_run(tmp_path / "run")
    rows = records.read(run / "cascades.parquet", CascadeLink)
    trained = [row for row in rows if row.kind == "trained" and row.predictor == "linear"]
    hold = [dataclasses.replace(row, predictor="hold", strict=False, loss=row.loss_start - 0.5) for row in trained]
    records.write(run / "cascades.parquet", CascadeLink, [*rows, *hold])
    analysis = Analysis(load_run(run))
    found = {(r["kind"], r["predictor"], r["depth"], r["link"]): r for r in read(cascades(analysis))}
    first = found["trained", "linear", "2", "1"]
    here = [row for row in trained if (row.depth, row.link) == (2, 1)]
    means = [
        sum(row.loss - row.loss_start + 0.5 for row in here if row.seed == seed) / sum(row.seed == seed for row in here)
        for seed in sorted({row.seed for row in here})
    ]
    assert float(first["against_hold_mean"]) == pytest.approx(sum(means) / len(means))
    assert (int(first["against_hold_n"]), int(first["against_hold_seeds"])) == (len(here), len(means))
    assert found["trained", "hold", "2", "1"]["against_hold_why"] == "this is the control"
    assert "hold" in found["chained", "linear", "2", "1"]["against_hold_why"]
    figure = build_figures(analysis)["cascades"]
    assert "hold" not in figure.controls["predictor"]
    assert any(trace["name"] == "hold" for trace in figure.views[0].data)
    assert "necessary, not sufficient" in figure.caption


def test_figure_files_have_short_names(full_run, full_page):
    names = {path.stem for path in (full_run / "figures").glob("*.json")}
    assert {f"{figure}-{criterion}" for figure in ("acceptance", "skill") for criterion in CRITERIA} <= names
    assert len(names) <= 20
    assert max(map(len, names)) <= 20


def test_no_note_hides_the_spread_of_few_seeds(full_run, full_page):
    page = build_report(full_run).read_text()
    assert "the same in every seed" not in page
    assert "Wilson" in page
    assert "trend" in page


def read(table) -> list[dict[str, str]]:
    return list(csv.DictReader(table.to_csv().splitlines()))
