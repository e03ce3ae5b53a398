"""Whole configurations by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from leapverify.config.overrides import one_line
from leapverify.config.run import DataConfig, TrainingConfig, TuningConfig
from leapverify.config.study import (
    ALL_REGIMES,
    CascadeConfig,
    ObserveConfig,
    SnapshotConfig,
    StudyConfig,
    SweepConfig,
    VerifyConfig,
)
from leapverify.errors import ConfigError, hint
from leapverify.predict import predictor
from leapverify.train.models import ModelSpec, gpt2_124m_spec, qwen_1_5b_spec, qwen_7b_spec

WARMUP_FRACTION = 0.05
"""The paper's 100 of 2000 steps; a study of another length keeps the share."""


def _warmup_steps(steps: int) -> int:
    return max(1, round(WARMUP_FRACTION * steps))


def tiny(steps: int | None = None) -> StudyConfig:
    """A GPT-2-shaped model of 0.13 M parameters over bytes: four seeds in a few minutes on two cores.

    The learning rate is chosen so that chaotic, transition and stable checkpoints all occur under the paper's
    thresholds; every checkpoint is swept, also the chaotic ones, since a recognizer can only be judged where it
    had something to refuse.
    """
    steps = steps or 1500
    return StudyConfig(
        preset="tiny",
        seeds=(42, 43, 44, 45),
        model=ModelSpec(family="gpt2", layers=2, hidden=64, heads=4, context=128, dropout=0.0),
        training=TrainingConfig(
            steps=steps, batch_size=8, sequence_length=64, lr=1.5e-4, warmup_steps=_warmup_steps(steps)
        ),
        verify=VerifyConfig(sequences=64, budget=128, batch_sequences=64, val_sequences=128),
        sweep=SweepConfig(regimes=ALL_REGIMES, curve_every_steps=5),
        cascade=CascadeConfig(max_starts=2),
        snapshots=SnapshotConfig(weights="all", optimizer="all"),
    )


def tiny_finetune(steps: int | None = None) -> StudyConfig:
    """What `tiny` has learnt on code, trained on to prose, all weights, at a usual rate of fine-tuning.

    Its start is made by `leapverify study tiny --set data.source=stdlib-code --out runs/tiny-code`.
    """
    return _tuned("tiny-finetune", steps, lr=5e-5, tuning=TuningConfig(start="runs/tiny-code"))


def tiny_lora(steps: int | None = None) -> StudyConfig:
    """The same by adapters of rank 8, at a usual rate of LoRA."""
    return _tuned("tiny-lora", steps, lr=2e-4, tuning=TuningConfig(start="runs/tiny-code", lora_rank=8))


def _tuned(name: str, steps: int | None, lr: float, tuning: TuningConfig) -> StudyConfig:
    """A short run on other text: checkpoints lie closer, and horizons and cascades keep their share of an interval."""
    steps, base = steps or 600, tiny()
    changed = {"steps": steps, "lr": lr, "warmup_steps": _warmup_steps(steps)}
    return StudyConfig(
        preset=name,
        seeds=base.seeds,
        data=DataConfig(source="stdlib-prose"),
        model=base.model,
        training=TrainingConfig(**{**base.training.model_dump(), **changed}),
        tuning=tuning,
        observe=ObserveConfig(interval_steps=20),
        verify=base.verify,
        sweep=SweepConfig(regimes=ALL_REGIMES, horizons=(2, 4, 10, 20, 30, 40), curve_every_steps=2),
        cascade=CascadeConfig(max_starts=2, shapes=((4, 10), (2, 20), (10, 4))),
        snapshots=base.snapshots,
    )


def _paper(
    name: str,
    model: ModelSpec,
    tokenizer: str,
    steps: int | None,
    *,
    states_every: int | None = 1,
    largest_ring: int = 4,
    **training: Any,
) -> StudyConfig:
    steps = steps or 2000
    kept = [each for each in SweepConfig().predictors if predictor(each).needs.reach <= largest_ring]
    return StudyConfig(
        preset=name,
        data=DataConfig(source="wikitext-103", tokenizer=tokenizer),
        model=model,
        training=TrainingConfig(steps=steps, warmup_steps=_warmup_steps(steps), **training),
        sweep=SweepConfig(predictors=tuple(kept)),
        snapshots=SnapshotConfig(every=states_every),
    )


def gpt2_124m(steps: int | None = None) -> StudyConfig:
    """The paper's GPT-2 124M: 12 layers, 768 wide, 12 heads."""
    return _paper("gpt2-124m", gpt2_124m_spec(), "gpt2", steps)


def qwen_1_5b(steps: int | None = None) -> StudyConfig:
    """The paper's Qwen 2.5-1.5B: 28 layers, 1536 wide, 12 heads.

    A ring of three snapshots serves all of the paper's predictors. A state with its ring is 37 GB, so that one is
    written at every tenth checkpoint only.
    """
    return _paper("qwen2.5-1.5b", qwen_1_5b_spec(), "Qwen/Qwen2.5-1.5B", steps, states_every=10, largest_ring=3)


def qwen_7b(steps: int | None = None) -> StudyConfig:
    """The paper's Qwen 2.5-7B: 28 layers, 3584 wide, 28 heads.

    Weights, gradients and moments in bfloat16, the only way in which they fit one GPU of 80 GB; the report says how
    many updates survive that. Everything is measured in the stream, from a ring of three snapshots: nothing is written
    that a stopped seed could go on from.
    """
    stream: dict[str, Any] = {"states_every": None, "largest_ring": 3, "weights": "bfloat16"}
    return _paper("qwen2.5-7b", qwen_7b_spec(), "Qwen/Qwen2.5-7B", steps, **stream)


PRESETS: Mapping[str, Callable[[int | None], StudyConfig]] = {
    "tiny": tiny,
    "tiny-finetune": tiny_finetune,
    "tiny-lora": tiny_lora,
    "gpt2-124m": gpt2_124m,
    "qwen2.5-1.5b": qwen_1_5b,
    "qwen2.5-7b": qwen_7b,
}


def preset(name: str, steps: int | None = None) -> StudyConfig:
    """The preset of that name, its schedule fitted to so many steps.

    Raises:
        ConfigError: no such preset, or too few steps.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}: {hint(name, PRESETS)}")
    if steps is not None and steps < 1:
        raise ConfigError(f"{steps} steps are no study: give a positive number of steps, such as 1000")
    try:
        return PRESETS[name](steps)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error
