"""The bench of a run: its records, tables and figures, and its section on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from leapverify.analysis.bench.rows import Bench, bench_of
from leapverify.analysis.bench.values import Place, leaderboard
from leapverify.analysis.bench.verdicts import FAILS, HOLDS, OPEN, Judged, Raced, judge_claims, raced
from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.analysis.wording import counted, listed, verdict
from leapverify.errors import Damaged
from leapverify.io import records
from leapverify.io.records import Benched, Prediction, RaceRun
from leapverify.io.storage import read_json
from leapverify.io.yaml_file import as_written
from leapverify.report.bench.figures import bench_figures
from leapverify.report.bench.tables import cells_table, claims_table, leaderboard_table, regimes_table
from leapverify.report.kit.panels import Figure
from leapverify.report.kit.run import lookup
from leapverify.report.kit.section import PageSection, SummaryLine
from leapverify.report.kit.table import Table
from leapverify.report.kit.words import words

FOLDER = "bench"
STEP_PASSES = 3.0
"""A training step costs three times its positions: forward, and backward twice as much."""


@dataclass(frozen=True)
class BenchReport:
    """Everything that is shown of one bench, each made once."""

    bench: Bench
    about: Mapping[str, Any]
    """bench.json."""
    races: Mapping[str, Raced] = field(default_factory=dict)
    """What a race of the same task says of each predictor."""

    @cached_property
    def places(self) -> Sequence[Place]:
        """The leaderboard."""
        return leaderboard(self.bench)

    @cached_property
    def judged(self) -> Sequence[Judged]:
        """The published claims."""
        return judge_claims(self.bench, self.races)

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The figures by name."""
        return bench_figures(self.bench, self.places)

    @cached_property
    def shown(self) -> Sequence[Table]:
        """The tables that are open: the leaderboard, and the claims."""
        return [leaderboard_table(self.bench, self.places), claims_table(self.bench, self.judged)]

    @cached_property
    def folded(self) -> Sequence[Table]:
        """The table folded under the leaderboard."""
        return [regimes_table(self.bench, self.places)]

    @cached_property
    def tables(self) -> Sequence[Table]:
        """All tables, the one of every cell included, which is too long for the page."""
        return [*self.shown, *self.folded, cells_table(self.bench, self.places)]


def load_bench(path: Path, config: Mapping[str, Any], label: str | None = None) -> BenchReport | None:
    """Read the bench of a run folder; None where it has no bench/predictions.parquet.

    Args:
        path: the run folder.
        config: its configuration, which says what a training step costs and what Delta is.
        label: what the bench is called; by default its task and preset.

    Raises:
        ValueError: no predictions, or a file that is damaged or says too little; the message names it.
    """
    folder = path / FOLDER
    if not (folder / "predictions.parquet").is_file():
        return None
    about = read_json(folder / "bench.json")
    if not isinstance(about, dict):
        raise Damaged(f"{folder / 'bench.json'} is damaged: it holds no mapping; give the bench again")
    task, interval = str(about.get("task", "pretrain")), _interval(folder, about, config)
    step_tokens = _step_tokens(folder, about, config)
    predictions = records.read(folder / "predictions.parquet", Prediction)
    benched = records.read(folder / "benched.parquet", Benched)
    named = label or ", ".join(filter(None, [task, str(about.get("preset") or config.get("preset") or "")]))
    with as_written(folder, "give the bench again"):
        bench = bench_of(named, task, predictions, benched, interval_steps=interval, step_tokens=step_tokens)
    runs = path / "race" / "runs.parquet"
    return BenchReport(bench, about, raced(records.read(runs, RaceRun), task) if runs.is_file() else {})


def _interval(folder: Path, about: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    found = about.get("persist_steps") or lookup(config, "observe.interval_steps")
    if type(found) is not int or found < 1:
        raise ValueError(f"{folder / 'bench.json'} does not say persist_steps, which is Delta: give the bench again")
    return found


def _step_tokens(folder: Path, about: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Forward-token equivalents of one training step."""
    told = about.get("step_tokens")
    if isinstance(told, (int, float)):
        return float(told)
    batch, length = (lookup(config, f"training.{key}") for key in ("batch_size", "sequence_length"))
    if not isinstance(batch, int) or not isinstance(length, int):
        raise ValueError(f"{folder.parent / 'config.yaml'} says no training.batch_size and training.sequence_length")
    return STEP_PASSES * batch * length


def bench_sections(report: BenchReport) -> list[PageSection]:
    """The sections of a study's report: the bench, and the published claims against it."""
    made = lookup(report.about, "environment.command") or report.about.get("command")
    first, second = report.figures.values()
    board, claims = report.shown
    bench = PageSection(
        "bench",
        "Bench",
        "Predictors on the bench",
        findings=[*findings(report), *_left_out(report.about)],
        figures=[first],
        tables=[board],
        folded=report.folded,
        folded_label="Regime by regime",
        code=[str(made)] if made else (),
    )
    return [
        bench,
        PageSection("bench-reach", "Reach", second.title, figures=[second]),
        PageSection("claims", "Claims", "What the authors claim, and what the bench says", tables=[claims]),
    ]


def bench_finding(report: BenchReport) -> SummaryLine:
    """One sentence for the summary of a study's report."""
    return SummaryLine("Bench", _pays(report))


def findings(report: BenchReport) -> list[SummaryLine]:
    """What the bench shows, in a few sentences."""
    asked = {"Acceptance": "beats_random", "Persistence": "persists", "Unverified": "lowers"}
    return [
        SummaryLine("Worth", _pays(report)),
        *(SummaryLine(topic, _answers(report, question)) for topic, question in asked.items()),
    ]


def _pays(report: BenchReport) -> str:
    bench, say = report.bench, words("bench").say
    rows = [place.headline for place in report.places if not place.headline.control]
    worth = {row.predictor: row.verified_value for row in rows}
    said = {name: verdict(found.low, found.high, found.seeds) for name, found in worth.items()}
    above, below = ([name for name, word in said.items() if word == side] for side in ("above", "below"))
    text = say("said", "pays", label=bench.label, K=bench.headline_steps, above=_named(above), below=len(below),
               predictors=counted(len(rows), "predictor"), unsure=len(rows) - len(above) - len(below))  # fmt: skip
    name, found = next(iter(worth.items()), ("", None))
    if found is None or found.mean is None:
        return f"{text}."
    interval = "one seed, no interval" if found.low is None else f"95 % {found.low:+.2f} to {found.high:+.2f}"
    seeds = counted(found.seeds, "seed")
    text += say("said", "first", name=name, mean=found.mean, interval=interval, n=found.n, seeds=seeds)
    return text + (say("said", "few", fewest=FEWEST_SEEDS) if len(bench.seeds) < FEWEST_SEEDS else "")


def _answers(report: BenchReport, question: str) -> str:
    found = {row.predictor: getattr(row, question).word for row in report.judged}
    fails, undecided = (sum(word == kind for word in found.values()) for kind in (FAILS, OPEN))
    holds = _named([name for name, word in found.items() if word == HOLDS])
    asked = words("bench").say("said", question)
    return words("bench").say("said", "answer", question=asked, holds=holds, predictors=len(found), fails=fails,
                              undecided=undecided)  # fmt: skip


def _named(names: Sequence[str]) -> str:
    """'none', or how many and which."""
    return f"{len(names)} ({listed(names)})" if names else "none"


def _left_out(about: Mapping[str, Any]) -> list[SummaryLine]:
    found = about.get("left_out")
    if not isinstance(found, Mapping) or not found:
        return []
    return [SummaryLine("Left out", "; ".join(f"{name}: {str(why).rstrip('.')}" for name, why in found.items()) + ".")]
