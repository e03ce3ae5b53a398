"""What every job of the check-list shares: options, a budget of minutes, a state that goes on, and one JSON.

A job is a list of parts. A call does the parts that are not done yet, one after another, until its minutes are over,
and writes what it has; called again, it goes on with the next. A part that fails says so in the result and does not
keep the others from being done. Run folders of studies lie in the state's folder and go on where they stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from about import bare, commit_of, now
from checklist import FORMAT, JOBS, SCRIPTS, Job, problems

from leapverify.config.overrides import parse_settings, with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from leapverify.errors import Damaged
from leapverify.io.storage import read_json, write_json
from leapverify.runs import Paused
from leapverify.runs.environment import describe, resolve_device
from leapverify.runs.progress import Progress
from leapverify.study.folder import DONE, SeedFolder, Study
from leapverify.study.run import run_study

BENCHMARKS = Path(__file__).resolve().parents[1]
PATIENCE_S = 20.0
"""How long a command that was asked to stop may take for it."""
MINUTES = 8.0
"""Of one call; a minute of the nine is for starting and for the last checkpoint."""
FAILED, SOMETHING_LEFT = 1, 3
MOST_WORDS = 500
"""Characters of a failure's message."""

SMALL: Mapping[str, Any] = {
    "model.layers": 1,
    "model.hidden": 16,
    "model.heads": 2,
    "model.vocab_size": None,
    "model.context": 128,
    "training.warmup_steps": 3,
    "training.batch_size": 2,
    "training.sequence_length": 16,
    "training.lr": 1e-3,
    "observe.interval_steps": 10,
    "regimes.thresholds": "fixed",
    "regimes.low": 0.1,
    "regimes.high": 0.2,
    "verify.sequences": 8,
    "verify.budget": 16,
    "verify.batch_sequences": 8,
    "verify.val_sequences": 8,
    "sweep.horizons": [5, 20],
    "cascade.shapes": [[2, 5]],
    "cascade.max_starts": 1,
}
"""What `--reduced` makes of a preset, the same code at a width of 16; every later checkpoint counts as stable."""
SMALL_QWEN = {"model.kv_heads": 1, "model.intermediate": 32}
SMALL_STEPS = 40


class TimeOver(Exception):
    """A part stopped before its end, where the next call goes on."""


@dataclass(frozen=True)
class Part:
    """A piece of a job that is done in one call, or that goes on by itself."""

    name: str
    run: Callable[[Sitting], Mapping[str, Any]]
    """Gives `n` and `figures`, see `found`; raises TimeOver where it goes on in the next call."""
    minutes: float = 1.0
    """On a GPU; with fewer left it is not begun, unless it is the first of a call."""


@dataclass(frozen=True)
class Sitting:
    """One call of a job."""

    job: Job
    options: argparse.Namespace
    deadline: float
    state: Path
    """The folder of this job's state."""

    @property
    def device(self) -> str:
        """cpu or cuda."""
        found: str = self.options.device
        return found

    @property
    def reduced(self) -> bool:
        """Whether only the code is tried."""
        found: bool = self.options.reduced
        return found

    @property
    def minutes_left(self) -> float:
        """Of this call; never nothing, since what is finished may say so."""
        return max(1e-6, (self.deadline - time.time()) / 60)

    def config(self, name: str, steps: int | None = None, **settings: Any) -> StudyConfig:
        """A preset with the text that was named, at full or reduced size.

        Args:
            name: of the preset.
            steps: of training; the preset's by default.
            settings: `__` stands for a dot.
        """
        changes: dict[str, Any] = {key.replace("__", "."): value for key, value in settings.items()}
        if self.reduced:
            changes |= {**SMALL, **(SMALL_QWEN if name.startswith("qwen") else {})}
            steps, changes["training.steps"] = None, SMALL_STEPS
        changes |= {"data.source": self.options.data} if self.options.data else {}
        changes |= {"data.tokenizer": self.options.tokenizer} if self.options.tokenizer else {}
        return with_settings(preset(name, steps), changes | parse_settings(self.options.settings))

    def study(self, config: StudyConfig, folder: str) -> Study:
        """The finished study of a configuration.

        Args:
            config: what is run.
            folder: the run folder's name in the state's folder.

        Raises:
            TimeOver: the minutes of this call are over.
        """
        resumable = config.snapshots.every is not None
        minutes = self.minutes_left if resumable else None
        try:
            done = run_study(config, self.state / folder, device=self.device, watcher=tell, minutes=minutes)
        except Paused as paused:
            raise TimeOver(str(paused)) from paused
        let_go(self.state / folder)
        return done

    def command(self, *words: object) -> str:
        """What Python prints for these words, run until the minutes of this call are over.

        Raises:
            TimeOver: they are; what keeps its work goes on in the next call.
            RuntimeError: it failed; the message is the last line of what it said.
        """
        line = [sys.executable, *map(str, words)]
        running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said, complained = running.communicate(timeout=60 * self.minutes_left)
        except subprocess.TimeoutExpired as over:
            running.send_signal(signal.SIGINT)
            try:
                running.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                running.kill()
                running.communicate()
            raise TimeOver("the minutes of this call are over") from over
        if running.returncode:
            last = (complained.strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"it ended with exit code {running.returncode}: {last}")
        return said

    def benchmark(self, script: str, *words: object) -> Any:
        """What a script of `benchmarks/` writes as JSON; arguments as `command`."""
        path = self.state / f"{Path(script).stem}.json"
        self.state.mkdir(parents=True, exist_ok=True)
        self.command(BENCHMARKS / script, "--device", self.device, "--json", path, *words)
        return read_json(path)


def found(n: int, **figures: Any) -> dict[str, Any]:
    """The result of a part.

    Args:
        n: how many repetitions, seeds or rows stand behind the figures.
        figures: names with their units -> numbers, or lists and mappings of them.
    """
    return {"n": n, "figures": figures}


def let_go(folder: Path) -> None:
    """Delete weights and moments of the seeds below a folder that have ended: two dozen of them fill a disk."""
    for done in folder.glob(f"**/seed-*/{DONE}"):
        seed = SeedFolder(done.parents[1], int(done.parent.name.removeprefix("seed-")))
        for path in (seed.snapshots, seed.states):
            shutil.rmtree(path, ignore_errors=True)


def tell(progress: Progress) -> None:
    """One line for each checkpoint and note, on standard error."""
    if progress.phase == "checkpoint":
        print(f"seed {progress.seed}: step {progress.step} of {progress.steps}, loss {progress.loss}", file=sys.stderr)
    elif progress.phase == "note":
        print(progress.note, file=sys.stderr)


def options_of(job: Job, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options that all jobs have."""
    parser = argparse.ArgumentParser(description=f"Job {job.number}: {job.decides}.")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/results"), help="Folder of the JSON.")
    parser.add_argument("--state", type=Path, default=Path("runs/gpu"), help="Folder in which a job goes on.")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="Of this call.")
    parser.add_argument("--data", default=None, help="text:PATH, stdlib or wikitext-103; the preset's unless given.")
    parser.add_argument("--tokenizer", default=None, help="A name or folder; the preset's unless given.")
    parser.add_argument("--reduced", action="store_true", help="Try the code: narrow models, few steps, no result.")
    parser.add_argument("--compile", default=None, help="Such as off,default,reduce-overhead (job 1).")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="A setting.")
    parser.add_argument("--commit", default=None, help="Of the code, where git cannot tell it.")
    options = parser.parse_args(arguments)
    options.device = resolve_device(options.device)
    if options.reduced:
        options.data, options.tokenizer = options.data or "stdlib-prose", options.tokenizer or "bytes"
    return options


def run_job(number: int, parts: Sequence[Part], arguments: Sequence[str] | None = None) -> int:
    """Do what is left of a job within this call's minutes.

    Args:
        number: of the job.
        parts: all of them, in order.
        arguments: of the command line; the process's own by default.

    Returns: 0 where nothing is left, 3 where something is, 1 where a part failed (the next call tries it again).

    Raises:
        ValueError: the state is that of other options.
    """
    job = next(each for each in JOBS if each.number == number)
    options = options_of(job, arguments)
    began = time.time()
    sitting = Sitting(job, options, began + 60 * options.minutes, options.state / f"{number:02d}-{job.name}")
    state, names = _open_state(sitting), [part.name for part in parts]
    call: dict[str, Any] = {"started": now(), "parts": []}
    state["calls"].append(call)
    for part in parts:
        if part.name in state["parts"]:
            continue
        if call["parts"] and not options.reduced and sitting.minutes_left < part.minutes:
            break
        call["parts"].append(part.name)
        goes_on = _do(part, sitting, state)
        call["seconds"] = round(time.time() - began, 3)
        write_json(sitting.state / "state.json", state)
        write_json(options.out / job.result, result_of(sitting, state, names))
        if not goes_on:
            break
    left = [name for name in names if name not in state["parts"]]
    told = f"left: {', '.join(left)}; give the same command again" if left else "done"
    print(f"{options.out / job.result}: {told}")
    return FAILED if state["failed"] else SOMETHING_LEFT if left else 0


def _do(part: Part, sitting: Sitting, state: dict[str, Any]) -> bool:
    """Do one part and note what came of it; whether there is time for another."""
    start = time.time()
    state["failed"].pop(part.name, None)
    try:
        state["parts"][part.name] = {**part.run(sitting), "seconds": round(time.time() - start, 3)}
    except TimeOver as over:
        print(over, file=sys.stderr)
        return False
    except Exception as error:  # What fails here may be anything, and minutes of a GPU are few.
        state["failed"][part.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST_WORDS]
        print(f"{part.name} failed: {state['failed'][part.name]}", file=sys.stderr)
    finally:
        gc.collect()
        if sitting.device == "cuda":
            torch.cuda.empty_cache()
    return True


def result_of(sitting: Sitting, state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The result so far, as it is written."""
    about = describe(sitting.device, threads=torch.get_num_threads(), workers=1)
    hardware = ("gpu", "cpu", "cores", "memory_bytes", "platform")
    result = {
        "format": FORMAT,
        "job": sitting.job.number,
        "name": sitting.job.name,
        "command": " ".join(["python", str(SCRIPTS / sitting.job.script), *(bare(word) for word in sys.argv[1:])]),
        "commit": commit_of(sitting.options.commit),
        "written": now(),
        "device": sitting.device,
        "reduced": sitting.reduced,
        "text": state["key"]["text"],
        "hardware": {key: about[key] for key in hardware},
        "versions": about["versions"],
        "calls": state["calls"],
        "left": [name for name in names if name not in state["parts"]],
        "failed": state["failed"],
        "parts": state["parts"],
    }
    wrong = list(problems(result))
    if wrong:
        raise ValueError(f"the result of job {sitting.job.number} is not whole ({'; '.join(wrong)}): mend the job")
    return result


def _open_state(sitting: Sitting) -> dict[str, Any]:
    """What earlier calls have done.

    Raises:
        ValueError: with other options than these.
    """
    o = sitting.options
    text = {"data": o.data and bare(o.data), "tokenizer": o.tokenizer and bare(o.tokenizer)}
    key = {"text": text, "device": o.device, "reduced": o.reduced, "settings": sorted(o.settings)}
    path = sitting.state / "state.json"
    try:
        state: dict[str, Any] = read_json(path)
    except Damaged:
        # Nothing is lost but the figures of parts that are done: studies go on from their run folders.
        return {"key": key, "parts": {}, "failed": {}, "calls": []}
    if state["key"] != key:
        raise ValueError(f"{path} was begun with other options ({state['key']}): name another --state, or delete it")
    return state


def plain(row: Any, *names: str) -> dict[str, Any]:
    """The named fields of a dataclass, ready for JSON."""
    fields = dataclasses.asdict(row)
    return {name: fields[name] for name in names}
