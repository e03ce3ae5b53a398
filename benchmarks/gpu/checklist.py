"""What is to be measured on a GPU, what has been, and what a result file has to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.errors import Damaged
from leapverify.io.storage import read_json

RESULTS = Path("docs/results/gpu")
SCRIPTS = Path("benchmarks/gpu")
FORMAT = 1
"""Raised when result files change their form."""
OWED = "owed"
_AS_MODULE = str.maketrans("-.", "__")
NO_TREE = "the check-list is part of the source tree (benchmarks/gpu), which is not here: clone it to see what is owed"


@dataclass(frozen=True)
class Job:
    """One numbered job."""

    number: int
    name: str
    minutes: int
    """Of a GPU of the H200 class, all calls together: a guess until it is done."""
    decides: str
    """What the result settles."""

    @property
    def script(self) -> str:
        """Its file, below `benchmarks/gpu`."""
        return f"{self.number:02d}_{self.name.translate(_AS_MODULE)}.py"

    @property
    def result(self) -> str:
        """The file that it writes."""
        return f"{self.number:02d}-{self.name}.json"

    @property
    def command(self) -> str:
        """What is typed, and typed again until nothing is left."""
        return f"python {SCRIPTS / self.script} --device cuda"


JOBS = (
    Job(
        1,
        "kernels",
        9,
        "how near training steps (eager, compiled, CUDA graphs), sweeps, predictions and fingerprints come to the "
        "floor at 124M; that resuming, sweeping and a rejected leap are bit-identical on the device",
    ),
    Job(2, "study-124m", 25, "the paper's tables for GPT-2 124M: seeds 42 to 46, 2000 steps"),
    Job(3, "ladder-124m", 80, "what each measuring artefact does to them: two seeds, every switch"),
    Job(4, "study-1.5b", 30, "the tables for Qwen2.5-1.5B: one seed, then more"),
    Job(
        5,
        "study-7b",
        18,
        "the tables for Qwen2.5-7B with cascades, with and without stochastic rounding: one seed each; how much of "
        "Table 8 is bfloat16 rounding",
    ),
    Job(6, "trainer", 9, "tokens a second against the Hugging Face Trainer, same model, batch and precision"),
    Job(7, "seeds", 9, "seeds an hour: several at once on one GPU against one after another"),
    Job(8, "race-124m", 60, "whether leaping pays at 124M: pre-training and LoRA"),
    Job(9, "parts", 9, "observing, predicting, sweeping and leaping as benchmarks/*.py time them, on the device"),
    Job(10, "memory", 9, "whether the memory plan holds against the device's measured peaks"),
    Job(11, "bench-124m", 45, "which predictors of the literature are accepted, persist and pay at 124M: two seeds"),
)
"""Most important first."""


@dataclass(frozen=True)
class Standing:
    """How far one job has got."""

    job: Job
    result: Mapping[str, Any] | None
    """The committed result of a GPU; None: there is none."""

    @property
    def done(self) -> bool:
        """Whether nothing of it is owed."""
        return self.result is not None and not self.result["left"]

    @property
    def text(self) -> str:
        """Date, commit and what is still missing, or that all of it is."""
        if self.result is None:
            return OWED
        told = f"{str(self.result['written'])[:10]}, {self.result['hardware']['gpu']['name']}, {self.result['commit']}"
        left = self.result["left"]
        return f"{told}; {OWED}: {', '.join(left)}" if left else told


def source_tree() -> Path | None:
    """The source tree that this package runs from; None where it was installed without one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / SCRIPTS).is_dir() else None


def standings(tree: Path) -> list[Standing]:
    """Every job with its committed result, if there is one from a GPU."""
    return [Standing(job, _result(tree / RESULTS / job.result)) for job in JOBS]


def owed(tree: Path | None = None) -> list[Standing]:
    """The jobs of which something is owed.

    Args:
        tree: the source tree; the one that this package runs from by default.

    Raises:
        ValueError: there is none.
    """
    root = tree or source_tree()
    if root is None:
        raise ValueError(NO_TREE)
    return [each for each in standings(root) if not each.done]


def owed_lines(tree: Path | None = None) -> list[str]:
    """What `leapverify doctor` says of the check-list, a line for each owed job."""
    try:
        missing = owed(tree)
    except ValueError as error:
        return [str(error)]
    return [f"{each.job.number:02d} {each.job.name:12} {each.text}: {each.job.command}" for each in missing]


def table(tree: Path) -> str:
    """The table of `benchmarks/gpu/README.md`."""
    lines = ["| job | command | minutes | decides | done |", "|---|---|---:|---|---|"]
    for each in standings(tree):
        job = each.job
        link = f", [{job.result}](../../{RESULTS / job.result})" if each.result is not None else ""
        cells = [f"{job.number:02d} {job.name}", f"`{job.command}`", f"about {job.minutes}", job.decides]
        lines.append(f"| {' | '.join(cells)} | {each.text}{link} |")
    return "\n".join(lines)


def problems(result: Any) -> Iterator[str]:
    """What a result file lacks; nothing where it is whole."""
    if not isinstance(result, dict):
        yield "it is no mapping"
        return
    for key, kind in _KEYS.items():
        if key not in result:
            yield f"{key} is missing"
        elif not isinstance(result[key], kind):
            yield f"{key} is {result[key]!r}"
    parts = result.get("parts")
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if not (isinstance(part, dict) and isinstance(part.get("n"), int) and isinstance(part.get("figures"), dict)):
            yield f"part {name} has no n or no figures"
    if isinstance(parts, dict) and isinstance(result.get("left"), list) and {*parts} & {*result["left"]}:
        yield "a part is both done and left"


_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "format": int,
    "job": int,
    "name": str,
    "command": str,
    "commit": str,
    "written": str,
    "device": str,
    "reduced": bool,
    "text": dict,
    "hardware": dict,
    "versions": dict,
    "calls": list,
    "left": list,
    "failed": dict,
    "parts": dict,
}


def _result(path: Path) -> Mapping[str, Any] | None:
    """A result of a GPU at full size; anything else is no answer to the question."""
    try:
        found = read_json(path)
    except Damaged:
        return None
    if any(problems(found)) or found["device"] != "cuda" or found["reduced"]:
        return None
    result: Mapping[str, Any] = found
    return result if result["hardware"].get("gpu") else None
