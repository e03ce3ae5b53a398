"""LeapCallback in real runs of Lightning: a small GPT-2 on the standard library's text."""

from __future__ import annotations

import csv
import importlib
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lazily import Lazily
from stdlib_gpt2 import ALWAYS, HORIZON, INTERVAL, STEPS, broken_loss, same_weights

runs = Lazily("lightning_runs", "lightning")

pytestmark = [
    # What Lightning says of the machine, and does with torch itself, is not the matter here.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Lightning's own notes are left out."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.mark.failure(7)
@pytest.mark.parametrize("mode", ["off", "monitor", "shadow"])
def test_watching_leaves_the_weights_as_they_are(mode: str, tmp_path: Path) -> None:
    plain = runs.trained(tmp_path)
    callback = runs.leaping(mode=mode)
    watched = runs.trained(tmp_path, callback)
    assert same_weights(plain.lightning_module, watched.lightning_module)
    assert plain.lightning_module.seen == watched.lightning_module.seen
    assert (callback.leap is None) == (mode == "off")
    assert callback.effective_step == STEPS
    if callback.leap is not None:
        assert len(callback.leap.events) >= STEPS // INTERVAL
        assert callback.leap.disabled is None


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_a_run_that_leaps(name: str, tmp_path: Path) -> None:
    package = importlib.import_module(name)
    callback = runs.leaping()
    trainer = runs.trained(tmp_path, callback, package=package)
    assert callback.leap.leapt >= 3 * HORIZON
    assert trainer.global_step == len(trainer.lightning_module.seen)
    assert callback.effective_step == trainer.global_step + callback.leap.leapt
    assert callback.effective_step - HORIZON - 1 < STEPS <= callback.effective_step
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == callback.effective_step


def test_the_numbers_are_logged(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    callback = runs.leaping()
    runs.trained(tmp_path, callback, logger=logger)
    rows = list(csv.DictReader(Path(logger.log_dir, "metrics.csv").read_text().splitlines()))
    logged = [float(row["leap/leapt_steps"]) for row in rows if row["leap/leapt_steps"]]
    assert logged[-1] == callback.leap.leapt
    assert any(row["leap/gain"] for row in rows)


@pytest.mark.failure(5)
@pytest.mark.parametrize("weights_only", [True, False])
def test_resuming_after_a_leap_ends_with_the_same_weights(weights_only: bool, tmp_path: Path) -> None:
    whole = runs.leaping()
    first = runs.trained(tmp_path, whole, runs.saving(tmp_path))
    at = tmp_path / f"step={runs.EPOCH}.ckpt"
    saved = torch.load(at, weights_only=True)["callbacks"]["LeapCallback"]
    assert saved["driver"]["engine"]["counts"]["leapt"] > 0
    again = runs.leaping()
    second = runs.trained(tmp_path / "b", again, runs.saving(tmp_path / "b"), ckpt_path=at, weights_only=weights_only)
    assert again.leap.leapt == whole.leap.leapt
    assert second.global_step == first.global_step
    assert second.lightning_module.seen == first.lightning_module.seen[runs.EPOCH :]
    assert same_weights(first.lightning_module, second.lightning_module)


def test_the_last_checkpoint_holds_the_engine(tmp_path: Path) -> None:
    callback = runs.leaping()
    trainer = runs.trained(tmp_path, callback, runs.pl.callbacks.ModelCheckpoint(tmp_path, save_last=True))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == trainer.global_step
    assert saved["callbacks"]["LeapCallback"]["driver"]["engine"]["counts"]["leapt"] == callback.leap.leapt


@pytest.mark.failure(12)
def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    callback = runs.leaping(mode="monitor")
    trainer = runs.trained(tmp_path, callback, accumulate_grad_batches=4, max_steps=12)
    assert len(trainer.lightning_module.seen) == 48
    assert [event.step for event in callback.leap.events] == [4, 8, 12]


@pytest.mark.parametrize(("interval", "frequency"), [("epoch", 1), ("step", 2)])
def test_schedulers_that_do_not_step_with_every_batch_stay(interval: str, frequency: int, tmp_path: Path) -> None:
    callback = runs.leaping()
    trainer = runs.trained(tmp_path, callback, module=runs.module_of(runs.pl, interval, frequency))
    assert callback.leap.leapt > 0
    turns = trainer.global_step // (runs.EPOCH if interval == "epoch" else frequency)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == turns


def test_the_steps_of_the_epochs_are_the_end_where_no_other_is_given(tmp_path: Path) -> None:
    callback = runs.leaping()
    trainer = runs.trained(tmp_path, callback, max_steps=-1, max_epochs=3)
    assert callback.effective_step >= 3 * runs.EPOCH > trainer.global_step


@pytest.mark.failure(9)
def test_a_loss_function_that_fails_leaves_training_running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = runs.LeapCallback(runs.heldout(), broken_loss(after=12), module="gpt", **ALWAYS)
    trainer = runs.trained(tmp_path, callback)
    assert "training goes on: RuntimeError: the disk of the held-out data is gone" in caplog.text
    assert callback.leap.disabled is not None
    assert callback.effective_step == trainer.global_step + callback.leap.leapt >= STEPS


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("DeepSpeedStrategy", "DeepSpeedStrategy rewrites the weights from master copies"),
        ("FSDPStrategy", "FSDPStrategy shards the weights"),
        ("ModelParallelStrategy", "ModelParallelStrategy shards the weights"),
    ],
)
def test_strategies_that_own_the_weights_are_refused(strategy: str, words: str) -> None:
    trainer = SimpleNamespace(strategy=type(strategy, (), {})(), world_size=1, global_step=0)
    with pytest.raises(ValueError, match=words):
        runs.leaping().on_train_start(trainer, None)


def test_several_processes_are_refused_in_live_mode_alone() -> None:
    trainer = SimpleNamespace(strategy=type("DDPStrategy", (), {})(), world_size=2, global_step=0)
    with pytest.raises(ValueError, match="2 processes train together"):
        runs.leaping().on_train_start(trainer, None)


@pytest.mark.parametrize("mode", ["live", "shadow"])
def test_several_optimizers_are_refused_where_steps_are_counted(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the module has 2 optimizers, whose steps Lightning adds up in its global_"):
        runs.trained(tmp_path, runs.leaping(mode=mode), module=runs.Two(), max_steps=8)


def test_several_optimizers_are_watched(tmp_path: Path) -> None:
    callback = runs.leaping(mode="monitor")
    runs.trained(tmp_path, callback, module=runs.Two(), max_steps=2 * STEPS)
    assert [event.step for event in callback.leap.events] == list(range(INTERVAL, STEPS + 1, INTERVAL))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout": None}, "LeapCallback got no held-out data, which mode 'live' needs"),
        ({"max_steps": 5}, "option 'max_steps' is unknown to LeapCallback: use heldout"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.LeapCallback(**{"heldout": runs.heldout(), **options})


def test_the_watched_module_is_named_or_has_a_forward(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Small has no forward, which fingerprints need: define one, or name the sub"):
        runs.trained(tmp_path, runs.leaping(module=None))
    with pytest.raises(ValueError, match="module 'bert' is no submodule of Small: it has gpt"):
        runs.trained(tmp_path, runs.leaping(module="bert"))


def test_a_module_with_a_forward_is_watched_itself(tmp_path: Path) -> None:
    class Whole(type(runs.module_of(runs.pl))):
        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.gpt(input_ids)

    callback = runs.leaping(module=None)
    runs.trained(tmp_path, callback, module=Whole())
    assert callback.leap.leapt > 0
    assert callback.leap.disabled is None


@pytest.mark.slow
def test_a_missing_framework_names_the_line_that_installs_it() -> None:
    script = (
        "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "try:\n    import leapverify.integrations.lightning\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Lightning is not installed: pip install 'leapverify[lightning]'"


@pytest.mark.slow
def test_either_package_alone_will_do() -> None:
    pytest.importorskip("pytorch_lightning")
    script = (
        "import sys; sys.modules['lightning'] = None\n"
        "from leapverify.integrations.lightning import LeapCallback\n"
        "import pytorch_lightning\n"
        "print(issubclass(LeapCallback, pytorch_lightning.Callback))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
