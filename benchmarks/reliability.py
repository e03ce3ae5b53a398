"""The failure table: what is promised, which tests hold it, and what was thrown at it.

Nothing is run here. Rows come from this file, tests from their markers (`@pytest.mark.failure(3)`), figures from what
the soaks wrote into docs/results/reliability.

    python benchmarks/reliability.py [--write docs/reliability.md]
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "reliability"
ROWS: Mapping[int, tuple[str, str]] = {
    1: ("kill -9 anywhere in a save", "the old state is intact, what was half written is ignored"),
    2: ("one flipped byte", "own sha256 of every file; the file is named and refused, the last good one used"),
    3: ("truncation, missing shard, stale file of a rank", "refused by name"),
    4: ("disk full, read-only folder", "the training goes on, monitoring stops with one clear message"),
    5: ("stop and resume at any phase", "weights, random streams and decisions bit-identical to the unbroken run"),
    6: ("rejected leap", "weights, buffers, optimizer, random streams, modes and grad scaler bit-identical"),
    7: ("monitor and shadow mode", "the trajectory is that of a run without the tool, bit for bit"),
    8: ("NaN or infinity in weights, history or losses", "rejected, recorded, history begun anew"),
    9: ("exception or out of memory in a verdict", "weights put back, leaping off, training goes on, no rank hangs"),
    10: ("ranks disagree", "the same decision or an error on every rank, never a hang"),
    11: ("uneven, empty and tied shards", "equal to one process within 1e-6"),
    12: ("gradient accumulation, steps that AMP skips", "the engine acts once per real optimizer step"),
    13: ("the model changes in mid-run", "the history begins anew, no crash"),
    14: ("held-out data leak, chance", "overlap is found; false accepts of null improvements at the stated rate"),
    15: ("hostile files", "refused: nothing is executed, no path leaves its root, sizes are limited"),
    16: ("injection into reports", "an inert page that asks no network"),
    17: ("killed workers, two drivers on one folder", "the same table as the serial run"),
}
"""Number -> (failure, promise)."""
END = "<!-- end -->"
STOPPING = ("rounds", "extended", "each gain", "best moment")


@dataclass(frozen=True)
class Test:
    """One test function that holds rows of the table."""

    file: str
    """Below tests/."""
    name: str
    rows: tuple[int, ...]

    @property
    def soak(self) -> bool:
        """Whether `make soak` runs it, and `make check` does not."""
        return self.file.startswith("soak/")


def collected(root: Path = ROOT / "tests") -> list[Test]:
    """All tests with the marker, in order of files and names.

    Raises:
        ValueError: a marker without rows, or with one that the table does not have.
    """
    found = []
    for path in sorted(root.rglob("test_*.py")):
        tree, file = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).as_posix()
        whole = [row for node in tree.body for row in _of_file(node, file)]
        for node, outer in _functions(tree.body):
            rows = {*whole, *(row for each in (*outer, *node.decorator_list) for row in _marked(each, file))}
            if rows:
                found.append(Test(file, node.name, tuple(sorted(rows))))
    return found


def _functions(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.FunctionDef, list[ast.expr]]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node, []
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from ((inner, [*node.decorator_list, *outer]) for inner, outer in _functions(node.body))


def _of_file(node: ast.stmt, file: str) -> Iterator[int]:
    named = isinstance(node, ast.Assign) and any(isinstance(n, ast.Name) and n.id == "pytestmark" for n in node.targets)
    if named and isinstance(node, ast.Assign):
        yield from (row for each in ast.walk(node.value) for row in _marked(each, file))


def _marked(node: ast.AST, file: str) -> tuple[int, ...]:
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.failure"):
        return ()
    rows = tuple(each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, int))
    if not rows or len(rows) != len(node.args) or not set(rows) <= set(ROWS):
        raise ValueError(f"{ast.unparse(node)} in tests/{file} names no row of the table: give numbers from 1 to 17")
    return rows


def records(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """What the soaks wrote, in order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def missing(tests: Iterable[Test]) -> list[int]:
    """Rows that no test of `make check` holds."""
    held = {row for each in tests if not each.soak for row in each.rows}
    return [row for row in ROWS if row not in held]


def figure(record: Mapping[str, Any]) -> str:
    """A record as a part of a sentence."""
    done = f"{record['injected']:,} faults" if record["injected"] is not None else f"{record['tried']:,} inputs"
    refused = f" ({record['refused']:,} refused)" if record["refused"] else ""
    return f"{record['name']}: {done}, {record['survived']:,} survived{refused}, {record['lost']:,} lost"


def table(tests: Sequence[Test], found: Sequence[Mapping[str, Any]]) -> str:
    """The failure table as Markdown."""
    lines = ["| # | failure | promise | tests | soaks: figures |", "|---|---|---|---|---|"]
    for row, (failure, promise) in ROWS.items():
        here = [each for each in tests if row in each.rows and not each.soak]
        figures = "; ".join(figure(each) for each in found if row in each["rows"]) or "none yet"
        files = len({each.file for each in here})
        held = f"{len(here)} in {files} file{'s' * (files != 1)}" if here else "none yet"
        lines.append(f"| {row} | {failure} | {promise} | {held} | {figures} |")
    return "\n".join(lines)


def soaks(found: Sequence[Mapping[str, Any]]) -> str:
    """What each soak did, with its command."""
    lines = ["| soak | rows | what was done | seconds | command |", "|---|---|---|---|---|"]
    for each in found:
        rows = ", ".join(map(str, each["rows"]))
        lines.append(f"| {each['name']} | {rows} | {each['note']} | {each['seconds']:.0f} | `{each['command']}` |")
    return "\n".join(lines)


def names(tests: Sequence[Test]) -> str:
    """The tests of each row, file by file."""
    lines = []
    for row, (failure, _) in ROWS.items():
        by_file: dict[str, list[str]] = {}
        for each in tests:
            if row in each.rows:
                by_file.setdefault(each.file, []).append(each.name.removeprefix("test_").replace("_", " "))
        lines += [f"**{row}, {failure}**", ""]
        lines += [f"- `{file}`: {'; '.join(held)}" for file, held in by_file.items()] or ["- none yet"]
        lines.append("")
    return "\n".join(lines).rstrip()


def rates(found: Sequence[Mapping[str, Any]], name: str, alpha: float) -> str:
    """Shares of false accepts with their intervals, one line for each kind of gains; bold where alpha is exceeded."""
    record = next((each for each in found if each["name"] == name), None)
    if record is None:
        return "Not run yet."
    lines = [f"| gains | {' | '.join(STOPPING)} |", "|---" * (len(STOPPING) + 1) + "|"]
    rows = [row for row in record["tables"]["rates"] if row["alpha"] == alpha]
    lines += [f"| {row['gains']} | {' | '.join(_rate(row[key], alpha) for key in STOPPING)} |" for row in rows]
    return "\n".join(lines)


def reuse(found: Sequence[Mapping[str, Any]]) -> str:
    """Shares of false accepts, by who proposes and by how often the held-out set was gone through."""
    held = {each["name"]: each["tables"]["rates"] for each in found if each["name"].startswith("sequential_")}
    if not {"sequential_fresh", "sequential_reused"} <= set(held):
        return "Not run yet."
    bins = [key for key, value in held["sequential_reused"][0].items() if isinstance(value, list)]
    lines = [f"| who proposes | fresh batches | {' | '.join(bins)} |", "|---" * (len(bins) + 2) + "|"]
    for fresh, again in zip(held["sequential_fresh"], held["sequential_reused"], strict=True):
        cells = [_rate(fresh["fresh"], 0.05), *(_rate(again[key], 0.05) for key in bins)]
        lines.append(f"| {fresh['proposer']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def caution(found: Sequence[Mapping[str, Any]]) -> str:
    """What other constants of the test would do."""
    record = next((each for each in found if each["name"] == "sequential_outside"), None)
    if record is None:
        return "Not run yet."
    rows = record["tables"]["caution"]
    keys = [key for key in rows[0] if isinstance(rows[0][key], list)]
    lines = ["| | " + " | ".join(f"{row['caution']:g}, {row['first look']}" for row in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    for key in keys:
        power = key.rpartition(" ")[2] == "deviations"
        cells = [f"{row[key][0]:.3f}, {row[key][1]:.0f} read" if power else _rate(row[key], 0.05) for row in rows]
        lines.append(f"| {'power, ' if power else 'false accepts, '}{key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rate(value: Sequence[float], alpha: float) -> str:
    share, low, high = value[:3]
    if len(value) > 3 and value[3] == 0:
        return "-"
    text = f"{share:.4f} ({low:.4f} to {high:.4f})"
    return f"**{text}**" if low > alpha else text


def parts() -> dict[str, str]:
    """What stands between the marks of the page, by the name in the mark."""
    tests, found = collected(), records()
    return {
        "table": table(tests, found),
        "soaks": soaks(found),
        "rates 0.05": rates(found, "sequential", 0.05),
        "rates 0.01": rates(found, "sequential", 0.01),
        "outside": rates(found, "sequential_outside", 0.05),
        "real": rates(found, "sequential_real", 0.05),
        "reuse": reuse(found),
        "caution": caution(found),
        "names": names(tests),
    }


def renewed(page: str) -> str:
    """The page with every made part as it is now.

    Raises:
        ValueError: a mark is missing.
    """
    for name, text in parts().items():
        begin = f"<!-- {name}: made by benchmarks/reliability.py -->"
        before, mark, after = page.partition(begin)
        _, end, rest = after.partition(END)
        if not (mark and end):
            raise ValueError(f"the page has no part {name!r}: put in {begin} and {END}")
        page = f"{before}{begin}\n{text}\n{end}{rest}"
    return page


def main() -> None:
    """Print the table, or renew the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the page whose made parts are renewed")
    path = parser.parse_args().write
    tests = collected()
    if path is None:
        print(table(tests, records()))
    else:
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{path}: {len(tests)} tests, {len(records())} soaks")
    if lacking := missing(tests):
        print(f"rows without a test: {', '.join(map(str, lacking))}")


if __name__ == "__main__":
    main()
