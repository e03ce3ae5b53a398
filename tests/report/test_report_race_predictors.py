"""The table of a race's predictors: one a case, both ways beside one another, hostile names inert."""

from __future__ import annotations

import csv
import io

import pytest

from leapverify.analysis.race.predictors import short_name
from leapverify.report import build_report
from leapverify.report.kit.run import RaceRecords
from leapverify.report.race.page import RaceReport, race_finding
from leapverify.report.race.predictors import predictor_tables
from race_records import of_arm, race_point, write_race

BASE = [2.0 + 0.01 * seed for seed in range(4)]
PATH = "nino-mlp:/data/<script>alert(1)</script>/nino_mlp.pt"


def runs(rate: str = "tuned") -> list:
    leapt = {"attempts": 3, "accepted": 2, "real_steps": 340, "leapt_steps": 60, "rate": rate}
    return [
        *of_arm("baseline", BASE, rate=rate),
        *of_arm("always:linear", [loss + 0.1 + 0.01 * i for i, loss in enumerate(BASE)], **leapt),
        *of_arm("shortened:always:linear", BASE, steps=340, real_steps=340, rate=rate),
        *of_arm("leap:linear", BASE, attempts=5, rate=rate),
        *of_arm("shortened:leap:linear", BASE, rate=rate),
        *of_arm(f"leap:{PATH}", BASE, rate=rate),
        *of_arm(f"shortened:leap:{PATH}", BASE, rate=rate),
    ]


def report(rows: list) -> RaceReport:
    return RaceReport(RaceRecords(None, {}, {}, {}, rows, ()))


def test_one_table_a_case_with_both_ways_and_every_number_in_the_csv():
    tables = predictor_tables(report([*runs(), *runs("usual")]).analysis)
    assert [table.name for table in tables] == [
        "race-predictors-pretrain-adamw-tuned",
        "race-predictors-pretrain-adamw-usual",
    ]
    table = tables[0]
    assert table.heading == "Predictors of the literature: against the shortened schedule, pretrain, adamw, tuned rate"
    assert "Read it as the first" in tables[1].note
    shown = [[cell.text for cell in line.cells] for line in table.rows]
    assert shown[0] == ["linear", "0 of 20", "", "no leap", "8 of 12", "+0.1150 ± 0.0129", "higher"]
    assert table.rows[0].cells[4].below == "60 steps leapt"
    assert shown[1] == ["nino-mlp:nino_mlp.pt", "declined", "", "no leap", "not run", "", ""]
    row = next(csv.DictReader(io.StringIO(table.to_csv())))
    assert float(row["always_against_shortened_mean"]) == pytest.approx(0.115)
    assert (row["predictor"], row["always_accepted"], row["always_accepted_of"]) == ("linear", "8", "12")
    assert row["verified_that_is"] == "no leap"


def test_a_name_is_shown_without_the_folders_of_its_file():
    assert short_name("rre") == "rre"
    assert short_name("wnn:models/a.safetensors") == "wnn:a.safetensors"


def test_a_race_of_predictors_alone_shows_no_empty_tables_of_other_arms():
    found = report(runs())
    assert [table.name for table in found.deciding] == ["race-predictors-pretrain-adamw-tuned"]
    assert race_finding(found).text.startswith("2 predictors against the shortened schedule")
    assert [table.name for table in report(of_arm("baseline", BASE)).deciding] == ["race-leaps", "race-anneal"]


def test_the_page_has_the_table_and_hostile_names_are_inert(tmp_path):
    rows = runs()
    points = [race_point(run, step, 2.5 - step / 1000) for run in rows if run.arm == "baseline" for step in (0, 400)]
    page = build_report(write_race(tmp_path / "run", rows, points)).read_text()
    assert "Predictors of the literature" in page
    assert "<script>alert" not in page
    assert "verified predictors that saved steps" in page
