"""Learnt weights in a file: safetensors with its card inside, and the card again as JSON beside it, to be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapverify.io.storage import replace_file, write_json
from leapverify.io.untrusted.paths import named
from leapverify.io.untrusted.tensors import check_safetensors
from leapverify.io.untrusted.text import first_line, parse_json
from leapverify.predict.learnt.networks import NETWORKS
from leapverify.trajectory.history import History

SHIPPED = Path(__file__).parent
"""Folder of the files that come with the package."""


@dataclass(frozen=True)
class Learnt:
    """What a file holds."""

    weights: Mapping[str, Tensor] = field(repr=False)
    card: Mapping[str, Any] = field(repr=False)
    """kind, sha256 of the weights, histories, loss, seeds, options, versions, command, results."""

    def operations(self, history: History) -> float:
        """Floating-point operations of the network on every weight of a history."""
        matrices = sum(each.numel() for name, each in self.weights.items() if name.endswith(".weight"))
        return 2.0 * matrices * sum(each.numel() for each in history[-1].tensors)


def save_learnt(path: Path, kind: str, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights and card to `path`, and the card to `path` with suffix .json; the same input gives the same bytes.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    from safetensors.torch import save

    plain = {name: weights[name].detach().float().contiguous() for name in sorted(weights)}
    card = {**card, "kind": kind, "sha256": digest(plain)}
    # One key only: the format's header does not keep the order of several.
    content = save(plain, {"card": json.dumps(card, sort_keys=True)})
    with replace_file(path) as handle:
        handle.write(content)
    write_json(path.with_suffix(".json"), card)


def load_learnt(kind: str, file: Path | str | None = None) -> Learnt:
    """The weights of a predictor; nothing in the file is ever run.

    Args:
        kind: name of the network.
        file: None for the file that comes with the package.

    Raises:
        ValueError: the file is missing, damaged, or holds something else.
    """
    path = SHIPPED / f"{kind}.safetensors" if file is None else named(file)
    remedy = f"name a file that leapverify nowcast train {kind} has written"
    tensors, text = _read(path, remedy)
    try:
        card = parse_json(text.encode())
        found_kind, sha256 = card["kind"], card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no card of learnt weights: {remedy}") from error
    if found_kind != kind:
        raise ValueError(f"{path} holds the weights of {found_kind} where those of {kind} are needed: {remedy}")
    if wrong := _misfit(kind, tensors):
        raise ValueError(f"{path} is no network of {kind}: {wrong}; {remedy}")
    if digest(tensors) != sha256 or not all(bool(torch.isfinite(each).all()) for each in tensors.values()):
        raise ValueError(f"{path} is damaged: its weights are not those that its card names; {remedy}")
    return Learnt(tensors, card)


def _read(path: Path, remedy: str) -> tuple[dict[str, Tensor], str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is missing: {remedy}")
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as handle:
            names = handle.keys()
            return {name: handle.get_tensor(name) for name in names}, (handle.metadata() or {}).get("card", "")
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({first_line(error)}): {remedy}") from error


def _misfit(kind: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is not as it should be."""
    wanted = NETWORKS[kind].shapes
    for name in sorted({*wanted, *tensors}):
        here = f"float32 {wanted[name]}" if name in wanted else "absent"
        held = tensors.get(name)
        there = "absent" if held is None else f"{str(held.dtype).removeprefix('torch.')} {tuple(held.shape)}"
        if here != there:
            return f"{name} is {there} where {here} is needed"
    return None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, shapes and values."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        sha.update(tensors[name].contiguous().numpy().tobytes())
    return sha.hexdigest()
