"""The result records of a study, one frozen dataclass per row, and their Parquet files, each marked with its sha256.

A field whose type admits ``None`` is null in the file where the value does not exist (a loss that was never
reached, a signal that needs more history); a reader with pandas alone can compute every number again.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from leapverify.errors import Damaged
from leapverify.io.storage import read_marked, replace_marked
from leapverify.io.untrusted import limits
from leapverify.io.untrusted.parquet import check_parquet, opened, rows_of, without_dictionaries
from leapverify.io.untrusted.text import first_line

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning; written into every file and checked when it is read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was observed of one seed at one checkpoint (every Delta steps)."""

    seed: int
    step: int
    lr: float
    """eta of the step that led here."""
    eta_sum: float
    """Sum of eta over the interval since the previous checkpoint."""
    train_loss: float
    """Mean over the interval since the previous checkpoint, nats per token."""
    heldout_loss: float
    val_loss: float
    similarity: float | None
    """The configured similarity to the previous checkpoint; null at the first one."""
    similarity_concatenated: float | None
    similarity_per_probe: float | None
    similarity_centred: float | None
    regime: str
    """unknown | chaotic | transition | stable."""
    straightness: float | None
    """Of the weights that predictions move, in the precision of the history."""
    loss_curvature: float | None
    """Second difference of the held-out loss over three checkpoints, nats per token."""
    lyapunov: float | None
    """Local Lyapunov exponent per step over the interval; null unless the pass was asked for."""
    tokens: int
    """Training tokens seen so far."""
    elapsed_s: float
    train_s: float
    observe_s: float
    evaluate_s: float
    sweep_s: float
    cascade_s: float
    snapshot_s: float
    lyapunov_s: float
    update_survival: float | None = None
    """Share of the weights that the optimizer meant to move in the step that led here and whose stored value changed;
    of a sample."""
    update_projection: float | None = None
    """<stored change, intended change> / <intended change, intended change> of the same sample: 1 is no loss."""


@dataclasses.dataclass(frozen=True, slots=True)
class LossPoint:
    """The held-out loss of one seed at one step: what predictions are compared with afterwards."""

    seed: int
    step: int
    heldout_loss: float


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """One predictor at one checkpoint for one horizon."""

    seed: int
    step: int
    regime: str
    predictor: str
    horizon: int
    """K, steps."""
    status: str
    """ok | declined | nonfinite."""
    reason: str | None
    """Why it was declined or is not finite."""
    loss_now: float
    """L_t, nats per token."""
    loss_predicted: float | None
    loss_actual: float | None
    """L_{t+K} of the run itself; null where the run ends before t+K."""
    sigma: float
    """Standard deviation of the last w held-out losses, the margin of `adaptive`."""
    strict: bool | None
    adaptive: bool | None
    proximity: bool | None
    paired: bool | None
    paired_lower: float | None
    """Lower confidence bound of the mean paired gain when the sequential test stopped, nats per token."""
    paired_sequences: int | None
    gain_fraction: float | None
    """(L_t - L_hat) / (L_t - L_{t+K}); null where the run did not improve."""
    steps_gained: int | None
    """Steps the run needed from t to first reach L_hat; 0 without gain; null if it never did before its end."""
    predict_s: float
    verify_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Benched:
    """What the bench adds to one `Prediction`: its cost, and what is left of its gain after more real steps."""

    seed: int
    step: int
    predictor: str
    horizon: int
    """K, steps."""
    any_horizon: bool
    """Whether the predictor gives the same state for every K; its rows then repeat one measurement."""
    predict_tokens: float
    """Cost of the prediction, forward-token equivalents: copies, selection losses, gradients."""
    verify_tokens: float
    """Cost of its verification, forward-token equivalents."""
    persist_steps: int | None
    """R, real steps trained on; null where the loss was not lowered or this checkpoint passed over."""
    loss_real: float | None
    """Held-out loss after R steps from theta_t."""
    loss_leapt: float | None
    """Held-out loss after the same R steps from the predicted state, same batches and rates; null if not finite."""
    persistence: float | None
    """(loss_real - loss_leapt) / (L_t - L_hat): the share of the gain that is still there."""


@dataclasses.dataclass(frozen=True, slots=True)
class CascadeLink:
    """One link of one cascade."""

    seed: int
    step: int
    """The checkpoint the cascade starts from."""
    kind: str
    """chained | trained."""
    predictor: str
    depth: int
    """D, links."""
    horizon: int
    """K, steps."""
    link: int
    """1 .. D."""
    status: str
    """ok | declined | nonfinite."""
    loss_start: float
    """Held-out loss at the starting checkpoint."""
    loss_before: float | None
    """Held-out loss just before this link's prediction."""
    loss_predicted: float | None
    """Held-out loss right after this link's prediction."""
    loss: float | None
    """Held-out loss at the end of the link: the same for `chained`, after K real steps for `trained`."""
    strict: bool | None
    """Whether the link's prediction lowered the loss."""
    weight_drift: float | None
    """Norm of (weights - starting weights) over norm of the starting weights."""
    loss_same_effective_step: float | None
    """The run's own loss at the step this link claims to have reached."""
    loss_same_real_steps: float | None
    """The run's own loss after as many real steps as this link has spent: the shortened control."""
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class SeedMeasure:
    """One number that compares seeds, in long form."""

    measure: str
    """loss_cv_percent | agreement_modal | agreement_unanimous | first_entry | mean_similarity | final_val_loss |
    cka | procrustes | rsa."""
    step: int | None
    regime: str | None
    seed_a: int | None
    seed_b: int | None
    value: float | None
    null_mean: float | None
    """Mean of the measure under shuffled probes; of agreement, under labels shifted in time."""
    null_low: float | None
    """2.5 % quantile of the null."""
    null_high: float | None
    """97.5 % quantile of the null."""
    untrained: float | None
    """The measure between the two seeds' untrained models."""


@dataclasses.dataclass(frozen=True, slots=True)
class RaceRun:
    """One training run of a race: one arm, one optimizer, one rate, one seed of one task."""

    task: str
    """pretrain | finetune | lora | convex | noise."""
    optimizer: str
    """adamw | muon | sgd."""
    rate: str
    """tuned | usual: where the learning rate comes from."""
    arm: str
    """baseline, lr-x2, wsd, anneal, leap-auto, shortened:leap-auto ...; what the arms are says docs/live.md."""
    seed: int
    stage: str
    """tune (the race's own seeds, on which rates and targets are chosen) | race."""
    lr: float
    """Peak of eta."""
    setting: str
    """What else was tuned or set, such as `decay 0.2`; empty where nothing was."""
    steps: int
    """Planned optimizer steps."""
    real_steps: int
    """Optimizer steps taken."""
    effective_steps: int
    """Real steps and those leapt over."""
    final_loss: float | None
    """On the reported set at the end, nats per token (or the task's unit); null where it is not finite."""
    target: float | None
    """The loss stated before the race began; null while tuning."""
    target_step: int | None
    """Real step at which the reported loss first reached the target; null if never."""
    target_tokens: float | None
    """Forward-token equivalents up to there, overhead included."""
    target_s: float | None
    """Seconds up to there, overhead included, readings of the reported loss not."""
    tokens: float
    """Forward-token equivalents of the whole run, overhead included."""
    seconds: float
    overhead_tokens: float
    """Of them, spent by the tool: observing, predicting, verifying, copying, annealing."""
    overhead_s: float
    attempts: int
    accepted: int
    leapt_steps: int
    heldout_batches: int
    """Held-out batches drawn."""
    heldout_passes: float | None
    """Times through the held-out set; null where every batch is a new one."""


@dataclasses.dataclass(frozen=True, slots=True)
class RacePoint:
    """The reported loss of one race run at one step."""

    task: str
    optimizer: str
    rate: str
    arm: str
    seed: int
    stage: str
    lr: float
    setting: str
    step: int
    """Real step."""
    effective_step: int
    tokens: float
    """Forward-token equivalents spent so far."""
    seconds: float
    loss: float | None
    """On the reported set; null where it is not finite."""


Record = TypeVar("Record", Checkpoint, LossPoint, Prediction, Benched, CascadeLink, SeedMeasure, RaceRun, RacePoint)

_REMEDY = "give the same study command again"
_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def schema_of(record: type) -> pa.Schema:
    """The Arrow schema of a record class; optional fields are nullable."""
    fields = [pa.field(name, _ARROW[plain], nullable=empty) for name, (plain, empty) in _fields_of(record).items()]
    return pa.schema(fields, metadata={"leapverify.schema": _name_of(record)})


def _name_of(record: type) -> str:
    return f"{record.__name__}/{SCHEMA_VERSION}"


def from_plain(record: type[Record], rows: Iterable[Mapping[str, Any]]) -> tuple[Record, ...]:
    """Records from plain data, such as JSON holds.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    fields = _fields_of(record)
    for row in (rows := list(rows)):
        for name, (plain, nullable) in fields.items():
            kinds = {plain, int} if plain is float else {plain}
            if type(value := row.get(name)) not in (kinds | {type(None)} if nullable else kinds):
                raise ValueError(f"{name} is {value!r:.100} where a {plain.__name__} is needed")
    return tuple(record(**row) for row in rows)


def _fields_of(record: type) -> dict[str, tuple[type, bool]]:
    """Each field's plain type, and whether it may be empty."""
    found = {}
    for name, hint in typing.get_type_hints(record).items():
        members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found[name] = next(each for each in members if each is not type(None)), type(None) in members
    return found


def write(path: Path, record: type[Record], rows: Iterable[Record]) -> None:
    """Write rows to a Parquet file, and its sha256 into a mark beside it: all rows, or the pair as it was before.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    columns = [dataclasses.asdict(row) for row in rows]
    table = pa.Table.from_pylist(columns, schema=schema_of(record))
    with replace_marked(path, rows=len(columns), schema=_name_of(record)) as handle:
        pq.write_table(table, handle, compression="zstd")


def read(path: Path, record: type[Record]) -> list[Record]:
    """Read the rows of a Parquet file written by `write`.

    Raises:
        Damaged: the file or its mark is missing, any byte is another one, or it holds another record or schema version.
    """
    content, _ = read_marked(path, _REMEDY, limits.PARQUET_BYTES)
    try:
        file = opened(content, schema_of(record))
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{path} is damaged: it is no Parquet file ({first_line(error)}); {_REMEDY}") from error
    found = (schema.metadata or {}).get(b"leapverify.schema", b"nothing").decode(errors="replace")
    wanted = _name_of(record)
    if found != wanted or not without_dictionaries(schema).equals(schema_of(record)):
        columns = "" if found != wanted else " with other columns"
        raise Damaged(
            f"{path} holds {found}{columns} where {wanted} is needed: it was written by another version; "
            f"with another --out, {_REMEDY}"
        )
    try:
        check_parquet(content, file.metadata)
        return [record(*values) for batch in file.iter_batches() for values in rows_of(batch)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {first_line(error)}; {_REMEDY}") from error
