"""From run folders to a file of learnt weights with its card."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.errors import ConfigError
from leapverify.nowcast.fit import FitOptions, Fitted, Score, best_slope, fit, score
from leapverify.nowcast.histories import PER_TENSOR, Histories, open_studies, read_histories, require_apart
from leapverify.nowcast.pairs import Pairs, joined, pairs_of
from leapverify.predict.learnt import NETWORKS, save_learnt
from leapverify.runs.environment import threads_of, versions

AHEAD = 2
"""Intervals from the newest state that `wnn` reads to its target."""


@dataclass(frozen=True)
class Produced:
    """What was learnt, and how well it does on test histories."""

    fitted: Fitted
    scores: Sequence[Score]
    card: Mapping[str, Any]


def train_nowcaster(
    name: str,
    train: Sequence[Path],
    heldout: Sequence[Path],
    test: Sequence[Path],
    out: Path,
    *,
    options: FitOptions | None = None,
    per_tensor: int = PER_TENSOR,
    ahead: int = AHEAD,
) -> Produced:
    """Learn a predictor's network from the histories of studies; the same call gives the same bytes.

    Args:
        name: introspection or wnn.
        train: run folders that it learns from.
        heldout: those that say when to stop.
        test: those that it is judged on; no other use is made of them.
        out: the file, ending in .safetensors; its card goes beside it as .json.
        options: of the training.
        per_tensor: weights sampled from each tensor.
        ahead: intervals from the newest state to the target (wnn only).

    Raises:
        ConfigError: an unknown name, runs that kept too little, or groups that share seeds or text.
    """
    options = options or FitOptions()
    _check(name, out, options, per_tensor, ahead)
    groups = {"train": open_studies(train), "heldout": open_studies(heldout), "test": open_studies(test)}
    require_apart(groups)
    read = {role: read_histories(studies, per_tensor) for role, studies in groups.items()}
    pairs = {role: _pairs(name, role, histories, ahead) for role, histories in read.items()}
    network, whole = NETWORKS[name], {role: joined(each) for role, each in pairs.items()}
    assert whole["train"] is not None
    assert whole["heldout"] is not None
    with threads_of(1):
        fitted = fit(network, whole["train"], whole["heldout"], options)
        slope = best_slope(whole["train"])
        scores = score(network, fitted.weights, pairs["test"], slope)
    card = {
        "command": _command(name, {"train": train, "heldout": heldout, "test": test}, out, options, per_tensor, ahead),
        "histories": {role: list(histories.about) for role, histories in read.items()},
        "per_tensor": per_tensor,
        "pairs": {role: sum(map(len, each)) for role, each in pairs.items()},
        "loss": "mean |predicted - come| of the displacement, over the root mean square of the tensor's movement",
        "options": dataclasses.asdict(options),
        "best_step": fitted.best_step,
        "last_step": fitted.last_step,
        "train_loss": fitted.train_loss,
        "heldout_loss": fitted.heldout_loss,
        "slope": slope,
        "test": [dataclasses.asdict(each) for each in scores],
        "versions": {key: value for key, value in versions().items() if key in ("python", "leapverify", "torch")},
    }
    if name == "wnn":
        card["ahead"] = ahead
    save_learnt(out, name, fitted.weights, card)
    return Produced(fitted, scores, card)


def _check(name: str, out: Path, options: FitOptions, per_tensor: int, ahead: int) -> None:
    if name not in NETWORKS:
        raise ConfigError(f"{name!r} is no predictor that is learnt: give {' or '.join(NETWORKS)}")
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out} is no name for learnt weights: let it end in .safetensors")
    wrong = (("--steps", options.steps), ("--weights", per_tensor), ("--ahead", ahead))
    for option, value in wrong:
        if value < 1:
            raise ConfigError(f"{option} {value} is no positive number: give at least 1")


def _pairs(name: str, role: str, histories: Histories, ahead: int) -> list[Pairs]:
    """The pairs of each seed; ConfigError where a seed has none."""
    found = []
    for each in histories.trajectories:
        pairs = pairs_of(name, each, ahead)
        if pairs is None:
            kept, needed = len(each.steps) - 1, 4 + ahead if name == "wnn" else 6
            raise ConfigError(
                f"seed {each.seed} of --{role} kept too few snapshots that moved for {name} ({kept}): take runs of at "
                f"least {needed} checkpoints"
            )
        found.append(pairs)
    return found


def _command(
    name: str, groups: Mapping[str, Sequence[Path]], out: Path, options: FitOptions, per_tensor: int, ahead: int
) -> str:
    """The command that makes the same file again."""
    words = ["leapverify", "nowcast", "train", name]
    words += [word for role, paths in groups.items() for path in paths for word in (f"--{role}", str(path))]
    words += ["--out", str(out), "--seed", str(options.seed), "--steps", str(options.steps)]
    words += ["--weights", str(per_tensor)] + (["--ahead", str(ahead)] if name == "wnn" else [])
    return shlex.join(words)
