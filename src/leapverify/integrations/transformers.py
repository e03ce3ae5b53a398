"""LeapCallback for the Trainer of transformers, and so for the trainers of TRL.

    from leapverify.integrations.transformers import LeapCallback

    trainer = Trainer(model, args, train_dataset=train, callbacks=[LeapCallback(heldout=heldout, interval=50)])

Acts in `on_step_end`: gradients are cleared by then, and logging, evaluation and saving still come, so that they see
the new weights. `state.global_step` goes on counting real steps: the Trainer divides its logged loss by it, and finds
its place in the data by it on resume. The schedule moves on by the leapt steps; training ends when the effective step
(real and leapt) reaches `max_steps`; a leap over a multiple of `save_steps`, `eval_steps` or `logging_steps` saves,
evaluates or logs.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from leapverify.errors import Damaged, NotWritten
from leapverify.integrations.losses import causal_losses
from leapverify.integrations.wiring import (
    checked,
    mode_of,
    not_installed,
    numbers_of,
    ranks_met_by,
    refuse_plugin,
    refuse_processes,
)
from leapverify.io.storage import read_json, read_marked, replace_marked
from leapverify.io.untrusted.tensors import check_torch_file
from leapverify.leap.api import LeapVerify
from leapverify.leap.parallel import sharing_failures
from leapverify.verify.heldout import LossFunction

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise not_installed("the Trainer of transformers", "accelerate") from error

log = logging.getLogger(__name__)

FILE = "leapverify.pt"
"""What the callback keeps in a checkpoint's folder: tensors and plain values, with its sha256 in leapverify.json."""


class LeapCallback(TrainerCallback):
    """Watches a Trainer's run, or leaps in it.

    Args:
        heldout: batches that training does not see, as the model takes them, or a function that gives a fresh one.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens); next-token losses of a causal language model by
            default.
        resume_from: folder of the checkpoint that the run goes on from, where it is not `checkpoint-N` in `output_dir`.
        options: of LeapVerify, by name (`LeapConfig` lists them) or as `config`; `probes` and `tokenizer` too.

    Raises:
        ValueError: no held-out data, or an unknown option. When training begins: DeepSpeed, FSDP, several processes
            in mode live, an optimizer that rewrites weights, and all that LeapVerify refuses.
    """

    def __init__(
        self,
        heldout: Any = None,
        loss: LossFunction = causal_losses,
        *,
        resume_from: str | Path | None = None,
        **options: Any,
    ) -> None:
        self._options = checked(options, heldout)
        self._heldout, self._loss = heldout, loss
        self._resume_from = resume_from
        self._logged: int | None = None
        self.effective_step = 0
        """Real steps and leapt ones."""
        self.leap: LeapVerify | None = None
        """The engine, once training has begun."""

    def attach(self, trainer: Any) -> LeapCallback:
        """Add the callback to a Trainer before its other callbacks, so that their logs hold its numbers too.

        With `callbacks=[...]` it comes after TensorBoard's and the like, which then have logged already.
        """
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    @property
    def mode(self) -> str:
        """off, monitor, shadow or live."""
        return mode_of(self._options)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """Build the engine, and take up its state where training is resumed."""
        self.close()
        self.effective_step = state.global_step
        if self.mode == "off":
            return
        _refuse_unsuited(args, optimizer, self.mode)
        options = {"total_steps": state.max_steps, **self._options}
        if hasattr(processing_class, "encode"):
            options.setdefault("tokenizer", processing_class)
        self.leap = LeapVerify(
            model, optimizer, heldout=self._heldout, loss=self._loss, scheduler=lr_scheduler, **options
        )
        if state.global_step:
            self._take_up(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Let the engine act, and put right what the Trainer derives from its count of steps."""
        if self.leap is None:
            self.effective_step = state.global_step
            return control
        before = self.leap.leapt
        self.leap.step()
        leapt = self.leap.leapt - before
        self.effective_step = state.global_step + self.leap.leapt
        if leapt:
            _raise_crossed(args, state, control, self.effective_step - leapt, self.effective_step)
        if self.effective_step >= state.max_steps and not control.should_training_stop:
            _end(args, state, control)
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the engine's numbers to the training log."""
        if self.leap is None or logs is None or "loss" not in logs:
            return
        event = self.leap.events[-1] if self.leap.events else None
        if event is not None and event.step == self._logged:
            event = None
        self._logged = event.step if event is not None else self._logged
        numbers = numbers_of(self.leap, self.effective_step, event)
        logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the engine's state into the checkpoint's folder."""
        if self.leap is None or not args.should_save:
            return
        folder = _folder(args, state.global_step)
        if not folder.is_dir():  # a search over settings saves elsewhere, and never resumes
            return
        try:
            with replace_marked(folder / FILE, step=state.global_step) as handle:
                torch.save(self.leap.state_dict(), handle)
        except NotWritten as error:
            log.warning("the state of LeapCallback is not in %s: %s", folder, error)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the engine's hooks out; its report and its annealed weights can still be asked for."""
        self.close()

    def close(self) -> None:
        """Take the engine's hooks out of the optimizer."""
        if self.leap is not None:
            self.leap.close()

    def _take_up(self, args: Any, state: Any) -> None:
        assert self.leap is not None
        folder = next((each for each in self._candidates(args, state) if _is_of(each, state)), None)
        there = folder is not None and (folder / FILE).exists()
        ranks = ranks_met_by(self.leap)
        if folder is None or not all(ranks.all_gather("a saved state of the callback", there)):
            log.warning(
                "training goes on at step %d without the state of LeapCallback, which is not in %s: its history begins "
                "anew and steps leapt before count as none; pass resume_from=FOLDER if another checkpoint holds it",
                state.global_step,
                folder or _folder(args, state.global_step),
            )
            return
        with sharing_failures(ranks):
            saved = read_state(folder)
        self.leap.load_state_dict(saved)
        self.effective_step = state.global_step + self.leap.leapt

    def _candidates(self, args: Any, state: Any) -> Iterator[Path]:
        # The Trainer tells its callbacks the step it resumes from, but not the folder.
        if self._resume_from is not None:
            yield Path(self._resume_from)
        if isinstance(args.resume_from_checkpoint, str):
            yield Path(args.resume_from_checkpoint)
        yield _folder(args, state.global_step)


def read_state(folder: Path) -> Any:
    """What a checkpoint's folder holds of the callback; only tensors and plain values are read, nothing is run.

    Raises:
        Damaged: it is missing, altered, or holds anything else.
    """
    remedy = "resume from another checkpoint, or delete it to begin anew"
    content, _ = read_marked(folder / FILE, remedy)
    try:
        check_torch_file(io.BytesIO(content))
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what a pickle makes of the few functions it may call is of every class
        reason = "is damaged, or holds more than tensors (code in it is never run)"
        raise Damaged(f"{folder / FILE} {reason}: {remedy}") from error


def _folder(args: Any, step: int) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"


def _is_of(folder: Path, state: Any) -> bool:
    """Whether a checkpoint's folder holds the very state that training goes on from."""
    try:
        saved = read_json(folder / "trainer_state.json")
    except ValueError:
        return False
    if not isinstance(saved, dict):
        return False
    # As text, because a logged NaN differs from itself.
    same_log = json.dumps(saved.get("log_history")) == json.dumps(state.log_history)
    return bool(saved.get("global_step") == state.global_step and same_log)


def _refuse_unsuited(args: Any, optimizer: Any, mode: str) -> None:
    if getattr(args, "deepspeed", None):
        refuse_plugin("DeepSpeed")
    if getattr(args, "fsdp", None):
        refuse_plugin("FSDP")
    plugin = getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", None)
    refuse_plugin(str(getattr(plugin, "value", plugin)))
    refuse_processes(args.world_size, mode)


def _raise_crossed(args: Any, state: Any, control: Any, before: int, now: int) -> None:
    """Raise the flags of intervals that a leap from one effective step to another has crossed."""

    def crossed(strategy: Any, interval: Any) -> bool:
        return strategy == "steps" and bool(interval) and now // int(interval) > before // int(interval)

    if crossed(args.logging_strategy, state.logging_steps):
        control.should_log = True
    if crossed(args.eval_strategy, state.eval_steps) and args.eval_delay <= state.global_step:
        control.should_evaluate = True
        # The best model is looked for among the evaluated steps, so each of them needs its checkpoint.
        control.should_save = control.should_save or bool(args.load_best_model_at_end)
    if crossed(args.save_strategy, state.save_steps):
        control.should_save = True


def _end(args: Any, state: Any, control: Any) -> None:
    """End training as the Trainer does at its last step: with an evaluation and a checkpoint, where it has any."""
    control.should_training_stop = True
    if args.eval_strategy == "steps" and args.eval_delay <= state.global_step:
        control.should_evaluate = True
    if args.save_strategy == "steps":
        control.should_save = True
