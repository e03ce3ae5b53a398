"""A race on several ranks: the numbers of one process, one writer, and one sentence where a rank fails."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from leapverify.analysis.race.arms import RaceCase
from leapverify.cli.main import main
from leapverify.core.batch_tree import mapped
from leapverify.core.ranks import Ranks, ranks_of_world
from leapverify.errors import ConfigError
from leapverify.io import storage
from leapverify.race import unit as units
from leapverify.race.arms import ARMS, values_of
from leapverify.race.config import RaceConfig
from leapverify.race.parallel import require_parallel
from leapverify.race.plan import Result
from leapverify.race.race import run_race
from leapverify.race.results import Store
from leapverify.race.tasks import Material, build_tasks
from leapverify.race.unit import run_unit
from leapverify.runs import on_ranks, stopping
from leapverify.runs.on_ranks import over_ranks
from leapverify.runs.world import among
from marks import slow
from processes import run_ranks
from race_micro import micro, trained, unit_of, words

CONVEX = {"case": RaceCase("convex", "sgd", "tuned"), "lr": 0.0625}
SAME = ("real_steps", "effective_steps", "attempts", "accepted", "leapt_steps", "heldout_batches", "heldout_passes")
DECIDED = ("step", "action", "reason", "predictor", "status", "sequences")
TEXT = {
    "text__model__hidden": 16,
    "text__model__layers": 1,
    "text__model__heads": 2,
    "text__model__context": 16,
    "text__sequence_length": 16,
    "text__batch_size": 3,
    "text__heldout_batch": 5,
    "text__val_sequences": 7,
    "text__base_steps": 5,
    **{f"{task}__{key}": value for task in ("pretrain", "lora") for key, value in
       {"steps": 12, "warmup_steps": 2, "eval_every": 4, "interval": 3}.items()},
}  # fmt: skip


def near(one: Result, other: Result, tolerance: float = 1e-6) -> None:
    """Two results are one within rounding; what was decided is the same, and what was trained costs the same."""
    assert one.notes == other.notes
    assert len(one.runs) == len(other.runs)
    assert len(one.points) == len(other.points)
    for a, b in zip(one.runs, other.runs, strict=True):
        assert [getattr(a, name) for name in SAME] == [getattr(b, name) for name in SAME], a.arm
        assert close(a.final_loss, b.final_loss, tolerance), (a, b)
        assert a.tokens - a.overhead_tokens == b.tokens - b.overhead_tokens
        # Every rank takes the fingerprint, and every one is charged.
        assert b.overhead_tokens >= a.overhead_tokens
        assert bool(a.overhead_tokens) == bool(b.overhead_tokens)
    for p, q in zip(one.points, other.points, strict=True):
        assert (p.arm, p.step, p.effective_step) == (q.arm, q.step, q.effective_step)
        assert close(p.loss, q.loss, tolerance), (p, q)
    assert [[event.get(key) for key in DECIDED] for event in one.events] == [
        [event.get(key) for key in DECIDED] for event in other.events
    ]


def close(one: float | None, other: float | None, tolerance: float) -> bool:
    """Within the tolerance, or both None."""
    return one == other if one is None or other is None else abs(one - other) <= tolerance * max(1.0, abs(one))


def together(size: int, work: Callable[[], Any]) -> list[Any]:
    """What the work gives on each of so many ranks."""

    def run() -> Any:
        with among(ranks_of_world(patience_s=60.0)):
            return work()

    return run_ranks(size, run)


def doubled(material: Material) -> Material:
    """The same in float64: the ill-conditioned task then shows whether numbers are equal, not how roundings grow."""

    def wide(batch: Any) -> Any:
        return mapped(batch, lambda each: each.double() if each.is_floating_point() else each)

    material.model.double()
    return dataclasses.replace(
        material,
        batch=lambda step: wide(material.batch(step)),
        heldout=lambda: wide(material.heldout()),
        val=lambda: [wide(each) for each in material.val()],
        probes=wide(material.probes),
    )


def everything(arms: Sequence[str], config: RaceConfig) -> list[Result]:
    """A unit of every arm: on the task that leaps are taken on, and on that of noise; and one that diverges."""
    values = {name: values_of(name)[-1] if values_of(name) else None for name in arms}
    found = [trained(name, config, value=values[name], **(CONVEX if ARMS[name].leap else {})) for name in arms]
    also = (("ema", 0.1), ("lawa", 0.2), ("anneal", 0.2))
    return [*found, trained("constant", config, also=also), trained("lr-x4", config, case=CONVEX["case"], lr=1e6)]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines enough for three sets, small enough to be read at once."""
    place = tmp_path_factory.mktemp("race-text") / "text.txt"
    lines = [f"line {number} says {number * number % 97} and {number % 7} of it\n" for number in range(4000)]
    place.write_text("".join(lines))
    return place


@pytest.mark.slow
@pytest.mark.failure(10)
@pytest.mark.parametrize(("size", "arms"), [(2, tuple(ARMS)), (3, ("leap-auto", "anneal", "lookahead"))])
def test_every_arm_gives_what_one_process_gives(
    size: int, arms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, real = micro(), units.parallel_material
    monkeypatch.setattr(units, "parallel_material", lambda material, ranks: real(doubled(material), ranks))
    one = everything(arms, config)
    assert any(result.run.accepted for result in one)
    assert any(result.run.final_loss is None for result in one)
    for results in together(size, lambda: everything(arms, config)):
        for a, b in zip(one, results, strict=True):
            near(a, b, 1e-12)


@pytest.mark.parametrize(("task", "optimizer"), [slow("pretrain", "muon"), ("lora", "adamw")])
def test_text_whose_rows_do_not_divide_gives_what_one_process_gives(
    task: str, optimizer: str, text: Path, tmp_path: Path
) -> None:
    if task == "lora":
        pytest.importorskip("peft")
    source = f"text:{text}"
    config = micro(tasks=[task], text__source=source, data=source, **TEXT)

    def work() -> list[Result]:
        prepared = build_tasks(config)[task]
        cases = [unit_of(arm, case=RaceCase(task, optimizer, "tuned"), steps=12) for arm in ("baseline", "leap-fixed")]
        return [run_unit(unit, prepared, config, tmp_path) for unit in cases]

    build_tasks(config)[task].prepare(0, tmp_path)
    one = work()
    # On four ranks a batch of three rows leaves one without any.
    for size in (2,) if task == "lora" else (2, 4):
        for results in together(size, work):
            for a, b in zip(one, results, strict=True):
                near(a, b)


SHORT: dict[str, Any] = {"tasks": ["noise"], "arms": ["leap-fixed"], "optimizers": ["adamw"]}


def raced(config: RaceConfig, out: Path, size: int, **named: Any) -> list[str | None]:
    """Run a race on so many ranks; what each of them raised, as `Type: text`."""

    def work() -> str | None:
        try:
            over_ranks(ranks_of_world(patience_s=60.0), lambda by: run_race(config, out, execution=by, **named))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    return run_ranks(size, work)


@pytest.mark.slow
def test_a_race_on_ranks_is_the_race_of_one_process_and_goes_on_in_one(tmp_path: Path) -> None:
    config = micro(**SHORT)
    one = run_race(config, tmp_path / "one")
    assert raced(config, tmp_path / "two", 2) == [None, None]
    environment = storage.read_json(tmp_path / "two" / "race" / "environment.json")
    assert (environment["ranks"], environment["parallel"]) == (2, "ddp")
    assert (tmp_path / "two" / "report.html").is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "race" / "units").iterdir()}
    two = run_race(config, tmp_path / "two")  # reads what is there
    assert {path: path.stat().st_mtime_ns for path in before} == before
    near(Result(one.runs, one.points), Result(two.runs, two.points))


@pytest.mark.slow
def test_a_race_that_was_told_to_stop_goes_on_on_ranks(tmp_path: Path) -> None:
    config = micro(**SHORT)

    def stop(progress: Any) -> None:
        if progress.phase == "unit" and progress.stage == "race":
            stopping.ask()

    words = raced(config, tmp_path / "run", 2, watcher=stop)
    assert words[0] == words[1]
    assert "told to stop" in str(words[0])
    assert raced(config, tmp_path / "run", 2) == [None, None]


@pytest.mark.failure(8)
def test_a_loss_that_is_nan_on_one_rank_ends_the_run_on_all() -> None:
    def work() -> Result:
        real = units._Training._train

        def train(course: Any) -> None:
            real(course)
            if torch.distributed.get_rank() == 1 and course._step == 10:
                assert course._loss is not None
                course._loss = course._loss * float("nan")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(units._Training, "_train", train)
            return trained("baseline")

    for found in together(2, work):
        assert (found.run.real_steps, found.run.final_loss) == (10, None)


@pytest.mark.failure(9, 10)
def test_an_error_of_one_rank_ends_the_race_on_all_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = units._Training._train

    def fail(course: Any) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and course._step == 6:
            raise torch.OutOfMemoryError("out of memory, as it were")
        real(course)

    monkeypatch.setattr(units._Training, "_train", fail)
    monkeypatch.setattr(on_ranks, "GRACE_S", 0.5)
    words = raced(micro(**SHORT), tmp_path / "run", 2)
    assert words == ["RanksDivergedError: rank 1: OutOfMemoryError: out of memory, as it were"] * 2


@pytest.mark.failure(4)
def test_a_full_disk_under_a_unit_is_one_sentence_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    words = raced(micro(**SHORT), tmp_path / "run", 2)
    assert words[0] == words[1]
    assert "the disk is full: free some space" in str(words[0])


@pytest.mark.slow
def test_torchrun_races_with_one_voice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "leapverify", "race"]
    options = ["tiny", *words(tasks=["noise"], arms=["leap-fixed"], optimizers=["adamw"]), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert ran.stdout.count("report:") == 1
    assert storage.read_json(out / "race" / "environment.json")["ranks"] == 2


def test_choosing_what_runs_the_tasks_is_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(["race", "tiny", "--workers", "2"])
    assert leaving.value.code == 2
    assert "leave them out, or start one process" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_ranks_than_held_out_rows_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="of the task convex has 32 rows, which cannot be dealt to 33 ranks: start"):
        require_parallel(micro(), Ranks(0, 33))
    with pytest.raises(ConfigError, match=r"task pretrain has 16 rows.*17 ranks.*or raise text.heldout_batch"):
        require_parallel(micro(tasks=["pretrain"]), Ranks(0, 17))
    require_parallel(micro(), Ranks())
