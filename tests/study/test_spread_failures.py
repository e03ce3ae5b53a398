"""One rank of a study fails: every rank says the same, or learns why, and none waits for ever."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from leapverify import load_study, run_study
from leapverify.config.study import StudyConfig
from leapverify.core.ranks import ranks_of_world
from leapverify.runs import on_ranks, stopping
from leapverify.runs.progress import Progress, Watcher
from leapverify.study.folder import SeedFolder
from leapverify.study.parallel import ParallelModel
from leapverify.train.losses_compiled import Losses
from leapverify.trajectory.history import OptimizerState
from processes import run_ranks
from spread_micro import SMALLEST, near, spread_study

Micro = Callable[..., StudyConfig]


def _on(rank: int, real: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is another one on one rank."""

    def either(*arguments: Any, **named: Any) -> Any:
        chosen = other if dist.is_initialized() and dist.get_rank() == rank else real
        return chosen(*arguments, **named)

    return either


@pytest.mark.failure(8)
def test_a_loss_that_is_nan_on_one_rank_ends_the_seed_on_all(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Losses.mean
    monkeypatch.setattr(Losses, "mean", _on(1, real, lambda *given: real(*given) * float("nan")))
    words = spread_study(micro(**SMALLEST), tmp_path / "run", 2)
    assert words[0] == words[1]
    assert str(words[0]).startswith("StudyError: seed 42: the training loss is nan between steps 0 and 10")


@pytest.mark.slow
@pytest.mark.failure(9)
def test_an_exception_on_one_rank_within_a_step_reaches_all(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Losses.mean, [0]

    def fail(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 15:
            raise torch.OutOfMemoryError("out of memory, as it were")
        return real(*given)

    monkeypatch.setattr(Losses, "mean", _on(1, real, fail))
    monkeypatch.setattr(on_ranks, "GRACE_S", 0.5)
    words = spread_study(micro(**SMALLEST), tmp_path / "run", 2)
    assert words == ["RanksDivergedError: rank 1: OutOfMemoryError: out of memory, as it were"] * 2


@pytest.mark.slow
@pytest.mark.failure(9)
def test_an_exception_on_one_rank_before_a_meeting_reaches_all(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(progress: Progress) -> None:
        if progress.phase == "checkpoint":
            raise KeyError("of the watcher")

    monkeypatch.setattr(on_ranks, "GRACE_S", 0.5)
    words = spread_study(micro(**SMALLEST), tmp_path / "run", 2, lambda: watch)
    assert words == ["RanksDivergedError: rank 0: KeyError: 'of the watcher'"] * 2


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.failure(4)
def test_a_full_disk_under_the_rows_is_one_sentence_on_all(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SeedFolder, "write_rows", _full)
    words = spread_study(micro(**SMALLEST), tmp_path / "run", 2)
    assert words[0] == words[1]
    assert str(words[0]).startswith("StudyError: seed 42: the disk is full: free some space")


@pytest.mark.slow
@pytest.mark.failure(4)
def test_a_full_disk_under_one_rank_s_shard_is_one_sentence_on_all(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HuggingFaceStorageWriter.write_data
    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", _on(1, real, _full))
    words = spread_study(micro(**SMALLEST), tmp_path / "run", 2)
    assert words[0] == words[1]
    folder = tmp_path / "run" / "seed-42" / "snapshots" / "step-000010"
    assert words[0] == (
        f"StudyError: seed 42: {folder} cannot be written (rank 1: No space left on device): free some space or name "
        "another folder"
    )


@pytest.mark.slow
@pytest.mark.failure(2)
def test_a_damaged_shard_is_named_and_the_state_before_is_used(micro: Micro, tmp_path: Path) -> None:
    config, out = micro(**{**SMALLEST, "training__steps": 30}), tmp_path / "run"

    def stop(progress: Progress) -> None:
        if progress.phase == "checkpoint" and progress.step == 20:
            stopping.ask()

    assert str(spread_study(config, out, 2, lambda: stop)[1]).startswith("Paused: told to stop at step 20")
    shard = out / "seed-42" / "optimizer" / "step-000020" / "shard-00002-model-00001-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    notes = tmp_path / "notes"

    def listening() -> Watcher:
        def watch(progress: Progress) -> None:
            with notes.open("a") as file:
                file.write(f"{progress.note or ''}\n")

        return watch

    assert spread_study(config, out, 2, listening) == [None, None]
    said = notes.read_text()
    assert f"{shard} is damaged: its sha256 is not the one that shards.json gives" in said
    assert "going back to an earlier checkpoint" in said
    assert "going on from step 10" in said
    near(run_study(config, tmp_path / "one", device="cpu"), load_study(out))


@pytest.mark.failure(10)
def test_the_others_wait_for_rank_0_between_tasks_however_long_it_takes() -> None:
    def work() -> Any:
        driven = on_ranks.over_ranks(ranks_of_world(patience_s=0.5), lambda _: [time.sleep(1.5)])
        return driven, dist.get_rank()

    assert run_ranks(2, work) == [([None], 0), (None, 1)]


def test_moments_of_a_parameter_without_dimensions_are_its_own() -> None:
    weights = [torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(weights, lr=0.1)
    (2 * weights[0] + weights[1].sum()).backward()
    optimizer.step()
    state = OptimizerState.from_optimizer(optimizer, weights, step=1, schedule=[lambda _: 0.1])
    held = ParallelModel.optimizer_state(cast("Any", None), state, weights)
    assert [each.tolist() for each in held.m] == [each.tolist() for each in state.m]
    assert held.m[0] > 0
