"""A race on the page: as one section of a study's report, or as a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from leapverify.analysis.race.predictors import CONTROL_PREDICTORS
from leapverify.analysis.race.race import RaceAnalysis
from leapverify.analysis.race.verdicts import race_verdicts
from leapverify.analysis.wording import counted
from leapverify.report.kit.panels import Figure
from leapverify.report.kit.run import RaceRecords
from leapverify.report.kit.section import (
    Headline,
    Page,
    PageSection,
    SummaryLine,
    colophon,
    commands,
    facts,
    hardware,
    machine,
)
from leapverify.report.kit.table import Table
from leapverify.report.race.figures import race_figure
from leapverify.report.race.predictors import predictor_tables
from leapverify.report.race.tables import annealing, arms, leaps, tuning

QUESTION = "Does leaping pay here?"


@dataclass(frozen=True)
class RaceReport:
    """Figures, tables and sentences of one race, each made once."""

    race: RaceRecords

    @cached_property
    def analysis(self) -> RaceAnalysis:
        """What the records say."""
        return analysis_of(self.race)

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The figures by name."""
        return {"race": race_figure(self.analysis)}

    @cached_property
    def deciding(self) -> Sequence[Table]:
        """What the verdicts rest on; of the leap arms and of annealing nothing where only predictors were raced."""
        found = predictor_tables(self.analysis)
        others = [leaps(self.analysis), annealing(self.analysis)]
        return [*(table for table in others if table.rows or not found), *found]

    @cached_property
    def arms(self) -> Sequence[Table]:
        """Every arm of every race."""
        return arms(self.analysis)

    @cached_property
    def tuning(self) -> Table:
        """The grids."""
        return tuning(self.analysis)

    @property
    def tables(self) -> Sequence[Table]:
        """All tables."""
        return [*self.deciding, *self.arms, self.tuning]

    @cached_property
    def findings(self) -> Sequence[SummaryLine]:
        """The verdicts as the page shows them."""
        return [SummaryLine(_capital(found.topic), _capital(found.text)) for found in race_verdicts(self.analysis)]


def analysis_of(race: RaceRecords) -> RaceAnalysis:
    """The analyses of a race's records, with the budget of its configuration."""
    overhead = race.setting("overhead")
    known = isinstance(overhead, (int, float)) and not isinstance(overhead, bool)
    budget = {"budget_percent": 100.0 * overhead} if known else {}
    return RaceAnalysis(race.runs, race.points, notes=race.notes, **budget)


def race_section(report: RaceReport) -> PageSection:
    """The section of a study's report."""
    race = report.race
    made = race.environment.get("command")
    return PageSection(
        "race",
        "Race",
        QUESTION,
        findings=report.findings,
        figures=list(report.figures.values()),
        tables=report.deciding,
        folded=[*report.arms, report.tuning],
        folded_label="Every arm, and what was tuned",
        code=[str(made)] if made else (),
    )


def race_finding(report: RaceReport) -> SummaryLine:
    """One sentence for the summary of a study's report."""
    if not report.analysis.judgements and report.analysis.predictors:
        tried = counted(len({row.predictor for row in report.analysis.predictors}), "predictor")
        return SummaryLine("Race", f"{tried} against the shortened schedule: the section Race says how each ended.")
    paid, count = _paid(report), len(report.analysis.by_case)
    said = f"in {', '.join(paid)}" if paid else "nowhere"
    return SummaryLine("Race", f"Of {counted(count, 'race')}, leaping paid {said}; the section Race says what against.")


def race_page(report: RaceReport) -> Page:
    """A page of the race alone."""
    race = report.race
    figure = report.figures["race"]
    sections = [
        PageSection("race", "Loss", figure.title, figures=[figure]),
        PageSection("controls", "Controls", "Against everything that leaping has to beat", tables=report.deciding),
        PageSection("arms", "Arms", "Every arm", tables=report.arms),
        PageSection("tuning", "Tuning", "Tuned before the race", tables=[report.tuning]),
        machine(
            race.environment,
            facts("configuration", "Configuration", race.config),
            *([facts("targets", "Targets as stated", race.targets)] if race.targets else ()),
        ),
        commands(_command(race), race.path.name),
    ]
    return Page(
        title="Leap+Verify: race" + (f" {race.config['preset']}" if race.setting("preset") else ""),
        identity=_identity(report),
        heading=QUESTION,
        tiles=_tiles(report),
        findings=report.findings,
        sections=sections,
        colophon=colophon(race.environment),
        figures=report.figures,
    )


def _identity(report: RaceReport) -> str:
    race, analysis = report.race, report.analysis
    tasks = list(dict.fromkeys(case.task for case in analysis.by_case))
    language = {*tasks} & {"pretrain", "finetune", "lora"}
    model = race.setting("text.model", {}) if language else {}
    parts = [f"{model.get('family', 'model')} {model.get('layers', '?')}×{model.get('hidden', '?')}"] if model else []
    seeds = race.seeds
    named = (
        f"{seeds[0]} to {seeds[-1]}" if seeds == tuple(range(seeds[0], seeds[-1] + 1)) else ", ".join(map(str, seeds))
    )
    parts.append(f"{counted(len(seeds), 'seed')} ({named})")
    parts.append(", ".join(tasks))
    parts.append(counted(len({row.arm for row in analysis.arms}), "arm"))
    tried = len({row.predictor for row in analysis.predictors})
    parts += [counted(tried, "predictor")] if tried else []
    sources = [str(race.setting(key)) for key in ("text.source", "data") if isinstance(race.setting(key), str)]
    parts += [" and ".join(sources)] if sources and language else []
    return " · ".join([*parts, hardware(race.environment)])


def _command(race: RaceRecords) -> str:
    preset = race.setting("preset", "")
    seeds = ",".join(map(str, race.seeds))
    return str(race.environment.get("command") or " ".join(f"leapverify race {preset} --seeds {seeds}".split()))


def _paid(report: RaceReport) -> list[str]:
    names = report.analysis.names
    return list(dict.fromkeys(names[row.case] for row in report.analysis.judgements if row.pays))


def _tiles(report: RaceReport) -> list[Headline]:
    analysis, paid = report.analysis, _paid(report)
    tiles = [
        Headline("races in which leaping paid", f"{len(paid)} of {len(analysis.by_case)}", ", ".join(paid) or "nowhere")
    ]
    if analysis.predictors:
        tiles = [*(tiles if analysis.judgements else []), *_predictor_tiles(report)]
    firsts = {row.case: row for row in reversed(analysis.judgements)}
    known = [row for row in firsts.values() if row.row.tokens.mean is not None]
    if known:
        best = min(known, key=lambda row: row.row.tokens.mean or 0.0)
        ratio, where = best.row.tokens, analysis.names[best.case]
        spread = "no interval" if ratio.low is None else f"95 % {ratio.low:.2f} to {ratio.high:.2f}"
        about = f"the baseline's tokens to the target, {where}, {spread}, n = {ratio.n}"
        tiles.append(Headline(f"{best.arm} at its best", f"{ratio.mean:.2f} ×", about))
    annealed = [row for row in analysis.annealing if row.saved.mean is not None and row.p is not None]
    if annealed:
        row = annealed[0]
        about = f"of WSD's {row.wsd_steps}, {analysis.names[row.case]}, {row.reached} of {row.n} seeds, p = {row.p:.2g}"
        tiles.append(Headline("steps saved by annealing", f"{row.saved.mean:.0f}", about))
    spent = [row for row in analysis.arms if row.arm == "leap-auto" and row.overhead_tokens_max is not None]
    if spent:
        row_of = max(spent, key=lambda row: row.overhead_tokens_max or 0.0)
        about = f"of the forward tokens, at most, {analysis.names[row_of.case]}"
        tiles.append(Headline("overhead of leap-auto", f"{row_of.overhead_tokens_max:.2g} %", about))
    return tiles


def _predictor_tiles(report: RaceReport) -> list[Headline]:
    """How often predictors ended below their shortened schedules, of all predictors in all races."""
    tiles = []
    for way, label in (("verified", "verified predictors"), ("always", "predictors applied unconditionally")):
        rows = [row for row in report.analysis.predictors if row.predictor not in CONTROL_PREDICTORS]
        tried = [each for row in rows if (each := getattr(row, way)) is not None]
        lower = sum(each.word == "lower" for each in tried)
        if tried:
            about = "predictor and race: final loss below the schedule shortened to as many real steps"
            tiles.append(Headline(f"{label} that saved steps", f"{lower} of {len(tried)}", about))
    return tiles


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
