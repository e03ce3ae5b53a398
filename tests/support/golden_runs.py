"""What the golden records are made of: small runs of every kind, as plain data without clocks."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

import leap_ranks
from findings_records import by_eta, whole_set
from leapverify import load_study, run_study
from leapverify.bench.run import bench_predictors
from leapverify.capacity.cost import overview
from leapverify.capacity.machine import machine
from leapverify.claims.catalogue import judge_findings
from leapverify.claims.page import as_csv, as_markdown, as_tree
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.race.race import run_race
from leapverify.study.resweep import sweep_study
from micro import MICRO, timeless
from processes import run_ranks
from race_micro import micro as micro_race
from race_micro import timeless as timeless_race
from race_micro import trained
from small_text import write_documents
from spread_micro import SMALL, spread_study

PREDICTORS = (
    "hold", "random", "linear", "quadratic", "quadratic-paper", "quadratic-clamped", "taylor-3", "momentum", "adam",
    "adam-constant", "xgrad", "plp", "linear-fit", "rank1", "dmd-2", "rre", "anderson", "lawa-3", "anneal-linear",
    "ema-posthoc", "ema-extrapolate", "lookahead", "outer-nesterov", "fast-forward", "introspection", "wnn",
    "subspace", "subspace-layers",
)  # fmt: skip
RECORDS = ("checkpoints", "curve", "predictions", "cascades", "seeds")


def here() -> dict[str, str]:
    """What the last bits of a number depend on beside the code."""
    return {
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.partition("+")[0],
        "numpy": np.__version__,
        "python": platform.python_version().rpartition(".")[0],
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """Work in a folder that holds the text, so that no path of this machine gets into a record."""
    documents = folder / "documents"
    documents.mkdir(exist_ok=True)
    write_documents(documents)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def config_of(**changes: Any) -> Any:
    """The micro study on the small documents; names with __ for dots."""
    settings = {**MICRO, "data.source": "text:documents"} | {
        name.replace("__", "."): value for name, value in changes.items()
    }
    return with_settings(preset("tiny"), settings)


def study(folder: Path) -> dict[str, Any]:
    """Two seeds with cascades, twice swept: rows, Tables 1-10 and their companions, the report's words."""
    with inside(folder):
        settings = {"seeds": [42, 43], "verify__selection_sequences": 8, "observe__lyapunov": True}
        found = run_study(config_of(**settings), "run", device="cpu")
        first = rows(found) | {"weights": weights(found, 42, 60)}
        sweep_study("run", predictors=["linear", "adam", "plp", "taylor-2"], horizons=[5, 20], device="cpu")
        again = columns(timeless(load_study("run").predictions))
        return {
            "rows": first,
            "swept_again": again,
            "tables": {name: text for name, text in tables(Path("run")).items() if name.startswith("table-")},
        }


def switches(folder: Path) -> dict[str, Any]:
    """A study with all of the paper's artefacts, bfloat16 weights apart, and one with those."""
    with inside(folder):
        on = {f"switches.{name}": True for name, _ in config_of().switches}
        paper = with_settings(config_of(training__steps=30), on)
        rounded = config_of(training__steps=30, training__weights="bfloat16", training__rounding="stochastic")
        return {
            "paper": rows(run_study(paper, "paper", device="cpu")),
            "rounded": rows(run_study(rounded, "rounded", device="cpu")),
        }


def bench(folder: Path) -> dict[str, Any]:
    """Every predictor that needs no file, on one recorded seed."""
    with inside(folder):
        kept = config_of(training__steps=40, cascade__kinds=[], verify__selection_sequences=8)
        run = run_study(kept, "run", device="cpu").path
        bench_predictors(run, predictors=PREDICTORS, horizons=(5, 10), persist_every=2, device="cpu")
        from leapverify.io import records
        from leapverify.io.records import Benched, Prediction

        clocks = {"predict_ratio", "verify_ratio"}
        benched = timeless(records.read(run / "bench" / "benched.parquet", Benched))
        return {
            "predictions": columns(timeless(records.read(run / "bench" / "predictions.parquet", Prediction))),
            "benched": columns([{key: row[key] for key in row if key not in clocks} for row in benched]),
        }


def race(folder: Path) -> dict[str, Any]:
    """Units of the noise task, one an arm, and a race of two tasks as a whole."""
    arms = ("baseline", "wsd", "ema", "lawa", "lookahead", "leap-fixed", "leap-line-search", "leap-auto", "anneal")
    units = {}
    for arm in arms:
        result = trained(arm, value=0.2 if arm in ("wsd", "ema", "lawa", "anneal") else None)
        units[arm] = {"runs": columns(timeless_race(result.runs)), "points": columns(timeless_race(result.points))}
    with inside(folder):
        whole = run_race(micro_race(arms=["leap-fixed", "ema"], seeds=[0, 1]), "race")
        return {
            "units": units,
            "runs": columns(timeless_race(whole.runs)),
            "points": columns(timeless_race(whole.points)),
        }


LIVE: Mapping[str, Mapping[str, Any]] = {
    "fixed": {"policy": "fixed"},
    "shadow": {"policy": "fixed", "mode": "shadow"},
    "line-search": {"policy": "line-search"},
    "auto": {"policy": "auto"},
    "reset": {"policy": "fixed", "predictor": "dmd-2", "moments": "reset"},
    "anneal": {"mode": "monitor", "anneal": True},
}


def live(folder: Path) -> dict[str, Any]:
    """The events of one live run for each policy, and a hash of what its training ended with."""
    del folder
    return {name: _lived(None, options) for name, options in LIVE.items()}


def ranks(folder: Path) -> dict[str, Any]:
    """The same on two ranks, and a study of two ranks."""

    def work(kind: str, options: Mapping[str, Any]) -> Any:
        return _lived(leap_ranks.way(kind, 2), options)

    found = {kind: run_ranks(2, work, kind, LIVE["fixed"]) for kind in ("ddp", "fsdp")}
    with inside(folder):
        raised = spread_study(config_of(**{**SMALL, "training__steps": 20}), Path("run"), 2)
        assert raised == [None, None], raised
        return {"live": found, "study": rows(load_study("run"))}


def _lived(spread: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    run = leap_ranks.Run(spread)
    leap = run.leap(**options)
    events = run.train(60, leap)
    return {"events": leap_ranks.said(events), "trace": run.trace()}


def pages(folder: Path) -> dict[str, Any]:
    """The claims over made-up studies, and the memory plans of the presets."""
    del folder
    found = judge_findings(whole_set(by_eta, seeds=range(4)))
    sheets = [dataclasses.asdict(sheet) for sheet in overview(machine(80.0, 200.0))]
    return {
        "markdown": as_markdown(found), "csv": as_csv(found), "tree": as_tree(found, {}), "presets": sheets,
    }  # fmt: skip


KINDS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "study": study, "switches": switches, "bench": bench, "race": race, "live": live, "ranks": ranks, "pages": pages,
}  # fmt: skip


def rows(found: Any) -> dict[str, Any]:
    """All records of a study without clocks."""
    return {name: columns(timeless(getattr(found, name))) for name in RECORDS}


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows that all have the same fields, field by field."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def weights(found: Any, seed: int, step: int) -> str:
    """The sha256 of a snapshot's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(found.weights(seed, step).items()):
        digest.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tables(run: Path) -> dict[str, str]:
    """Every table of a run folder."""
    return {path.name: path.read_text() for path in sorted((run / "tables").iterdir())}


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._muted = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._muted += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._muted -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._muted and data.strip():
            self.words.append(" ".join(data.split()))


def words_of(page: Path) -> list[str]:
    """What a page says, piece by piece."""
    parser = _Words()
    parser.feed(page.read_text())
    return parser.words
