"""One model over several ranks: the study that they record is that of one process, however often and where it stops."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from leapverify import load_study, run_study
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.storage import read_json
from leapverify.runs import StudyError, stopping
from leapverify.runs.progress import Progress, Watcher
from leapverify.study.folder import Study
from leapverify.study.resweep import sweep_study
from micro import same_numbers
from shared_runs import made_once
from spread_micro import SMALL, SMALLEST, near, spread_study

Micro = Callable[..., StudyConfig]


def stop_at(step: int) -> Callable[[], Watcher]:
    """Rank 0 is told to stop at this checkpoint."""

    def watch(progress: Progress) -> None:
        if progress.phase == "checkpoint" and progress.step == step:
            stopping.ask()

    return lambda: watch


@pytest.fixture(scope="module")
def whole(record_once: Callable[..., Study], micro: Micro) -> Study:
    """The study of one process."""
    return record_once("spread-whole", micro(**SMALL))


@pytest.fixture(scope="module")
def spread(shared: Path, whole: Study) -> Study:
    """The same on two ranks."""

    def make(out: Path) -> None:
        assert spread_study(whole.config, out, 2) == [None, None]

    return load_study(made_once(shared / "runs" / "spread", make))


@pytest.mark.failure(11)
def test_two_ranks_record_what_one_process_does(whole: Study, spread: Study) -> None:
    near(whole, spread)
    assert {row.status for row in spread.predictions} == {"ok"} | {row.status for row in whole.predictions}
    about = read_json(spread.path / "environment.json")
    assert (about["ranks"], about["parallel"]) == (2, "fsdp")
    assert not any((spread.path / "seed-42" / "snapshots").glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.failure(11)
def test_so_do_three_of_which_some_hold_nothing_of_a_tensor(whole: Study, tmp_path: Path) -> None:
    assert spread_study(whole.config, tmp_path / "run", 3) == [None] * 3
    near(whole, load_study(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.failure(11)
@pytest.mark.parametrize("parallel", ["ddp", "hsdp:2x1"])
def test_however_they_hold_the_model(micro: Micro, tmp_path: Path, parallel: str) -> None:
    one = run_study(micro(**SMALLEST), tmp_path / "one", device="cpu")
    assert spread_study(micro(**SMALLEST, training__parallel=parallel), tmp_path / "two", 2) == [None] * 2
    near(one, load_study(tmp_path / "two"))
    assert read_json(tmp_path / "two" / "environment.json")["parallel"] == parallel


@pytest.fixture(scope="module")
def stopped(shared: Path, whole: Study) -> Path:
    """A study of two ranks that was told to stop at step 20."""

    def make(out: Path) -> None:
        words = spread_study(whole.config, out, 2, stop_at(20))
        said = "Paused: told to stop at step 20 of seed 42 (SIGTERM): give the same command again to go on"
        assert words == [said] * 2

    return made_once(shared / "runs" / "stopped", make)


@pytest.mark.slow
@pytest.mark.failure(5)
def test_stopped_ranks_go_on_to_the_same_bits(spread: Study, stopped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    assert spread_study(spread.config, out, 2) == [None, None]
    same_numbers(load_study(out), spread)
    for name, tensor in load_study(out).weights(42, 30).items():
        assert tensor.equal(spread.weights(42, 30)[name]), name


@pytest.mark.slow
@pytest.mark.failure(5)
@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_ranks_goes_on(whole: Study, stopped: Path, tmp_path: Path, size: int) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    if size == 1:
        run_study(whole.config, out, device="cpu")
    else:
        assert spread_study(whole.config, out, size) == [None] * size
    near(whole, load_study(out))
    about = read_json(out / "environment.json")
    assert (about["ranks"], about["continued_on"][0].get("ranks", 1)) == (2, size)


@pytest.mark.slow
@pytest.mark.failure(5)
def test_two_ranks_go_on_with_a_study_of_one_process(whole: Study, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StudyError, match="told to stop"):
        run_study(whole.config, out, device="cpu", watcher=stop_at(20)())
    stopping._state["asked"] = False
    assert spread_study(whole.config, out, 2) == [None, None]
    near(whole, load_study(out))


@pytest.mark.slow
def test_one_process_sweeps_what_ranks_have_saved(spread: Study, tmp_path: Path) -> None:
    again = sweep_study(shutil.copytree(spread.path, tmp_path / "run"), device="cpu")
    near(spread, again)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__parallel": "none"}, "training.parallel is none while 2 ranks were started"),
        ({"training__parallel": "hsdp:2x2"}, "training.parallel is hsdp:2x2, 4 ranks, while 2 were started"),
        ({"observe__lyapunov": True}, "observe.lyapunov is true, which is not done on 2 ranks"),
        ({"training__compile": "default"}, "training.compile is default, which is not done on 2 ranks"),
    ],
)
def test_what_needs_one_process_is_refused_before_anything_is_written(
    micro: Micro, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    found = spread_study(micro(**changes), tmp_path / "run", 2)
    assert found[0] == found[1]
    assert str(found[0]).startswith(f"ConfigError: {words}")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_way_of_holding_the_model_that_there_is_not_is_refused(micro: Micro) -> None:
    with pytest.raises(ConfigError, match=r"training\.parallel is 'tp'"):
        micro(training__parallel="tp")
