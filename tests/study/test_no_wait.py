"""Between checkpoints a study never waits for its device: what a GPU's queue would be cut up by happens nowhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from leapverify.config.resolved import Resolved
from leapverify.observe import Thresholds
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.folder import SeedFolder
from leapverify.study.record import Recorder
from marks import slow

READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero"}


class Steps(TorchDispatchMode):
    """Reads of the device by the host, apart for checkpoints and what lies between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.at_a_checkpoint = False
        self.found: dict[bool, list[str]] = {True: [], False: []}
        plain = Recorder._checkpoint

        def marked(recorder: Recorder, *args: Any) -> None:
            self.at_a_checkpoint = True
            plain(recorder, *args)
            self.at_a_checkpoint = False

        monkeypatch.setattr(Recorder, "_checkpoint", marked)
        for name in ("cpu", "tolist", "numpy"):  # no operation of these would be seen below
            monkeypatch.setattr(Tensor, name, self._noted(name, getattr(Tensor, name)))

    def _noted(self, name: str, plain: Any) -> Any:
        def noted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.found[self.at_a_checkpoint].append(name)
            return plain(tensor, *args, **kwargs)

        return noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in READS:
            self.found[self.at_a_checkpoint].append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weights", ["float32", slow("bfloat16")])
def test_nothing_is_read_between_checkpoints(micro, tmp_path, monkeypatch, weights):
    config = micro(training__weights=weights, training__steps=40)
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    # Batches are cut on the host, where looking at them waits for nobody.
    apparatus.batches = {step: apparatus.batch(step) for step in range(1, 41)}.__getitem__
    recorder = Recorder(apparatus, Thresholds.fixed(0.9, 0.95), SeedFolder(tmp_path, 42), lambda _: None)
    recorder._fingerprints[0] = apparatus.fingerprinter()
    monkeypatch.setattr(Recorder, "_resume", lambda _: 0)  # the untrained model is looked at before the first step
    with Steps(monkeypatch) as steps:
        recorder.run()
    reads = [name for name in steps.found[False] if name != "aten::_local_scalar_dense"]
    assert reads == []
    # The mean training loss is read as each checkpoint begins: one value, four times.
    assert steps.found[False].count("aten::_local_scalar_dense") == 4
    assert steps.found[True], "a checkpoint reads what it has measured"
    assert [point.step for point in recorder._rows.curve] == list(range(5, 41, 5))
    assert not torch.is_autocast_enabled()
