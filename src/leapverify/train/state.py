"""All that an exact resume needs in one file, and weight snapshots, each with a sha256."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leapverify.errors import Damaged
from leapverify.io.yaml_file import as_written
from leapverify.train.sharded_folder import MARK, read_tensors

_WORDS = 624
"""Of the Mersenne Twister."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_SNAPSHOT = re.compile(r"^step-(\d{6,})\.safetensors$")


def capture_rng() -> dict[str, Tensor]:
    """The RNG streams of Python, numpy and torch (CPU, and every GPU where any is in use) as tensors."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    keys, position = legacy["state"]["key"], legacy["state"]["pos"]
    streams = {
        "rng.python": torch.tensor([version, *words], dtype=torch.int64),
        "rng.python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "rng.numpy": torch.tensor([position, legacy["has_gauss"], *keys.tolist()], dtype=torch.int64),
        "rng.numpy.gauss": torch.tensor([legacy["gauss"]], dtype=torch.float64),
        "rng.torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            streams[f"rng.cuda.{number}"] = state
    return streams


def restore_rng(streams: Mapping[str, Tensor]) -> None:
    """Set the RNG streams to what `capture_rng` took; streams of GPUs that are not here are left out."""
    version, *words = streams["rng.python"].tolist()
    gauss = streams["rng.python.gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    position, has_gauss, *keys = streams["rng.numpy"].tolist()
    if not 0 <= position <= len(keys) or len(keys) != _WORDS:  # numpy would read what lies behind
        raise ValueError(f"numpy's stream stands at {position} of {len(keys)} words, not of {_WORDS}")
    cached = streams["rng.numpy.gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(streams["rng.torch"])
    for number in range(torch.cuda.device_count()):
        if f"rng.cuda.{number}" in streams:
            torch.cuda.set_rng_state(streams[f"rng.cuda.{number}"], number)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, *, weights: bool = True) -> dict[str, Tensor]:
    """Weights, buffers, Adam's moments and step counts, and the RNG streams: all that the next step depends on.

    Args:
        model: whose parameters and buffers are meant, under the names of `named_parameters()`.
        optimizer: AdamW or Adam over the model's parameters.
        weights: False where a snapshot holds them already.

    Returns:
        `weight.NAME`, `buffer.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`, `rng.STREAM`; the tensors of model
        and optimizer themselves, not copies.
    """
    tensors = capture_rng()
    for name, parameter in model.named_parameters():
        if weights:
            tensors[f"weight.{name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    tensors.update({f"buffer.{name}": buffer.clone() for name, buffer in model.named_buffers()})
    return tensors


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Put back a saved state; the next steps are then bit-identical to those of the run that wrote it.

    Args:
        path: what `save_tensors` wrote of `state_tensors`.
        model: takes weights and buffers.
        optimizer: takes moments and step counts.
        weights: the snapshot's, where the state was saved without them; frozen ones that it lacks stay as they are.

    Returns:
        What was told about the state, `step` included.

    Raises:
        Damaged: the file, or one of those that ranks wrote, is missing, incomplete or altered.
        ValueError: the file is of another model, or its moments of another type than the weights.
    """
    tensors, about = read_tensors(path)
    if weights is not None:
        # Snapshots hold what is trained; frozen weights are where they were.
        tensors |= {f"weight.{name}": tensor for name, tensor in (_frozen(model) | dict(weights)).items()}
    _check_same_model(path, tensors, model)
    _check_moments(path, tensors, model)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    with torch.no_grad(), as_written(path, "delete both"):
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            group = groups.get(id(parameter))
            if group is not None and f"step.{name}" in tensors:
                optimizer.state[parameter] = _moments(tensors, name, parameter, group)
        for name, buffer in model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
        restore_rng(tensors)
    return about


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in model.named_parameters() if not each.requires_grad}


def _moments(
    tensors: Mapping[str, Tensor], name: str, parameter: Tensor, group: Mapping[str, Any]
) -> dict[str, Tensor]:
    state = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in _MOMENTS}
    count = tensors[f"step.{name}"]
    # AdamW keeps the count where its kernel reads it.
    state["step"] = count.to(parameter.device) if group.get("fused") or group.get("capturable") else count
    return state


def _check_same_model(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    wanted: dict[str, Tensor] = {f"weight.{name}": tensor for name, tensor in model.named_parameters()}
    wanted |= {f"buffer.{name}": tensor for name, tensor in model.named_buffers()}
    found = {key: tensor for key, tensor in tensors.items() if key.startswith(("weight.", "buffer."))}
    for key in sorted(wanted.keys() | found.keys()):
        here, there = _kind(wanted.get(key)), _kind(found.get(key))
        if here != there:
            raise ValueError(f"{path} is of another model: {key} is {there} there and {here} here; use that model")


def _check_moments(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        for key in _MOMENTS if f"step.{name}" in tensors else ():
            here, there = _kind(parameter), _kind(tensors.get(f"{key}.{name}"))
            if here != there:
                raise ValueError(
                    f"{path} holds {key}.{name} as {there} where the weights are {here}: AdamW keeps its moments in "
                    "their type; go on from a state that was saved so"
                )


def _kind(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def snapshot_path(folder: Path, step: int) -> Path:
    """Where the snapshot of a step lies: FOLDER/step-000050.safetensors."""
    return folder / f"step-{step:06d}.safetensors"


def load_snapshot(folder: Path, step: int, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of a step, whole, whether one process wrote them or many ranks.

    Args:
        folder: of the snapshots.
        step: which.
        like: tensors by name that it must hold in these shapes.

    Raises:
        Damaged: the snapshot is missing, incomplete or altered, or of another model; the message names it.
    """
    tensors = read_tensors(snapshot_path(folder, step))[0]
    for name, wanted in (like or {}).items():
        if name not in tensors or tensors[name].shape != wanted.shape:
            found = tuple(tensors[name].shape) if name in tensors else "absent"
            raise Damaged(
                f"{snapshot_path(folder, step)} is of another model: {name} is {found} there and {tuple(wanted.shape)} "
                "here; delete both"
            )
    return tensors


def snapshot_steps(folder: Path) -> list[int]:
    """The steps that a folder holds, in either form, in order; whether they are whole is not looked at."""
    names = [path.name for path in folder.glob("step-*.safetensors")]
    names += [f"{path.parent.name}.safetensors" for path in folder.glob(f"step-*/{MARK}")]
    return sorted({int(match[1]) for match in map(_SNAPSHOT.match, names) if match})
