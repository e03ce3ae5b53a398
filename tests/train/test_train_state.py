import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leapverify.errors import Damaged
from leapverify.train.batches import Windows, batch_indices
from leapverify.train.loop import train_step
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.train.state import (
    capture_rng,
    load_snapshot,
    load_state,
    restore_rng,
    snapshot_path,
    snapshot_steps,
)
from saved_states import save_snapshot, save_state

FAMILIES = ("gpt2", "qwen2")


class Run:
    """A training run as a study drives it, in one place."""

    def __init__(self, family: str = "gpt2", seed: int = 1, hidden: int = 16) -> None:
        spec = ModelSpec(family=family, layers=2, hidden=hidden, heads=2, dropout=0.2)  # type: ignore[arg-type]
        self.model = build_model(spec, seed=seed, vocab_size=30, sequence_length=8)
        # A module with buffers of its own, as BatchNorm has: they change while training and must come back too.
        self.model.register_module("counter", nn.BatchNorm1d(3))
        self.optimizer = build_optimizer(self.model.parameters(), 1e-3)
        tokens = np.random.default_rng(0).integers(0, 30, 200).astype(np.uint16)
        self.windows = Windows(tokens, np.arange(25) * 8, np.arange(25) * 8 + 8, 8, 0)

    def train(self, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last + 1):
            batch = self.windows.batch(batch_indices(len(self.windows), 4, step, seed=1))
            losses.append(train_step(self.model, self.optimizer, batch, 1e-2 / step))
            self.model.counter(torch.rand(4, 3) + random.random() + np.random.random())
        return [float(loss) for loss in losses]

    def everything(self) -> dict[str, torch.Tensor]:
        tensors = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        tensors |= {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items() if parameter in self.optimizer.state else ():
                tensors[f"{name}.{key}"] = value.clone()
        return tensors | capture_rng()


def assert_identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), name


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)


# Resume


@pytest.mark.failure(5)
@pytest.mark.parametrize("family", FAMILIES)
def test_resuming_is_bit_identical_to_never_stopping(tmp_path: Path, family: str) -> None:
    path = tmp_path / "state.safetensors"
    run = Run(family)
    run.train(1, 5)
    save_state(path, run.model, run.optimizer, step=5)
    losses = run.train(6, 10)

    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    resumed = Run(family, seed=2)
    about = load_state(path, resumed.model, resumed.optimizer)
    assert about["step"] == 5
    assert resumed.train(6, 10) == losses
    assert_identical(resumed.everything(), run.everything())


@pytest.mark.failure(5)
def test_dropout_makes_the_random_streams_matter(tmp_path: Path) -> None:
    run = Run()
    run.train(1, 5)
    save_state(tmp_path / "state.safetensors", run.model, run.optimizer, step=5)
    losses = run.train(6, 7)
    load_state(tmp_path / "state.safetensors", run.model, run.optimizer)
    torch.manual_seed(99)
    assert run.train(6, 7) != losses


def test_saving_changes_nothing(tmp_path: Path) -> None:
    run = Run()
    run.train(1, 3)
    before = run.everything()
    save_state(tmp_path / "state.safetensors", run.model, run.optimizer, step=3)
    assert_identical(run.everything(), before)


def test_a_run_that_has_not_begun_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    run = Run()
    save_state(path, run.model, run.optimizer, step=0)
    losses = run.train(1, 3)
    load_state(path, run.model, run.optimizer)
    assert not run.optimizer.state
    assert run.train(1, 3) == losses


def test_a_state_of_the_plain_kernel_loads_into_the_fused_one(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    run = Run()
    run.optimizer = torch.optim.AdamW(run.model.parameters(), foreach=False)
    run.train(1, 3)
    save_state(path, run.model, run.optimizer, step=3)
    wanted = run.everything()
    other = Run(seed=2)
    load_state(path, other.model, other.optimizer)
    assert_identical(other.everything(), wanted)
    other.train(4, 4)


def test_frozen_parameters_have_no_moments(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    run = Run()
    frozen = next(run.model.parameters()).requires_grad_(False)
    run.optimizer = build_optimizer(run.model.parameters(), 1e-3)
    run.train(1, 2)
    save_state(path, run.model, run.optimizer, step=2)
    load_state(path, run.model, run.optimizer)
    assert frozen not in run.optimizer.state
    used = {p for name, p in run.model.named_parameters() if p is not frozen and not name.startswith("counter.")}
    assert set(run.optimizer.state) == used


def test_weights_may_come_from_the_snapshot_beside_the_state(tmp_path: Path) -> None:
    run = Run()
    run.train(1, 3)
    before = run.everything()
    save_snapshot(tmp_path / "weights", 3, dict(run.model.named_parameters()))
    path = tmp_path / "state.safetensors"
    save_state(path, run.model, run.optimizer, step=3, weights=False, elapsed_s=1.5)
    run.train(4, 6)
    with pytest.raises(ValueError, match=r"weight\..* is absent there"):
        load_state(path, run.model, run.optimizer)
    about = load_state(path, run.model, run.optimizer, weights=load_snapshot(tmp_path / "weights", 3))
    assert (about["step"], about["elapsed_s"]) == (3, 1.5)
    assert_identical(run.everything(), before)


def test_keys_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "state.safetensors"
    run = Run()
    run.train(1, 3)
    save_state(path, run.model, run.optimizer, step=3)
    found = load_file(path)
    name, parameter = next(iter(run.model.named_parameters()))
    assert torch.equal(found[f"exp_avg.{name}"], run.optimizer.state[parameter]["exp_avg"])
    assert torch.equal(found[f"exp_avg_sq.{name}"], run.optimizer.state[parameter]["exp_avg_sq"])
    assert found[f"step.{name}"].item() == 3
    assert torch.equal(found["rng.torch"], torch.get_rng_state())


def test_a_state_of_another_model_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    run, other = Run(hidden=8), Run()
    save_state(path, run.model, run.optimizer, step=0)
    other.train(1, 1)
    before = other.everything()
    with pytest.raises(
        ValueError, match=r"is of another model: .* is float32 \(\d+.*\) there and float32 \(\d+.*\) here"
    ):
        load_state(path, other.model, other.optimizer)
    save_snapshot(tmp_path, 1, dict(other.model.named_parameters()))
    with pytest.raises(ValueError, match=r"is of another model: .* is absent there"):
        load_state(snapshot_path(tmp_path, 1), other.model, other.optimizer)
    assert_identical(other.everything(), before)


@pytest.mark.failure(2)
def test_a_damaged_state_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    run = Run()
    run.train(1, 2)
    save_state(path, run.model, run.optimizer, step=2)
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    before = run.everything()
    with pytest.raises(Damaged, match=re.escape(f"{path} is damaged")):
        load_state(path, run.model, run.optimizer)
    assert_identical(run.everything(), before)


@pytest.mark.failure(5)
def test_random_streams_go_on_where_they_were() -> None:
    random.gauss(0, 1)
    np.random.standard_normal()

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            random.random(),
            np.random.standard_normal(),
            np.random.random(),
            torch.rand(1).item(),
        ]

    streams = capture_rng()
    wanted = draw()
    random.gauss(0, 1)
    assert draw() != wanted
    restore_rng(streams)
    assert draw() == wanted


# Snapshots


def test_a_snapshot_holds_the_weights_by_name(tmp_path: Path) -> None:
    model = Run().model
    path = save_snapshot(tmp_path, 50, dict(model.named_parameters()))
    assert path == tmp_path / "step-000050.safetensors"
    found = load_snapshot(tmp_path, 50)
    assert list(found) == sorted(name for name, _ in model.named_parameters())
    assert all(torch.equal(found[name], parameter) for name, parameter in model.named_parameters())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (50, 100, 150, 1_000_000):
        save_snapshot(tmp_path, step, {"weight": torch.full((4,), float(step))})
    (tmp_path / "step-notes.safetensors").touch()
    return tmp_path


def test_steps_are_listed_in_order(folder: Path) -> None:
    assert snapshot_steps(folder) == [50, 100, 150, 1_000_000]
    assert snapshot_steps(folder / "none") == []


def test_a_damaged_snapshot_is_named(folder: Path) -> None:
    truncated = snapshot_path(folder, 150)
    truncated.write_bytes(truncated.read_bytes()[:-1])
    with pytest.raises(Damaged, match=re.escape(str(truncated))):
        load_snapshot(folder, 150)
