"""Checkpoints of NiNo's architecture with random parameters, for tests that do without the published files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from leapverify.predict.nino.checkpoint import graph_shapes, mlp_shapes

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "nino"


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def write_mlp(file: Path, hid: int = 8, seed: int = 0) -> Path:
    """A file for `nino-mlp`."""
    torch.save({"state_dict": random_state(mlp_shapes(hid), seed), "model_args": {"gnn": False, "hid": hid}}, file)
    return file


def write_graph(file: Path, hid: int = 8, seed: int = 0) -> Path:
    """A file for `nino`."""
    arguments = {"wte_pos_enc": False, "hid": hid}
    torch.save({"state_dict": random_state(graph_shapes(hid), seed), "model_args": arguments}, file)
    return file
