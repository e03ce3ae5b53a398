"""LeapCallback in real runs of the Trainer: a small GPT-2 on the standard library's text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lazily import Lazily
from leapverify.integrations.losses import causal_losses
from leapverify.leap.config import LeapConfig
from stdlib_gpt2 import ALWAYS, HORIZON, INTERVAL, STEPS, batches, broken_loss, same_weights, small_gpt2

runs = Lazily("trainer_runs", "accelerate")


@pytest.mark.failure(7)
@pytest.mark.parametrize("mode", ["off", "monitor", "shadow"])
def test_watching_leaves_the_weights_as_they_are(mode: str, tmp_path: Path) -> None:
    plain = runs.trainer(tmp_path / "a")
    plain.train()
    callback = runs.leaping(mode=mode)
    watched = runs.trainer(tmp_path / "b", callback)  # made now, because making it seeds the random streams
    watched.train()
    assert callback.effective_step == STEPS
    assert same_weights(plain.model, watched.model)
    assert plain.losses == watched.losses


def test_shadow_and_monitor_did_look(tmp_path: Path) -> None:
    for mode in ("monitor", "shadow"):
        callback = runs.leaping(mode=mode)
        runs.trainer(tmp_path / mode, callback).train()
        assert callback.leap is not None
        assert len(callback.leap.events) >= STEPS // INTERVAL
        assert callback.leap.leapt == 0
        assert callback.leap.disabled is None


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """One run that leaps."""
    callback, recorder = runs.leaping(), runs.Recorder()
    made = runs.trainer(
        tmp_path_factory.mktemp("live"),
        recorder,
        callback,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="steps",
        save_steps=10,
    )
    made.train()
    return made, callback, recorder


def test_steps_stay_real_and_training_ends_at_the_effective_one(live: Any) -> None:
    made, callback, recorder = live
    assert callback.leap.leapt >= 3 * HORIZON
    assert recorder.steps == list(range(1, len(recorder.steps) + 1))
    assert len(made.losses) == made.state.global_step == recorder.steps[-1]
    assert callback.effective_step == made.state.global_step + callback.leap.leapt
    assert callback.effective_step - HORIZON - 1 < STEPS <= callback.effective_step


def test_the_schedule_moves_on_by_the_leapt_steps(live: Any) -> None:
    made, callback, _ = live
    assert made.lr_scheduler.last_epoch == callback.effective_step


def test_the_logged_loss_is_the_mean_since_the_last_log(live: Any) -> None:
    made, _, _ = live
    logs = [entry for entry in made.state.log_history if "loss" in entry]
    last = 0
    for entry in logs:
        part = made.losses[last : entry["step"]]
        assert entry["loss"] == pytest.approx(sum(part) / len(part), rel=1e-4)
        last = entry["step"]
    assert logs[-1]["leap/leapt_steps"] > 0
    assert logs[-1]["leap/effective_step"] == logs[-1]["step"] + logs[-1]["leap/leapt_steps"]
    assert any("leap/gain" in entry for entry in logs)


def test_intervals_that_a_leap_crosses_are_kept(live: Any) -> None:
    made, callback, recorder = live
    leaps = [event for event in callback.leap.events if event.status == "accepted"]
    crossing = [e.step for e in leaps if e.effective_step // 10 > (e.effective_step - HORIZON) // 10]
    real = [step for step in recorder.steps if step % 10 == 0]
    expected = sorted({*crossing, *real, made.state.global_step})
    assert crossing
    assert recorder.evaluated == expected
    assert recorder.saved == expected
    for step in expected:
        assert (Path(made.args.output_dir) / f"checkpoint-{step}" / runs.FILE).exists()


def test_a_leap_over_a_log_interval_logs(tmp_path: Path) -> None:
    callback = runs.leaping()
    made = runs.trainer(tmp_path, callback, logging_steps=10)
    made.train()
    leaps = [event for event in callback.leap.events if event.status == "accepted"]
    crossing = {e.step for e in leaps if e.effective_step // 10 > (e.effective_step - HORIZON) // 10}
    real = {step for step in range(1, made.state.global_step + 1) if step % 10 == 0}
    assert crossing - real
    assert [entry["step"] for entry in made.state.log_history if "loss" in entry] == sorted(crossing | real)


def test_the_best_model_can_be_loaded_after_leaps(tmp_path: Path) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 20}
    made = runs.trainer(tmp_path, runs.leaping(), load_best_model_at_end=True, **evaluated)
    made.train()
    best = min((entry for entry in made.state.log_history if "eval_loss" in entry), key=lambda each: each["eval_loss"])
    assert made.state.best_global_step == best["step"]
    assert made.evaluate()["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)


def trainer_logs(recorder: Any) -> list[dict[str, Any]]:
    return [entry for entry in recorder.logged if "leap/effective_step" in entry]


def test_attached_first_its_numbers_reach_the_other_callbacks(tmp_path: Path) -> None:
    recorder = runs.Recorder()
    made = runs.trainer(tmp_path, recorder, max_steps=30)
    callback = runs.leaping().attach(made)
    made.train()
    assert trainer_logs(recorder)
    assert trainer_logs(recorder)[-1]["leap/leapt_steps"] == callback.leap.leapt > 0


def test_evaluation_metrics_stay_clean(live: Any) -> None:
    made, _, _ = live
    evaluations = [entry for entry in made.state.log_history if "eval_loss" in entry]
    assert evaluations
    assert not any(name.startswith("leap/") for entry in evaluations for name in entry)


@pytest.mark.failure(5)
@pytest.mark.parametrize("how", ["default place", "moved"])
def test_resuming_after_a_leap_ends_with_the_same_weights(how: str, live: Any, tmp_path: Path) -> None:
    whole, callback, recorder = live
    first = next(event.step for event in callback.leap.events if event.status == "accepted")
    at = next(step for step in recorder.saved if step > first)
    out = tmp_path / "out"
    shutil.copytree(Path(whole.args.output_dir) / f"checkpoint-{at}", out / f"checkpoint-{at}")
    folder, options = out / f"checkpoint-{at}", {}
    if how == "moved":
        folder = Path(shutil.move(folder, tmp_path / "elsewhere"))
        options = {"resume_from": folder}
    again, notes = runs.leaping(**options), runs.Recorder()
    made = runs.trainer(out, notes, again, eval_strategy="steps", eval_steps=10, save_strategy="steps", save_steps=10)
    made.train(resume_from_checkpoint=str(folder))
    assert notes.steps[0] == at + 1
    assert again.leap.leapt == callback.leap.leapt
    assert made.state.global_step == whole.state.global_step
    assert made.losses == whole.losses[at:]
    assert same_weights(made.model, whole.model)


def test_a_state_that_is_not_found_is_said(live: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _, recorder = live
    at = recorder.saved[0]
    folder = tmp_path / "elsewhere"
    shutil.copytree(Path(whole.args.output_dir) / f"checkpoint-{at}", folder)
    callback = runs.leaping()
    runs.trainer(tmp_path / "out", callback).train(resume_from_checkpoint=str(folder))
    assert "without the state of LeapCallback" in caplog.text
    assert "resume_from=FOLDER" in caplog.text


def test_the_state_of_another_run_is_not_taken(live: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _, recorder = live
    at = recorder.saved[0]
    source = Path(whole.args.output_dir) / f"checkpoint-{at}"
    shutil.copytree(source, tmp_path / "elsewhere")
    other = tmp_path / "out" / f"checkpoint-{at}"
    shutil.copytree(source, other)
    saved = json.loads((other / "trainer_state.json").read_text())
    saved["log_history"] = []
    (other / "trainer_state.json").write_text(json.dumps(saved))
    runs.trainer(tmp_path / "out", runs.leaping()).train(resume_from_checkpoint=str(tmp_path / "elsewhere"))
    assert "without the state of LeapCallback" in caplog.text


@pytest.mark.failure(2)
def test_a_damaged_state_is_refused_by_name(live: Any, tmp_path: Path) -> None:
    whole, _, recorder = live
    folder = tmp_path / f"checkpoint-{recorder.saved[0]}"
    shutil.copytree(Path(whole.args.output_dir) / folder.name, folder)
    content = bytearray((folder / runs.FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / runs.FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{runs.FILE} is damaged.*resume from another checkpoint"):
        runs.trainer(tmp_path, runs.leaping()).train(resume_from_checkpoint=str(folder))


@pytest.mark.failure(9)
def test_a_loss_function_that_fails_leaves_training_running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = runs.LeapCallback(runs.heldout(), broken_loss(after=12), **ALWAYS)
    runs.trainer(tmp_path, callback).train()
    assert "training goes on: RuntimeError: the disk of the held-out data is gone" in caplog.text
    assert callback.effective_step >= STEPS
    assert callback.leap.disabled is not None
    assert "the disk of the held-out data is gone" in callback.leap.disabled


@pytest.mark.failure(5, 9)
def test_leapt_steps_outlive_a_failure_and_a_resume(tmp_path: Path) -> None:
    callback = runs.LeapCallback(runs.heldout(), broken_loss(after=12), **ALWAYS)
    made = runs.trainer(tmp_path, callback, save_strategy="steps", save_steps=20)
    made.train()
    assert callback.leap.disabled is not None
    assert callback.leap.leapt > 0
    again = runs.LeapCallback(runs.heldout(), broken_loss(after=12), **ALWAYS)
    resumed = runs.trainer(tmp_path, again, save_strategy="steps", save_steps=20)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))
    assert again.leap.leapt == callback.leap.leapt
    assert again.leap.disabled == callback.leap.disabled
    assert resumed.state.global_step == made.state.global_step
    assert same_weights(resumed.model, made.model)


@pytest.mark.failure(12)
def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    callback = runs.leaping(mode="monitor")
    made = runs.trainer(tmp_path, callback, gradient_accumulation_steps=4, max_steps=12)
    made.train()
    assert len(made.losses) == 48
    assert [event.step for event in callback.leap.events] == [4, 8, 12]


def test_monitoring_needs_probes_alone(tmp_path: Path) -> None:
    callback = runs.LeapCallback(mode="monitor", probes=batches(72, 8)[0]["input_ids"], interval=5)
    runs.trainer(tmp_path, callback, max_steps=20).train()
    assert [event.step for event in callback.leap.events] == [5, 10, 15, 20]
    assert all(event.similarity is not None for event in callback.leap.events[1:])


def test_a_second_run_begins_anew(tmp_path: Path) -> None:
    callback = runs.leaping()
    made = runs.trainer(tmp_path, callback, max_steps=20)
    made.train()
    first = callback.leap
    made.train()
    assert callback.leap is not first
    assert callback.effective_step >= 20


def test_a_plain_loop_over_epochs_leaps_too(tmp_path: Path) -> None:
    callback = runs.leaping()
    made = runs.trainer(tmp_path, callback, max_steps=-1, num_train_epochs=3, eval_strategy="epoch")
    made.train()
    assert made.state.max_steps == 48
    assert callback.effective_step >= 48 > made.state.global_step


def test_the_default_loss_is_the_models_own() -> None:
    model = small_gpt2().eval()
    batch = batches(0, 6)[0]
    with torch.no_grad():
        losses, tokens = causal_losses(model, batch)
        own = model(**batch, labels=batch["input_ids"]).loss
    assert losses.shape == tokens.shape == (6,)
    assert float((losses * tokens).sum() / tokens.sum()) == pytest.approx(float(own), rel=1e-5)


def test_padding_and_ignored_labels_do_not_count() -> None:
    model = small_gpt2().eval()
    ids = batches(0, 2)[0]["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    masked, tokens = causal_losses(model, {"input_ids": ids, "attention_mask": mask})
    assert tokens.tolist() == [15.0, 4.0]
    labels = ids.masked_fill(mask == 0, -100)
    ignored, counts = causal_losses(model, {"input_ids": ids, "labels": labels})
    assert counts.tolist() == tokens.tolist()
    torch.testing.assert_close(masked, ignored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout": None}, "LeapCallback got no held-out data, which mode 'live' needs: pass heldout=batches"),
        ({"intervall": 5}, "option 'intervall' is unknown to LeapCallback: use heldout"),
        ({"scheduler": object()}, "option 'scheduler' is unknown"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.LeapCallback(**{"heldout": runs.heldout(), **options})


@pytest.mark.parametrize(("setting", "words"), [("deepspeed", "DeepSpeed rewrites"), ("fsdp", "FSDP shards")])
def test_plugins_that_own_the_weights_are_refused(setting: str, words: str, tmp_path: Path) -> None:
    made = runs.trainer(tmp_path, runs.leaping())
    setattr(made.args, setting, "on")
    callback = made.callback_handler.callbacks[-1]
    with pytest.raises(ValueError, match=words):
        callback.on_train_begin(made.args, made.state, made.control, model=made.model, optimizer=made.optimizer)


def test_an_optimizer_with_master_copies_is_refused(tmp_path: Path) -> None:
    made = runs.trainer(tmp_path, runs.leaping())
    made.create_optimizer()
    made.optimizer.fp32_from_fp16_groups = []
    with pytest.raises(ValueError, match="rewrites the weights from master copies"):
        made.train()


def test_a_missing_framework_names_the_line_that_installs_it() -> None:
    script = (
        "import sys; sys.modules['transformers'] = None\n"
        "try:\n    import leapverify.integrations.transformers\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("the Trainer of transformers is not installed: pip install 'leapverify[accelerate]'")


def test_tensorboard_shows_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'leapverify[tensorboard]'")
    from transformers.integrations import TensorBoardCallback

    made = runs.trainer(tmp_path, TensorBoardCallback(), max_steps=20)
    runs.leaping().attach(made)
    made.train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(next(tmp_path.rglob("events.out.*")).parent))
    board.Reload()
    assert any("leap/effective_step" in tag for tag in board.Tags()["scalars"])


def test_options_may_come_as_a_config() -> None:
    callback = runs.LeapCallback(runs.heldout(), config=LeapConfig(mode="monitor", interval=3))
    assert callback.mode == "monitor"
    assert runs.LeapCallback(runs.heldout(), config=LeapConfig(mode="monitor"), mode="off").mode == "off"
    with pytest.raises(ValueError, match="no held-out data, which mode 'shadow' needs"):
        runs.LeapCallback(config=LeapConfig(mode="shadow"))
