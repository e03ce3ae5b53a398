"""LeapCallback for Lightning, under its name `lightning` as well as `pytorch_lightning`.

    from leapverify.integrations.lightning import LeapCallback

    trainer = lightning.Trainer(callbacks=[LeapCallback(heldout=batches, module="network", loss=loss, interval=50)])

Acts in `on_train_batch_end`, and only where `trainer.global_step` has grown, so accumulated batches count for nothing.
Schedulers that step with the optimizer move on by the leapt steps; those that step by the epoch stay, for epochs are
counted in data, which a leap does not use up. The run stops when the effective step reaches `max_steps`, or the steps
that its epochs make.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
from typing import Any

from leapverify.integrations.losses import causal_losses
from leapverify.integrations.wiring import (
    checked,
    mode_of,
    not_installed,
    numbers_of,
    refuse_plugin,
    refuse_processes,
)
from leapverify.leap.api import LeapVerify
from leapverify.verify.heldout import LossFunction

log = logging.getLogger(__name__)

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> Any:
    """The base class of callbacks, from the package that is in use already, or else from the one that is there."""
    for name in sorted(PACKAGES, key=lambda package: package not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise not_installed("Lightning", "lightning")


class LeapCallback(_callback_class()):  # type: ignore[misc]
    """Watches a Lightning run, or leaps in it.

    Args:
        heldout: batches that training does not see, or a function that gives a fresh one.
        loss: (module, batch) -> scalar, (B,) or (losses, tokens); it must not log. By default the next-token losses of
            a causal language model of transformers.
        module: name of the submodule to watch, which `loss` is then given; the LightningModule itself by default, which
            needs a `forward` for that.
        options: of LeapVerify, by name (`LeapConfig` lists them) or as `config`; `probes` and `tokenizer` too.

    Raises:
        ValueError: no held-out data, or an unknown option. When training begins: DeepSpeed, FSDP, several processes
            in mode live, several optimizers in mode live or shadow, an optimizer that rewrites weights, and all that
            LeapVerify refuses.
    """

    def __init__(
        self, heldout: Any = None, loss: LossFunction = causal_losses, *, module: str | None = None, **options: Any
    ) -> None:
        super().__init__()
        self._options = checked(options, heldout)
        self._heldout, self._loss, self._module = heldout, loss, module
        self._saved: dict[str, Any] | None = None
        self._seen = 0
        self._planned: int | None = None
        self.effective_step = 0
        """Real steps and leapt ones."""
        self.leap: LeapVerify | None = None
        """The engine, once training has begun."""

    @property
    def mode(self) -> str:
        """off, monitor, shadow or live."""
        return mode_of(self._options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Build the engine, and take up its state where training is resumed."""
        self.close()
        self._seen = self.effective_step = trainer.global_step
        if self.mode == "off":
            return
        refuse_plugin(type(trainer.strategy).__name__)
        refuse_processes(trainer.world_size, self.mode)
        _refuse_several(len(trainer.optimizers), self.mode)
        self._planned = _planned_steps(trainer, pl_module)
        options = {"total_steps": self._planned, **self._options}
        self.leap = LeapVerify(
            _watched(pl_module, self._module),
            list(trainer.optimizers),
            heldout=self._heldout,
            loss=self._loss,
            scheduler=_moving_with_steps(trainer) or None,
            **options,
        )
        if self._saved is not None:
            self.leap.load_state_dict(self._saved)
            self._saved = None
            self.effective_step = trainer.global_step + self.leap.leapt

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the engine act after a batch that ended in an optimizer step."""
        if self.leap is None:
            self.effective_step = trainer.global_step
            return
        if trainer.global_step <= self._seen:
            return
        self._seen = trainer.global_step
        event = self.leap.step()
        self.effective_step = trainer.global_step + self.leap.leapt
        if event is not None:
            pl_module.log_dict(numbers_of(self.leap, self.effective_step, event), on_step=True, on_epoch=False)
        if self._planned is not None and self.effective_step >= self._planned:
            trainer.should_stop = True

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the engine's hooks out, after the last checkpoint; its report can still be asked for."""
        self.close()

    def close(self) -> None:
        """Take the engine's hooks out of the optimizer."""
        if self.leap is not None:
            self.leap.close()

    def state_dict(self) -> dict[str, Any]:
        """The engine's state, which Lightning puts into its checkpoint."""
        if self.leap is not None:
            return self.leap.state_dict()
        return self._saved or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until there is an engine to take it."""
        self._saved = state_dict or None


def _watched(pl_module: Any, name: str | None) -> Any:
    """The submodule of that name, or the LightningModule itself if it can be called."""
    kind = type(pl_module)
    if name is not None:
        modules = dict(pl_module.named_modules())
        if not name or name not in modules:
            known = ", ".join(each for each, _ in pl_module.named_children())
            raise ValueError(f"module {name!r} is no submodule of {kind.__name__}: it has {known}")
        return modules[name]
    base: Any = next((each for each in kind.mro() if each.__name__ == "LightningModule"), None)
    if base is not None and pl_module.forward.__func__ is base.forward:
        raise ValueError(
            f"{kind.__name__} has no forward, which fingerprints need: define one, or name the submodule that computes "
            "its output, as in LeapCallback(module='model')"
        )
    return pl_module


def _refuse_several(count: int, mode: str) -> None:
    if count > 1 and mode in ("live", "shadow"):
        raise ValueError(
            f"the module has {count} optimizers, whose steps Lightning adds up in its global_step, so that the length "
            "of a leap cannot be told there: use mode='monitor', or one optimizer"
        )


def _planned_steps(trainer: Any, pl_module: Any) -> int | None:
    """Optimizer steps of the whole run; None where there is no sharing_failures."""
    if trainer.max_steps > 0:
        return int(trainer.max_steps)
    # In manual optimization a batch may make any number of steps.
    planned = trainer.estimated_stepping_batches if pl_module.automatic_optimization else math.inf
    return int(planned) if math.isfinite(planned) and planned > 0 else None


def _moving_with_steps(trainer: Any) -> list[Any]:
    """The schedulers that step once with every optimizer step and read no metric."""
    found = []
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step" and config.frequency == 1 and not config.reduce_on_plateau:
            found.append(config.scheduler)
        else:
            log.info("scheduler %s does not step with every batch and stays where it is after a leap", config.name)
    return found
