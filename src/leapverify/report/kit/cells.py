"""Cells of more than one number: means with their intervals, paired differences with p, ratios, shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.race.arms import ArmRow
from leapverify.analysis.race.paired import Paired, Ratio
from leapverify.analysis.wording import counted, p_text, percent
from leapverify.report.kit import table as t
from leapverify.report.kit.table import Cell


def difference(key: str, found: Paired, form: str) -> Cell:
    """Mean difference, p, n and interval."""
    small = found.mean is not None and found.mean != 0.0 and not 5e-4 <= _largest(found) < 1000
    cell = t.spread(key, found, "+.2g" if small else form)
    left = found.arm_failed + found.other_failed
    fields = {**cell.fields, f"{key}_p": found.p, f"{key}_test": found.test, f"{key}_left_out": left}
    if found.p is None:
        return replace(cell, fields=fields)
    lost = f"; {left} left out: not finite" if left else ""
    return replace(cell, below=f"p = {p_text(found.p)}, {cell.below}{lost}", fields=fields)


def _largest(found: Paired) -> float:
    return max(abs(value) for value in (found.mean, found.low, found.high) if value is not None)


def ratio(key: str, found: Ratio) -> Cell:
    """Geometric mean, n, interval, and the seeds that have no ratio."""
    never, other = found.other_only + found.neither, found.arm_only + found.neither
    fields: dict[str, t.Raw] = {f"{key}_mean": found.mean, f"{key}_low": found.low, f"{key}_high": found.high}
    fields |= {f"{key}_n": found.n, f"{key}_never": never, f"{key}_other_never": other, f"{key}_why": found.reason}
    if found.mean is None:
        return Cell(found.reason or "no value", kind="why", fields=fields)
    parts = [counted(found.n, "seed")]
    ends = t.ends_text(found.low, found.high, ".3f")
    parts += [f"95 % {ends}"] if ends else []
    parts += [f"never: {never} of {found.seeds}"] if never else []
    parts += [f"the other never: {other} of {found.seeds}"] if other else []
    parts += [f"before step 1: {found.at_start}"] if found.at_start else []
    return Cell(f"{found.mean:.3f}", "; ".join(parts), "number", fields)


def share(key: str, count: int, n: int) -> Cell:
    """'6 of 8'."""
    return Cell(f"{count} of {n}", kind="number", fields={key: count, f"{key}_of": n})


def overhead(key: str, mean: float | None, most: float | None) -> Cell:
    """Mean and most over seeds, per cent."""
    fields: dict[str, t.Raw] = {key: mean, f"{key}_max": most}
    if mean is None or most is None:
        return Cell("not recorded", kind="why", fields=fields)
    return Cell(percent(mean), f"at most {percent(most)}" if most else "", "number", fields)


def failed(cell: Cell, key: str, count: int) -> Cell:
    """The cell with the number of seeds whose loss is not finite."""
    fields = {**cell.fields, f"{key}_nonfinite": count}
    if not count:
        return replace(cell, fields=fields)
    return replace(cell, below="; ".join(filter(None, [cell.below, f"{count} not finite"])), fields=fields)


def loss_form(rows: Iterable[ArmRow]) -> str:
    """The number format of one case's losses, by the baseline's."""
    return magnitude([row.final.mean for row in rows if row.arm == "baseline"] or [row.final.mean for row in rows])


def magnitude(values: Iterable[float | None]) -> str:
    """Four decimals where the numbers bear them, else three digits."""
    largest = max((abs(value) for value in values if value is not None), default=1.0)
    return ".4f" if 0.05 <= largest < 1000 else ".3g"


def estimate(key: str, found: OverSeeds, form: str, *, scale: float = 1.0, count: bool = False) -> Cell:
    """The mean over seeds and its interval; the reason where there is none.

    Args:
        key: prefix of the CSV fields.
        found: the summary over seeds.
        form: number format.
        scale: 100 for per cent.
        count: also say n, where it is not that of the row.
    """
    cell = t.spread(key, found, form, scale=scale)
    if found.mean is None:
        return cell
    ends = t.ends_text(found.low, found.high, form, scale)
    said = [ends or "no interval", *([f"n = {found.n}"] if count else [])]
    return replace(cell, text=f"{found.mean * scale:{form}}", below=", ".join(said))
