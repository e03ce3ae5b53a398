"""What meta-training learns from: sampled weights of studies that kept them, and which may not stand together."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapverify.config.overrides import dump_config
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError
from leapverify.runs.environment import threads_of
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.folder import Study
from leapverify.study.source import SeedTrajectory
from leapverify.train.documents import share_text
from leapverify.trajectory.source import TrajectorySource

PER_TENSOR = 1021
"""Weights sampled from a tensor. A prime: a stride that divides the rows would take the same columns of each."""
SAME_START = 0.1
"""Largest distance of a rebuilt model's fingerprint from the recorded one, relative; other seeds are 1 away."""


@dataclass(frozen=True)
class Trajectory:
    """The sampled weights of one seed."""

    seed: int
    steps: tuple[int, ...]
    """0, Delta, 2 Delta, ..."""
    tensors: tuple[Tensor, ...] = field(repr=False)
    """(steps, weights) float32 each: one for every tensor of the model."""


@dataclass(frozen=True)
class Histories:
    """The seeds of a few runs, and what is said of them on the card."""

    trajectories: tuple[Trajectory, ...]
    about: tuple[dict[str, Any], ...]


def open_studies(paths: Sequence[Path]) -> list[Study]:
    """The run folders of finished studies that kept the weights of every checkpoint.

    Raises:
        ConfigError: one is no such folder.
    """
    studies = [Study(path) for path in paths]
    for study in studies:
        if study.config.snapshots.weights != "all":
            raise ConfigError(
                f"{study.path} keeps the newest weights only: run a study with snapshots.weights=all to learn from it"
            )
        for seed in study.config.seeds:
            if not study.seed(seed).done:
                raise ConfigError(f"seed {seed} of {study.path} has not finished: give its study command again first")
    return studies


def require_apart(groups: Mapping[str, Sequence[Study]]) -> None:
    """Refuse groups of runs of which one could be known from another.

    Args:
        groups: role (train, heldout, test) -> runs.

    Raises:
        ConfigError: two groups share a seed or text, or a group is empty.
    """
    for role, studies in groups.items():
        if not studies:
            raise ConfigError(f"there is no run for --{role}: name at least one run folder")
    for (a, left), (b, right) in itertools.combinations(groups.items(), 2):
        for one, other in itertools.product(left, right):
            if shared := sorted({*one.config.seeds} & {*other.config.seeds}):
                raise ConfigError(
                    f"--{a} {one.path} and --{b} {other.path} share seed {shared[0]}: what is learnt would be tested "
                    "on what it was learnt from; take runs of other seeds"
                )
            sources = one.config.data.source, other.config.data.source
            if share_text(*sources):
                raise ConfigError(
                    f"--{a} {one.path} and --{b} {other.path} share text ({sources[0]} and {sources[1]}): take runs on "
                    "other text, such as other parts of a source (SOURCE#1/2, SOURCE#2/2)"
                )


def read_histories(studies: Sequence[Study], per_tensor: int = PER_TENSOR) -> Histories:
    """Sample the weights of all seeds.

    Args:
        studies: from `open_studies`.
        per_tensor: weights sampled from a tensor, evenly over its elements; all of a smaller one.

    Raises:
        Damaged: a snapshot is missing or altered.
        ConfigError: the first state of a seed cannot be made again.
    """
    found, about = [], []
    for study in studies:
        seeds = [_of_seed(study, seed, per_tensor) for seed in study.config.seeds]
        found += seeds
        about.append(_about(study, seeds))
    return Histories(tuple(found), tuple(about))


def sampled(tensor: Tensor, count: int) -> Tensor:
    """`count` evenly spaced elements, float32; all of a tensor that has no more."""
    flat, size = tensor.reshape(-1), tensor.numel()
    if size > count:
        flat = flat[(torch.arange(count) * size + size // 2) // count]
    return flat.float()


def _of_seed(study: Study, seed: int, per_tensor: int) -> Trajectory:
    first, steps = initial_weights(study, seed), study.config.checkpoint_steps
    source: TrajectorySource = SeedTrajectory(study.seed(seed), first)
    states = [
        {name: sampled(weights[name], per_tensor) for name in first}
        for weights in itertools.chain([first], map(source.weights, steps))
    ]
    columns = tuple(torch.stack([state[name] for state in states]) for name in first)
    return Trajectory(seed, (0, *steps), columns)


def initial_weights(study: Study, seed: int) -> dict[str, Tensor]:
    """The weights that a seed began with: made again from configuration and seed, for no study keeps them.

    Raises:
        ConfigError: its fingerprint is not the recorded one.
    """
    config = Resolved.of(study.config)
    with threads_of(1):
        apparatus = build(config, seed, "cpu", open_corpus(config))
        recorded, again = study.fingerprints(seed).get(0), apparatus.fingerprinter()
    if recorded is None or recorded.shape != again.shape:
        raise ConfigError(f"{study.path} holds no fingerprint of seed {seed} at step 0: run the study again")
    distance = float(torch.linalg.vector_norm(again - recorded) / torch.linalg.vector_norm(recorded))
    if not distance < SAME_START:
        raise ConfigError(
            f"the first weights of seed {seed} of {study.path} cannot be made again (fingerprint {distance:.2g} away): "
            "run the study again with the libraries that are installed now"
        )
    return {name: each.detach().clone() for name, each in apparatus.parameters.items()}


def _about(study: Study, seeds: Sequence[Trajectory]) -> dict[str, Any]:
    config, sha = study.config, hashlib.sha256()
    for each in seeds:
        for tensor in each.tensors:
            sha.update(tensor.numpy().tobytes())
    return {
        "run": str(study.path),
        "preset": config.preset,
        "text": config.data.source,
        "seeds": list(config.seeds),
        "steps": config.training.steps,
        "interval_steps": config.observe.interval_steps,
        "lr": config.training.lr,
        "schedule": config.training.schedule,
        "tensors": len(seeds[0].tensors),
        "weights_a_state": sum(each.shape[1] for each in seeds[0].tensors),
        "config_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        "read_sha256": sha.hexdigest(),
    }
