"""The plan is said and kept before a study allocates anything, and a study that does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from leapverify import run_study
from leapverify.capacity import plan as planning
from leapverify.capacity.activations import model_shapes
from leapverify.capacity.memory import Room
from leapverify.capacity.plan import memory_plan
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError
from leapverify.study.apparatus import build, open_corpus


def test_a_study_says_its_plan_first_and_keeps_it(micro, tmp_path):
    notes: list[str] = []
    run_study(micro(), tmp_path / "run", device="cpu", watcher=lambda p: notes.append(p.note or p.phase))
    assert notes[0].startswith("memory plan: a seed takes at most ")
    lines = (tmp_path / "run" / "memory.txt").read_text().splitlines()
    assert lines[0].startswith("memory of one seed, MB")
    assert lines[-1] == "  it fits"


def test_a_study_that_does_not_fit_is_refused_before_its_model_is_built(micro, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "memory_bytes", lambda: 2_001_000_000)
    with pytest.raises(ConfigError, match="GB"):
        run_study(micro(), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "seed-42").exists()


def test_seeds_side_by_side_share_the_memory(micro, monkeypatch):
    monkeypatch.setattr(planning, "memory_bytes", lambda: 10_000_000_000)
    alone, shared = (planning.plan_of(Resolved.of(micro()), "cpu", workers).room.host_bytes for workers in (1, 2))
    assert alone == 8_000_000_000
    assert shared == 3_000_000_000


def test_where_the_system_tells_nothing_there_is_no_plan_and_no_refusal(micro, monkeypatch, tmp_path):
    monkeypatch.setattr(planning, "memory_bytes", lambda: None)
    assert planning.plan_of(Resolved.of(micro()), "cpu", 1) is None
    run_study(micro(training__steps=20), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "memory.txt").exists()


@pytest.mark.parametrize("ring", ["device", "host"])
def test_every_moved_tensor_of_the_model_has_its_place(micro, ring):
    config = Resolved.of(micro(sweep__ring=ring, sweep__moved="no-norms-embeddings"))
    plan = memory_plan(config, model_shapes(config, 256), Room(10**12, 10**12))
    moved = build(config, 42, "cpu", open_corpus(config)).moved
    assert plan.ring_places == (ring,) * len(moved)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("ring", ["device", "host"])
def test_the_ring_lies_where_it_is_told_to_on_a_gpu(micro, ring):
    config = Resolved.of(micro(sweep__ring=ring))
    apparatus = build(config, 42, "cuda", open_corpus(config))
    apparatus.history.push(10, list(apparatus.moved.values()))
    kinds = {tensor.device.type for tensor in apparatus.history[-1].tensors}
    assert kinds == {"cuda" if ring == "device" else "cpu"}
