"""What a configuration costs before it is run: parameters, tokens, operations, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass

from leapverify.study.config import StudyConfig
from leapverify.train.models import parameter_count

BYTES_TRAINED = 16
"""Of a parameter in training: float32 weight, gradient and two moments."""
BYTES_BRANCH = 12
"""Of a parameter while a cascade runs: its weight and two moments, kept to go back to."""
BYTES_HISTORY = {"float32": 4, "float16": 2, "bfloat16": 2}
LOGIT_BYTES = 4 * 4
"""Of a logit in a training step: its value, its float32 copy, its softmax and its gradient."""

VOCABULARY = {"bytes": 256, "gpt2": 50257}
"""Of tokenizers that a bill can be made for without loading them."""


@dataclass(frozen=True)
class Cost:
    """The bill of a study; bytes are estimates from the sizes of the tensors."""

    parameters: int
    tokens: int
    """Training tokens of all seeds."""
    train_flops: float
    sweep_flops: float
    """Forward passes of the sweep, if every checkpoint is swept and no paired test stops early."""
    memory_bytes: int
    """Of one seed: weights, gradients, moments, history, backup, logits."""
    disk_bytes: int
    """Of all seeds."""


def cost(config: StudyConfig, vocab_size: int) -> Cost:
    """The bill, by 6 operations per parameter and token for training and 2 for a forward pass.

    Args:
        config: the study.
        vocab_size: the tokenizer's, where the model names none.
    """
    from leapverify.study.setup import history_length

    t, v = config.training, config.verify
    parameters = parameter_count(config.model, vocab_size, t.sequence_length)
    seeds, checkpoints = len(config.seeds), len(config.checkpoint_steps)
    tokens = t.steps * t.batch_size * t.sequence_length
    evaluations = len(config.sweep.predictors) * len(config.sweep.horizons) * checkpoints
    history = history_length(config) * BYTES_HISTORY[config.sweep.history]
    logits = t.batch_size * t.sequence_length * (config.model.vocab_size or vocab_size)
    return Cost(
        parameters=parameters,
        tokens=seeds * tokens,
        train_flops=6.0 * parameters * tokens * seeds,
        sweep_flops=2.0 * parameters * evaluations * v.budget * t.sequence_length * seeds,
        memory_bytes=parameters * _bytes_a_parameter(config, history) + logits * LOGIT_BYTES,
        disk_bytes=seeds * _disk_bytes(config, parameters, checkpoints, history_length(config)),
    )


def _bytes_a_parameter(config: StudyConfig, history: int) -> int:
    """Training, history and the sweep's backup; what a cascade puts aside; the Lyapunov copy."""
    put_aside = BYTES_BRANCH if config.cascade.kinds else 0
    copy = BYTES_TRAINED if config.observe.lyapunov else 0
    return BYTES_TRAINED + history + 4 + put_aside + copy


def _disk_bytes(config: StudyConfig, parameters: int, checkpoints: int, history: int) -> int:
    weights = checkpoints if config.snapshots.weights == "all" else min(checkpoints, history + 2)
    states = checkpoints if config.snapshots.optimizer == "all" else min(checkpoints, 2)
    fingerprints = 100 * config.model.hidden * 4 * (checkpoints + 1)
    return parameters * (4 * weights + 8 * states) + fingerprints


def vocabulary_of(config: StudyConfig) -> int:
    """The vocabulary of a preset without loading its tokenizer."""
    return config.model.vocab_size or VOCABULARY.get(config.data.tokenizer, 50257)
