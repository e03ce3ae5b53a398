"""What an engine has done and cost so far, and what memory it takes."""

from __future__ import annotations

from typing import Any

from leapverify.leap.engine import Engine
from leapverify.leap.transaction import exact_in
from leapverify.trajectory.averages import AVERAGED
from leapverify.trajectory.milestones import MILESTONES


def engine_report(engine: Engine) -> dict[str, Any]:
    """What an engine has done and cost so far, as JSON values."""
    ledger, fresh = engine.ledger, engine.fresh
    return {
        "policy": engine.policy.name if engine.policy else None,
        "leapt": engine.leapt,
        "attempts": engine.attempts,
        "accepted": engine.accepted,
        "overhead": ledger.overhead,
        "budget": ledger.budget,
        "seconds": dict(ledger.seconds),
        "tokens": dict(ledger.tokens),
        "overhead_s": sum(ledger.seconds.values()),
        "overhead_tokens": sum(ledger.tokens.values()),
        "elapsed_s": ledger.elapsed_s,
        "saved": ledger.saved,
        "heldout_batches": fresh.draws if fresh else 0,
        "heldout_passes": fresh.passes if fresh else None,
    }


def memory_sentence(engine: Engine) -> str:
    """What the engine holds beside the model, in bytes, before any of it is allocated."""
    weights, storage = engine.weights, engine.weights.storage
    own = sum(each.nbytes for each in weights.tensors)
    one = weights.elements * storage.dtype.itemsize
    place = "pinned host memory" if storage.pinned else (storage.device or str(weights.device))
    parts = [f"{_bytes(storage.snapshots * one)} for {storage.snapshots} snapshots in {place} ({storage.dtype})"]
    wanted = storage.wanted
    context = {
        f"the last {wanted.recent} steps before a checkpoint": wanted.recent * one,
        "running averages": (2 + 2 * AVERAGED) * 4 * weights.elements * wanted.averages,
        "early states": MILESTONES * one * bool(wanted.milestones),
    }
    parts += [f"{_bytes(size)} for {what} in {place}" for what, size in context.items() if size]
    if engine.config.tries and not exact_in(weights.tensors, storage.dtype):
        parts.append(f"{_bytes(own)} for an exact copy during an attempt on {weights.device}")
    if engine.annealing is not None:
        where = engine.annealing.memory.device or str(weights.device)
        parts.append(f"{_bytes(engine.annealing.store.planned_bytes)} for averages in {where}")
        parts.append(f"{_bytes(weights.elements * 4 + own)} while anneal() runs")
    model = _bytes(sum(each.nbytes for each in weights.whole))
    if weights.shards is not None and weights.shards.parts:
        return f"this rank's leapverify will hold {', '.join(parts)}, beside its {_bytes(own)} of the {model} that move"
    return f"leapverify will hold {', '.join(parts)}, beside weights of {model} that move"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
