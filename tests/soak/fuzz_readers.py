"""Every reader under fire for a while: python tests/soak/fuzz_readers.py FOLDER ENGINE=SECONDS...

Engines: `mutations` (structure-aware, from seeds), `hypothesis` (values of its own making), `atheris` (by coverage;
needs leapverify[fuzz]). Every input has 10 s and 1,024 MB beside what the process had; more is a finding. Each reader
and engine has a process of its own, forked from one that has imported everything; FOLDER takes a JSON file of it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / each) for each in ("", "support")]

TIME_S, MEMORY_MB = 10, 1024
SEEDS = 1 << 32


class TooSlow(BaseException):
    """An input took longer than it may; no reader may take it for an error of the file."""


class Range:
    """Counts what became of the inputs."""

    def __init__(self, reader: Any, folder: Path, result: Path, seconds: float) -> None:
        self.reader, self.folder, self.result = reader, folder, result
        self.counts, self.findings = Counter[str](), Counter[str]()
        self.start, self.told, self.seconds, self.worst_s = time.monotonic(), 0.0, seconds, 0.0
        self.before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        signal.signal(signal.SIGALRM, self._too_slow)
        reader.beside(folder)

    def shoot(self, content: bytes) -> None:
        """Give the reader one input."""
        began = time.monotonic()
        signal.alarm(TIME_S)
        try:
            self.reader.write(self.folder, content)
            self.counts[self.reader.outcome(self.folder)] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._found(error, content)
        finally:
            signal.alarm(0)
        self.worst_s = max(self.worst_s, time.monotonic() - began)
        if time.monotonic() - self.told > 1:
            self.tell()

    def over(self) -> bool:
        """Whether the time is."""
        return time.monotonic() - self.start > self.seconds

    def tell(self) -> None:
        """Write the counts so far: the fuzzer ends the process where it stands."""
        self.told = time.monotonic()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        if peak_mb - self.before_mb > MEMORY_MB:
            self.findings[f"took {peak_mb - self.before_mb} MB"] = 1
        found = {
            "tried": self.counts.total() + sum(self.findings.values()),
            "read": self.counts["read"],
            "refused": self.counts["refused"],
            "findings": dict(self.findings),
            "seconds": round(self.told - self.start, 1),
            "worst_s": round(self.worst_s, 2),
            "memory_mb": max(0, peak_mb - self.before_mb),
        }
        self.result.write_text(json.dumps(found))

    def _found(self, error: BaseException, content: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(each.filename).name}:{each.lineno}" for each in reversed(frames))
        name = f"{type(error).__name__}: {str(error)[:100]} ({where})"
        if not self.findings[name]:
            self.result.with_suffix(f".{len(self.findings)}.bin").write_bytes(content)
        self.findings[name] += 1

    def _too_slow(self, *_: Any) -> None:
        raise TooSlow(f"longer than {TIME_S} s")


def mutations(target: Range) -> None:
    """The valid file, changed."""
    from hostile_mutations import mutated

    content, seed = target.reader.valid(), random.randrange(SEEDS)
    while not target.over():
        seed += 1
        target.shoot(mutated(content, target.reader.kind, random.Random(seed)))


def hypothesis(target: Range) -> None:
    """Values of hypothesis' own making, as the reader's format where it is JSON or YAML."""
    from hypothesis import HealthCheck, given, settings

    from hostile_values import contents

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(contents(target.reader))
    def shoot(content: bytes) -> None:
        if not target.over():
            target.shoot(content)

    while not target.over():
        shoot()


def fuzz(target: Range) -> None:
    """What reaches new lines of the readers is changed again."""
    import atheris

    corpus = target.folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(target.reader.valid())
    arguments = [sys.argv[0], f"-max_total_time={int(target.seconds)}", "-max_len=20000", "-verbosity=0", str(corpus)]
    atheris.Setup(arguments, target.shoot)
    atheris.Fuzz()


ENGINES: dict[str, Callable[[Range], None]] = {"mutations": mutations, "hypothesis": hypothesis, "atheris": fuzz}


def fire(reader: Any, engine: str, seconds: float, result: Path) -> None:
    """One reader, one engine, in a child of this process."""
    child = os.fork()
    if not child:
        try:
            with tempfile.TemporaryDirectory() as folder:
                target = Range(reader, Path(folder), result, seconds)
                ENGINES[engine](target)
                target.tell()
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(child, 0)


def main(folder: str, *seconds: str) -> None:
    """Fire at every reader with every engine that is named."""
    asked = {engine: float(text) for engine, _, text in (each.partition("=") for each in seconds)}
    if "atheris" in asked:
        import atheris

        with atheris.instrument_imports(include=["leapverify.io.untrusted", "leapverify.io.yaml_file", "yaml", "json"]):
            pass
    from hostile_readers import READERS

    for number, (name, reader) in enumerate(READERS.items()):
        for engine, each_s in asked.items():
            fire(reader, engine, each_s, Path(folder) / f"{number:02d}-{engine}.json")
            print(name, engine, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
