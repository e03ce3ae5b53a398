"""Predictors of other packages: the example package is installed and works; broken ones are refused in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from leapverify.predict import Needs, catalogue, names, plugins, predictor
from leapverify.predict.controls import hold
from leapverify.predict.describe import describe, needs_of
from leapverify.trajectory.history import History

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "predictor_package"

SCRIPT = """
import torch
from leapverify.trajectory.history import History
from leapverify.predict import names, predictor
assert names()[-1] == "damped", names()
history = History([torch.zeros(3)], 2)
history.push(10, [torch.tensor([1.0, 0.0, 2.0])])
history.push(20, [torch.tensor([2.0, 0.0, 1.0])])
(far,) = predictor("damped").predict(history, 10_000)
reach = 0.98 / 0.02 / 10  # the sum of all rho^i, over Delta
torch.testing.assert_close(far, torch.tensor([2.0 + reach, 0.0, 1.0 - reach]))
(near,) = predictor("damped", rho=1.0).predict(history, 10)
torch.testing.assert_close(near, torch.tensor([3.0, 0.0, 0.0]))
from leapverify.config.presets import preset
from leapverify.config.overrides import with_settings
print(with_settings(preset("tiny"), {"sweep.predictors": ["hold", "damped"]}).sweep.predictors)
"""


@pytest.mark.slow
def test_the_example_package_is_installed_and_known_by_name(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[dev]'")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [*install, "--disable-pip-version-check", "--target", str(tmp_path), str(PACKAGE)]
    subprocess.run(command, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('hold', 'damped')"


def test_the_example_is_short() -> None:
    code = (PACKAGE / "leapverify_damped.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in code) <= 30


class Nothing:
    """Not a predictor."""

    name = "nothing"
    needs = None


def misnamed() -> object:
    return predictor("hold")


def broken() -> object:
    raise RuntimeError("no disk")


def leaving() -> object:
    raise SystemExit(3)


class Failing:
    """Cannot even be looked at."""

    name = "theirs"

    @property
    def needs(self) -> Needs:
        raise RuntimeError("no needs")

    def predict(self, *_: object) -> None:
        raise AssertionError


NEEDS = Needs(1)


@dataclass(frozen=True)
class Theirs:
    """theta_t, in a package's own words."""

    rho: float = 0.5
    name: str = "theirs"
    needs: Needs = NEEDS
    gives: str = "out"

    def predict(self, history: History, horizon: int, out: Sequence[Tensor] | None = None) -> Sequence[Tensor] | None:
        """Into out, beside it, or nothing."""
        if self.gives in ("nothing", "tensor"):
            return None if self.gives == "nothing" else torch.ones(2)  # type: ignore[return-value]
        return hold().predict(history, horizon, out if self.gives == "out" else None)


def made() -> Theirs:
    return Theirs()


def not_made() -> type[Theirs]:
    return Theirs


def fake(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    found = {name: EntryPoint(name, value, plugins.GROUP)}
    for module in (plugins, catalogue):
        monkeypatch.setattr(module, "plugins", lambda: found)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:make", r"predictor theirs of an unknown package \(no_such_module:make\) cannot be loaded"),
        ("leapverify.predict.plugins:GROUP", "is a str: register a function that returns the predictor"),
        ("test_plugins:Nothing", "made a Nothing that is no predictor: give it name, needs"),
        ("test_plugins:misnamed", "calls itself 'hold': its name must be that of its entry point"),
        ("test_plugins:broken", r"cannot be made \(no disk\): repair or uninstall that package"),
        ("test_plugins:leaving", r"cannot be made \(3\): repair or uninstall that package"),
        ("test_plugins:Failing", r"cannot be made \(no needs\): repair or uninstall that package"),
        ("test_plugins:not_made", "made a type that is no predictor: give it name, needs"),
    ],
)
def test_broken_ones_are_refused_in_a_sentence(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "test_plugins", sys.modules[__name__])
    fake(monkeypatch, "theirs", value)
    with pytest.raises(ValueError, match=message):
        predictor("theirs")


@pytest.mark.parametrize("value", ["test_plugins:Theirs", "test_plugins:made"])
def test_they_are_described_in_their_own_words(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "test_plugins", sys.modules[__name__])
    fake(monkeypatch, "theirs", value)
    assert describe("theirs") == "theta_t, in a package's own words."
    assert needs_of("theirs") == NEEDS


def test_an_option_that_one_does_not_take_is_not_its_packages_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "test_plugins", sys.modules[__name__])
    fake(monkeypatch, "theirs", "test_plugins:Theirs")
    assert predictor("theirs", rho=0.1).made == Theirs(rho=0.1)
    with pytest.raises(ValueError, match="predictor theirs does not take scale: "):
        predictor("theirs", scale=2.0)


def test_one_that_does_not_write_where_it_is_told_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be judged by the prediction that stood there before."""
    monkeypatch.setitem(sys.modules, "test_plugins", sys.modules[__name__])
    fake(monkeypatch, "theirs", "test_plugins:Theirs")
    history, out = History([torch.zeros(2)], 1), [torch.ones(2)]
    history.push(1, [torch.zeros(2)])
    assert predictor("theirs").predict(history, 5, out=out) is out
    assert torch.equal(predictor("theirs").predict(history, 5)[0], torch.zeros(2))
    for gives in ("other", "nothing", "tensor"):
        with pytest.raises(ValueError, match=r"predictor theirs of .* did not give back the out that it was given"):
            predictor("theirs", gives=gives).predict(history, 5, out=out)


def test_they_are_listed_after_our_own_and_never_hide_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "linear", "no_such_module:make")
    assert predictor("linear").name == "linear"
    assert names().count("linear") == 1
    fake(monkeypatch, "lineal", "no_such_module:make")
    assert names()[-1] == "lineal"
    with pytest.raises(ValueError, match="did you mean lineal"):
        predictor("linael")
