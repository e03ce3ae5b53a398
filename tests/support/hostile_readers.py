"""Every reader of files that others may have written: a valid file for it, and what it promises of any other.

The promise: a value, or the reader's ValueError in one sentence; no other exception, whatever the bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import lzma
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lazily import Lazily
from leapverify.analysis.race.arms import RaceCase
from leapverify.bench.results import BenchSeed
from leapverify.config.overrides import dump_config, load_config, parse_settings
from leapverify.config.presets import preset as study_preset
from leapverify.io import records
from leapverify.io.records import Checkpoint, LossPoint, Prediction, RacePoint, RaceRun
from leapverify.io.storage import load_tensors, read_json, save_tensors, write_json
from leapverify.leap.state import checked_state
from leapverify.observe.probes import ProbeSet
from leapverify.predict.learnt.files import SHIPPED, load_learnt
from leapverify.predict.nino.checkpoint import read as read_nino
from leapverify.race.overrides import load_config as load_race
from leapverify.race.plan import RaceUnit, Result
from leapverify.race.presets import preset as race_preset
from leapverify.race.results import Store
from leapverify.report.kit.run import load_run
from leapverify.study.folder import SeedFolder
from leapverify.train.documents import load_documents
from leapverify.train.model_folder import check_folder
from leapverify.train.state import load_state
from leapverify.trajectory.history import History
from leapverify.trajectory.state import unpack
from nino_checkpoints import write_mlp
from saved_states import save_state

callback = Lazily("leapverify.integrations.transformers", "accelerate")
TEXT = "".join(f"A line of training text, number {number}.\n\n" for number in range(60))


@dataclass(frozen=True)
class Reader:
    """One reader, the name of the file that is hostile, and what else lies beside it."""

    name: str
    file: str
    valid: Callable[[], bytes]
    read: Callable[[Path], Any]
    """Of the folder."""
    beside: Callable[[Path], None] = lambda folder: None
    marked: bool = False
    """Whether a mark with the sha256 goes beside it: who forges the file forges the mark."""
    kind: str = "bytes"
    """bytes | json | yaml | safetensors: which structure its mutations know."""

    def write(self, folder: Path, content: bytes) -> None:
        """Put the hostile content where the reader looks for it."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if self.marked:
            mark = path.with_suffix(".json")
            about = json.loads(mark.read_text()) if mark.exists() else {}
            about.pop("content_sha256", None)
            mark.write_text(json.dumps({**about, "sha256": hashlib.sha256(content).hexdigest()}))

    def outcome(self, folder: Path) -> str:
        """'read' or 'refused'; whatever else the reader raises comes out.

        Raises:
            AssertionError: the refusal is not one sentence.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.read(folder)
            except ValueError as error:
                self._check(error)
                return "refused"
        return "read"

    def _check(self, error: ValueError) -> None:
        said, kind = str(error), type(error)
        assert said, f"{self.name} refused without a word"
        assert len(said) < 2000, f"{self.name} refused with {len(said)} characters"
        assert kind is ValueError or kind.__module__.startswith("leapverify"), repr(error)


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def _from(write: Callable[[Path], None], file: str) -> Callable[[], bytes]:
    """The bytes that a writer puts into a file."""

    @cache
    def made() -> bytes:
        with _temporary() as folder:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write(folder / file)
            return (folder / file).read_bytes()

    return made


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def row(kind: type, /, **changes: Any) -> Any:
    """A record with some value in every field."""
    plain = {"int": 1, "float": 0.5, "str": "linear", "bool": True}
    values = {each.name: plain[str(each.type).split(" | ")[0]] for each in dataclasses.fields(kind)}
    return kind(**(values | changes))


def _rows(kind: type, count: int = 40) -> Callable[[Path], None]:
    return lambda path: records.write(path, kind, [row(kind, step=number) for number in range(count)])


TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "step-000050": torch.ones(2)}


def _state(path: Path) -> None:
    save_state(path, *_model(), step=50)


def _history() -> History:
    like = [torch.zeros(2, 3)]
    history = History(like, 4)
    history.push(50, like)
    history.recent = History(like, 4)
    return history


def _remembered() -> bytes:
    state = {"averages": None, "milestones": [], "recent": [[48, [{"tensor": "x"}]], [49, [{"tensor": "x"}]]]}
    return json.dumps({"state": state, "step": 50}).encode()


def _take_up(folder: Path) -> None:
    about = read_json(folder / "told.json")
    unpack(lambda: ({"x": torch.zeros(2, 3)}, about), _history(), 1)


UNIT = RaceUnit(RaceCase("convex", "adamw", "tuned"), arm="baseline", seed=0, stage="race", lr=0.1, steps=10)


def _unit() -> bytes:
    with _temporary() as folder:
        Store(folder, "x").write(UNIT, Result((row(RaceRun),), (row(RacePoint),), ({"step": 1},), ("a note",)))
        return json.dumps(json.loads(Store(folder, "x").path(UNIT).read_text())["content"]).encode()


def _read_unit(folder: Path) -> Any:
    try:
        content = json.loads((folder / "content.json").read_bytes())
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        write_json(Store(folder, "x").path(UNIT), {"sha256": digest, "content": content})
    except (ValueError, RecursionError):
        Store(folder, "x").path(UNIT).write_bytes((folder / "content.json").read_bytes())
    return Store(folder, "x").read(UNIT)


def _run_folder(folder: Path) -> None:
    for name, kind in (("checkpoints", Checkpoint), ("curve", LossPoint), ("predictions", Prediction)):
        records.write(folder / f"{name}.parquet", kind, [row(kind, step=number) for number in range(5)])
    (folder / "config.yaml").write_text(yaml.safe_dump({"preset": "tiny", "seeds": [1]}))
    (folder / "environment.json").write_text("{}")
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "ladder.csv").write_text("variant,table,quantity,mean\nbase,3,loss,1.5\n")


def _bench(folder: Path) -> None:
    records.write(folder / "bench" / "seed-1" / "predictions.parquet", Prediction, [row(Prediction)])
    records.write(folder / "bench" / "seed-1" / "benched.parquet", records.Benched, [row(records.Benched)])


def _json(value: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(value).encode()


CONFIG = {"num_hidden_layers": 2, "hidden_size": 8, "auto_map": {"AutoModel": "code.Model"}}
INDEX = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
DRIVER = {
    "disabled": None,
    "until_next": 3,
    "pending": 0,
    "engine": {
        "counts": dict.fromkeys(("real", "leapt", "attempts", "accepted", "since_leap", "since_checkpoint"), 1),
        "names": [], "steps": [], "snapshots": [], "observer": {}, "ledger": {}, "alerts": {},
    },
}  # fmt: skip
LIVE = {"version": 1, "driver": DRIVER}


def _callback_state(path: Path) -> None:
    # Imported here, so that the reader is not charged with it.
    assert path.name == callback.FILE
    torch.save(LIVE, path)


def _safetensors(path: Path) -> None:
    save_tensors(path, TENSORS)


def _fingerprints(path: Path) -> None:
    save_tensors(path, {f"step-{step:06d}": torch.ones(3, 2) for step in (0, 50, 100)}, probes="x")


READERS = {
    each.name: each
    for each in (
        Reader("JSON", "x.json", _json({"a": [1, 2.5, None, "b"], "c": {"d": True}}), lambda f: read_json(f / "x.json"),
               kind="json"),
        Reader("configuration of a study", "config.yaml", lambda: dump_config(study_preset("tiny")).encode(),
               lambda f: load_config(f / "config.yaml"), kind="yaml"),
        Reader("configuration of a race", "config.yaml", lambda: dump_config(race_preset("tiny")).encode(),
               lambda f: load_race(f / "config.yaml"), kind="yaml"),
        Reader("--set KEY=VALUE", "set.txt", lambda: b"training.betas=[0.9, 1e-3]",
               lambda f: parse_settings([(f / "set.txt").read_bytes().decode(errors="surrogateescape")])),
        Reader("records (Parquet)", "p.parquet", _from(_rows(Prediction), "p.parquet"),
               lambda f: records.read(f / "p.parquet", Prediction), marked=True),
        Reader("tensors (safetensors)", "t.safetensors", _from(_safetensors, "t.safetensors"),
               lambda f: load_tensors(f / "t.safetensors"), marked=True,
               kind="safetensors"),
        Reader("training state", "step-000050.safetensors", _from(_state, "step-000050.safetensors"),
               lambda f: load_state(f / "step-000050.safetensors", *_model()), marked=True, kind="safetensors"),
        Reader("fingerprints", "seed-1/fingerprints.safetensors", _from(_fingerprints, "f.safetensors"),
               lambda f: SeedFolder(f, 1).read_fingerprints(), marked=True, kind="safetensors"),
        Reader("what a history remembers", "told.json", _remembered, _take_up, kind="json"),
        Reader("learnt predictor", "w.safetensors", (SHIPPED / "wnn.safetensors").read_bytes,
               lambda f: load_learnt("wnn", f / "w.safetensors"), kind="safetensors"),
        Reader("NiNo checkpoint (.pt)", "n.pt", _from(lambda path: write_mlp(path) and None, "n.pt"),
               lambda f: read_nino(f / "n.pt", graph=False)),
        Reader("state of a callback (.pt)", "leapverify.pt", _from(_callback_state, "leapverify.pt"),
               lambda f: checked_state(callback.read_state(f)), marked=True),
        Reader("live state_dict", "live.json", _json(LIVE), lambda f: checked_state(_plain(f / "live.json")),
               kind="json"),
        Reader("text", "a.txt", TEXT.encode, lambda f: list(load_documents(f"text:{f / 'a.txt'}"))),
        Reader("text (.gz)", "a.txt.gz", lambda: gzip.compress(TEXT.encode(), mtime=0),
               lambda f: list(load_documents(f"text:{f / 'a.txt.gz'}"))),
        Reader("text (.xz)", "a.txt.xz", lambda: lzma.compress(TEXT.encode()),
               lambda f: list(load_documents(f"text:{f / 'a.txt.xz'}"))),
        Reader("text (.jsonl)", "a.jsonl", lambda: b'{"text": "one two"}\n{"text": "three"}\n',
               lambda f: list(load_documents(f"text:{f / 'a.jsonl'}"))),
        Reader("probes", "p.txt", lambda: b"one\ntwo\n", lambda f: ProbeSet.from_file(f / "p.txt")),
        Reader("probes (.jsonl)", "p.jsonl", lambda: b'{"text": "one", "kind": "x"}\n{"text": "two"}\n',
               lambda f: ProbeSet.from_file(f / "p.jsonl")),
        Reader("unit of a race", "content.json", _unit, _read_unit, kind="json"),
        Reader("part of a bench", "bench/seed-1/bench.json", _json({"seconds": 1.5, "repeated": [50], "loaded": []}),
               lambda f: BenchSeed(f, 1).read(), _bench, kind="json"),
        Reader("report: configuration", "config.yaml", lambda: b"preset: tiny\nsweep: {predictors: [linear]}\n",
               load_run, _run_folder, kind="yaml"),
        Reader("report: ladder (CSV)", "tables/ladder.csv", lambda: b"variant,table,quantity,mean\nbase,3,loss,1.5\n",
               load_run, _run_folder),
        Reader("report: cut points", "thresholds.json", _json({"method": "paper", "low": 0.1, "high": 0.9}),
               lambda f: load_run(f).thresholds, _run_folder, kind="json"),
        Reader("model folder: index", "model.safetensors.index.json", _json(INDEX), check_folder, kind="json"),
        Reader("model folder: configuration", "config.json", _json(CONFIG), check_folder, kind="json"),
        Reader("model folder: weights", "model.safetensors", _from(_safetensors, "model.safetensors"), check_folder,
               kind="safetensors"),
        Reader("model folder: weights (.bin)", "pytorch_model.bin",
               _from(lambda path: torch.save(TENSORS, path), "pytorch_model.bin"), check_folder),
    )
}  # fmt: skip
"""By name, in the words of docs/security.md."""


def _plain(path: Path) -> Any:
    """A tree as a framework would hand it over: nothing of it is known."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
