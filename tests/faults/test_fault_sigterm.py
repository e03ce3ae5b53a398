"""SIGTERM: on to the next checkpoint, a state there whatever the settings say, exit code 143, and on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from killed_study import differences
from leapverify import run_study
from leapverify.cli.main import main
from leapverify.config.retention import Retention
from leapverify.runs import Paused, stopping
from leapverify.study.record import Recorder
from marks import slow
from micro import MICRO

pytestmark = [
    pytest.mark.failure(5),
    pytest.mark.skipif(sys.platform == "win32", reason="this system sends no SIGTERM"),
]
SETTINGS = {
    **MICRO,
    "sweep.horizons": [5],
    "sweep.predictors": ["hold", "quadratic", "lawa-3"],
    "cascade.kinds": [],
    "observe.lyapunov": True,
    "snapshots.weights": "last",
    "snapshots.optimizer": "last",
}


@pytest.fixture(autouse=True)
def forgets():
    yield
    stopping.forget()


def words(text: Path, **changes: object) -> list[str]:
    settings = {**SETTINGS, "data.source": f"text:{text}", **{k.replace("__", "."): v for k, v in changes.items()}}
    return [f"{key}={'null' if value is None else value}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def unbroken(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("term") / "run"
    run_study("tiny", out, device="cpu", settings={**SETTINGS, "data.source": f"text:{text}"})
    return out


@pytest.mark.parametrize(("every", "step"), [slow(1, 20), (4, 30), slow(None, 30)])
def test_a_run_that_is_told_to_stop_saves_a_state_wherever_it_is(unbroken, text, tmp_path, every, step):
    settings = {**SETTINGS, "data.source": f"text:{text}", "snapshots.every": every}
    told = []

    def tell(progress):
        if progress.step == 20 and progress.phase == "checkpoint" and not told:
            told.append(progress.step)
            stopping.ask()

    with pytest.raises(Paused, match=rf"told to stop at step {step} of seed 42 \(SIGTERM\): give the same command"):
        run_study("tiny", tmp_path / "run", device="cpu", settings=settings, watcher=tell)
    stopping.forget()
    notes = []
    run_study("tiny", tmp_path / "run", device="cpu", settings=settings, watcher=lambda p: notes.append(p.note or ""))
    assert f"going on from step {step}" in notes
    found = differences(unbroken, tmp_path / "run")
    assert found is None or found.startswith("files: "), found  # other states are kept


def test_a_state_of_a_stop_is_kept_until_there_is_a_newer_one():
    steps = [10, 20, 30, 40, 50, 60]
    assert Retention("last", 4, 2).needed_to_resume(steps) == ({30, 40}, {40})
    assert Retention("last", 4, 2).needed_to_resume(steps, stop=60) == ({30, 40, 50, 60}, {40, 60})
    assert Retention("last", 6, 2).needed_to_resume(steps, stop=40) == ({50, 60}, {60})
    assert Retention("last", None, 3).needed_to_resume(steps, stop=20) == ({10, 20}, {20})


def command(*arguments: str) -> subprocess.Popen[str]:
    script = "from leapverify.cli.main import main\nif __name__ == '__main__': main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def until(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(beginning):
            return
    raise AssertionError(f"no line begins with {beginning!r}: {said}")


@pytest.mark.slow
def test_the_command_stops_with_143_and_goes_on(unbroken, text, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    process = command("study", *words(text, snapshots__every=3), *out)
    until(process, "seed 42  step 10/")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    last = error.splitlines()[-1]
    assert last.startswith("leapverify: told to stop at step ")
    assert last.endswith("of seed 42 (SIGTERM): give the same command again to go on")
    with pytest.raises(SystemExit, match="0"):
        main(["study", *words(text, snapshots__every=3), *out])
    assert f"going on from step {last.split()[6]}" in capsys.readouterr().err
    found = differences(unbroken, tmp_path / "run")
    assert found is None or found.startswith("files: "), found


@pytest.mark.slow
def test_workers_are_told_and_each_saves(text, tmp_path, monkeypatch):
    out = tmp_path / "run"
    more = words(text, training__steps=4000, sweep__predictors="[hold]", seeds="[1,2,3]")
    process = command("study", *more, "--out", str(out), "--device", "cpu", "--executor", "processes")
    until(process, "seed 1  step 10/")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    assert "Traceback" not in error
    assert "told to stop" in error.splitlines()[-1]
    assert list(out.glob("seed-1/optimizer/step-*.safetensors"))


@pytest.mark.slow
def test_a_second_one_ends_at_once(text, tmp_path, monkeypatch, capsys):
    step, signals = Recorder._step, []

    def signalled(self, number):
        if number in (13, 15):
            signals.append(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number)

    monkeypatch.setattr(Recorder, "_step", signalled)
    # No checkpoint is near: only the second one can end it.
    more = words(text, observe__interval_steps=20, sweep__curve_every_steps=None)
    with pytest.raises(SystemExit, match="143"):
        main(["study", *more, "--out", str(tmp_path / "run"), "--device", "cpu", "--executor", "in-process"])
    assert signals == [13, 15]
    last = " ".join(capsys.readouterr().err.split())
    assert last.endswith("ended at once by SIGTERM; give the same command again to go on from the last checkpoint")


def test_the_signal_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.stops_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked()
        with pytest.raises(stopping.Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stopping.asked()
