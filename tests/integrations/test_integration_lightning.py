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

pytest.importorskip("lightning", reason="lightning is not installed: pip install 'leapverify[lightning]'")

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from leapverify.integrations.lightning import LeapCallback
from leapverify.integrations.losses import causal_losses
from stdlib_gpt2 import batches, broken_loss, same_weights, small_gpt2, windows

pytestmark = [
    # What Lightning says of the machine, and does with torch itself, is not the matter here.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

STEPS = 60
EPOCH = 16
"""Steps of an epoch; Lightning resumes plain loaders between epochs only."""
INTERVAL, HORIZON = 4, 5
ALWAYS = {
    "policy": "fixed",
    "predictor": "linear",
    "horizon": HORIZON,
    "criterion": "always",
    "interval": INTERVAL,
    "sequences": 16,
    "leap_in_decay": True,
}


def module_of(package: Any, interval: str = "step", frequency: int = 1) -> Any:
    """The small model as a LightningModule of either package."""

    class Small(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = small_gpt2()
            self.seen: list[float] = []

        def on_train_batch_start(self, batch: torch.Tensor, index: int) -> None:
            torch.manual_seed(self.global_step)  # Lightning's checkpoints hold no random streams

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            losses, _ = causal_losses(self.gpt, {"input_ids": batch})
            self.seen.append(float(losses.detach().mean()))
            return losses.mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=STEPS)
            settings = {"scheduler": scheduler, "interval": interval, "frequency": frequency}
            return {"optimizer": optimizer, "lr_scheduler": settings}

    return Small()


def trained(
    out: Path, *callbacks: Any, package: Any = pl, module: Any = None, weights_only: bool | None = None, **settings: Any
) -> Any:
    """The trainer of a finished run of the small module."""
    ckpt_path = settings.pop("ckpt_path", None)
    module = module_of(package) if module is None else module
    torch.manual_seed(3)
    trainer = package.Trainer(
        accelerator="cpu",
        default_root_dir=out,
        callbacks=list(callbacks),
        logger=settings.pop("logger", False),
        enable_checkpointing=any(isinstance(each, package.callbacks.ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"max_steps": STEPS, **settings},
    )
    trainer.fit(module, DataLoader(windows(0, 4 * EPOCH), batch_size=4), ckpt_path=ckpt_path, weights_only=weights_only)
    return trainer


def heldout() -> list[Any]:
    return batches(72, 64)


def leaping(**options: Any) -> LeapCallback:
    return LeapCallback(heldout(), **{"module": "gpt", **ALWAYS, **options})


def saving(folder: Path) -> Any:
    return pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=EPOCH, save_top_k=-1, filename="{step}")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Lightning's own notes are left out."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.mark.failure(7)
@pytest.mark.parametrize("mode", ["off", "monitor", "shadow"])
def test_watching_leaves_the_weights_as_they_are(mode: str, tmp_path: Path) -> None:
    plain = trained(tmp_path)
    callback = leaping(mode=mode)
    watched = trained(tmp_path, callback)
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
    callback = leaping()
    trainer = trained(tmp_path, callback, package=package)
    assert callback.leap.leapt >= 3 * HORIZON
    assert trainer.global_step == len(trainer.lightning_module.seen)
    assert callback.effective_step == trainer.global_step + callback.leap.leapt
    assert callback.effective_step - HORIZON - 1 < STEPS <= callback.effective_step
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == callback.effective_step


def test_the_numbers_are_logged(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    callback = leaping()
    trained(tmp_path, callback, logger=logger)
    rows = list(csv.DictReader(Path(logger.log_dir, "metrics.csv").read_text().splitlines()))
    logged = [float(row["leap/leapt_steps"]) for row in rows if row["leap/leapt_steps"]]
    assert logged[-1] == callback.leap.leapt
    assert any(row["leap/gain"] for row in rows)


@pytest.mark.failure(5)
@pytest.mark.parametrize("weights_only", [True, False])
def test_resuming_after_a_leap_ends_with_the_same_weights(weights_only: bool, tmp_path: Path) -> None:
    whole = leaping()
    first = trained(tmp_path, whole, saving(tmp_path))
    at = tmp_path / f"step={EPOCH}.ckpt"
    saved = torch.load(at, weights_only=True)["callbacks"]["LeapCallback"]
    assert saved["driver"]["engine"]["counts"]["leapt"] > 0
    again = leaping()
    second = trained(tmp_path / "b", again, saving(tmp_path / "b"), ckpt_path=at, weights_only=weights_only)
    assert again.leap.leapt == whole.leap.leapt
    assert second.global_step == first.global_step
    assert second.lightning_module.seen == first.lightning_module.seen[EPOCH:]
    assert same_weights(first.lightning_module, second.lightning_module)


def test_the_last_checkpoint_holds_the_engine(tmp_path: Path) -> None:
    callback = leaping()
    trainer = trained(tmp_path, callback, pl.callbacks.ModelCheckpoint(tmp_path, save_last=True))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == trainer.global_step
    assert saved["callbacks"]["LeapCallback"]["driver"]["engine"]["counts"]["leapt"] == callback.leap.leapt


@pytest.mark.failure(12)
def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    callback = leaping(mode="monitor")
    trainer = trained(tmp_path, callback, accumulate_grad_batches=4, max_steps=12)
    assert len(trainer.lightning_module.seen) == 48
    assert [event.step for event in callback.leap.events] == [4, 8, 12]


@pytest.mark.parametrize(("interval", "frequency"), [("epoch", 1), ("step", 2)])
def test_schedulers_that_do_not_step_with_every_batch_stay(interval: str, frequency: int, tmp_path: Path) -> None:
    callback = leaping()
    trainer = trained(tmp_path, callback, module=module_of(pl, interval, frequency))
    assert callback.leap.leapt > 0
    turns = trainer.global_step // (EPOCH if interval == "epoch" else frequency)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == turns


def test_the_steps_of_the_epochs_are_the_end_where_no_other_is_given(tmp_path: Path) -> None:
    callback = leaping()
    trainer = trained(tmp_path, callback, max_steps=-1, max_epochs=3)
    assert callback.effective_step >= 3 * EPOCH > trainer.global_step


@pytest.mark.failure(9)
def test_a_loss_function_that_fails_leaves_training_running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = LeapCallback(heldout(), broken_loss(after=12), module="gpt", **ALWAYS)
    trainer = trained(tmp_path, callback)
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
        leaping().on_train_start(trainer, None)


def test_several_processes_are_refused_in_live_mode_alone() -> None:
    trainer = SimpleNamespace(strategy=type("DDPStrategy", (), {})(), world_size=2, global_step=0)
    with pytest.raises(ValueError, match="2 processes train together"):
        leaping().on_train_start(trainer, None)


class _Two(pl.LightningModule):
    """Two networks with an optimizer each, stepped in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gpt, self.other = small_gpt2(), torch.nn.Linear(3, 3)

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        losses = causal_losses(self.gpt, {"input_ids": batch})[0].mean(), self.other(torch.ones(3)).sum()
        for loss, optimizer in zip(losses, self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(each.parameters(), lr=0.01) for each in (self.gpt, self.other)]


@pytest.mark.parametrize("mode", ["live", "shadow"])
def test_several_optimizers_are_refused_where_steps_are_counted(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the module has 2 optimizers, whose steps Lightning adds up in its global_"):
        trained(tmp_path, leaping(mode=mode), module=_Two(), max_steps=8)


def test_several_optimizers_are_watched(tmp_path: Path) -> None:
    callback = leaping(mode="monitor")
    trained(tmp_path, callback, module=_Two(), max_steps=2 * STEPS)
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
        LeapCallback(**{"heldout": heldout(), **options})


def test_the_watched_module_is_named_or_has_a_forward(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Small has no forward, which fingerprints need: define one, or name the sub"):
        trained(tmp_path, leaping(module=None))
    with pytest.raises(ValueError, match="module 'bert' is no submodule of Small: it has gpt"):
        trained(tmp_path, leaping(module="bert"))


def test_a_module_with_a_forward_is_watched_itself(tmp_path: Path) -> None:
    class Whole(type(module_of(pl))):
        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.gpt(input_ids)

    callback = leaping(module=None)
    trained(tmp_path, callback, module=Whole())
    assert callback.leap.leapt > 0
    assert callback.leap.disabled is None


def test_a_missing_framework_names_the_line_that_installs_it() -> None:
    script = (
        "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "try:\n    import leapverify.integrations.lightning\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Lightning is not installed: pip install 'leapverify[lightning]'"


def test_either_package_alone_will_do() -> None:
    script = (
        "import sys; sys.modules['lightning'] = None\n"
        "from leapverify.integrations.lightning import LeapCallback\n"
        "import pytorch_lightning\n"
        "print(issubclass(LeapCallback, pytorch_lightning.Callback))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
