"""Tasks per second of the executors, at one and two workers, and what of the second worker arrives.

    python benchmarks/executors.py [--tasks N] [--work-s S] [--repeats N]

Three kinds of tasks: that do nothing, that wait for S seconds (what the executor itself costs, whatever else the cores
do), and that compute for S seconds of one core's time. Start: seconds from nothing until each worker has done an empty
task. Rate: tasks by seconds from then on. Efficiency: the rate at two workers by twice the rate at one. Every ratio
stands beside its two sides; medians of the repeats, executors taking turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from leapverify.runs import Execution, Task, execution
from leapverify.runs.progress import Progress, Watcher, ignore


def work(watcher: Watcher, *, seed: int, wait_s: float, compute_s: float) -> None:
    """Wait, compute for so many seconds of this core's time, and say so once."""
    time.sleep(wait_s)
    end = time.process_time() + compute_s
    while time.process_time() < end:
        sum(range(1000))
    watcher(Progress(seed, 1, 1, "done"))


def measure(how: Execution, workers: int, tasks: int, wait_s: float, compute_s: float) -> tuple[float, float]:
    """Seconds until a first task on each worker is done, and tasks per second thereafter."""
    call = "executors:work"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with how.open(Path(folder), workers) as executor:
            empty = {"wait_s": 0.0, "compute_s": 0.0}
            first = [Task(-1 - number, call, {"seed": -1 - number, **empty}) for number in range(workers)]
            failures = executor.run(first, ignore)
            start_s = time.perf_counter() - began
            every = [
                Task(seed, call, {"seed": seed, "wait_s": wait_s, "compute_s": compute_s}) for seed in range(tasks)
            ]
            began = time.perf_counter()
            failures |= executor.run(every, ignore)
            rate = tasks / (time.perf_counter() - began)
    if failures:
        sys.exit(f"a task failed: {next(iter(failures.values()))}")
    return start_s, rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--work-s", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    kinds = ["processes", *(["ray"] if importlib.util.find_spec("ray") else [])]
    for what, wait_s, compute_s in (
        ("nothing", 0.0, 0.0),
        (f"waiting for {options.work_s:g} s", options.work_s, 0.0),
        (f"computing for {options.work_s:g} s", 0.0, options.work_s),
    ):
        found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
        for _ in range(options.repeats):
            for kind in kinds:
                for workers in (1, 2):
                    how = execution(kind, workers)
                    found[kind, workers].append(measure(how, workers, options.tasks, wait_s, compute_s))
        print(f"\n{options.tasks} tasks, each {what}; median of {options.repeats}\n")
        print("| executor | start, 1 worker | start, 2 workers | tasks/s, 1 worker | tasks/s, 2 workers | efficiency |")
        print("|---|---|---|---|---|---|", flush=True)
        for kind in kinds:
            one_s, one = (statistics.median(side) for side in zip(*found[kind, 1], strict=True))
            two_s, two = (statistics.median(side) for side in zip(*found[kind, 2], strict=True))
            ratio = f"{two:.2f} / (2 x {one:.2f}) = {two / (2 * one):.2f}"
            print(f"| {kind} | {one_s:.1f} s | {two_s:.1f} s | {one:.2f} | {two:.2f} | {ratio} |", flush=True)


if __name__ == "__main__":
    import os

    # The workers import this file by its name.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    main()
