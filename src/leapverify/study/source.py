"""A seed of a run folder as a trajectory, and the door to every trajectory that can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from leapverify.config.overrides import load_config
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError, Damaged
from leapverify.io.yaml_file import as_written
from leapverify.study.folder import SeedFolder
from leapverify.train.schedule import Schedule
from leapverify.train.sharded_folder import holds, read_tensors
from leapverify.train.state import load_snapshot, load_state, snapshot_path, snapshot_steps
from leapverify.trajectory.optimizer_state import GroupHyper, OptimizerState
from leapverify.trajectory.source import Lineage, TrajectorySource


def open_trajectory(path: Path | str, seed: int | None = None) -> TrajectorySource:
    """Open a recorded run to read its weights step by step.

    >>> source = open_trajectory("runs/tiny", seed=42)  # doctest: +SKIP
    >>> newest = source.weights(source.steps[-1])  # doctest: +SKIP

    Args:
        path: one of what `OPENERS` names.
        seed: which of several; None where there is only one.

    Raises:
        ConfigError: this is nothing that can be read, it has no such seed, or it keeps no weights.
    """
    for opener in OPENERS:
        if opener.recognizes(Path(path)):
            return opener.open(Path(path), seed)
    known = " or ".join(opener.reads for opener in OPENERS)
    raise ConfigError(f"{path} cannot be read as a trajectory: name {known}")


def _open_seed(run: Path, seed: int | None) -> SeedTrajectory:
    seeds = load_config(run / "config.yaml").seeds
    known = ", ".join(map(str, seeds))
    if seed is None and len(seeds) > 1:
        raise ConfigError(f"{run} has the seeds {known}: say which one, such as seed={seeds[0]}")
    if seed is not None and seed not in seeds:
        raise ConfigError(f"{run} has no seed {seed}: it has {known}")
    folder = SeedFolder(run, seeds[0] if seed is None else seed)
    source = SeedTrajectory(folder)
    if not source.steps:
        raise ConfigError(
            f"seed {folder.seed} of {run} keeps no weights so far: run the study with snapshots.weights=all"
        )
    return source


@dataclass(frozen=True)
class Opener:
    """How one format is recognised and opened."""

    reads: str
    """What to name, in words."""
    recognizes: Callable[[Path], bool]
    open: Callable[[Path, int | None], TrajectorySource]


OPENERS = (
    Opener(
        "the run folder of a study, with its config.yaml", lambda path: (path / "config.yaml").is_file(), _open_seed
    ),
)
"""Every format that `open_trajectory` reads; the first that recognises a path opens it."""


class SeedTrajectory:
    """The snapshots and optimizer states of one seed, a `TrajectorySource`; a replay can also go on from its states.

    Args:
        folder: the seed's.
        like: tensors by name that every snapshot must hold in these shapes; None: whatever it holds.
    """

    def __init__(self, folder: SeedFolder, like: Mapping[str, Tensor] | None = None) -> None:
        self._folder, self._like = folder, like

    @cached_property
    def _config(self) -> Resolved:
        return Resolved.of(load_config(self._folder.path.parent / "config.yaml"))

    @property
    def steps(self) -> tuple[int, ...]:
        """See `TrajectorySource`; whether they are whole is found out when they are read."""
        return tuple(snapshot_steps(self._folder.snapshots))

    @property
    def lineage(self) -> Lineage:
        """See `TrajectorySource`."""
        c = self._config
        about = {"preset": c.preset, "text": c.data.source, "lr": c.training.lr, "schedule": c.training.schedule}
        return Lineage(str(self._folder.path), "run folder of a study", self._folder.seed, about)

    def weights(self, step: int) -> dict[str, Tensor]:
        """See `TrajectorySource`: all that was trained."""
        path = snapshot_path(self._folder.snapshots, step)
        if not holds(path):
            steps = self.steps
            kept = (
                f"those of {len(steps)} steps from {steps[0]} to {steps[-1]} are there" if steps else "there are none"
            )
            raise Damaged(f"{path} is missing: of these weights {kept}")
        return dict(sorted(load_snapshot(self._folder.snapshots, step, self._like).items()))

    def optimizer(self, step: int) -> OptimizerState | None:
        """See `TrajectorySource`."""
        if not self.holds_state(step):
            return None
        path, t, weights = self._state(step), self._config.training, self.weights(step)
        tensors, _ = read_tensors(path)
        with as_written(path, "delete both"):
            for name, weight in weights.items():
                if f"step.{name}" not in tensors:  # it never had a gradient
                    tensors |= {f"{key}.{name}": torch.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")}
            return OptimizerState.from_tensors(
                list(weights),
                tensors,
                step=step,
                steps=[int(tensors.get(f"step.{name}", 0)) for name in weights],
                hyper=GroupHyper(*t.betas, t.eps, t.weight_decay),
                lr=Schedule(t.schedule, t.lr, t.warmup_steps, t.steps, t.lr_floor),
            )

    def holds_state(self, step: int) -> bool:
        """Whether the optimizer's state of a step was kept; whether it is whole is not looked at."""
        return holds(self._state(step))

    def restore(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]
    ) -> None:
        """Put model, optimizer and random streams where they were after a step.

        Args:
            weights: of that step.

        Raises:
            Damaged: the state is missing, incomplete or altered.
            ValueError: it is of another model.
        """
        load_state(self._state(step), model, optimizer, weights=weights)

    def _state(self, step: int) -> Path:
        return snapshot_path(self._folder.states, step)
