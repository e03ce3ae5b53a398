"""Claims as data, and the rule that decides one: quantities with intervals, and the lines that they must lie beyond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.claims.estimate import SeedEstimate
from leapverify.claims.evidence import Evidence

STANDS, FALLS, OPEN = "stands", "falls", "not decided"


@dataclass(frozen=True, slots=True)
class Quantity:
    """An estimate with its name and how it is written."""

    name: str
    found: SeedEstimate
    of: str = "checkpoints"
    """What n counts."""
    form: str = ".2f"
    scale: float = 1.0
    """100 for per cent."""
    unit: str = ""

    def number(self, value: float) -> str:
        """A value as it is written, without its unit."""
        shown = f"{value * self.scale:{self.form}}"
        # A rounded zero has no sign.
        return shown.lstrip("+-") if float(shown) == 0.0 else shown

    @property
    def here(self) -> str:
        """The value, or why there is none."""
        e = self.found
        return f"none: {e.reason}" if e.value is None else self.number(e.value) + self.unit

    @property
    def interval(self) -> str:
        """The interval, or why there is none."""
        e = self.found
        if e.low is None or e.high is None:
            return "" if e.value is None else f"none: {e.reason}"
        return f"{self.number(e.low)} to {self.number(e.high)}{self.unit}"

    @property
    def behind(self) -> str:
        """Seeds and n."""
        e = self.found
        seeds = f"{e.seeds} seed{'' if e.seeds == 1 else 's'}"
        if not e.seeds:
            return "0"
        return seeds if self.of == "seeds" else f"{seeds}, {e.n:,} {self.of}"

    @property
    def text(self) -> str:
        """The number with interval, seeds and n, or why there is none."""
        if self.found.value is None:
            return self.here
        return f"{self.here} (95 % {self.interval}; {self.behind})"


def percent(name: str, found: SeedEstimate, of: str = "checkpoints", form: str = ".0f") -> Quantity:
    """A share in per cent."""
    return Quantity(name, found, of, form, 100, " %")


def points(name: str, found: SeedEstimate, of: str = "predictions", form: str = "+.1f") -> Quantity:
    """A difference of shares in percentage points."""
    return Quantity(name, found, of, form, 100, " points")


@dataclass(frozen=True, slots=True)
class Bar:
    """One condition of a rule: the whole interval lies above the line, or below it."""

    quantity: Quantity
    line: float
    above: bool = True
    """Whether the claim needs the quantity above the line, or below it."""

    @property
    def verdict(self) -> str:
        """stands: the interval lies on the claim's side; falls: on the other; not decided: else."""
        e = self.quantity.found
        if e.low is None or e.high is None or e.seeds < FEWEST_SEEDS:
            return OPEN
        over, under = e.low > self.line, e.high < self.line
        met, missed = (over, under) if self.above else (under, over)
        return STANDS if met else FALLS if missed else OPEN

    @property
    def condition(self) -> str:
        """What the claim needs."""
        return f"*{self.quantity.name}* is {self.side}"

    @property
    def side(self) -> str:
        """The side of the line that the claim needs."""
        line = "0" if self.line == 0.0 else self.quantity.number(self.line)
        return f"{'above' if self.above else 'below'} {line}{self.quantity.unit}"

    @property
    def reading(self) -> str:
        """How the measurement stands to the line, in a word or two."""
        said = {STANDS: "met", FALLS: "missed", OPEN: "open"}[self.verdict]
        few = self.verdict == OPEN and 0 < self.quantity.found.seeds < FEWEST_SEEDS
        return f"open: fewer than {FEWEST_SEEDS} seeds" if few else said


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """One claim of the paper, judged."""

    key: str
    claim: str
    source: str
    """Where the paper makes it."""
    rule: str
    """What it would take, in terms of the numbers."""
    control: str
    """The control that could refute it."""
    verdict: str
    """stands | falls | not decided."""
    bars: tuple[Bar, ...]
    """What decided; none where the verdict rests on p-values."""
    beside: tuple[Quantity, ...]
    """What was measured beside it."""
    explains: str
    """Which artefact explains a difference; empty unless the claim falls."""
    notes: tuple[str, ...] = ()
    """Limits of this measurement."""

    @property
    def measured(self) -> tuple[Quantity, ...]:
        """What decides, or where there is none of that what was measured."""
        return tuple(bar.quantity for bar in self.bars) or self.beside


@dataclass(frozen=True, slots=True)
class Line:
    """Where the interval of a quantity has to lie."""

    at: float
    above: bool = True
    explains: str = ""
    """The artefact that explains why it is missed; empty: the claim's own."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the records say on a claim."""

    decisive: Sequence[Quantity] = ()
    """One a line; several where the claim has one line for all."""
    beside: Sequence[Quantity] = ()
    """Quantities that decide nothing."""
    notes: Sequence[str] = ()
    """Limits that this measurement has shown."""
    verdict: str = ""
    """Given only where the verdict rests on p-values."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the paper as data; `judge` holds it against the records."""

    key: str
    """Its name in files."""
    text: str
    """The claim in plain words."""
    source: str
    """Section or table of the paper."""
    control: str
    """The control that could refute it."""
    needs: tuple[str, ...]
    """The studies that decide it."""
    measure: Callable[[Evidence, str], Measured]
    """The quantities, from the evidence and the reason to give where one is missing."""
    missing: str = ""
    """That reason where every study is there."""
    lines: tuple[Line, ...] = ()
    falls_if: str = "any"
    """any | all of the lines have to be missed for the claim to fall."""
    rule: str = ""
    """The rule in words; empty: as the lines say."""
    explains: str = ""
    """The artefact that explains a difference."""
    notes: tuple[str, ...] = ()
    """Limits of the measurement."""


def judge(claim: Claim, evidence: Evidence) -> ClaimResult:
    """The claim's verdict with every number behind it; not decided where a study is missing."""
    found = claim.measure(evidence, evidence.why(*claim.needs) or claim.missing)
    lines = claim.lines * len(found.decisive) if len(claim.lines) == 1 else claim.lines
    bars = tuple(Bar(quantity, line.at, line.above) for quantity, line in zip(found.decisive, lines, strict=True))
    verdict = found.verdict or verdict_of(bars, claim.falls_if)
    missed = [line.explains or claim.explains for bar, line in zip(bars, lines, strict=True) if bar.verdict == FALLS]
    return ClaimResult(
        key=claim.key,
        claim=claim.text,
        source=claim.source,
        rule=claim.rule or rule_text(bars, claim.falls_if),
        control=claim.control,
        verdict=verdict,
        bars=bars,
        beside=tuple(found.beside),
        explains="; ".join(dict.fromkeys(missed or [claim.explains])) if verdict == FALLS else "",
        notes=(*found.notes, *claim.notes),
    )


def rule_text(bars: Sequence[Bar], falls_if: str = "any") -> str:
    """The rule in words."""
    needed = " and ".join(bar.condition for bar in bars)
    if len(bars) == 1:
        return (
            f"Stands if {needed}, with its whole interval; falls if the whole interval is on the other side; else "
            "not decided."
        )
    missed = "that of any of them is" if falls_if == "any" else "those of all of them are"
    return f"Stands if {needed}, each with its whole interval; falls if {missed} on the other side; else not decided."


def verdict_of(bars: Sequence[Bar], falls_if: str = "any") -> str:
    """The verdict of several conditions: all met, or any (all) missed, or neither."""
    said = [bar.verdict for bar in bars]
    if said and all(word == STANDS for word in said):
        return STANDS
    missed = [word == FALLS for word in said]
    return FALLS if missed and (any(missed) if falls_if == "any" else all(missed)) else OPEN
