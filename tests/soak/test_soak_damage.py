"""A random file of a run folder damaged at random, over and over: it is named, and never read as something else."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from audit_runs import put, recorded
from leapverify.audit.files import check_files
from leapverify.audit.seed import KINDS
from leapverify.config.overrides import load_config, with_settings
from leapverify.config.presets import preset
from leapverify.errors import ConfigError, Damaged
from leapverify.io import records
from leapverify.io.manifest import LAST, files_of
from leapverify.io.records import SeedMeasure
from leapverify.io.storage import load_tensors, read_json
from micro import MICRO
from small_text import write_documents
from soak._record import record, scale

COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_damage.py"
Fault = Callable[[bytearray, random.Random], bytearray]


def _bit(content: bytearray, chance: random.Random) -> bytearray:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def _byte(content: bytearray, chance: random.Random) -> bytearray:
    content[chance.randrange(len(content))] = chance.randrange(256)
    return content


def _zeros(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    end = min(len(content), at + 512)
    content[at:end] = bytes(end - at)
    return content


FAULTS: dict[str, Fault] = {
    "one bit flipped": _bit,
    "one byte replaced": _byte,
    "truncated": lambda content, chance: content[: chance.randrange(len(content))],
    "up to 512 bytes zeroed": _zeros,
    "bytes appended": lambda content, chance: content + chance.randbytes(chance.randrange(1, 64)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = write_documents(tmp_path_factory.mktemp("text"))
    config = with_settings(preset("tiny"), {**MICRO, "seeds": [42, 43], "data.source": f"text:{text}"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPVERIFY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return recorded(config, tmp_path_factory.mktemp("damage") / "run").path


def damaged(content: bytes, kind: str, chance: random.Random) -> bytes:
    """The content with a fault that changes it."""
    while True:
        found = bytes(FAULTS[kind](bytearray(content), chance))
        if found != content:
            return found


def by_fault(outcome: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    counts = sorted({what for _, what in outcome})
    return [{"fault": kind, **{what: outcome[kind, what] for what in counts}} for kind in FAULTS]


@pytest.mark.failure(2, 3)
def test_every_damaged_file_is_named(run: Path) -> None:
    chance, begun = random.Random(0), time.monotonic()
    names, n = [*files_of(run), *LAST], scale(1000)
    outcome: Counter[tuple[str, str]] = Counter()
    missed = []
    assert check_files(run).findings == []
    for number in range(n):
        kind = list(FAULTS)[number % len(FAULTS)]
        path = run / chance.choice(names)
        content = path.read_bytes()
        put(path, damaged(content, kind, chance))
        named = {each.path for each in check_files(run).findings}
        told = path.relative_to(run).as_posix() in named
        outcome[kind, "named" if told else "missed"] += 1
        missed += [] if told else [(path.name, kind)]
        put(path, content)
    record(
        "damage",
        rows=[2, 3],
        command=COMMAND,
        injected=n,
        survived=n - len(missed),
        lost=len(missed),
        seconds=time.monotonic() - begun,
        note=f"a random one of the {len(names)} files of a finished study damaged, then looked at by leapverify "
        "verify, which must name it",
        packages=["safetensors", "pyarrow"],
        tables={"by_fault": by_fault(outcome)},
    )
    assert missed == []


def reader_of(path: Path) -> Callable[[], Any] | None:
    """What the tool reads a file with; None where it never does."""
    kinds = {**KINDS, "seeds.parquet": SeedMeasure}
    if path.suffix == ".parquet":
        return lambda: records.read(path, kinds[path.name])  # type: ignore[type-var]
    if path.suffix == ".safetensors":
        return lambda: load_tensors(path)
    if path.suffix == ".yaml":
        return lambda: load_config(path)
    if path.suffix == ".json" and path.parent.name != "figures":
        return lambda: read_json(path)
    return None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(a[0], dict):
        one, other = a[0], b[0]
        return a[1] == b[1] and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return bool(a == b)


@pytest.mark.failure(2, 3)
def test_nothing_damaged_is_read_as_something_else(run: Path) -> None:
    chance, begun = random.Random(1), time.monotonic()
    readers = {path: reader for name in [*files_of(run), *LAST] if (reader := reader_of(path := run / name))}
    whole = {path: reader() for path, reader in readers.items()}
    outcome: Counter[tuple[str, str]] = Counter()
    wrong, n = [], scale(10_000)
    for number in range(n):
        kind = list(FAULTS)[number % len(FAULTS)]
        path = chance.choice(list(readers))
        content = path.read_bytes()
        put(path, damaged(content, kind, chance))
        try:
            found = readers[path]()
        except (Damaged, ConfigError) as error:
            told = path.name in str(error)
            outcome[kind, "refused" if told else "unnamed"] += 1
            wrong += [] if told else [(path.name, kind, str(error))]
        else:
            fine = same(found, whole[path])
            outcome[kind, "read as it was" if fine else "read otherwise"] += 1
            wrong += [] if fine else [(path.name, kind, "read otherwise")]
        put(path, content)
    refused = sum(count for (_, what), count in outcome.items() if what == "refused")
    record(
        "damage_read",
        rows=[2, 3],
        command=COMMAND,
        injected=n,
        survived=n - len(wrong),
        lost=len(wrong),
        refused=refused,
        seconds=time.monotonic() - begun,
        note=f"a random one of the {len(readers)} files that the tool reads back damaged, then read: it must be "
        "refused by name, or say what it said before (such as without its last line feed)",
        packages=["safetensors", "pyarrow"],
        tables={"by_fault": by_fault(outcome)},
    )
    assert wrong == []
