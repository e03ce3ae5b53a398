"""The whole configuration of a study: frozen, every key known, checked next to its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from leapverify.config.run import DataConfig, Positive, Section, TrainingConfig, TuningConfig
from leapverify.io.untrusted import limits
from leapverify.predict import predictor
from leapverify.train.models import ModelSpec

Label = Literal["unknown", "chaotic", "transition", "stable"]
ALL_REGIMES: tuple[Label, ...] = ("unknown", "chaotic", "transition", "stable")
NON_CHAOTIC: tuple[Label, ...] = ("unknown", "transition", "stable")


def known_predictors(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they are, if the catalogue has them all."""
    for name in names:
        predictor(name)
    return names


class ObserveConfig(Section):
    """Fingerprints and their similarity (SPEC 3)."""

    interval_steps: Positive = 50
    """Delta."""
    probes: str | None = None
    """A file with probes of one's own; null: the 100 that come with the package."""
    pooling: Literal["mean", "last"] = "mean"
    """Over the tokens of a probe."""
    masked: bool = True
    """False: padded positions are pooled too."""
    layer: str | None = None
    """Module whose output is taken; null: the final hidden states."""
    similarity: Literal["concatenated", "per-probe", "centred"] = "concatenated"
    """The one that decides the regime; all three are recorded."""
    lyapunov: bool = False
    """Run a perturbed copy alongside and record the local Lyapunov exponent; doubles the training time."""
    lyapunov_epsilon: Annotated[float, Field(gt=0)] = 1e-3
    """Norm of the perturbation, relative to the norm of the weights."""


class RegimeConfig(Section):
    """How similarities become labels (SPEC 3)."""

    thresholds: Literal["paper", "fixed", "percentile", "rate", "online"] = "paper"
    low: float | None = None
    """tau_low of `fixed`; percentile of `percentile` and `rate` (30 unless given)."""
    high: float | None = None
    """tau_high of `fixed`; percentile of `percentile` and `rate` (70 unless given)."""
    calibration: str | None = None
    """The finished run folder from which `percentile` and `rate` take their cut points."""
    hysteresis: Positive = 1
    """A label changes after so many consecutive checkpoints."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.thresholds == "fixed" and (self.low is None or self.high is None or self.low > self.high):
            raise ValueError(
                f"regimes.thresholds is fixed with low {self.low} and high {self.high}: "
                "set regimes.low and regimes.high, low <= high"
            )
        calibrated = self.thresholds in ("percentile", "rate")
        if calibrated and self.calibration is None:
            raise ValueError(
                f"regimes.thresholds is {self.thresholds} and needs calibration runs: "
                "set regimes.calibration to a finished run folder"
            )
        if not calibrated and self.calibration is not None:
            raise ValueError(
                f"regimes.calibration is set while regimes.thresholds is {self.thresholds}, which reads none: "
                "set regimes.thresholds=percentile or rate"
            )
        if self.thresholds in ("paper", "online") and (self.low is not None or self.high is not None):
            raise ValueError(
                f"regimes.low and regimes.high mean nothing while regimes.thresholds is {self.thresholds}: "
                "set regimes.thresholds=fixed"
            )
        return self


class VerifyConfig(Section):
    """Held-out measuring (SPEC 5)."""

    sequences: Positive = 64
    """Fixed held-out sequences behind every reported held-out loss."""
    budget: Positive = 128
    """Held-out sequences that the paired test may use, the fixed ones included."""
    batch_sequences: Positive = 32
    """Sequences per forward pass; the paired test looks after each."""
    val_sequences: Positive = 128
    """Sequences of the reported validation set, which no decision reads."""
    selection_sequences: Positive = 32
    """Further held-out sequences, by which predictors that try several candidates choose; no verdict reads them."""
    epsilon: Annotated[float, Field(gt=0)] = 0.05
    """Of `proximity`, relative to L_t."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """False-accept rate of `paired`."""
    sigma_window: Annotated[int, Field(ge=2)] = 10
    """Checkpoints whose held-out losses give the sigma of `adaptive`."""

    @model_validator(mode="after")
    def _budget_holds_the_fixed_set(self) -> Self:
        if self.budget < self.sequences:
            raise ValueError(
                f"verify.budget is {self.budget}, verify.sequences {self.sequences}: "
                "set verify.budget to at least verify.sequences"
            )
        return self


class SweepConfig(Section):
    """What is predicted at every checkpoint (SPEC 6.2)."""

    predictors: tuple[str, ...] = (
        "hold",
        "random",
        "linear",
        "quadratic",
        "quadratic-paper",
        "quadratic-clamped",
        "momentum",
        "adam",
        "adam-constant",
        "taylor-3",
    )
    moved: Literal["all", "no-norms-embeddings"] = "all"
    """Which parameters a prediction moves; the others stay at theta_t."""
    horizons: tuple[Positive, ...] = (5, 10, 25, 50, 75, 100)
    """K, steps."""
    regimes: tuple[Label, ...] = NON_CHAOTIC
    """The sweep runs at checkpoints of these regimes."""
    curve_every_steps: Positive | None = None
    """Also measure the held-out loss every so many steps: the resolution of steps gained."""
    moments: Literal["float32", "float16"] = "float32"
    """The precision in which Adam's moments reach the predictors: float32 as they are stored, float16 rounded."""
    history: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """The precision in which snapshots are kept for the predictors; auto: that of the weights."""
    ring: Literal["auto", "device", "host"] = "auto"
    """Where those snapshots lie; auto: on the device as far as the memory plan has room, the rest in host memory."""
    momentum_scales: tuple[float, ...] = (1.0,)
    """Scales of `momentum`; of several, the best by the verifier is kept."""

    @field_validator("predictors")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_predictors(names)

    @field_validator("predictors", "horizons", "momentum_scales")
    @classmethod
    def _some_and_different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values or len(set(values)) != len(values):
            raise ValueError(f"the list {list(values)} in sweep must name at least one thing, and each once")
        return values


class CascadeConfig(Section):
    """Predictions upon predictions (SPEC 6.3)."""

    kinds: tuple[Literal["chained", "trained"], ...] = ("chained", "trained")
    shapes: tuple[tuple[Positive, Positive], ...] = ((4, 25), (2, 50), (10, 10))
    """(D links, K steps)."""
    predictors: tuple[str, ...] = ("linear", "quadratic", "quadratic-paper", "adam")
    """Predictors of `chained`."""
    trained_predictors: tuple[str, ...] = ("hold", "linear")
    """Predictors of `trained`, where every link costs K real steps; `hold` is its control: the schedule jumps, the
    weights do not."""
    max_starts: Positive | None = None
    """At most so many stable checkpoints a seed, the first ones; null: all."""

    @field_validator("predictors", "trained_predictors")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_predictors(names)


class SnapshotConfig(Section):
    """What stays on disk."""

    weights: Literal["all", "last"] = "last"
    """all: every checkpoint's weights stay, so that `leapverify sweep` can go over them again."""
    optimizer: Literal["all", "last"] = "last"
    """all: with every checkpoint's Adam moments, which momentum and adam need."""
    every: Positive | None = 1
    """Checkpoints from one state that a stopped seed can go on from to the next; null: none is written, and a stopped
    seed begins again."""

    @model_validator(mode="after")
    def _all_means_every(self) -> Self:
        if self.every != 1 and "all" in (self.weights, self.optimizer):
            raise ValueError(
                f"snapshots.every is {'null' if self.every is None else self.every} while all checkpoints are to be "
                "kept: set snapshots.every=1, or snapshots.weights=last and snapshots.optimizer=last"
            )
        return self


class Switches(Section):
    """The paper's measuring artefacts (SPEC 8), each off unless asked for."""

    padding_in_loss: bool = False
    shared_init: bool = False
    half_moments: bool = False
    half_snapshots: bool = False
    lr_floor: bool = False
    verifier_32: bool = False
    scale_search: bool = False
    per_probe_similarity: bool = False
    unmasked_pooling: bool = False


SWITCH_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "padding_in_loss": {"data.form": "padded", "data.count_padding": True},
    "shared_init": {"training.init": "shared"},
    "half_moments": {"sweep.moments": "float16"},
    "half_snapshots": {"sweep.history": "float16"},
    "lr_floor": {"training.lr_floor": 0.1},
    "verifier_32": {"verify.sequences": 32, "verify.budget": 32},
    "scale_search": {"sweep.momentum_scales": (0.8, 1.0, 1.2)},
    "per_probe_similarity": {"observe.similarity": "per-probe"},
    "unmasked_pooling": {"observe.masked": False},
}
"""What each switch sets: a switch is a name for ordinary settings, so the rest of the code knows none of them."""


class StudyConfig(Section):
    """Everything that decides a study's numbers."""

    preset: str
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (42, 43, 44, 45, 46)
    data: DataConfig = DataConfig()
    model: ModelSpec
    training: TrainingConfig = TrainingConfig()
    tuning: TuningConfig = TuningConfig()
    observe: ObserveConfig = ObserveConfig()
    regimes: RegimeConfig = RegimeConfig()
    verify: VerifyConfig = VerifyConfig()
    sweep: SweepConfig = SweepConfig()
    cascade: CascadeConfig = CascadeConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    switches: Switches = Switches()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds {list(self.seeds)} must be at least one and all different")
        if self.training.steps < self.observe.interval_steps:
            raise ValueError(
                f"training.steps is {self.training.steps}, below one checkpoint interval "
                f"({self.observe.interval_steps} steps): raise --steps or lower observe.interval_steps"
            )
        if self.training.steps // self.observe.interval_steps > limits.CHECKPOINTS:
            raise ValueError(
                f"training.steps {self.training.steps} at observe.interval_steps {self.observe.interval_steps} are "
                f"more than {limits.CHECKPOINTS} checkpoints: raise observe.interval_steps"
            )
        if self.training.steps % self.observe.interval_steps:
            interval = self.observe.interval_steps
            raise ValueError(
                f"training.steps {self.training.steps} is no multiple of observe.interval_steps {interval}, and a run "
                f"ends with a checkpoint: take {self.training.steps // interval * interval} steps"
            )
        if self.model.context is not None and self.training.sequence_length > self.model.context:
            raise ValueError(
                f"training.sequence_length {self.training.sequence_length} is above the model's context "
                f"{self.model.context}: lower it or raise model.context"
            )
        if self.data.count_padding and self.data.form != "padded":
            raise ValueError("data.count_padding is true while data.form is packed: set data.form=padded")
        if self.tuning.lora_rank is not None and self.tuning.start is None and self.model.pretrained is None:
            raise ValueError(
                f"tuning.lora_rank is {self.tuning.lora_rank}, and there are only random weights to adapt: set "
                "tuning.start to the run folder of a finished study, or model.pretrained"
            )
        return self

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps at which a checkpoint is taken."""
        interval = self.observe.interval_steps
        return tuple(range(interval, self.training.steps + 1, interval))
