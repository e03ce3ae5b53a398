"""The bench in the report: its section, its tables as files, several tasks as one, and what is wrong with a folder."""

import csv
import json
import re
import shutil
import subprocess

import pytest

from bench_records import KINDS, bench_rows, beside, row, without, write_bench
from leapverify.errors import Damaged
from leapverify.report import build_report
from leapverify.report.bench.leaderboard import combine, combined_table, load_benches
from leapverify.report.bench.page import load_bench
from race_records import of_arm

NAMES = ("hold", "random", "linear", "lawa-5", "anneal-sqrt", "ema-extrapolate", "momentum")
FEW = {name: KINDS[name] for name in NAMES}
CONFIG = {"preset": "tiny", "training": {"steps": 400, "batch_size": 8, "sequence_length": 64}}
BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
FLAGS += ["--virtual-time-budget=15000", "--window-size=1280,1200"]
PROBE = """<script>
const look = () => {
  const root = document.documentElement;
  if (!root.dataset.drawn) return void setTimeout(look, 50);
  const plots = [...document.querySelectorAll("#bench .plot, #bench-reach .plot")];
  document.querySelectorAll("#figure-bench-horizons input")[1].click();
  setTimeout(() => parent.postMessage([plots.filter((plot) => plot.querySelector(".main-svg")).length, root.scrollWidth,
    plots[1].data[0].customdata[0][0]], "*"), 300);
};
look();
</script></head>"""
FRAME = """<!doctype html><body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:1200px">
</iframe><script>
addEventListener("message", (event) => {{ document.body.dataset.seen = JSON.stringify(event.data); }});
</script>"""


@pytest.fixture(scope="module")
def rows():
    return bench_rows(FEW, (1, 2, 3), 400, (10, 50))


@pytest.fixture
def study(tmp_path, maker, rows):
    """A study's folder with a bench in it."""
    checkpoints = [maker.checkpoint(seed, step) for seed in (1, 2, 3) for step in (50, 100)]
    run = maker.write_run(tmp_path / "run", CONFIG, {}, checkpoints=checkpoints)
    return write_bench(run, *rows, left_out={"wnn": "wnn needs a file: name it wnn:PATH"})


def table(run, name):
    with (run / "tables" / f"{name}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_page_has_the_bench_and_the_tables_lie_beside_it(study):
    page = build_report(study).read_text()
    for part in ('id="bench"', 'id="bench-reach"', 'id="claims"', "Predictors on the bench", "<strong>Bench.</strong>"):
        assert part in page
    assert "wnn needs a file: name it wnn:PATH" in page
    found = table(study, "bench-leaderboard")
    assert found[0]["predictor"] == "ema-extrapolate"
    assert float(found[0]["verified_value_low"]) <= float(found[0]["verified_value_mean"])
    assert {line["predictor"] for line in found} == set(FEW)
    assert {line["predictor"] for line in found if line["control"] == "True"} == {"hold", "random"}
    assert all(line["rank"] == "" for line in found if line["control"] == "True")
    markdown = (study / "tables" / "bench-leaderboard.md").read_text()
    assert "| 1 | ema-extrapolate |" in markdown
    assert "| control | hold |" in markdown
    assert "less the cost" in markdown


def test_every_cell_stands_in_a_file_and_horizon_free_ones_once(study):
    build_report(study)
    found = table(study, "bench-cells")
    assert {line["K"] for line in found if line["predictor"] == "lawa-5"} == {"any"}
    assert {line["K"] for line in found if line["predictor"] == "linear"} == {"10", "50", "all"}
    assert {line["regime"] for line in found} >= {"chaotic", "transition", "stable", "all"}


def test_a_study_without_a_bench_has_no_section(tmp_path, maker):
    rows = [maker.checkpoint(1, step) for step in (50, 100)]
    run = maker.write_run(tmp_path / "run", CONFIG, {}, checkpoints=rows)
    assert 'id="bench"' not in build_report(run).read_text()
    assert not list((run / "tables").glob("bench-*"))


def test_one_seed_and_nothing_but_declines_still_make_a_page(tmp_path, maker):
    found = [row("linear"), without("rre", "declined", "needs 5 snapshots"), row("hold", gain_fraction=None)]
    found.append(without("momentum", "nonfinite", "not finite"))
    run = maker.write_run(tmp_path / "run", CONFIG, {}, checkpoints=[maker.checkpoint(1, 50)])
    write_bench(run, found, [beside(one, 0.5 if one.strict else None) for one in found])
    page = build_report(run).read_text()
    assert "all 1 declined: needs 5 snapshots" in page
    assert "Fewer than 3 seeds bear no verdict" in page
    assert "nan" not in json.dumps(table(run, "bench-leaderboard"))
    (line,) = re.findall(r"^\|[^|]*\| rre \|.*$", (run / "tables" / "bench-leaderboard.md").read_text(), re.M)
    assert line.count("all 1 declined") == 1  # said once, and in the CSV beside every missing number
    (fields,) = [each for each in table(run, "bench-leaderboard") if each["predictor"] == "rre"]
    assert fields["persistence_why"] == "all 1 declined: needs 5 snapshots"


@pytest.mark.parametrize(("gain", "why"), [(0.01, "none of the gains was trained on from"), (-0.01, "no gain to")])
def test_a_gain_that_was_not_followed_is_told_from_no_gain(tmp_path, gain, why):
    found = [row("linear", loss_predicted=3.0 - gain)]
    report = load_bench(write_bench(tmp_path / "run", found, [beside(found[0], None)]), {})
    assert report is not None
    assert why in report.places[0].headline.persistence.reason


def test_a_race_beside_the_bench_answers_the_claims(tmp_path, rows):
    arms = of_arm("always:lawa-5", [2.25, 2.26, 2.27], real_steps=300) + of_arm("baseline", [2.2] * 3)
    arms += of_arm("shortened:always:lawa-5", [2.21] * 3, real_steps=300)
    report = load_bench(write_bench(tmp_path / "run", *rows, races=arms), {})
    assert report is not None
    found = {judged.predictor: judged for judged in report.judged}
    assert found["lawa-5"].raced.unconditional.word == "does not hold"
    assert found["linear"].raced.unconditional.why == "not raced"


def test_several_tasks_make_one_leaderboard(tmp_path, rows):
    less = {name: kind for name, kind in FEW.items() if name != "momentum"}
    runs = [
        write_bench(tmp_path / "a", *rows),
        write_bench(tmp_path / "b", *bench_rows(less, (1, 2, 3), 400, (50,)), "lora"),
    ]
    text = combine(runs)
    header = next(line for line in text.splitlines() if line.startswith("| predictor"))
    assert header.count("pretrain: ") == header.count("lora: ") == 5
    body = [
        line.split(" | ")[0].strip("| ") for line in text.split("# Published claims")[0].splitlines() if "|" in line
    ]
    assert body[2] == "ema-extrapolate"
    assert body[-2:] == ["hold (control)", "random (control)"]
    assert "not benched" in next(line for line in text.splitlines() if line.startswith("| momentum"))
    assert text.count("# Published claims: ") == 2
    fields = [cell.fields for cell in combined_table(load_benches(runs)).rows[0].cells]
    assert any("lora_verified_value_mean" in found for found in fields)


def test_tasks_that_occur_twice_are_called_by_their_folders(tmp_path, rows):
    runs = [write_bench(tmp_path / name, *rows) for name in ("small", "large")]
    assert [report.bench.label for report in load_benches(runs)] == ["pretrain small", "pretrain large"]


def test_races_in_other_folders_count_for_their_task(tmp_path, rows):
    arms = of_arm("always:linear", [2.25, 2.26, 2.27], real_steps=300) + of_arm("baseline", [2.2] * 3)
    arms += of_arm("shortened:always:linear", [2.21] * 3, real_steps=300)
    bench = write_bench(tmp_path / "bench", *rows)
    race = write_bench(tmp_path / "race", *rows, races=arms)
    (report,) = load_benches([bench], [race])
    assert report.races["linear"].unconditional.word == "does not hold"


def test_a_folder_without_a_race_is_refused(tmp_path, study):
    with pytest.raises(ValueError, match="holds no race: run leapverify race --predictors NAMES --out"):
        combine([study], [tmp_path])


def test_what_is_wrong_with_a_folder_is_said(tmp_path, rows):
    with pytest.raises(ValueError, match="no run folder was named"):
        combine([])
    with pytest.raises(ValueError, match="holds no bench: run leapverify bench predictors"):
        combine([tmp_path])
    run = write_bench(tmp_path / "run", *rows, step_tokens=None)
    with pytest.raises(ValueError, match=r"training.batch_size and training.sequence_length"):
        load_bench(run, {})
    found = load_bench(run, {"training": {"batch_size": 8, "sequence_length": 64}})
    assert found is not None
    assert found.bench.step_tokens == 3 * 8 * 64
    with pytest.raises(ValueError, match="does not say persist_steps"):
        load_bench(write_bench(tmp_path / "other", *rows, persist_steps=None), {})
    (run / "bench" / "benched.parquet").write_bytes(b"no")
    with pytest.raises(Damaged, match="benched"):
        load_bench(run, {"training": {"batch_size": 8, "sequence_length": 64}})


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_section_draws_and_fits_the_screen(study, tmp_path, width):
    page = tmp_path / "probed.html"
    page.write_text(build_report(study).read_text().replace("</head>", PROBE, 1))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.name, width=width))
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen
    drawn, wide, said = json.loads(seen.group(1).replace("&quot;", '"'))
    assert (drawn, wide) == (2, width)
    assert " steps, n = " in said
