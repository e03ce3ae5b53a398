"""The apparatus of one seed: text, model, optimizer, fingerprints, held-out sets, as the configuration says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leapverify.capacity.activations import shapes_of
from leapverify.capacity.machine import machine
from leapverify.capacity.plan import memory_plan
from leapverify.config.resolved import Resolved
from leapverify.core.ranks import Ranks
from leapverify.core.shards import Shards, local
from leapverify.core.weights import trainable
from leapverify.observe import Fingerprinter
from leapverify.study.history_context import add_losses, make_history
from leapverify.study.initial_weights import check_start, first_model
from leapverify.study.parallel import ParallelFingerprinter, ParallelModel, shards_of
from leapverify.train.batches import Batch, Batches, Windows
from leapverify.train.corpus import Corpus, TokenSet, prepare
from leapverify.train.loop import train_step
from leapverify.train.losses_compiled import Losses
from leapverify.train.models import parameter_count
from leapverify.train.optimizer import build_optimizer
from leapverify.train.schedule import Schedule
from leapverify.train.tokenizers import load_tokenizer
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verifier


def open_corpus(config: Resolved, cache: Path | None = None) -> Corpus:
    """The configured text as tokens, made on the first call and taken from the cache afterwards."""
    return prepare(config.data.source, load_tokenizer(config.data.tokenizer), cache)


def check_input(config: Resolved) -> None:
    """Read text, tokenizer and probes as a study will.

    Raises:
        ValueError: one of them cannot be had, or there is too little text.
    """
    corpus, t, v = open_corpus(config), config.training, config.verify
    _heldout(corpus, config)
    for tokens, count in ((corpus.train, t.batch_size), (corpus.val, v.val_sequences)):
        _windows(tokens, config, count)
    _ = config.probes
    parameters_of(config)
    check_start(config)


def parameters_of(config: Resolved) -> int | None:
    """The parameters of the configured model, frozen ones too, counted without allocating it; None if it is pretrained.

    Raises:
        ValueError: its vocabulary is below the tokenizer's.
    """
    if config.model.pretrained:
        return None
    tokens = load_tokenizer(config.data.tokenizer).vocab_size
    if config.model.vocab_size is not None and config.model.vocab_size < tokens:
        raise ValueError(
            f"model.vocab_size {config.model.vocab_size} is below the {tokens} of tokenizer {config.data.tokenizer}: "
            "raise it, or set model.vocab_size=null"
        )
    return parameter_count(config.model, tokens, config.training.sequence_length)


@dataclass
class Apparatus:
    """Everything that one seed is trained and measured with."""

    config: Resolved
    seed: int
    device: torch.device
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    """All that is trained: what snapshots hold."""
    moved: dict[str, nn.Parameter]
    """Those that predictions move."""
    tensors: list[Tensor]
    """What this rank holds of those that predictions move, in memory that stays: what the history holds."""
    optimizer: torch.optim.AdamW
    schedule: Schedule
    batches: Batches
    losses: Losses
    fingerprinter: Fingerprinter | ParallelFingerprinter
    verifier: Verifier
    """Measures on held-out text; decisions read this one."""
    validator: Verifier
    """Measures on the reported set, which no decision reads."""
    history: History
    """With all that the configured predictors read; see `after_step` for what to tell it of real steps."""
    spread: ParallelModel | None = None
    """How the model lies on several ranks; None in one process."""

    @property
    def ranks(self) -> Ranks:
        """Who trains this model together."""
        return Ranks() if self.spread is None else self.spread.ranks

    @property
    def shards(self) -> Shards | None:
        """How the tensors lie on the ranks; None in one process."""
        return self.history.shards

    @property
    def autocast(self) -> torch.dtype | None:
        """The precision of forward passes; None is that of the weights."""
        return self.config.autocast(self.device)

    def batch(self, step: int) -> Batch:
        """What step number `step` trains on."""
        return self.batches(step)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, lr: float) -> Tensor:
        """One optimizer step; the loss stays on the device."""
        clip = self.config.training.grad_clip
        if self.spread is None:
            return train_step(model, optimizer, batch, lr, grad_clip=clip, loss=self.losses.mean)
        loss = self.spread.mean(self.losses)
        return self.spread.global_mean(train_step(model, optimizer, batch, lr, grad_clip=clip, loss=loss))

    def train(self, first_batch: int, first_step: int, count: int) -> None:
        """`count` real steps: batches from number `first_batch` on, at the rates of the steps from `first_step` on."""
        for index in range(count):
            rate = self.schedule(first_step + index)
            self.step(self.model, self.optimizer, self.batch(first_batch + index), rate)

    def after_step(self, step: int) -> None:
        """Tell the history of a real step that the model has just taken; 0 is the state that a run begins with.

        Whoever walks a run calls it after every real step, and once with 0 before the first; at a checkpoint before
        `history.push`. It puts the steps that lead to a checkpoint one by one into `history.recent` and the first
        state into `history.milestones`, where predictors ask for them, and does nothing where none does.
        """
        recent = self.history.recent
        if recent is not None and -step % self.config.observe.interval_steps < recent.length:
            recent.push(step, self.tensors)
        if step == 0:
            self.history.start(step, self.tensors)

    def optimizer_state(self, step: int) -> OptimizerState:
        """Adam's present state, in the precision in which predictors are to see it."""
        moved = list(self.moved.values())
        state = OptimizerState.from_optimizer(self.optimizer, moved, step=step, schedule=self.schedule)
        state = state if self.spread is None else self.spread.optimizer_state(state, moved)
        return state.rounded(torch.float16) if self.config.sweep.moments == "float16" else state

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        """An optimizer as the configuration says."""
        return optimizer_of(self.config, parameters, self.device, self.seed)


def optimizer_of(
    config: Resolved, parameters: Iterable[nn.Parameter], device: torch.device, seed: int
) -> torch.optim.AdamW:
    """The configured AdamW; the seed is that of stochastic rounding."""
    t = config.training
    return build_optimizer(parameters, t.lr, t.betas, t.eps, t.weight_decay, device, rounding=t.rounding, seed=seed)


def build(config: Resolved, seed: int, device: str, corpus: Corpus, ranks: Ranks | None = None) -> Apparatus:
    """The apparatus of one seed, untrained.

    Args:
        config: the study.
        seed: of the run.
        device: of this process.
        corpus: the text.
        ranks: who trains this model together, all calling this at the same point; None: one process.

    Raises:
        ConfigError: on several ranks, a setting that needs one process.
        ValueError: text, tokenizer or model cannot be had.
    """
    place, t = torch.device(device), config.training
    tokenizer = load_tokenizer(config.data.tokenizer)
    model = first_model(config, seed, tokenizer.vocab_size)
    spread = None if ranks is None or ranks.alone else ParallelModel(model, config, place, ranks)
    if spread is None:
        model.to(place)
    torch.manual_seed(seed if spread is None else spread.ranks.stream_seed(seed))
    parameters = trainable(model)
    moved = trainable(model, config.moves(model))
    optimizer = optimizer_of(config, parameters.values(), place, seed)
    v, autocast = config.verify, config.autocast(place)
    heldout = _batches(_heldout(corpus, config), config, v.budget, place)
    val = _batches(_windows(corpus.val, config, v.val_sequences), config, v.val_sequences, place)
    windows = _windows(corpus.train, config, t.batch_size)
    ring = None if spread is not None else ring_devices(config, model, place)
    tensors: list[Tensor] = [*moved.values()] if spread is None else [local(each) for each in moved.values()]
    history = make_history(config, model, dict(zip(moved, tensors, strict=True)), ring)
    history.shards = None if spread is None else shards_of(list(moved.values()), spread.ranks)
    batches = Batches(windows, t.batch_size, seed, place)
    add_losses(history, config, model, _heldout(corpus, config), windows, batches, spread)
    losses = Losses(count_padding=config.data.count_padding, autocast=autocast, mode=t.compile)
    sequences = losses.sequences if spread is None else spread.sequences(losses)
    fingerprinter = Fingerprinter(
        model,
        config.probes,
        tokenizer=tokenizer,
        layer=config.observe.layer,
        pooling=config.observe.pooling,
        masked=config.observe.masked,
        max_tokens=config.model.context,
        autocast=autocast,
    )
    return Apparatus(
        config=config,
        seed=seed,
        device=place,
        model=model,
        parameters=parameters,
        moved=moved,
        tensors=tensors,
        optimizer=optimizer,
        schedule=Schedule(t.schedule, t.lr, t.warmup_steps, t.steps, t.lr_floor),
        batches=batches,
        losses=losses,
        fingerprinter=fingerprinter if spread is None else ParallelFingerprinter(fingerprinter, spread),
        verifier=Verifier(
            model, heldout, sequences, sequences=v.sequences, budget=v.budget, epsilon=v.epsilon, alpha=v.alpha
        ),
        validator=Verifier(model, val, sequences, sequences=v.val_sequences, budget=v.val_sequences),
        history=history,
        spread=spread,
    )


def ring_devices(config: Resolved, model: nn.Module, place: torch.device) -> list[torch.device] | None:
    """Where the snapshots of each moved tensor lie, by the memory plan; None: beside the tensor."""
    if place.type == "cpu":
        return None
    plan = memory_plan(config, shapes_of(model, config.moves(model)), machine().room)
    return [place if where == "device" else torch.device("cpu") for where in plan.ring_places]


def _windows(tokens: TokenSet, config: Resolved, at_least: int) -> Windows:
    return tokens.windows(config.training.sequence_length, config.data.form, at_least=at_least)


def _heldout(corpus: Corpus, config: Resolved) -> Windows:
    """The held-out sequences, of which the verifier reads a part, and predictors that choose another."""
    v = config.verify
    selection = v.selection_sequences if config.needs.selection else 0
    return _windows(corpus.heldout, config, v.budget + selection)


def _batches(windows: Windows, config: Resolved, count: int, device: torch.device) -> list[Batch]:
    """`count` sequences spread over a set, in forward passes of the configured size, on the device once and for all."""
    # Neighbouring windows are alike. Dealing the evenly spread ones out in strides makes every batch a sample of all.
    chosen = windows.spread(count)
    size = config.verify.batch_sequences
    stride = max(1, -(-count // size))
    dealt = [index for start in range(stride) for index in chosen[start::stride]]
    return [windows.batch(dealt[start : start + size]).to(device) for start in range(0, count, size)]
