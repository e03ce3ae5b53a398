"""The whole configuration of a race: frozen, every key known, checked next to its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from leapverify.config.run import Positive, Section
from leapverify.predict import names, predictor
from leapverify.race.arms import arm_named, with_needs
from leapverify.race.optimizers import OPTIMIZERS
from leapverify.train.models import ModelSpec

TaskName = Literal["pretrain", "finetune", "lora", "convex", "noise"]
TASKS: tuple[TaskName, ...] = ("pretrain", "finetune", "lora", "convex", "noise")

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def known_optimizers(names: Iterable[str]) -> None:
    """Refuse a name that is no optimizer of the race (ValueError)."""
    for name in names:
        if name not in OPTIMIZERS:
            raise ValueError(f"optimizer {name!r} is unknown: give {', '.join(OPTIMIZERS)}")


def every_predictor() -> tuple[str, ...]:
    """The names of the catalogue, but for those that have to be told a file first."""
    found = []
    for name in names():
        with suppress(ValueError):
            predictor(name)
            found.append(name)
    return tuple(found)


class Length(Section):
    """How long a task's runs are, and how often something is looked at."""

    steps: Positive
    """Optimizer steps of a run that leaps over none."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Steps over which eta rises from 0 to its peak."""
    eval_every: Positive
    """Real steps between readings of the reported loss."""
    interval: Positive
    """Delta, steps between checkpoints."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("warmup_steps", "eval_every", "interval"):
            value = getattr(self, name)
            if value >= self.steps:
                raise ValueError(f"{name} is {value} where a run has {self.steps} steps: set it below them")
        return self


class TextLength(Length):
    """The same for a language task, with the learning rates that suit its model."""

    usual: Mapping[str, Rate]
    """Optimizer -> peak of eta that people take without tuning."""
    grids: Mapping[str, tuple[Rate, ...]]
    """Optimizer -> peaks among which tuning chooses, ascending by factors of about 2."""

    @field_validator("usual", "grids")
    @classmethod
    def _known(cls, rates: Mapping[str, Any]) -> Mapping[str, Any]:
        known_optimizers(rates)
        return rates

    @field_validator("grids")
    @classmethod
    def _ascending(cls, grids: Mapping[str, tuple[float, ...]]) -> Mapping[str, tuple[float, ...]]:
        for name, grid in grids.items():
            if not grid or list(grid) != sorted(set(grid)):
                raise ValueError(f"the grid {list(grid)} of {name} must hold at least one rate, ascending")
        return grids


class TextConfig(Section):
    """What the three language tasks share: the model, and how text becomes batches."""

    model: ModelSpec
    source: str = "stdlib-code"
    """Text of pre-training: stdlib-code, stdlib, text:PATH or wikitext-103."""
    tokenizer: str = "bytes"
    """bytes, or a Hugging Face tokenizer by name or local folder."""
    batch_size: Positive = 8
    """Sequences a step."""
    sequence_length: Annotated[int, Field(ge=8)] = 64
    """Tokens a sequence."""
    heldout_batch: Positive = 16
    """Sequences of a held-out batch: few, so that the paired test can stop early."""
    val_sequences: Positive = 64
    """Of the reported set."""
    probe_sequences: Positive = 4
    """Of the fingerprint: few, because each observation is charged."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null: no clipping."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of forward passes; the weights are float32."""
    base_steps: Positive = 400
    """Steps over which the model that is fine-tuned is pre-trained (AdamW, cosine)."""
    base_lr: Rate = 2e-3
    """Peak of eta of that pre-training."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.model.context is not None and self.sequence_length > self.model.context:
            raise ValueError(
                f"text.sequence_length {self.sequence_length} is above the model's context {self.model.context}: "
                "lower it or raise text.model.context"
            )
        return self


class RaceConfig(Section):
    """Everything that decides a race's numbers."""

    open_groups: ClassVar[tuple[str, ...]] = ("usual", "grids")

    preset: str
    tasks: tuple[TaskName, ...] = TASKS
    optimizers: tuple[str, ...] = OPTIMIZERS
    """Those of a task's optimizers that are not named here are left out."""
    arms: tuple[str, ...] | None = None
    """null: all that fit the task and the optimizer."""
    rates: tuple[Literal["tuned", "usual"], ...] = ("tuned", "usual")
    """Where the raced learning rates come from: of those that a task has."""
    predictors: tuple[str, ...] = ()
    """Each adds two arms, `always:NAME` and `leap:NAME`; NAME:PATH for one that reads a file, `all` for the whole
    catalogue."""
    seeds: tuple[Seed, ...] = tuple(range(8))
    """Paired: every arm runs on each of them."""
    tuning_seeds: tuple[Seed, ...] = (1000, 1001)
    """Learning rates and targets are chosen on these."""
    data: str = "stdlib-prose"
    """Text of fine-tuning: stdlib-prose, text:PATH or wikitext-103."""
    text: TextConfig
    pretrain: TextLength
    finetune: TextLength
    lora: TextLength
    convex: Length
    noise: Length
    sequences: Annotated[int, Field(ge=16)] = 256
    """Held-out sequences (or rows) that one paired test may use."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """False-accept rate of one paired test."""
    overhead: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the cost that the policy `auto` may spend."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("optimizers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known_optimizers(names)
        return names

    @field_validator("predictors")
    @classmethod
    def _all_of_them(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for each in given for name in (every_predictor() if each == "all" else [each])))

    @field_validator("tasks", "optimizers", "rates", "arms", "seeds", "tuning_seeds")
    @classmethod
    def _some_and_different(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError(f"the list {list(values)} in the race must name at least one thing, and each once")
        return values

    @model_validator(mode="after")
    def _known_arms(self) -> Self:
        for name in with_needs(self.arms, self.predictors):
            if (read := arm_named(name).leap.get("predictor")) is not None:
                predictor(read)  # of a file that is missing, or of no predictor, it is said before anything is run
        return self

    @model_validator(mode="after")
    def _tuned_elsewhere(self) -> Self:
        both = sorted({*self.seeds} & {*self.tuning_seeds})
        if both:
            raise ValueError(
                f"seeds {both} are raced and tuned on: a rate chosen on a seed favours the baseline there, name others"
            )
        return self

    def length(self, task: str) -> Length:
        """How long the runs of a task are."""
        found = getattr(self, task)
        assert isinstance(found, Length)
        return found
