"""Whole files with the right sha256 that hold something else than was written: refused by name, not put to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hostile_readers import row
from leapverify.errors import Damaged
from leapverify.io.records import RaceRun, from_plain
from leapverify.io.storage import load_tensors, save_tensors
from leapverify.io.yaml_file import as_written
from leapverify.study.folder import SeedFolder
from leapverify.train.state import load_snapshot, load_state
from saved_states import save_snapshot, save_state

pytestmark = pytest.mark.failure(15)


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rng.numpy", torch.cat([torch.tensor([10**6, 0]), torch.zeros(624, dtype=torch.int64)]), "stands at 1000000"),
        ("rng.numpy", torch.zeros(5, dtype=torch.int64), "of 3 words, not of 624"),
        ("rng.torch", torch.zeros(3, dtype=torch.uint8), "RuntimeError"),
        ("rng.python", torch.tensor([3, 1, 2]), "ValueError"),
        ("step.weight", None, None),
        ("rng.python.gauss", None, "KeyError"),
    ],
)
def test_a_state_with_other_streams_is_refused_by_name(tmp_path: Path, name: str, value: Any, said: str | None) -> None:
    path = tmp_path / "step-000001.safetensors"
    save_state(path, *parts(), step=1)
    tensors, _ = load_tensors(path)
    save_tensors(path, {key: each for key, each in (tensors | {name: value}).items() if each is not None}, step=1)
    if said is None:
        load_state(path, *parts())
        return
    with pytest.raises(Damaged, match=rf"step-000001.safetensors is damaged: .*{said}.*; delete both"):
        load_state(path, *parts())


def test_a_snapshot_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    save_snapshot(tmp_path, 1, {"a": torch.zeros(2)})
    assert set(load_snapshot(tmp_path, 1, {"a": torch.ones(2)})) == {"a"}
    with pytest.raises(Damaged, match=r"000001.safetensors is of another model: a is \(2,\) there and \(3,\) here"):
        load_snapshot(tmp_path, 1, {"a": torch.ones(3)})
    with pytest.raises(Damaged, match="b is absent there"):
        load_snapshot(tmp_path, 1, {"b": torch.ones(3)})


def test_fingerprints_are_of_steps(tmp_path: Path) -> None:
    folder = SeedFolder(tmp_path, 1)
    save_tensors(folder.path / "fingerprints.safetensors", {"../x": torch.zeros(1)})
    with pytest.raises(Damaged, match=r"fingerprints.safetensors is damaged: it holds something else than was written"):
        folder.read_fingerprints()


@pytest.mark.parametrize("value", ["1", 1.5, True, None, [1]])
def test_records_from_plain_data_are_of_their_types(value: Any) -> None:
    plain = {each: getattr(row(RaceRun), each) for each in RaceRun.__slots__}
    assert from_plain(RaceRun, [plain]) == (row(RaceRun),)
    with pytest.raises(ValueError, match=r"seed is .* where a int is needed"):
        from_plain(RaceRun, [{**plain, "seed": value}])
    with pytest.raises(TypeError):
        from_plain(RaceRun, [{**plain, "unknown": 1}])


def test_what_does_not_fit_is_the_fault_of_the_file() -> None:
    with (
        pytest.raises(Damaged, match=r"x.json is damaged: .* \(KeyError: 'a'\); delete it"),
        as_written("x.json", "delete it"),
    ):
        raise KeyError("a")
    with pytest.raises(KeyboardInterrupt), as_written("x.json", "delete it"):
        raise KeyboardInterrupt
