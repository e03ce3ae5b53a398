"""Lineage: whether seeds are independent runs, none a copy of another or started from the same initialisation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leapverify.audit.finding import AuditIssue
from leapverify.config.study import StudyConfig
from leapverify.train.state import snapshot_path, snapshot_steps

PIECE = 1 << 22
"""Elements that are looked at in one go, at least a row."""
SAMPLED = 1 << 16
"""Elements of each tensor by which two runs are compared."""


def nonfinite(path: Path) -> tuple[str, int] | None:
    """The first tensor of a safetensors file that holds NaN or infinity, and how many of its elements do.

    Args:
        path: the file; its memory is bounded by `PIECE`, whatever its size.

    Raises:
        SafetensorError, OSError: it is no safetensors file.
    """
    with safe_open(path, framework="pt") as handle:
        names = list(handle.keys())
        for name in names:
            count = sum(_wrong(piece) for piece in _pieces(handle, name))
            if count:
                return name, count
    return None


def _wrong(piece: Tensor) -> int:
    return int((~torch.isfinite(piece)).sum()) if piece.is_floating_point() else 0


def _pieces(handle: Any, name: str) -> Iterator[Tensor]:
    whole = handle.get_slice(name)
    shape = whole.get_shape()
    if not shape:
        yield handle.get_tensor(name)
        return
    rows = _rows(shape, PIECE)
    for start in range(0, shape[0], rows):
        yield whole[start : start + rows]


def _rows(shape: list[int], elements: int) -> int:
    row = 1
    for size in shape[1:]:
        row *= size
    return max(1, elements // max(1, row))


def samples(path: Path) -> dict[str, Tensor]:
    """The first rows of every floating-point tensor of a file, less their mean, (n,) float64; {} if it cannot be read.

    A tensor without spread, such as the weights of an untrained normalisation, says nothing and is left out.
    """
    found = {}
    try:
        with safe_open(path, framework="pt") as handle:
            names = list(handle.keys())
            for name in names:
                whole = handle.get_slice(name)
                shape = whole.get_shape()
                first = whole[: _rows(shape, SAMPLED)] if shape else handle.get_tensor(name)
                if first.is_floating_point():
                    flat = first.flatten()[:SAMPLED].double()
                    if flat.numel() > 1 and float(flat.std()) > 0.0:
                        found[name] = flat - flat.mean()
    except (SafetensorError, OSError):
        return {}
    return found


def correlation(a: dict[str, Tensor], b: dict[str, Tensor]) -> float | None:
    """<a, b> / (|a| |b|) over the tensors that both have, in [-1, 1]; None where they have none."""
    names = [name for name in a if name in b and a[name].shape == b[name].shape]
    if not names:
        return None
    inner = sum(float(a[name] @ b[name]) for name in names)
    norms = [sum(float(each[name] @ each[name]) for name in names) for each in (a, b)]
    return inner / (norms[0] * norms[1]) ** 0.5 if min(norms) > 0.0 else None


SHARED = 0.5
"""Correlation of first states from which two seeds count as sharing an initialisation; of independent ones: 0.2."""
SAME = 0.99999
"""Correlation at the last state from which two seeds count as one run."""


def check_lineage(run: Path, config: StudyConfig, seeds: Sequence[int], damaged: set[str]) -> Iterator[AuditIssue]:
    """Compare seeds by pairs: by their first snapshots or, where those are gone, fingerprints of the untrained model.

    Args:
        run: the folder.
        config: with the settings of its switches; it says whether one initialisation was meant.
        seeds: that are there.
        damaged: files that say nothing.
    """
    meant = config.training.init == "shared" or config.model.pretrained is not None
    first, last = _Sample(run, seeds, damaged, end=0), _Sample(run, seeds, damaged, end=-1)
    for a, b in itertools.combinations(seeds, 2):
        where = f"seed-{b}"
        again = f"nothing that counts seeds may count both; delete {run / where} and {run / 'done.json'} and give the "
        again += "same study command again"
        end, start = last.correlation(a, b), first.correlation(a, b)
        if end is not None and end > SAME:
            yield AuditIssue(
                where, "lineage", f"is the run of seed {a} once more ({last.what}: correlation {end:.6f})", again
            )
        elif start is not None and start > SHARED and not meant:
            text = f"shares its initialisation with seed {a} ({first.what}: correlation {start:.3f}, from {SHARED} on)"
            yield AuditIssue(where, "lineage", text, again)


class _Sample:
    """One state of every seed, by its snapshot, or by its fingerprint where not every seed has the snapshot."""

    def __init__(self, run: Path, seeds: Sequence[int], damaged: set[str], end: int) -> None:
        folders = {seed: run / f"seed-{seed}" / "snapshots" for seed in seeds}
        whole = [
            {step for step in snapshot_steps(folder) if _is_whole(run, snapshot_path(folder, step), damaged)}
            for folder in folders.values()
        ]
        common = sorted(set.intersection(*whole)) if whole else []
        self._found: dict[int, dict[str, Tensor]] = {}
        if common:
            step = common[end]
            self.what = f"weights at step {step}"
            self._found = {seed: samples(snapshot_path(folder, step)) for seed, folder in folders.items()}
            return
        self.what = "fingerprints of the " + ("untrained model" if end == 0 else "last checkpoint")
        for seed in seeds:
            path = run / f"seed-{seed}" / "fingerprints.safetensors"
            if _is_whole(run, path, damaged):
                taken = samples(path)
                # Those of the same seed share a name over all seeds, so that only one state is compared.
                self._found[seed] = {"fingerprint": taken[sorted(taken)[end]]} if taken else {}

    def correlation(self, a: int, b: int) -> float | None:
        """Of two seeds; None where one has nothing to compare."""
        return correlation(self._found.get(a, {}), self._found.get(b, {}))


def _is_whole(run: Path, path: Path, damaged: set[str]) -> bool:
    return path.is_file() and path.relative_to(run).as_posix() not in damaged
