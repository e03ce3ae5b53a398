"""The cells of a race's tables: paired differences with their p, ratios with their absentees, shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from leapverify.analysis.bench.published import Claim
from leapverify.analysis.bench.values import Ranking
from leapverify.analysis.bench.verdicts import PublishedVerdict
from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.race.arms import ArmRow
from leapverify.analysis.race.paired import Paired, Ratio
from leapverify.analysis.wording import p_text, percent
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
    parts = [f"{found.n} seed" + "s" * (found.n != 1)]
    if found.low is not None and found.high is not None:
        parts.append(f"95 % {found.low:.3f} to {found.high:.3f}")
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
    below = ""
    if found.low is not None and found.high is not None:
        below = f"{found.low * scale:{form}} to {found.high * scale:{form}}"
    said = [below or "no interval", *([f"n = {found.n}"] if count else [])]
    return replace(cell, text=f"{found.mean * scale:{form}}", below=", ".join(said))


def tokens(key: str, found: OverSeeds) -> Cell:
    """Forward-token equivalents, in three digits."""
    cell = estimate(key, found, ".3g")
    return cell if found.mean is None else replace(cell, text=short(found.mean), below="")


def short(value: float) -> str:
    """'912', '12.3 k' or '1.2 M'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def cost(row: Ranking) -> Cell:
    """Cost of an attempt in steps, with the tokens of prediction and verification below."""
    found = row.cost_steps
    fields = {**t.spread("cost_steps", found).fields}
    fields |= {"predict_tokens": row.predict_tokens.mean, "verify_tokens": row.verify_tokens.mean}
    if found.mean is None or row.predict_tokens.mean is None or row.verify_tokens.mean is None:
        return Cell(found.reason or "no value", kind="why", fields=fields)
    below = f"{short(row.predict_tokens.mean)} + {short(row.verify_tokens.mean)}"
    return Cell(f"{found.mean:.2f}", below, "number", fields)


def attempts(row: Ranking) -> Cell:
    """How many predictions were made, and how many of them could not be measured."""
    fields: dict[str, t.Raw] = {"n": row.n, "nonfinite": row.nonfinite, "beyond": row.beyond}
    below = f"{row.nonfinite} not finite" if row.nonfinite else ""
    return Cell(str(row.n), below, "number", fields)


def declined(row: Ranking) -> Cell:
    """The share of requests that were declined, with the commonest reason."""
    share = 100.0 * row.declined / len(row.tried) if row.tried else 0.0
    fields: dict[str, t.Raw] = {"declined_percent": share, "declined_reason": row.declined_reason}
    text = f"{share:.0f} %: {row.declined_reason}" if share else "none"
    return Cell(text, kind="wide" if share else "", fields=fields)


def said_once(row: Ranking, cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a row; where no prediction was made, the reason in the first of them alone."""
    if row.n:
        return list(cells)
    first = next((index for index, cell in enumerate(cells) if cell.kind == "why"), 0)
    return [replace(cell, text="") if cell.kind == "why" and index > first else cell
            for index, cell in enumerate(cells)]  # fmt: skip


def persistence(row: Ranking) -> Cell:
    """Median persistence with its own n, and how often training from the predicted state diverged."""
    cell = estimate("persistence", row.persistence, ".2f", count=True)
    return replace(cell, fields={**cell.fields, "diverged": row.diverged, "unmeasured": row.unmeasured})


def verdict(key: str, found: PublishedVerdict) -> Cell:
    """The word, and the numbers behind it."""
    return Cell(found.word, found.why, "", {key: found.word, f"{key}_why": found.why})


def claim(found: Claim | None, in_setting: bool) -> Cell:
    """What is claimed, by whom and where; whether the bench is of that kind of training."""
    if found is None:
        return Cell("none", kind="wide", fields={"source": "", "claim": "", "setting": "", "in_setting": False})
    fields: dict[str, t.Raw] = {"source": found.source, "claim": found.claim, "setting": found.setting}
    where = f"setting: {found.setting}" if in_setting else f"another setting: {found.setting}"
    text = f"{found.claim} ({found.source}); {where}"
    return Cell(text, kind="wide", fields={**fields, "in_setting": in_setting})
