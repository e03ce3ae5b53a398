"""The race in the report: a section of a study's page, a page of its own, honest tables, a figure that switches."""

import csv
import dataclasses
import html
import itertools
import json
import math
import re
import shutil
import subprocess

import pytest

from leapverify.analysis.race.verdicts import race_verdicts
from leapverify.io import records
from leapverify.io.records import RaceRun
from leapverify.report import build_report
from leapverify.report.kit.figure_files import file_spec
from leapverify.report.kit.run import RaceRecords, load_race, load_run
from leapverify.report.kit.theme import DARK, LIGHT, resolved
from leapverify.report.race.figures import ARM_MARKS, COSTS, OTHER, RANGES, race_figure
from leapverify.report.race.page import analysis_of
from leapverify.report.race.tables import race_tables
from leapverify.report.study.page import SHORT
from race_records import ENVIRONMENT, SEEDS, of_arm, race_point, race_run, whole_race, write_race

BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>/../../x"


@pytest.fixture(scope="module")
def race_folder(tmp_path_factory):
    return write_race(tmp_path_factory.mktemp("race") / "run", *whole_race())


@pytest.fixture(scope="module")
def race_page(race_folder):
    return build_report(race_folder)


@pytest.fixture(scope="module")
def analysis(race_folder):
    return analysis_of(load_race(race_folder))


def a_race(runs, points=(), config=None):
    return analysis_of(RaceRecords(None, config or {}, {}, {}, runs, points))


def sections(page):
    return re.findall(r'<section id="([^"]+)"', page)


def summary(page):
    return html.unescape(page.split('<section id="summary">')[1].split("</section>")[0])


# --- the page ---


def test_a_race_alone_makes_a_page(race_page):
    page = race_page.read_text()
    assert sections(page) == ["summary", "race", "controls", "arms", "tuning", "machine", "command"]
    assert "<h2>Does leaping pay here?</h2>" in page
    assert "Leaping did not pay on this run" in summary(page)
    assert "Leaping paid on this run" in summary(page)
    assert "not corrected for the 117 comparisons made" in summary(page)
    assert "8 seeds (0 to 7) · pretrain, finetune, convex, noise · 22 arms" in page
    assert "Example CPU, 2 cores" in page
    assert "leapverify race tiny --seeds 0-7" in page
    assert "leapverify report run" in page
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    ids = re.findall(r' id="([^"]+)"', page.split("<footer>")[0])
    assert len(ids) == len(set(ids))


def test_tables_and_figures_lie_beside_it(race_folder, race_page):
    tables = {path.name for path in (race_folder / "tables").iterdir()}
    arms = {f"race-arms-{name}.csv" for name in ("pretrain-adamw-tuned", "pretrain-muon-tuned", "convex-sgd-tuned",
            "finetune-adamw-usual", "finetune-adamw-tuned", "noise-adamw-tuned")}  # fmt: skip
    assert {"race-leaps.csv", "race-anneal.csv", "race-tuning.csv", "race-leaps.md"} | arms <= tables
    figure = json.loads((race_folder / "figures" / "race.json").read_text())
    assert figure["data"]
    assert (race_folder / "figures" / "race.html").stat().st_size < 200_000


def test_a_study_with_a_race_has_a_section_of_it(tmp_path, maker):
    run = maker.make_run(tmp_path / "run", seeds=(42, 43))
    write_race(run, *whole_race(seeds=(0, 1, 2)))
    page = build_report(run).read_text()
    assert sections(page) == ["summary", *SHORT, "race", "tables", "machine", "command"]
    assert "Of 6 races, leaping paid in convex, sgd; the section Race says what against." in summary(page)
    section = html.unescape(page.split('<section id="race">')[1].split("</section>")[0])
    assert "Leaping did not pay on this run" in section
    assert "It rests on 3 seeds a race, of 8 asked for" in section
    assert "Does leaping pay?" in section
    assert "leapverify race tiny --seeds 0-7" in section
    assert load_run(run).race.seeds == (0, 1, 2)
    assert (run / "tables" / "race-leaps.csv").is_file()
    assert (run / "tables" / "table-01.csv").is_file()


def test_a_study_without_a_race_has_none(full_run, full_page):
    assert load_run(full_run).race is None
    assert 'id="race"' not in full_page.read_text()


def test_building_again_gives_the_same_page(race_folder, race_page):
    before = race_page.read_text()
    assert build_report(race_folder).read_text() == before


def test_a_race_needs_nothing_but_its_runs(tmp_path):
    folder = tmp_path / "run"
    (folder / "race").mkdir(parents=True)
    records.write(folder / "race" / "runs.parquet", RaceRun, of_arm("baseline", [2.0, 2.1]))
    page = build_report(folder).read_text()
    assert "Nothing to show: no reading of the reported loss was recorded" in page
    assert "hardware not recorded" in page
    assert "cannot say whether leaping pays: no leap arm was run" in page.lower()
    assert "Nothing was tuned" in page


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoints.parquet is missing"):
        build_report(tmp_path)
    folder = write_race(tmp_path / "tuned", [race_run(stage="tune")], [])
    with pytest.raises(ValueError, match=r"runs.parquet holds no run of a race: give the race command again"):
        build_report(folder)
    folder = write_race(tmp_path / "broken", *whole_race(seeds=(0,)))
    (folder / "race" / "curve.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"curve.parquet is damaged"):
        build_report(folder)
    (folder / "race" / "config.yaml").write_text("- a")
    records.write(folder / "race" / "curve.parquet", records.RacePoint, [])
    with pytest.raises(ValueError, match=r"config.yaml holds no mapping"):
        build_report(folder)


def test_hostile_names_are_inert(tmp_path):
    runs, points = whole_race(seeds=(0, 1, 2))
    names = {"task": HOSTILE, "optimizer": HOSTILE, "rate": HOSTILE, "setting": HOSTILE}
    bad = [dataclasses.replace(run, **names) for run in runs[-12:]]
    bad += [dataclasses.replace(run, arm=HOSTILE) for run in bad[:3]]
    points += [race_point(run, step, loss) for run in bad for step, loss in ((0, 9.0), (400, 2.0))]
    environment = {**ENVIRONMENT, "command": HOSTILE, "cpu": HOSTILE, HOSTILE: HOSTILE}
    folder = write_race(tmp_path / "run", runs + bad, points, {"preset": HOSTILE, "data": HOSTILE}, environment)
    page = build_report(folder).read_text()
    assert "<img" not in page
    assert page.count("<script") == 4
    inside = sorted(path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*"))
    assert set(inside) == {"run"}
    assert all(re.fullmatch(r"[a-z0-9-]+\.(csv|md)", path.name) for path in (folder / "tables").iterdir())
    for path in [*(folder / "figures").glob("*.html"), *(folder / "tables").glob("*.md")]:
        assert "<img" not in path.read_text(), path.name


# --- the tables ---


def rows_of(table):
    return list(csv.DictReader(table.to_csv().splitlines()))


def test_the_deciding_table_has_the_known_numbers(analysis):
    leaps = next(table for table in race_tables(analysis) if table.name == "race-leaps")
    rows = {(row["task"], row["optimizer"], row["rate"], row["arm"]): row for row in rows_of(leaps)}
    assert len(rows) == 4 * 4 + 1 + 1
    convex = rows["convex", "sgd", "tuned", "leap-auto"]
    assert convex["verdict"] == "pays"
    assert float(convex["against_shortened_mean"]) == pytest.approx(-0.012, abs=1e-4)
    assert float(convex["against_shortened_p"]) == 2.0**-8
    assert float(convex["baseline_tokens_mean"]) == pytest.approx(0.45, abs=0.01)
    assert (convex["rival"], convex["against_shortened_test"]) == ("lr-x2", "sign-flip")
    noise = rows["noise", "adamw", "tuned", "leap-auto"]
    assert (noise["verdict"], noise["against_shortened_unleapt"], noise["real_steps_min"]) == (
        "does not pay",
        "8",
        "400",
    )
    always = rows["pretrain", "adamw", "tuned", "always-accept"]
    assert (always["verdict"], always["baseline_tokens_mean"]) == ("a control", "")
    assert always["baseline_tokens_why"] == "never reached the target"
    assert "p-values are not corrected; the race makes 117 comparisons." in leaps.note


def test_the_arms_tables_carry_n_intervals_and_reasons(analysis):
    tables = [table for table in race_tables(analysis) if table.name.startswith("race-arms-")]
    assert len(tables) == 6
    rows = {row["arm"]: row for row in rows_of(tables[0])}
    assert len(rows) == 22
    base, slow, auto = rows["baseline"], rows["lr-x0.5"], rows["leap-auto"]
    assert base["difference_why"] == "this is the baseline"
    assert (slow["reached"], slow["reached_of"], slow["tokens_to_target_why"]) == ("0", "8", "never reached")
    assert float(auto["difference_low"]) < float(auto["difference_mean"]) < float(auto["difference_high"])
    assert (auto["final_loss_seeds"], auto["attempts"], auto["accepted"]) == ("8", "96", "32")
    assert float(auto["overhead_tokens_percent"]) == pytest.approx(0.6)
    assert "The target is 2.2110, stated before any seed was raced. Readings lie 20 steps apart" in tables[0].note
    assert "Read it as the table of pretrain, adamw." in tables[1].note
    convex = {row["arm"]: row for row in rows_of(next(t for t in tables if "convex" in t.name))}
    assert convex["lr-x4"]["final_loss_nonfinite"] == "8"
    assert convex["lr-x4"]["difference_why"] == "no seed has a finite loss in both"
    for table in race_tables(analysis):
        assert "nan" not in table.to_csv().lower().replace("nanmean", "")
        assert all(len(line.cells) == len(table.columns) for line in table.rows), table.name


def test_seeds_that_never_arrive_are_in_the_cell():
    runs = of_arm("baseline", [2.0] * 8, [1000.0] * 8)
    runs += of_arm(
        "leap-auto", [*[2.0] * 7, None], [900.0, 950.0, None, None, 900.0, 920.0, 930.0, None], real_steps=300
    )
    tables = {table.name: table for table in race_tables(a_race(runs))}
    text = tables["race-arms-pretrain-adamw-tuned"].to_markdown()
    assert "5 seeds; 95 %" in text
    assert "never: 3 of 8" in text
    assert "5 of 8" in text
    assert "1 left out: not finite" in text
    assert "shortened:leap-auto was not run" in tables["race-leaps"].to_markdown()


def test_the_annealing_table(analysis):
    table = next(table for table in race_tables(analysis) if table.name == "race-anneal")
    rows = rows_of(table)
    assert [row["reached"] for row in rows] == ["8"] * 4
    assert all(float(row["steps_saved_mean"]) > 0 and float(row["p"]) == 2.0**-8 for row in rows)
    assert "Readings lie 20 steps apart" in table.note


def test_the_tuning_table_marks_the_choice(analysis):
    table = next(table for table in race_tables(analysis) if table.name == "race-tuning")
    rows = rows_of(table)
    chosen = [(row["schedule"], float(row["lr"]), row["setting"]) for row in rows if row["chosen"] == "True"]
    assert ("wsd", 1e-3, "decay 0.2") in chosen
    assert "tuning seeds 1000, 1001" in table.note
    assert "Noted by the race: schedulefree is missing." in table.note
    assert any(row["edge"] == "only rate tried" for row in rows)


def test_the_budget_is_that_of_the_configuration():
    runs, points = whole_race(seeds=(0, 1, 2))
    texts = " ".join(found.text for found in race_verdicts(a_race(runs, points, {"overhead": 0.005})))
    assert "the budget is 0.5 % of the forward tokens" in texts


# --- the figure ---


def test_every_race_cost_and_stretch_has_a_view(analysis):
    figure = race_figure(analysis)
    assert figure.controls["race"] == ("pretrain, adamw", "pretrain, muon", "finetune, adamw, tuned rate",
                                       "finetune, adamw, usual rate", "convex, sgd", "noise, adamw")  # fmt: skip
    wanted = set(itertools.product(figure.controls["race"], COSTS, RANGES))
    assert {view.choice for view in figure.views} == wanted
    assert len(figure.views) == len(wanted)
    first = figure.views[0]
    names = {trace["name"] for trace in first.data}
    assert {"baseline", "leap-auto", "shortened:leap-auto", "shadow", "lr-x4"} <= names
    assert first.data[-1]["name"] == "baseline"
    greys = [trace for trace in first.data if trace["name"] == "lr-x4"]
    assert {trace.get("line", trace.get("marker"))["color"] for trace in greys} == {OTHER.color}
    assert [key.label for key in figure.legend][:3] == ["baseline", "leap-auto", "shortened:leap-auto"]
    assert figure.legend[-1].label == "other arms"
    assert json.dumps([view.data for view in figure.views], allow_nan=False)


def test_a_loss_over_decades_has_a_logarithmic_axis(analysis):
    figure = race_figure(analysis)
    kinds = {view.choice[0]: view.layout["yaxis"].get("type", "linear") for view in figure.views}
    assert kinds["convex, sgd"] == "log"
    assert {kind for name, kind in kinds.items() if name != "convex, sgd"} == {"linear"}
    view = next(view for view in figure.views if view.choice == ("pretrain, adamw", "forward tokens", "the end"))
    low, high = view.layout["yaxis"]["range"]
    assert low < 2.16 < 2.21 < high < 3.0
    assert view.layout["shapes"][0]["y0"] == pytest.approx(2.211)


def test_points_are_means_over_all_seeds_of_an_arm():
    runs = of_arm("baseline", [1.0, 3.0], tokens=0.0)
    runs = [dataclasses.replace(run, tokens=100.0 * (run.seed + 1)) for run in runs]
    points = [
        race_point(run, step, run.final_loss + 1.0, tokens=10.0 * (run.seed + 1)) for run in runs for step in (0, 20)
    ]
    points += [race_point(runs[0], 40, 1.0), race_point(runs[0], 60, None), race_point(runs[1], 60, 1.0)]
    line, end = race_figure(a_race(runs, points)).views[0].data
    assert (line["x"], line["y"]) == ([15.0, 15.0], [3.0, 3.0])
    assert (end["x"], end["y"]) == ([150.0], [2.0])


def test_arms_that_diverged_are_drawn_as_far_as_they_go():
    runs = of_arm("baseline", [1.0] * 3) + of_arm("lr-x4", [None] * 3)
    points = [race_point(run, 20, None if run.arm == "lr-x4" else 1.0) for run in runs]
    figure = race_figure(a_race(runs, points))
    drawn = [trace for trace in figure.views[0].data if trace["name"] == "lr-x4"]
    assert [trace["x"] for trace in drawn] == [[]]
    alone = race_figure(a_race(of_arm("lr-x4", [math.inf] * 3), [point for point in points if point.loss is None]))
    assert alone.views


def test_figure_files_are_valid_plotly(analysis):
    import plotly.graph_objects as go

    figure = race_figure(analysis)
    for view in (figure.views[0], figure.views[1], figure.views[-1]):
        go.Figure(file_spec(figure, view))
        go.Figure(resolved({"data": view.data, "layout": view.narrow}, DARK))
    roles = set(re.findall(r'"(@[a-z0-9]+)"', json.dumps([view.data for view in figure.views])))
    assert roles <= set(LIGHT)
    marks = list(ARM_MARKS.values())
    assert len({mark.color for mark in marks}) == len({mark.symbol for mark in marks}) == len(marks)


# --- in a browser ---

PROBE = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => errors.push("blocked: " + event.blockedURI));
const look = () => {
  if (!document.documentElement.dataset.drawn) return void setTimeout(look, 50);
  const root = document.documentElement;
  const plot = document.querySelector("#figure-race .plot");
  const before = plot.layout.yaxis.type + plot.layout.xaxis.title.text;
  document.querySelector('#figure-race input[value="convex, sgd"]').click();
  document.querySelector('#figure-race input[value="seconds"]').click();
  setTimeout(() => parent.postMessage({
    drawn: document.querySelectorAll(".plot .main-svg").length, wide: root.scrollWidth, screen: root.clientWidth,
    errors: errors,
    before: before, after: plot.layout.yaxis.type + plot.layout.xaxis.title.text,
    clipped: [...document.querySelectorAll("section *")].filter((e) => !e.closest(".scroll, pre, .plot")
      && e.getBoundingClientRect().right > root.clientWidth).length,
  }, "*"), 300);
};
look();
</script></head>"""
FRAME = """<!doctype html><body style="margin:0">
<iframe src="probed.html" style="border:0;width:{width}px;height:1600px"></iframe>
<script>addEventListener("message", (e) => {{ document.body.dataset.seen = JSON.stringify(e.data); }});</script>"""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom",
         "--enable-logging=stderr", "--virtual-time-budget=15000", "--window-size=1280,1600"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, 1), (390, 0)])
def test_the_page_draws_switches_and_fits(tmp_path, race_page, width, scheme):
    (tmp_path / "probed.html").write_text(race_page.read_text().replace("</head>", PROBE, 1))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    # Blink's own numbers: 0 is dark, 1 is light.
    own = [f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(BROWSER), *FLAGS, *own, (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ":CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', done.stdout)[1]))
    assert found["errors"] == []
    assert found["drawn"] >= 1
    assert (found["wide"], found["screen"], found["clipped"]) == (width, width, 0)
    assert (found["before"], found["after"]) == ("linearforward tokens", "logseconds")


def test_the_seeds_of_the_race_are_not_those_of_tuning(race_folder):
    race = load_race(race_folder)
    assert race.seeds == SEEDS
    assert race.setting("data.source") == "stdlib"
