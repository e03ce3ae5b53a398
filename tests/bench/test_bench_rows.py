"""The rows of a bench: those of the study, persistence by theorem, costs, and what a stop leaves behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from leapverify.bench.measures import Persistence, share_left
from leapverify.bench.results import BenchSeed, key_of, take_folder
from leapverify.bench.run import bench_predictors
from leapverify.config.overrides import with_settings
from leapverify.config.resolved import Resolved
from leapverify.core.weights import Tensors, copy_
from leapverify.io import records
from leapverify.io.records import Benched, Prediction
from leapverify.io.storage import read_json
from leapverify.predict import CATALOGUE, Needs, require_request
from leapverify.predict.catalogue import Entry
from leapverify.runs.progress import Progress
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.folder import load_study
from leapverify.study.restore import WeightRestorer
from leapverify.study.run import run_study
from leapverify.train.state import load_snapshot
from leapverify.trajectory.history import History
from micro import timeless
from saved_states import save_snapshot

LENGTH = 16
PASS = 8.0


def rows_of(run: Path) -> tuple[list[Prediction], list[Benched]]:
    folder = run / "bench"
    return records.read(folder / "predictions.parquet", Prediction), records.read(folder / "benched.parquet", Benched)


def bench(run: Path, *names: str, **options) -> tuple[list[Prediction], list[Benched]]:
    bench_predictors(run, predictors=names or None, device="cpu", **options)
    return rows_of(run)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """The rows are looked at here; the command's own test looks at the report."""
    monkeypatch.setattr("leapverify.bench.run.build_report", lambda run: run)


@dataclass(frozen=True)
class Fake:
    """What the tests register: a predictor that returns what `weights` makes of its request."""

    weights: object
    name: str = "fake"
    needs: Needs = field(default=Needs(1))

    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        request = require_request(self.needs, history, horizon, out)
        copy_(request.out, self.weights(request))
        return request.out


@pytest.fixture
def register(monkeypatch):
    def add(weights, **needs) -> str:
        monkeypatch.setitem(CATALOGUE, "fake", Entry(lambda: Fake(weights, needs=Needs(1, **needs)), "", ""))
        return "fake"

    return add


@pytest.fixture
def oracle(recorded, register):
    """Knows the state that the run itself reaches 10 steps on."""

    def ahead(request) -> list[Tensor]:
        step = request.history.steps[-1] + 10
        weights = load_snapshot(recorded / "seed-42" / "snapshots", min(step, 60))
        return [weights[name] for name in request.history.layout.names]

    return register(ahead, layout=True)


def test_the_rows_are_those_of_the_study(recorded, copy):
    names = load_study(recorded).config.sweep.predictors
    predictions, benched = bench(copy(), *names)
    own = {(*key_of(row), row.seed): row for row in load_study(recorded).predictions}
    assert timeless(predictions) == timeless([own[(*key_of(row), row.seed)] for row in predictions])
    assert len(predictions) == len(own)
    assert [key_of(row) for row in benched] == [key_of(row) for row in predictions]


def test_after_all_predictions_and_all_training_on_the_run_is_the_recorded_one_bit_by_bit(copy):
    run = copy()
    bench(run, "linear", "adam", "random")
    assert read_json(run / "bench" / "bench.json")["seeds"]["42"].items() >= {"repeated": 6, "loaded": 0}.items()


def test_training_on_from_the_present_state_is_the_run_itself_and_leaves_no_trace(recorded, config):
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    tensors = list(apparatus.moved.values())
    apparatus.train(1, 1, 20)
    apparatus.history.push(20, tensors)
    persistence = Persistence(apparatus, WeightRestorer(tensors, apparatus.history))
    persistence.save()
    before = [each.clone() for each in tensors], [s["exp_avg_sq"].clone() for s in apparatus.optimizer.state.values()]
    leapt = [persistence.loss_after(CATALOGUE["hold"].make(), 5, 20, 10) for _ in range(2)]
    after = tensors, [state["exp_avg_sq"] for state in apparatus.optimizer.state.values()]
    assert all(torch.equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    apparatus.train(21, 21, 10)
    assert leapt == [apparatus.verifier.loss_of()] * 2
    assert leapt[0] == {row.step: row.heldout_loss for row in load_study(recorded).checkpoints}[30]


def test_the_share_left_is_0_where_both_paths_meet_and_1_where_the_gain_stays():
    assert share_left(4.0, 3.5, 3.75, 3.75) == 0.0
    assert share_left(4.0, 3.5, 3.75, 3.25) == 1.0
    assert share_left(4.0, 3.5, 3.75, 4.0) == -0.5
    assert share_left(4.0, 3.5, 3.75, None) is None


def test_hold_has_no_gain_that_could_persist(copy):
    _, benched = bench(copy(), "hold")
    assert {row.persist_steps for row in benched} == {row.persistence for row in benched} == {None}


def test_the_state_of_the_future_has_a_gain_fraction_of_1_and_the_share_follows_from_the_losses(copy, oracle):
    predictions, benched = bench(copy(), oracle, horizons=[10])
    curve = {row.step: row.loss_now for row in predictions}
    measured = 0
    for row, beside in zip(predictions, benched, strict=True):
        last = row.step == 60
        assert last or (row.loss_predicted == row.loss_actual == curve[row.step + 10])
        assert last or row.gain_fraction == 1.0
        if not row.strict or last:
            assert beside.persist_steps is beside.persistence is beside.loss_real is None
            continue
        measured += 1
        assert (beside.persist_steps, beside.loss_real) == (10, curve[row.step + 10])
        kept = (beside.loss_real - beside.loss_leapt) / (row.loss_now - row.loss_predicted)
        assert beside.persistence == kept
    assert measured >= 3


def test_training_on_from_a_prediction_is_what_a_run_with_these_weights_does(copy, config, oracle, recorded):
    predictions, benched = bench(copy(), oracle, horizons=[10])
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    apparatus.train(1, 1, 20)
    ahead = load_snapshot(recorded / "seed-42" / "snapshots", 30)
    copy_(list(apparatus.parameters.values()), [ahead[name] for name in apparatus.parameters])
    apparatus.train(21, 21, 10)
    (found,) = (row for row in benched if row.step == 20)
    assert [row.strict for row in predictions if row.step == 20] == [True]
    assert found.loss_leapt == apparatus.verifier.loss_of()


def test_a_leap_that_diverges_is_told_from_one_that_was_not_followed(copy, oracle, monkeypatch):
    monkeypatch.setattr(Persistence, "loss_after", lambda *_: None)
    predictions, benched = bench(copy(), oracle, horizons=[10])
    gained = [row.strict and row.step < 60 for row in predictions]
    assert [row.persist_steps for row in benched] == [10 if each else None for each in gained]
    assert {row.persistence for row in benched} == {None}


def test_persistence_can_be_measured_at_every_nth_checkpoint(copy, oracle):
    _, benched = bench(copy(), oracle, horizons=[10], persist_every=2)
    assert {row.step for row in benched if row.persist_steps} == {20, 40}


def test_what_is_the_same_for_every_horizon_is_measured_once_and_repeated(copy, register):
    calls = []

    def now(request) -> Tensors:
        calls.append(request.horizon)
        return [each * 0.999 for each in request.now]

    predictions, benched = bench(copy(), register(now, horizon=False))
    assert set(calls) == {5}
    assert {row.any_horizon for row in benched} == {True}
    for step in (10, 60):
        same = [row for row in predictions if row.step == step]
        assert [row.horizon for row in same] == [5, 10, 20]
        assert len({row.loss_predicted for row in same}) == 1
    assert len({row.loss_actual for row in predictions if row.step == 20}) == 3


def test_costs_add_up(copy, register):
    def searched(request) -> Tensors:
        history = request.history
        if request.horizon == 10:
            history.derived("two losses", lambda: [history.selection.loss(request.now) for _ in range(2)])
        history.derived("gradient", lambda: float(history.gradients.gradient(request.now, 0)[0]))
        return request.now

    predictions, benched = bench(copy(), "hold", "linear", "adam", register(searched, selection=True, gradients=True))
    gradient, losses, copies = 3 * 2 * LENGTH, 2 * 8 * LENGTH, {"hold": 1, "linear": 2, "adam": 3, "fake": 1}
    for row, beside in zip(predictions, benched, strict=True):
        if row.status == "declined":
            assert (beside.predict_tokens, beside.verify_tokens) == (0.0, 0.0)
            continue
        search = gradient + (losses if row.horizon == 10 else 0) if row.predictor == "fake" else 0
        assert beside.predict_tokens == PASS * (copies[row.predictor] + 2) / 2 + search
        assert beside.verify_tokens == 2 * LENGTH * max(8, row.paired_sequences)


@pytest.mark.slow
def test_a_stopped_bench_goes_on_to_the_same_rows(copy, register):
    def slope(request) -> Tensors:
        newest, before = request.history.recent[-1].tensors, request.history.recent[-2].tensors
        return [a + request.horizon * (a - b) for a, b in zip(newest, before, strict=True)]

    names = ("linear", register(slope, recent=2), "adam")
    whole = bench(copy("whole"), *names)

    def stop(progress: Progress) -> None:
        if progress.phase == "checkpoint" and progress.step == 30:
            raise KeyboardInterrupt

    run = copy("stopped")
    with pytest.raises(KeyboardInterrupt):
        bench(run, *names, watcher=stop)
    assert {step for step, *_ in BenchSeed(run, 42).read().predictions} == {10, 20, 30}
    seen: list[int] = []
    again = bench(run, *names, watcher=lambda progress: seen.append(progress.step))
    assert seen[0] == 40
    for before, after in zip(whole, again, strict=True):
        assert timeless(before) == timeless(after)
    assert read_json(run / "bench" / "bench.json")["seeds"]["42"]["repeated"] == 6


@pytest.mark.slow
def test_the_whole_catalogue_leaves_the_run_as_it_is_and_is_resumable(copy):
    options = {"horizons": [5, 20], "persist_every": 3}
    whole, run = copy("whole"), copy("stopped")
    bench(whole, **options)

    def stop(progress: Progress) -> None:
        if progress.phase == "checkpoint" and progress.step == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(run, **options, watcher=stop)
    again = bench(run, **options)
    for before, after in zip(rows_of(whole), again, strict=True):
        assert timeless(before) == timeless(after)
    about = read_json(whole / "bench" / "bench.json")
    assert about["seeds"]["42"]["repeated"] == 6
    assert {*about["predictors"], *about["left_out"]} >= {*CATALOGUE}
    assert {row.predictor for row in again[0] if row.status == "nonfinite"} == set()


def test_what_is_asked_for_later_is_added_and_what_is_there_stays(copy):
    run = copy()
    first, _ = bench(run, "linear", horizons=[5])
    both, benched = bench(run, "hold", horizons=[5, 20])
    kept = [row for row in both if row.predictor == "linear"]
    assert [dataclasses.asdict(row) for row in kept] == [dataclasses.asdict(row) for row in first]
    assert {(row.predictor, row.horizon) for row in benched} == {("linear", 5), ("hold", 5), ("hold", 20)}
    assert read_json(run / "bench" / "bench.json")["predictors"] == ["hold", "linear"]


@pytest.mark.parametrize("rank", [None, 2])
def test_fine_tuning_and_adapters_are_benched_like_any_run(recorded, config, tmp_path, rank):
    if rank is not None:
        pytest.importorskip("peft")
    changes = {"tuning.start": str(recorded), "tuning.lora_rank": rank, "training.steps": 30}
    run = run_study(with_settings(config, changes), tmp_path / "tuned", device="cpu").path
    predictions, benched = bench(run, "linear", "adam", horizons=[5])
    own = {key_of(row): row for row in load_study(run).predictions}
    assert timeless(predictions) == timeless([own[key_of(row)] for row in predictions])
    about = read_json(run / "bench" / "bench.json")
    assert about["task"] == ("finetune" if rank is None else "lora")
    assert about["seeds"]["42"]["repeated"] == 3
    assert len(benched) == 6


def test_another_course_than_the_recorded_one_is_put_right_and_said(copy, recorded):
    run, notes = copy(), []
    folder = run / "seed-42" / "snapshots"
    moved = {name: value * 1.01 for name, value in load_snapshot(folder, 30).items()}
    save_snapshot(folder, 30, moved)
    predictions, _ = bench(run, "hold", watcher=lambda progress: notes.append(progress.note))
    assert read_json(run / "bench" / "bench.json")["seeds"]["42"].items() >= {"repeated": 4, "loaded": 2}.items()
    assert [note for note in notes if note] == [
        "the same steps lead elsewhere here than when they were recorded: step 30 is loaded"
    ]
    now = {row.step: row.loss_now for row in predictions}
    own = {row.step: row.heldout_loss for row in load_study(recorded).checkpoints}
    assert [step for step in now if now[step] != own[step]] == [30]


def test_a_damaged_snapshot_is_named_and_the_same_steps_stand_in_for_it(copy, recorded):
    run, notes = copy(), []
    (run / "seed-42" / "snapshots" / "step-000020.safetensors").write_bytes(b"nothing")
    found = bench(run, "linear", watcher=lambda progress: notes.append(progress.note))
    (note,) = [note for note in notes if note]
    assert "step-000020.safetensors is damaged" in note
    assert note.endswith("stands in for it")
    assert timeless(found[0]) == timeless(bench(copy("whole"), "linear")[0])


def test_a_damaged_part_is_made_anew(copy):
    run = copy()
    before = bench(run, "linear")[0]
    (run / "bench" / "seed-42" / "benched.parquet").write_bytes(b"nothing")
    notes: list[str] = []
    BenchSeed(run, 42).read(notes.append)
    assert "benched.parquet is damaged" in notes[0]
    assert notes[0].endswith("this seed is benched again")
    assert timeless(bench(run, "linear")[0]) == timeless(before)


def test_bench_json_says_what_was_benched_on_what(copy):
    run = copy()
    bench(run, "hold", horizons=[5])
    about = read_json(run / "bench" / "bench.json")
    assert (about["task"], about["persist_every"], about["persist_steps"]) == ("pretrain", 1, 10)
    assert about["environment"]["device"] == "cpu"
    assert about["seeds"]["42"]["seconds"] > 0
    take_folder(run, {"files": {}, "persist_every": 1, "predictors": ["hold"]})
