"""What a study gives to predictors that ask for more than snapshots: in the stream, after a stop, and swept again."""

from __future__ import annotations

import re

import pytest
import torch

from all_needs import AllNeeds
from leapverify import run_study
from leapverify.config.resolved import Resolved
from leapverify.io.storage import read_sealed, write_sealed
from leapverify.predict import CATALOGUE
from leapverify.runs import Paused
from leapverify.study import record
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.history_context import DRAWS, fresh_numbers, selection_indices
from leapverify.study.resweep import sweep_study
from leapverify.train.batches import Windows
from leapverify.trajectory.averages import AVERAGED
from leapverify.trajectory.milestones import MILESTONES
from micro import same_numbers, timeless

INTERVAL = 10


@pytest.fixture
def all_needs(monkeypatch):
    """The predictors `all-needs`, and `all-needs-long`, whose single steps span more than an interval."""
    monkeypatch.setitem(CATALOGUE, "all-needs", AllNeeds)
    monkeypatch.setitem(CATALOGUE, "all-needs-long", lambda: AllNeeds(INTERVAL + 3, "all-needs-long"))


@pytest.fixture
def equipped(micro, all_needs):
    """A study with dropout whose sweep asks for everything at every checkpoint."""

    def make(**changes):
        return micro(
            **{
                "model__dropout": 0.1,
                "training__steps": 40,
                "sweep__predictors": ["hold", "all-needs"],
                "sweep__regimes": ["unknown", "chaotic", "transition", "stable"],
                "sweep__horizons": [5, 10],
                "cascade__predictors": ["linear", "all-needs"],
                "verify__selection_sequences": 4,
                "snapshots__weights": "all",
                "snapshots__optimizer": "all",
                **changes,
            }
        )

    return make


def ok_steps(study, name):
    return {row.step for row in study.predictions if row.predictor == name and row.status == "ok"}


def reasons(rows, name):
    return {row.step: row.reason for row in rows if row.predictor == name and row.status == "declined"}


def test_a_study_that_asks_for_nothing_more_gets_nothing_more(micro):
    config = micro()
    history = build(Resolved.of(config), 42, "cpu", open_corpus(config)).history
    assert (history.recent, history.averages, history.milestones) == (None, None, None)
    assert (history.selection, history.gradients) == (None, None)
    assert history.layout is not None
    assert history.layout.family == "gpt2"
    assert (history.layout.heads, history.layout.kv_heads) == (2, 2)


def test_names_are_in_the_order_of_the_tensors(micro):
    config = micro(sweep__moved="no-norms-embeddings")
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    assert apparatus.history.layout.names == tuple(apparatus.moved)


def test_needs_are_joined_and_cascades_take_no_single_steps(micro, all_needs):
    needs = Resolved.of(micro(cascade__predictors=["all-needs"])).needs
    assert (needs.recent, needs.averages, needs.milestones) == (0, False, ())
    assert needs.selection
    assert needs.gradients
    needs = Resolved.of(micro(sweep__predictors=["all-needs", "taylor-4", "all-needs-long"])).needs
    assert (needs.snapshots, needs.recent, needs.milestones) == (5, INTERVAL + 3, (0.0, 0.4))


def test_a_walker_fills_single_steps_before_checkpoints_and_the_first_state(equipped):
    config = equipped()
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    history = apparatus.history
    untrained = [each.detach().clone() for each in apparatus.moved.values()]
    apparatus.after_step(0)
    held = {}
    for step in range(1, 21):
        apparatus.train(step, step, 1)
        apparatus.after_step(step)
        held[step] = history.recent.steps
        if step % INTERVAL == 0:
            history.push(step, list(apparatus.moved.values()))
    assert held[7] == (0,)
    assert held[10] == held[17] == (8, 9, 10)
    assert held[20] == (18, 19, 20)
    assert history.milestones.steps == (0, 10, 20)
    assert all(map(torch.equal, history.milestones.nearest(0).tensors, untrained))
    assert all(map(torch.equal, history.recent[-1].tensors, history[-1].tensors))


def test_the_counts_that_the_memory_plan_reckons_with_are_those_of_a_history(equipped):
    config = equipped()
    history = build(Resolved.of(config), 42, "cpu", open_corpus(config)).history
    like = [torch.zeros(2)]
    for step in range(1, 40):
        history.milestones.push(step, like)
        history.averages.push(step, like)
    assert len(history.milestones) == MILESTONES
    assert len(history.averages.states) == 2 * AVERAGED


@pytest.mark.parametrize(("count", "budget", "wanted"), [(20, 16, 4), (100, 16, 8), (100, 1, 99)])
def test_predictors_choose_by_sequences_that_the_verifier_never_reads(micro, count, budget, wanted):
    config = micro(verify__budget=budget, verify__sequences=1, verify__selection_sequences=wanted)
    windows = Windows(torch.zeros(0).numpy(), torch.zeros(count).numpy(), torch.zeros(count).numpy(), 8, 0)
    chosen = selection_indices(windows, Resolved.of(config))
    assert len(set(chosen)) == wanted
    assert not set(chosen) & set(windows.spread(budget))
    assert set(chosen) <= set(range(count))


def test_too_few_sequences_to_choose_by_are_said(micro, equipped):
    config = micro(verify__selection_sequences=5)
    windows = Windows(torch.zeros(0).numpy(), torch.zeros(20).numpy(), torch.zeros(20).numpy(), 8, 0)
    with pytest.raises(ValueError, match=r"4 are left where verify\.selection_sequences is 5: lower it or"):
        selection_indices(windows, Resolved.of(config))
    with pytest.raises(ValueError, match="too little text"):
        build(Resolved.of(equipped(verify__selection_sequences=10**6)), 42, "cpu", open_corpus(config))


@pytest.mark.parametrize("windows", [120, 400, 10**5])
def test_fresh_batches_are_none_of_the_plan_and_repeat_for_the_same_step_and_draw(micro, windows):
    config = micro()
    planned, size = config.training.steps, config.training.batch_size
    number = fresh_numbers(Resolved.of(config), windows)
    found = {(step, draw): number(step, draw) for step in range(10, planned + 1, 10) for draw in range(DRAWS)}
    assert min(found.values()) > planned
    assert found == {key: number(*key) for key in found}
    unseen = windows // size - planned
    if unseen >= 16:
        assert max(found.values()) <= windows // size  # of the first pass over the text
    assert all(len({found[step, draw] for draw in range(16)}) == 16 for step, _ in found)


@pytest.fixture
def streamed(equipped, tmp_path):
    """A finished study, single steps over the interval among what it asks for."""

    def run(**changes):
        return run_study(equipped(**changes), tmp_path / "run", device="cpu")

    return run


@pytest.mark.parametrize("name", ["all-needs", "all-needs-long"])
def test_swept_again_everything_comes_out_to_the_bit(streamed, name):
    study = streamed(sweep__predictors=["hold", name])
    assert ok_steps(study, name) == {20, 30, 40}
    before = timeless(study.predictions)
    assert timeless(sweep_study(study.path, device="cpu").predictions) == before
    only = timeless(sweep_study(study.path, predictors=[name], device="cpu").predictions)
    assert only == [row for row in before if row["predictor"] == name]


@pytest.mark.parametrize("name", ["all-needs", "all-needs-long"])
def test_stopped_again_and_again_equals_the_unbroken_run(streamed, equipped, tmp_path, name):
    unbroken = streamed(sweep__predictors=["hold", name])
    config = equipped(sweep__predictors=["hold", name])
    real = record.require_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "require_time", lambda _, seed, step=None: real(0.0 if step else None, seed, step))
        for _ in range(3):
            with pytest.raises(Paused):
                run_study(config, tmp_path / "other", device="cpu", minutes=1)
    study = run_study(config, tmp_path / "other", device="cpu")
    same_numbers(study, unbroken)
    assert len(list((study.path / "seed-42" / "remembered").glob("*.safetensors"))) < 4


def test_a_damaged_memory_goes_back_to_an_earlier_checkpoint(streamed, equipped, tmp_path):
    unbroken = streamed()
    real = record.require_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "require_time", lambda _, seed, step=None: real(0.0 if step == 30 else None, seed, step))
        with pytest.raises(Paused):
            run_study(equipped(), tmp_path / "other", device="cpu", minutes=1)
    newest = max((tmp_path / "other" / "seed-42" / "remembered").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    notes: list[str] = []
    study = run_study(equipped(), tmp_path / "other", device="cpu", watcher=lambda p: notes.append(p.note or ""))
    assert any("going back to an earlier checkpoint" in note for note in notes)
    assert any("going on from step 20" in note for note in notes)
    same_numbers(study, unbroken)


def test_where_states_were_not_kept_the_earlier_rows_stay_and_new_ones_decline(streamed):
    study = streamed(snapshots__optimizer="last", sweep__predictors=["all-needs", "hold"])
    before = timeless(study.predictions)
    again = sweep_study(study.path, device="cpu")
    assert timeless(again.predictions) == before
    only = sweep_study(study.path, predictors=["hold"], device="cpu")
    fresh = sweep_study(only.path, predictors=["all-needs"], device="cpu")
    told = reasons(fresh.predictions, "all-needs")
    assert set(told) == {10, 20, 30}
    # To the first checkpoint one can always go again; it has one snapshot only.
    assert "needs 2 snapshots" in told[10]
    assert "needs the weights after the last 3 steps one by one" in told[20]


def test_steps_that_come_out_otherwise_are_said_and_not_used(streamed):
    study = streamed()
    before = timeless(study.predictions)
    path = study.path / "config.yaml"
    write_sealed(path, re.sub(r"\n  lr: .*", "\n  lr: 0.002", read_sealed(path, "")))
    notes: list[str] = []
    again = sweep_study(study.path, device="cpu", watcher=lambda p: notes.append(p.note or ""))
    assert sum("come out otherwise than they did" in note for note in notes) == 4
    assert timeless(again.predictions) == before


def test_a_damaged_snapshot_spoils_all_that_averages_have_seen(streamed):
    study = streamed()
    before = timeless(study.predictions)
    damaged = study.path / "seed-42" / "snapshots" / "step-000010.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    notes: list[str] = []
    again = sweep_study(study.path, device="cpu", watcher=lambda p: notes.append(p.note or ""))
    assert timeless(again.predictions) == before
    assert sum("step-000010.safetensors" in note for note in notes) == 1
