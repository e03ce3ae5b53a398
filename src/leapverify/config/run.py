"""Settings of the reference run: its text, its training and what it begins with (SPEC 6.1)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from leapverify.train.losses_compiled import Mode

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A group of settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    open_groups: ClassVar[tuple[str, ...]] = ()
    """Of a whole configuration: names of mappings that are values themselves, which may be set as a whole."""


class DataConfig(Section):
    """Text, tokens and the form of a sequence."""

    source: str = "stdlib"
    """stdlib | text:PATH | wikitext-103."""
    tokenizer: str = "bytes"
    """bytes, or a Hugging Face tokenizer by name or local folder."""
    form: Literal["packed", "padded"] = "packed"
    """packed: documents joined and cut into windows; padded: one passage a row."""
    count_padding: bool = False
    """Whether padded positions count in every loss (only with the padded form)."""


class TrainingConfig(Section):
    """The reference run (SPEC 6.1)."""

    steps: Positive = 2000
    """Optimizer steps."""
    batch_size: Positive = 4
    """Sequences a step."""
    sequence_length: Annotated[int, Field(ge=8)] = 256
    """Tokens a sequence."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    """Peak of eta."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled, of all parameters."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which eta rises from 0 to its peak."""
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The schedule's end, as a fraction of the peak."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null: no clipping."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of forward and backward passes over float32 weights; auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """How weights, gradients and moments are stored; bfloat16 leaves nothing in float32, and passes run in it too."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of a step's result where the weights are bfloat16."""
    compile: Mode = "off"
    """default: losses through torch.compile; reduce-overhead: and replayed as CUDA graphs on a GPU."""
    init: Literal["per-seed", "shared"] = "per-seed"
    """shared: every seed starts from the first seed's initialisation."""
    parallel: Annotated[str, Field(pattern=r"^(auto|none|fsdp|ddp|hsdp:[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$")] = "auto"
    """How the ranks of torchrun hold the one model: fsdp (fully_shard), hsdp:GxS (G copies, each cut into S parts), ddp
    (a whole copy on each); auto: fsdp, and none in one process. Another number of ranks may go on with a study."""

    @field_validator("compile", mode="before")
    @classmethod
    def _as_word(cls, value: Any) -> Any:
        # YAML reads a bare `off` as false; run folders of earlier versions hold true or false.
        return {False: "off", True: "default"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _rounds_what_is_rounded(self) -> Self:
        if self.rounding == "stochastic" and self.weights != "bfloat16":
            raise ValueError(
                "training.rounding is stochastic while training.weights is float32, which needs none: "
                "set training.weights=bfloat16"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_steps >= self.steps and self.schedule != "constant":
            raise ValueError(
                f"training.warmup_steps is {self.warmup_steps}, training.steps {self.steps}: "
                "set training.warmup_steps below training.steps"
            )
        return self


class TuningConfig(Section):
    """What a study begins with, where that is not random: a fine-tuning or a LoRA run."""

    start: str | None = None
    """The run folder of a finished study: a seed begins with the last weights of its seed of that number, or else of
    that position; null: with random weights, or with model.pretrained."""
    lora_rank: Positive | None = None
    """Train low-rank adapters of all matrices between embedding and head, and nothing else; null: all weights."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Updates of adapters are scaled by this over the rank."""
