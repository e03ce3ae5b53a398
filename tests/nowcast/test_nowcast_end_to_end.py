"""From micro studies to a predictor in the catalogue, through the command line; and what is refused on the way."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from leapverify.cli.main import main
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError, Damaged
from leapverify.io.storage import read_json, read_sealed, save_tensors, write_sealed
from leapverify.nowcast.histories import initial_weights, open_studies, require_apart
from leapverify.predict import predictor
from leapverify.predict.learnt import NETWORKS, load_learnt
from leapverify.study.folder import Study
from micro import MICRO
from shared_runs import made_once

CHEAP = {
    "sweep.predictors": ["hold"],
    "sweep.regimes": [],
    "cascade.kinds": [],
    "snapshots.weights": "all",
    "training.steps": 80,
}


@pytest.fixture(scope="module")
def text(shared: Path) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        chance = random.Random(0)
        for number in range(120):
            words = ("a", "run", "is", "the", "path", "of")
            lines = [" ".join(chance.choice(words) for _ in range(12)) for _ in range(8)]
            (folder / f"{number:03d}.txt").write_text("\n\n".join(lines))

    return made_once(shared / "nowcast-text", make)


@pytest.fixture(scope="module")
def config(text: Path) -> Callable[..., StudyConfig]:
    def make(seed: int, part: str, **changes: Any) -> StudyConfig:
        given = {key.replace("__", "."): value for key, value in changes.items()}
        settings = {**MICRO, **CHEAP, "seeds": [seed], "data.source": f"text:{text}#{part}", **given}
        return with_settings(preset("tiny"), settings)

    return make


@pytest.fixture(scope="module")
def runs(record_once: Callable[..., Study], config: Callable[..., StudyConfig]) -> dict[str, Path]:
    """Three finished studies, and one on the text and seed of the first."""
    made = {"train": config(1, "1/3"), "heldout": config(2, "2/3"), "test": config(3, "3/3", model__hidden=8)}
    return {role: record_once(f"nowcast-{role}", each).path for role, each in made.items()}


def words(name: str, runs: dict[str, Path], out: Path, **instead: Path) -> list[str]:
    options = [word for role, path in (runs | instead).items() for word in (f"--{role}", str(path))]
    return ["nowcast", "train", name, *options, "--out", str(out), "--steps", "30", "--weights", "50"]


def run(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    output = capsys.readouterr()
    return int(leave.value.code or 0), output.out, output.err


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_predictor_is_learnt_and_loaded_and_the_same_command_gives_the_same_bytes(
    capsys: pytest.CaptureFixture[str], runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "learnt.safetensors"
    code, printed, error = run(capsys, words(kind, runs, out))
    assert code == 0, error
    assert printed.startswith(f"| method | L1 per weight (95 % over seeds) | {kind} over it")
    assert "n = 1 seeds, " in printed
    first = out.read_bytes(), out.with_suffix(".json").read_bytes()
    assert run(capsys, words(kind, runs, out))[0] == 0
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == first
    card = read_json(out.with_suffix(".json"))
    assert card["command"].startswith(f"leapverify nowcast train {kind} --train {runs['train']} --heldout ")
    assert card["histories"]["test"][0]["seeds"] == [3]
    assert card["histories"]["train"][0]["text"].endswith("#1/3")
    assert card["options"]["steps"] == 30
    assert set(card["versions"]) == {"python", "leapverify", "torch"}
    assert load_learnt(kind, out).card == card
    assert predictor(f"{kind}:{out}").name == kind


def test_the_first_weights_are_those_that_the_run_began_with(
    runs: dict[str, Path], config: Callable[..., StudyConfig]
) -> None:
    from leapverify.study.apparatus import build, open_corpus

    study = Study(runs["train"])
    apparatus = build(Resolved.of(study.config), 1, "cpu", open_corpus(study.config))
    found = initial_weights(study, 1)
    assert all(torch.equal(found[name], each) for name, each in apparatus.parameters.items())
    assert found.keys() == study.weights(1, 10).keys()


def copy_of(run: Path, place: Path, **changes: str) -> Path:
    """A run folder whose configuration says something else."""
    shutil.copytree(run, place)
    path = place / "config.yaml"
    for old, new in changes.items():
        write_sealed(path, read_sealed(path, "").replace(old.replace("__", ": "), new))
    return place


def test_a_first_state_that_cannot_be_made_again_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = copy_of(runs["train"], tmp_path / "other")
    (other / "seed-1").rename(other / "seed-5")
    config = other / "config.yaml"
    write_sealed(config, read_sealed(config, "").replace("seeds:\n- 1", "seeds:\n- 5"))
    moved = other / "seed-5" / "fingerprints.safetensors"
    save_tensors(moved, load_file(moved))
    message = (
        rf"the first weights of seed 5 of {other} cannot be made again \(fingerprint .* away\): run the study again"
    )
    with pytest.raises(ConfigError, match=message):
        initial_weights(Study(other), 5)


def test_runs_that_share_a_seed_or_text_are_refused(
    capsys: pytest.CaptureFixture[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "learnt.safetensors"
    code, _, error = run(capsys, words("wnn", runs, out, test=runs["train"]))
    assert code == 2
    assert f"--train {runs['train']} and --test {runs['train']} share seed 1: what is learnt would be tested" in error
    alike = copy_of(runs["test"], tmp_path / "alike", **{"#3/3": "#2/3"})
    code, _, error = run(capsys, words("wnn", runs, out, test=alike))
    assert code == 2
    assert f"--heldout {runs['heldout']} and --test {alike} share text (text:" in error
    assert "take runs on other text, such as other parts of a source (SOURCE#1/2, SOURCE#2/2)" in error
    assert not out.exists()


def test_runs_that_kept_none_or_too_little_are_refused(
    capsys: pytest.CaptureFixture[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "learnt.safetensors"
    none = copy_of(runs["train"], tmp_path / "none", weights__all="weights: last")
    code, _, error = run(capsys, words("wnn", runs, out, train=none))
    assert code == 2
    assert f"{none} keeps the newest weights only: run a study with snapshots.weights=all to learn from it" in error
    code, _, error = run(capsys, [*words("wnn", runs, out), "--ahead", "5"])
    assert code == 2
    assert (
        "seed 1 of --train kept too few snapshots that moved for wnn (8): take runs of at least 9 checkpoints" in error
    )
    unfinished = copy_of(runs["train"], tmp_path / "unfinished")
    (unfinished / "seed-1" / "done.json").unlink()
    code, _, error = run(capsys, words("wnn", runs, out, train=unfinished))
    assert code == 2
    assert f"seed 1 of {unfinished} has not finished: give its study command again first" in error
    assert not out.exists()


def test_a_missing_snapshot_is_named(capsys: pytest.CaptureFixture[str], runs: dict[str, Path], tmp_path: Path) -> None:
    gap = copy_of(runs["train"], tmp_path / "gap")
    (gap / "seed-1" / "snapshots" / "step-000030.safetensors").unlink()
    code, _, error = run(capsys, words("introspection", runs, tmp_path / "learnt.safetensors", train=gap))
    assert code == 1
    assert "step-000030.safetensors" in error
    assert issubclass(Damaged, ValueError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "nowcaster"}, "'nowcaster' is no predictor that is learnt: give introspection or wnn"),
        ({"out": Path("weights.pt")}, "--out weights.pt is no name for learnt weights: let it end in .safetensors"),
        ({"steps": "0"}, "--steps 0 is no positive number: give at least 1"),
        ({"weights": "-1"}, "--weights -1 is no positive number: give at least 1"),
        ({"ahead": "0"}, "--ahead 0 is no positive number: give at least 1"),
        ({"train": Path("/nowhere")}, "/nowhere is no run folder of a study"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = {"name": "wnn", "out": tmp_path / "x.safetensors", "train": Path("/none"), **change}
    more = [word for key in ("steps", "weights", "ahead") if key in change for word in (f"--{key}", change[key])]
    arguments = ["nowcast", "train", given["name"], "--train", str(given["train"]), "--heldout", "/none"]
    code, _, error = run(capsys, [*arguments, "--test", "/none", "--out", str(given["out"]), *more])
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_group_without_runs_is_refused(runs: dict[str, Path]) -> None:
    studies = open_studies([runs["train"]])
    with pytest.raises(ConfigError, match="there is no run for --test: name at least one run folder"):
        require_apart({"train": studies, "test": []})
