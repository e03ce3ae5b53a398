"""What the README says holds: its example runs, its commands parse, its files are there."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from leapverify.cli.main import app
from leapverify.config.overrides import parse_settings, with_settings
from leapverify.config.presets import preset

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
BLOCKS = [text for language, text in FENCED if not language]
COMMANDS = [
    line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("leapverify ")
]


EXAMPLES = [text for language, text in FENCED if language == "python"]
SCRIPTS = [line.split()[1] for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]


def test_the_example_of_the_engine_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        exec(EXAMPLES[0], names)
    assert names["leap"].disabled is None
    assert names["leap"].real_step == 200
    overhead, effective = capsys.readouterr().out.split()
    assert float(overhead) < 1
    assert int(effective) >= 200


def test_the_example_of_a_prediction_runs() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[1], names)
    assert [tuple(tensor.shape) for tensor in names["predicted"]] == [(1, 8), (1,)]


def test_the_scripts_are_there() -> None:
    assert len(SCRIPTS) >= 4
    assert all((ROOT / script).is_file() for script in SCRIPTS)


def test_links_and_pictures_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the command line itself, with the work taken out."""
    seen: list[str] = []
    groups = [group.typer_instance for group in app.registered_groups]
    for info in (each for one in (app, *groups) for each in one.registered_commands):
        assert info.callback is not None
        monkeypatch.setattr(info, "callback", _noting(info.callback, info.callback.__name__, seen))
    _, *words = shlex.split(command)
    app(args=words, prog_name="leapverify", standalone_mode=False)
    grouped = words[0] in {group.name for group in app.registered_groups}
    assert seen == [words[1 if grouped else 0]]
    pairs = [word for word in words if re.match(r"^\w+\.\w+=", word)]
    settings = parse_settings(pairs)
    with_settings(preset("tiny"), settings)


def _noting(callback, place: str, seen: list[str]):
    @functools.wraps(callback)
    def noted(*arguments: object, **options: object) -> None:
        seen.append(place)

    return noted


def test_the_example_of_a_trajectory_runs(micro_run: Any) -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[2].replace("runs/tiny", str(micro_run.path)), names)
    assert names["step"] == names["source"].steps[-1]
    assert names["source"].optimizer(names["step"]) is not None
