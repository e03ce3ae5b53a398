"""The tables against hand-computed values, and the reasons in empty cells."""

import csv
import json
import statistics
from pathlib import Path

import pytest

from leapverify.report.kit.run import load_run
from leapverify.report.kit.table import Table
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.paper import PAPER, paper_value
from leapverify.report.study.tables import tables_of_runs
from leapverify.report.study.tables_more import further_tables, ladder
from leapverify.report.study.tables_predict import horizons, tables_of_predictions

LOSSES = {1: [3.0, 2.0, 1.5], 2: [3.2, 2.2, 1.7], 3: [3.1, 2.1, 1.6]}
LABELS = {
    1: ["unknown", "transition", "stable"],
    2: ["unknown", "transition", "stable"],
    3: ["unknown", "chaotic", "transition"],
}


@pytest.fixture
def hand_run(tmp_path, maker):
    """Three seeds, three checkpoints, predictions whose rates can be counted on fingers."""
    rows, predictions = [], []
    for seed, losses in LOSSES.items():
        for index, (loss, label) in enumerate(zip(losses, LABELS[seed], strict=True)):
            similarity = None if index == 0 else 0.999 + 0.0001 * seed
            rows.append(
                maker.checkpoint(
                    seed, 50 * (index + 1), val_loss=loss, heldout_loss=loss, similarity=similarity, regime=label
                )
            )
    # Transition, linear, K = 5: seed 1 accepts 1 of 1, seed 3 accepts 0 of 1, seed 2 only declines.
    predictions.append(maker.prediction(1, 100, "linear", 5, strict=True, loss_now=2.0, loss_predicted=1.0))
    predictions.append(maker.declined(2, 100, "linear", 5, "needs 2 snapshots"))
    predictions.append(maker.prediction(3, 150, "linear", 5, strict=False, loss_now=2.0, loss_predicted=4.0))
    # Momentum: ratios 100 and 300; at K = 10 every prediction declines.
    predictions.append(maker.prediction(1, 100, "momentum", 5, strict=False, loss_now=2.0, loss_predicted=200.0))
    predictions.append(maker.prediction(3, 150, "momentum", 5, strict=False, loss_now=2.0, loss_predicted=600.0))
    predictions.append(maker.declined(1, 100, "momentum", 10, "needs the optimizer state"))
    config = {"preset": "hand", "training": {"steps": 150}, "regimes": {"thresholds": "paper"}}
    return maker.write_run(tmp_path / "hand", config, {}, checkpoints=rows, predictions=predictions)


def tables(run: Path) -> dict[str, Table]:
    analysis = Analysis(load_run(run))
    shown = [*tables_of_runs(analysis.run), *tables_of_predictions(analysis), *further_tables(analysis)]
    return {table.name: table for table in shown}


def rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(table.to_csv().splitlines()))


def row(table: Table, **keys: object) -> dict[str, str]:
    found = [entry for entry in rows(table) if all(entry[key] == str(value) for key, value in keys.items())]
    assert len(found) == 1
    return found[0]


def test_every_table_has_its_rows(full_run):
    found = tables(full_run)
    assert list(found)[:10] == [f"table-{number:02d}" for number in range(1, 11)]
    expected = {
        "table-01": 4, "table-02": 3, "table-03": 6, "table-04": 2, "table-05": 6, "table-06": 18,
        "table-07": 84, "table-08": 36, "table-09": 84, "table-10": 42,
        "acceptance": 4 * 3 * 10 * 6, "gain": 3 * 10 * 6, "skill": 4 * 5 * 10 * 6, "costs": 7,
    }  # fmt: skip
    assert {name: len(found[name].rows) for name in expected} == expected
    for table in found.values():
        assert table.rows
        assert all(len(line.cells) == len(table.columns) for line in table.rows)


def test_no_cell_is_silently_empty(full_run, one_seed_run, hand_run):
    for run in (full_run, one_seed_run, hand_run):
        for name, table in tables(run).items():
            silent = [line for line in table.rows if any(not c.text for c in line.cells)]
            assert not silent or name == "seeds", name


def test_csv_and_markdown_have_as_many_rows_as_the_table(full_run):
    for table in tables(full_run).values():
        assert len(rows(table)) == len(table.rows)
        body = [line for line in table.to_markdown().splitlines() if line.startswith("| ")]
        assert len(body) == len(table.rows) + 1


def test_regime_counts_by_hand(hand_run):
    found = row(tables(hand_run)["table-01"], regime="stable")
    assert float(found["checkpoints_mean"]) == pytest.approx(2 / 3)
    assert float(found["checkpoints_std"]) == pytest.approx(statistics.stdev([1, 1, 0]))
    assert float(found["paper_gpt2_124m_mean"]) == 13.4
    assert float(found["paper_gpt2_124m_std"]) == 3.2


def test_similarity_by_hand(hand_run):
    found = row(tables(hand_run)["table-02"], regime="transition")
    assert float(found["similarity_mean"]) == pytest.approx(0.999 + 0.0001 * 2)
    assert int(found["similarity_n"]) == 3


def test_final_loss_by_hand(hand_run):
    found = {entry["quantity"]: float(entry["this_run"]) for entry in rows(tables(hand_run)["table-03"])}
    assert found["seeds"] == 3
    assert found["mean, nats per token"] == pytest.approx(1.6)
    assert found["standard deviation"] == pytest.approx(0.1)
    assert (found["lowest"], found["highest"]) == (1.5, 1.7)
    assert found["CV, %"] == pytest.approx(6.25)


def test_first_entry_by_hand(hand_run):
    table = tables(hand_run)["table-04"]
    transition, stable = row(table, regime="transition"), row(table, regime="stable")
    assert float(transition["step_mean"]) == pytest.approx((100 + 100 + 150) / 3)
    assert (float(stable["step_mean"]), stable["seeds_never"]) == (150.0, "3")
    assert (transition["earliest"], transition["latest"]) == ("100", "150")


def test_agreement_by_hand(hand_run):
    table = tables(hand_run)["table-05"]
    modal, unanimous = row(table, quantity="agreement, modal, %"), row(table, quantity="agreement, unanimous, %")
    assert float(modal["this_run_mean"]) == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)
    assert float(unanimous["this_run_mean"]) == pytest.approx(100 / 3)
    assert modal["paper_gpt2_124m_mean"] == "74.5"


def test_momentum_rows_by_hand(hand_run):
    table = tables(hand_run)["table-06"]
    found = row(table, predictor="momentum", K=5)
    assert float(found["ratio_mean"]) == pytest.approx(200.0)
    assert float(found["predicted_mean"]) == pytest.approx(400.0)
    assert float(found["present_mean"]) == pytest.approx(2.0)
    assert float(found["paper_gpt2_124m_ratio"]) == pytest.approx(201 / 1.64)
    assert "declined" in row(table, predictor="momentum", K=10)["ratio_why"]
    assert row(table, predictor="momentum", K=25)["ratio_why"] == "K = 25 was not swept"
    assert row(table, predictor="adam", K=5)["ratio_why"] == "adam is not among this study's predictors"


def test_strict_acceptance_by_hand(hand_run):
    found = row(tables(hand_run)["table-07"], regime="transition", predictor="linear", K=5)
    assert float(found["percent_mean"]) == 50.0
    assert float(found["percent_std"]) == pytest.approx(100 * statistics.stdev([1, 0]))
    assert (found["percent_n"], found["percent_seeds"]) == ("2", "2")
    assert (found["paper_gpt2_124m_mean"], found["paper_gpt2_124m_std"]) == ("9.3", "3.8")


def test_variation_by_hand(hand_run):
    found = row(tables(hand_run)["table-10"], predictor="linear", K=5)
    assert float(found["cov_percent"]) == 0.0
    paper = row(tables(hand_run)["table-10"], predictor="quadratic-paper", K=100)
    assert paper["paper_qwen2_5_1_5b_mean"] == "149.1"
    assert paper["cov_percent_why"]


def test_empty_cells_carry_reasons(one_seed_run):
    found = tables(one_seed_run)
    assert row(found["table-02"], regime="stable")["similarity_why"] == "no stable checkpoint in any seed"
    assert row(found["table-04"], regime="stable")["earliest_why"] == "no stable checkpoint in any seed"
    stable = row(found["table-08"], regime="stable", predictor="linear", K=5)
    assert stable["percent_why"] == "no stable checkpoint in any seed"
    assert row(found["table-03"], quantity="CV, %")["this_run_why"] == "one seed has no spread over seeds"
    assert "one seed" in row(found["table-05"], quantity="agreement, modal, %")["this_run_why"]
    assert row(found["table-10"], predictor="linear", K=5)["cov_percent_why"].startswith("one seed only")
    assert row(found["costs"], part="lyapunov")["seconds_why"] == "this part did not run"
    chaotic = row(found["acceptance"], criterion="strict", regime="chaotic", predictor="linear", K=5)
    assert chaotic["percent_why"] == "chaotic checkpoints were not swept"


def test_paper_numbers_stand_in_their_cells(full_run):
    found = tables(full_run)
    cells = row(found["table-08"], regime="stable", predictor="linear", K=100)
    assert (cells["paper_qwen2_5_7b_mean"], cells["paper_qwen2_5_7b_std"]) == ("90.0", "22.4")
    cells = row(found["table-09"], regime="transition", predictor="quadratic-paper", K=50)
    assert (cells["paper_qwen2_5_1_5b_mean"], cells["paper_gpt2_124m_std"]) == ("54.2", "7.1")
    assert row(found["table-09"], regime="transition", predictor="quadratic", K=50)["paper_gpt2_124m_mean"] == ""


def test_horizons_join_the_run_and_the_paper(hand_run):
    assert horizons(load_run(hand_run)) == (5, 10, 25, 50, 75, 100)


def test_paper_json_is_the_shared_transcription():
    shared = Path(__file__).resolve().parents[3] / "shared" / "paper_tables.json"
    if not shared.is_file():
        pytest.skip("the transcription of the paper's tables is not on this machine")
    whole = json.loads(shared.read_text())
    assert PAPER["momentum"] == whole["table6_momentum"]
    assert PAPER["proximity_percent"] == whole["table9_proximity_percent"]
    assert paper_value("strict_percent", "qwen2.5-7b", "stable") == whole["table8_strict_percent_stable_7b"]
    assert paper_value("fraction_percent", "gpt2-124m", "nowhere") is None


def test_ladder_is_shown_where_it_was_run(hand_run):
    assert ladder(load_run(hand_run)) is None
    (hand_run / "tables").mkdir()
    (hand_run / "tables" / "ladder.csv").write_text(
        "variant,table,quantity,mean,std,low,high,n,seeds,reason\n"
        "none,6,ratio,1.5,0.1,1.4,1.6,10,3,\nhalf_moments,6,ratio,,,,,0,0,none finite\n"
    )
    found = ladder(load_run(hand_run))
    assert found is not None
    assert [cell.text for cell in found.rows[0].cells] == ["6", "ratio", "1.5 ± 0.1", "none finite"]
