"""A race as a user runs it: through the command line, stopped and gone on with, damaged, and used wrongly."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import pytest
from rich.console import Console

from killed import killed_at
from leapverify.cli.main import main
from leapverify.cli.progress import RACE, LiveView, PlainView, race_view
from leapverify.errors import ConfigError
from leapverify.io import records
from leapverify.io.records import RacePoint, RaceRun
from leapverify.io.storage import read_json
from leapverify.race.race import run_race
from leapverify.runs import execution
from leapverify.runs.progress import RaceProgress
from race_micro import micro, timeless, words

ALL = ("baseline", "lr-x0.5", "wsd", "anneal", "schedule-free", "leap-fixed", "leap-auto", "shadow")
SOME = "leap-fixed"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a race."""
    with pytest.raises(SystemExit) as leave:
        main(["race", *arguments])
    output = capsys.readouterr()
    return int(leave.value.code or 0), output.out, output.err


def rows(folder: Path) -> list[dict[str, object]]:
    return timeless(records.read(folder / "race" / "runs.parquet", RaceRun))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race of convex and noise with every arm, on one seed."""
    folder = tmp_path_factory.mktemp("whole") / "race"
    with contextlib.suppress(SystemExit):
        main(["race", *words(), "--out", str(folder)])
    return folder


def test_a_race_holds_every_arm_of_every_case_and_its_report(whole):
    found = records.read(whole / "race" / "runs.parquet", RaceRun)
    raced = {(run.task, run.optimizer, run.rate): set() for run in found if run.stage == "race"}
    for each in found:
        if each.stage == "race":
            raced[each.task, each.optimizer, each.rate].add(each.arm)
    assert set(raced) >= {("convex", "sgd", "tuned"), ("noise", "adamw", "usual")}
    assert all(arms.issuperset(set(ALL) - {"schedule-free"}) for arms in raced.values())
    assert "schedule-free" in raced["noise", "adamw", "usual"]
    assert "shortened:leap-fixed" in raced["convex", "sgd", "tuned"]
    assert {run.seed for run in found if run.stage == "tune"} == {1000}
    points = records.read(whole / "race" / "curve.parquet", RacePoint)
    assert {point.step for point in points if point.arm == "baseline"} == set(range(0, 41, 5))
    assert (whole / "report.html").is_file()


def test_rates_and_targets_are_chosen_on_the_tuning_seeds(whole):
    found = records.read(whole / "race" / "runs.parquet", RaceRun)
    found = [run for run in found if (run.task, run.optimizer) == ("convex", "sgd")]
    tuned = [run for run in found if (run.stage, run.arm) == ("tune", "baseline")]
    best = min((run for run in tuned if run.final_loss is not None), key=lambda run: run.final_loss or 0.0)
    raced = {run.arm: run for run in found if run.stage == "race"}
    assert raced["baseline"].lr == best.lr
    assert raced["lr-x2"].lr == 2 * best.lr
    assert raced["leap-auto"].lr == best.lr
    stated = json.loads((whole / "race" / "targets.json").read_text())["convex/sgd/tuned"]
    points = records.read(whole / "race" / "curve.parquet", RacePoint)
    wanted = ("tune", "convex", "sgd", "baseline", best.lr, 35)
    at_90 = [p for p in points if (p.stage, p.task, p.optimizer, p.arm, p.lr, p.step) == wanted]
    assert stated["target"] == at_90[0].loss
    assert {run.target for run in raced.values()} == {stated["target"]}


def test_the_same_command_again_trains_nothing_and_says_the_same(whole, capsys, monkeypatch):
    before = rows(whole)
    monkeypatch.setattr("leapverify.race.worker.run_unit", None)
    code, out, _ = run(capsys, *words(), "--out", str(whole))
    assert code == 0
    assert rows(whole) == before
    assert out.splitlines()[-1] == f"report: {whole / 'report.html'}"
    assert any(line.startswith("convex, sgd: ") for line in out.splitlines())


def test_a_race_that_was_killed_goes_on_to_the_same_table(whole, tmp_path, capsys):
    def work() -> None:
        main(["race", *small, "--arms", SOME, "--out", str(tmp_path)])

    small = words(tasks="[convex]", optimizers="[sgd]")
    assert killed_at(14, work)
    kept = set((tmp_path / "race" / "units").glob("*.json"))
    assert kept
    assert run(capsys, *small, "--arms", SOME, "--out", str(tmp_path))[0] == 0
    assert kept <= set((tmp_path / "race" / "units").glob("*.json"))
    arms = ("baseline", SOME, f"shortened:{SOME}")
    theirs = [row for row in rows(whole) if (row["task"], row["optimizer"]) == ("convex", "sgd")]
    wanted = [row for row in theirs if row["arm"] in arms]
    assert rows(tmp_path) == wanted


def test_a_damaged_unit_is_named_and_made_again(whole, tmp_path, capsys):
    words_, out = words(tasks="[noise]", optimizers="[sgd]"), str(tmp_path)
    assert run(capsys, *words_, "--arms", SOME, "--out", out)[0] == 0
    before = rows(tmp_path)
    unit = next((tmp_path / "race" / "units").glob("race-*leap-fixed*.json"))
    unit.write_text(unit.read_text()[:-40])
    code, _, error = run(capsys, *words_, "--arms", SOME, "--out", out)
    assert code == 0
    assert f"{unit.name} is damaged" in error.replace("\n", "")
    assert rows(tmp_path) == before


@pytest.mark.slow
def test_seeds_side_by_side_give_the_numbers_of_one_after_another(tmp_path):
    config = micro(tasks=["noise"], optimizers=["sgd"], arms=[SOME], seeds=[0, 1], tuning_seeds=[1000, 1001])
    one, two = tmp_path / "one", tmp_path / "two"
    beside = run_race(config, two, execution=execution("processes", 2))
    alone = run_race(config, one, execution=execution("in-process"))
    assert timeless(beside.runs) == timeless(alone.runs)
    assert timeless(beside.points) == timeless(alone.points)


@pytest.mark.slow
def test_more_seeds_and_arms_go_on_in_the_same_folder_and_fewer_are_refused(whole, tmp_path, capsys):
    small = words(tasks="[noise]", optimizers="[sgd]")
    assert run(capsys, *small, "--arms", "shadow", "--out", str(tmp_path))[0] == 0
    first = rows(tmp_path)
    more = words(tasks="[noise]", optimizers="[sgd]", seeds="[0, 1]")
    assert run(capsys, *more, "--arms", f"shadow,{SOME}", "--out", str(tmp_path))[0] == 0
    assert all(row in rows(tmp_path) for row in first)
    code, _, error = run(capsys, *small, "--arms", "shadow", "--out", str(tmp_path))
    assert code == 2
    assert "holds a race with another configuration (arms: leap-fixed there, not now; seeds: 1 there, not now)" in error


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(whole, capsys):
    code, _, error = run(capsys, *words(noise__steps=50), "--out", str(whole))
    assert code == 2
    assert "(noise.steps: 40 there, 50 now): name another --out, or delete" in error


def test_a_dry_run_says_what_would_run_and_leaves_nothing(tmp_path, capsys):
    small = words(seeds="[0, 1]", tasks="[noise]", optimizers="[sgd]")
    code, out, _ = run(capsys, *small, "--arms", SOME, "--out", str(tmp_path / "r"), "--dry-run")
    assert code == 0
    assert not (tmp_path / "r").exists()
    lines = out.splitlines()
    assert (
        "race  noise sgd usual  baseline, leap-fixed, shortened:leap-fixed  2 seeds  6 runs  1.47e+06 tokens" in lines
    )
    assert lines[0] == "tune  noise sgd usual  baseline  1 seed  1 run  2.46e+05 tokens"
    assert lines[-1].startswith("total  ")


def test_the_report_command_builds_the_page_of_a_race_alone(whole, capsys):
    (whole / "report.html").unlink()
    with pytest.raises(SystemExit) as leave:
        main(["report", str(whole)])
    assert not leave.value.code
    assert (whole / "report.html").is_file()


@pytest.mark.slow
def test_language_tasks_race_from_a_base_model_of_their_own(tmp_path, capsys):
    pytest.importorskip("peft")
    texts = [written(tmp_path / name, seed) for seed, name in enumerate(("base", "other"))]
    small = {"layers": 1, "hidden": 16, "heads": 2, "context": 32}
    settings = {
        "tasks": "[pretrain, finetune, lora]",
        "optimizers": "[adamw]",
        "text.source": texts[0],
        **{f"text.model.{key}": value for key, value in small.items()},
        **{f"text.{key}": value for key, value in {"batch_size": 2, "sequence_length": 16, "base_steps": 4}.items()},
        **{f"text.{key}": 8 for key in ("heldout_batch", "val_sequences")},
        **{
            f"{task}.{key}": value
            for task in ("pretrain", "finetune", "lora")
            for key, value in {"steps": 12, "warmup_steps": 1, "eval_every": 4, "interval": 3}.items()
        },
        **{f"{task}.grids": "{adamw: [0.001]}" for task in ("pretrain", "finetune", "lora")},
    }
    pairs = words(**{key.replace(".", "__"): value for key, value in settings.items()})
    code, _, error = run(capsys, *pairs, "--arms", SOME, "--data", texts[1], "--out", str(tmp_path / "out"))
    assert code == 0, error
    found = [row for row in rows(tmp_path / "out") if row["stage"] == "race"]
    assert {(row["task"], row["rate"]) for row in found} == {
        ("pretrain", "tuned"),
        *((task, rate) for task in ("finetune", "lora") for rate in ("usual", "tuned")),
    }
    assert all(row["heldout_passes"] for row in found if row["arm"] == SOME)


def written(folder: Path, seed: int) -> str:
    folder.mkdir()
    chance = random.Random(seed)
    for number in range(60):
        lines = [" ".join(f"{chance.randrange(10**9):x}" for _ in range(8)) for _ in range(6)]
        (folder / f"document-{number:02d}.txt").write_text("\n\n".join(lines))
    return f"text:{folder}"


WRONG = [
    (["tinny"], "there is no race preset 'tinny': did you mean tiny?"),
    (["tiny", "big"], "'big' is neither a preset nor key=value"),
    (["--tasks", "convexx"], "tasks.0 is 'convexx': input should be 'pretrain'"),
    (["--tasks", "convex,convex"], "--tasks 'convex,convex' is no list of different names"),
    (["--optimizers", "adam"], "optimizer 'adam' is unknown: give adamw, muon, sgd"),
    (
        ["--optimizers", "muon", "--tasks", "convex"],
        "the race with muon: add one of its optimizers",
    ),
    (["--arms", "leap-aut"], "there is no arm 'leap-aut': did you mean leap-auto?"),
    (["--arms", ""], "--arms '' is no list of different names"),
    (["--seeds", "7-0"], "counts downwards"),
    (["--seeds", "a"], "is no list of seeds"),
    (["--seeds", "1000"], "seeds [1000] are raced and tuned on"),
    (["--device", "tpu"], "device is 'tpu'"),
    (["--set", "noise.step=3"], "there is no setting 'noise.step': did you mean steps"),
    (["--set", "noise.steps"], "'noise.steps' is not key=value"),
    (["--set", "noise.steps=0"], "noise.steps is 0"),
    (["--set", "noise.interval=5000"], "interval is 5000 where a run has 400 steps"),
    (["--tasks", "finetune", "--data", "text:/nowhere/at/all"], "/nowhere/at/all"),
    (["--tasks", "pretrain", "--set", "text.source=library"], "library"),
    (["--faster"], "--faster"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert error.startswith("leapverify: ")
    assert error.count("\n") == 1
    assert text in error
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_refused(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, error = run(capsys, *words(), "--out", str(tmp_path))
    assert code == 2
    assert "is not empty and holds neither a race nor a study: name another --out" in error


def test_a_baseline_that_no_rate_trains_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("leapverify.race.tasks.convex.GRIDS", {"sgd": (1e6, 2e6)})
    code, _, error = run(capsys, *words(tasks="[convex]"), "--arms", SOME, "--out", str(tmp_path))
    assert code == 1
    assert "no learning rate of [1000000.0, 2000000.0] trains convex with sgd to a finite loss" in error


def test_a_missing_peft_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package peft: pip install 'leapverify\[race\]'"):
        run_race(micro(tasks=["lora"]), "nowhere")
    assert not Path("nowhere").exists()


def test_a_missing_schedulefree_leaves_the_arm_out_with_a_note(monkeypatch, tmp_path):
    monkeypatch.setattr("leapverify.race.arms.has_schedule_free", lambda: False)
    monkeypatch.setattr("leapverify.race.race.has_schedule_free", lambda: False)
    race = run_race(micro(tasks=["noise"], optimizers=["adamw"], arms=["schedule-free"]), tmp_path)
    assert {run.arm for run in race.runs} == {"baseline"}
    assert "the arm schedule-free is left out: pip install" in read_json(tmp_path / "race/notes.json")["notes"][0]


def screen(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=140)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def progress(**changes: object) -> RaceProgress:
    return RaceProgress(**{"seed": 3, "step": 5, "steps": 22, "phase": "train", "stage": "race", **changes})  # type: ignore[arg-type]


def test_a_pipe_gets_a_line_a_run():
    console = screen(terminal=False)
    with race_view(console) as shown:
        assert isinstance(shown, PlainView)
        shown.update(progress(what="noise sgd usual wsd", loss=2.0, share=0.5))
        shown.update(progress(phase="unit", step=6, what="noise sgd usual wsd", loss=2.25))
        shown.update(progress(phase="note", note="[unit] is damaged"))
        shown.update(progress(phase="done", step=22))
    assert text_of(console).splitlines() == [
        "race  seed 3  run 6/22  noise sgd usual wsd  loss 2.2500",
        "seed 3: [unit] is damaged",
        "race  seed 3  done",
    ]


def test_a_terminal_gets_a_row_a_seed_with_what_is_trained_now():
    console = screen(terminal=False)
    live = LiveView(console, RACE)
    assert isinstance(race_view(screen(terminal=True)), LiveView)
    live.update(progress(phase="waiting", step=0))
    live.update(progress(what="noise sgd usual wsd", loss=2.25, share=0.5))
    live.update(progress(phase="note", note="[unit] is damaged"))
    console.print(live.table())
    row = next(line for line in text_of(console).splitlines() if "wsd" in line)
    for shown in ("race", "3", "5/22", "2.2500", "noise sgd usual wsd", ":"):
        assert shown in row
