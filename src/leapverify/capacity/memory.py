"""The memory plan of one seed: what will lie where, at the fullest moment of each phase, before anything is allocated.

Parts that are not alive at once are not added: a training step first holds the activations of its forward pass, then
the gradients, which it lets go of before anything is verified or predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from leapverify.capacity.activations import FLOAT, ModelShapes, PassMemory
from leapverify.capacity.buffers import IN_FLIGHT, buffer_kinds, copied_bytes, written_bytes
from leapverify.config.resolved import SAMPLED, Resolved
from leapverify.core.pinned import host_bytes
from leapverify.core.weights import ACCELERATOR_BLOCK, CPU_BLOCK
from leapverify.observe.packing import best_rows

GB, MB = 1e9, 1e6
Place = Literal["device", "host"]
_NEAR: Place = "device"
_FAR: Place = "host"

CUDA_CONTEXT = 1_000_000_000
"""Taken on a GPU beside tensors: the context with its loaded kernels, 0.3 to 0.6 GB, and cuBLAS's workspaces."""
CUDA_FRAGMENTS = 0.03
"""Of a GPU's memory: what torch's allocator loses in blocks of 2 MiB and more that are not filled."""
FILLED = 0.95
"""Of a GPU's room: how far `sweep.ring=auto` fills it with snapshots that could as well lie in host memory."""
HOST_SYSTEM = 2_000_000_000
"""Taken in host memory beside tensors: the system, the interpreter with its libraries, text and tokens."""

TRAINING, CHECKPOINT, CASCADE, BUILDING = "training", "checkpoint", "cascade", "building"
_STEP, _LOOK = ("forward", "backward"), ("observe", "verify", "predict")
PHASES: dict[str, tuple[str, ...]] = {
    BUILDING: ("build",),
    TRAINING: _STEP,
    CHECKPOINT: (*_LOOK, "save"),
    CASCADE: tuple(f"cascade {moment}" for moment in (*_STEP, "verify", "predict")),
}
"""Phase -> the moments of which the fullest is its peak."""
_RUNNING = frozenset(moment for phase in (TRAINING, CHECKPOINT, CASCADE) for moment in PHASES[phase])


@dataclass(frozen=True)
class Room:
    """The memory that tensors may take; `usable` makes it out of what a machine has."""

    device_bytes: int | None
    """Of the GPU; None where there is none and everything lies in host memory."""
    host_bytes: int

    @classmethod
    def usable(cls, device_bytes: float | None, host_bytes: float) -> Room:
        """What is left of a GPU's and a host's memory for tensors."""
        device = None if device_bytes is None else int(device_bytes * (1 - CUDA_FRAGMENTS) - CUDA_CONTEXT)
        return cls(None if device is None else max(0, device), max(0, int(host_bytes - HOST_SYSTEM)))

    def of(self, place: Place) -> int:
        """The bytes of a place."""
        return self.host_bytes if place == "host" else self.device_bytes or 0


@dataclass(frozen=True)
class MemoryItem:
    """Tensors that come and go together."""

    name: str
    nbytes: int
    place: Place
    moments: frozenset[str]
    """When they are alive."""
    reason: str


@dataclass(frozen=True)
class MemoryPlan:
    """What `memory_plan` gives."""

    parts: tuple[MemoryItem, ...]
    room: Room
    ring_places: tuple[Place, ...]
    """Where the snapshots of each moved tensor lie."""
    problem: str | None
    """Why it does not fit and what would help, in one sentence; None if it fits."""
    overlaps: bool
    """Whether there is room for saves that overlap training."""

    @property
    def fits(self) -> bool:
        """Whether every phase fits."""
        return self.problem is None

    def peak(self, place: Place, phase: str | None = None) -> int:
        """Bytes at the fullest moment of a phase, or of all."""
        moments = PHASES[phase] if phase else tuple(moment for each in PHASES.values() for moment in each)
        return max(peak_at(self.parts, place, moment) for moment in moments)

    @property
    def device_bytes(self) -> int:
        """The peak on the device; 0 where there is none."""
        return self.peak("device")

    @property
    def host_bytes(self) -> int:
        """The peak in host memory."""
        return self.peak("host")

    @property
    def summary(self) -> str:
        """The plan in one line."""
        unit, name = (GB, "GB") if max(self.device_bytes, self.host_bytes) >= GB else (MB, "MB")
        host = f"{self.host_bytes / unit:.1f} {name} of host memory"
        device = f"{self.device_bytes / unit:.1f} {name} on the GPU and " if self.room.device_bytes is not None else ""
        return f"memory plan: a seed takes at most {device}{host} (memory.txt has the parts)"

    def lines(self) -> list[str]:
        """The plan as it is printed: parts, then the peak of each phase."""
        both = self.room.device_bytes is not None
        unit, name = (GB, "GB") if max(self.device_bytes, self.host_bytes) >= GB else (MB, "MB")
        width = max(len(part.name) for part in self.parts)

        def row(title: str, device: int | None, host: int | None, text: str = "") -> str:
            cells = [f"{'' if each is None else f'{each / unit:.2f}':>11}" for each in (device, host)]
            return f"  {title:{width}}{''.join(cells[0 if both else 1 :])}  {text}".rstrip()

        found = [f"memory of one seed, {name}{': on the GPU, in host memory' if both else ''}"]
        for part in self.parts:
            if part.nbytes:
                near = part.place == "device"
                sizes = (part.nbytes if near else None, None if near else part.nbytes)
                found.append(row(part.name, sizes[0], sizes[1], part.reason))
        found.extend(row(f"peak, {each}", self.peak("device", each), self.peak("host", each)) for each in PHASES)
        found.append(row("there is room for", self.room.device_bytes, self.room.host_bytes))
        return [*found, f"  {self.problem or 'it fits'}"]


def peak_at(parts: Iterable[MemoryItem], place: Place, moment: str) -> int:
    """Bytes that are alive in a place at a moment."""
    return sum(part.nbytes for part in parts if part.place == place and moment in part.moments)


def planned(config: Resolved, shapes: ModelShapes, room: Room) -> tuple[tuple[MemoryItem, ...], tuple[Place, ...]]:
    """The parts of a plan, fitting or not, and the places of the ring's tensors."""
    sizes = _Sizes(config, shapes, room)
    parts = sizes.parts()
    places = _ring_places(config, sizes, room, parts)
    found = [(*parts, *sizes.ring(places), sizes.saving(overlap)) for overlap in (True, False)]
    return found[1 if over(found[0], room) else 0], places


def over(parts: Sequence[MemoryItem], room: Room) -> dict[Place, int]:
    """Place -> bytes of its peak, for every place where they do not fit."""
    places: tuple[Place, ...] = ("host",) if room.device_bytes is None else ("device", "host")
    moments = [moment for each in PHASES.values() for moment in each]
    peaks = {place: max(peak_at(parts, place, moment) for moment in moments) for place in places}
    return {place: peak for place, peak in peaks.items() if peak > room.of(place)}


def _ring_places(config: Resolved, sizes: _Sizes, room: Room, parts: Sequence[MemoryItem]) -> tuple[Place, ...]:
    """auto: the largest tensors first, each on the device while its snapshots still fit there."""
    count = len(sizes.shapes.moved)
    if room.device_bytes is None or config.sweep.ring == "host":
        return (_FAR,) * count
    if config.sweep.ring == "device":
        return (_NEAR,) * count
    left = int(FILLED * room.device_bytes) - max(peak_at(parts, "device", moment) for moment in _RUNNING)
    found = [_FAR] * count
    for index in sorted(range(count), key=lambda i: -sizes.shapes.moved[i]):
        snapshots = sizes.kept_bytes * sizes.shapes.moved[index]
        if snapshots <= left:
            found[index] = _NEAR
            left -= snapshots
    return tuple(found)


class _Sizes:
    """Every part but the ring's, from configuration and shapes."""

    def __init__(self, config: Resolved, shapes: ModelShapes, room: Room) -> None:
        self.config, self.shapes = config, shapes
        self.cuda = room.device_bytes is not None
        self.place: Place = "device" if self.cuda else "host"
        weights = config.weights_dtype
        autocast = config.autocast(torch.device("cuda" if self.cuda else "cpu"))
        self.weight = weights.itemsize
        self.passes = PassMemory(shapes, self.weight, (autocast or weights).itemsize, self.cuda)
        self.stored = config.history_dtype.itemsize
        self.exact = torch.promote_types(config.history_dtype, weights) == config.history_dtype
        self.kept = buffer_kinds(config)
        self.kept_bytes = sum(each.copies * each.itemsize for each in self.kept)
        """Of an element of a moved tensor."""
        self.needs = config.needs
        self.theta = shapes.total * self.weight

    def parts(self) -> tuple[MemoryItem, ...]:
        """Everything but the ring."""
        return (*self._lasting(), *self._training(), *self._checkpoint(), *self._host_only())

    def ring(self, places: Sequence[Place]) -> tuple[MemoryItem, ...]:
        """The snapshots and what else is kept beside them, by place."""
        moved, found = self.shapes.moved, []
        for each in self.kept:
            for place in sorted(set(places)):
                sizes = [size for size, at in zip(moved, places, strict=True) if at == place]
                nbytes = self._hosted(sizes, each.itemsize) if place == "host" else sum(sizes) * each.itemsize
                share = "" if len(set(places)) == 1 else f" of {len(sizes)} of {len(moved)} tensors"
                name, text = f"{each.name} on {place}", each.reason + share
                found.append(MemoryItem(name, each.copies * nbytes, place, _RUNNING, text))
        return tuple(found)

    def _hosted(self, elements: Sequence[int], itemsize: int) -> int:
        """Bytes in host memory of tensors of so many elements: page-locked, in one block, where there is a GPU."""
        kind = torch.float32 if itemsize == FLOAT else torch.bfloat16
        return host_bytes([torch.empty(count, device="meta") for count in elements], kind, locked=self.cuda)

    def _part(self, name: str, nbytes: int, moments: Iterable[str], reason: str) -> MemoryItem:
        return MemoryItem(name, nbytes, self.place, frozenset(moments), reason)

    def _lasting(self) -> Iterable[MemoryItem]:
        """What is there from the first step on."""
        v, kind = self.config.verify, f"{8 * self.weight}-bit"
        whole = self.shapes.whole
        yield self._part("weights", whole * self.weight, _RUNNING, f"{whole:,} parameters, {kind}")
        yield self._part("moments", 2 * self.theta, _RUNNING, f"Adam's two, {kind}")
        chosen_by = v.selection_sequences if self.needs.selection else 0
        tokens = (v.budget + v.val_sequences + chosen_by) * self.config.training.sequence_length
        yield self._part("held-out batches", 9 * tokens, _RUNNING, "tokens and masks")
        if self.config.sweep.moments == "float16":
            nbytes = 4 * sum(self.shapes.moved)
            yield self._part("rounded moments", nbytes, _RUNNING, "as sweep.moments asks for")
        places, values = self._sampled()
        yield self._part("update sample", places, _RUNNING, "which elements' updates are watched")
        yield self._part("watched values", values, _STEP, "their weights before the step that leads to a checkpoint")
        if self.config.observe.lyapunov:
            yield self._part("perturbed copy", 3 * self.theta, _RUNNING, "weights and moments, for observe.lyapunov")

    def _training(self) -> Iterable[MemoryItem]:
        """What comes and goes in a training step, of the run or of a trained cascade."""
        t, passes = self.config.training, self.passes
        tokens = t.batch_size * t.sequence_length
        forward, backward = _with_cascades("forward"), _with_cascades("backward")
        casts = _with_cascades("forward", "verify")
        body = f"{t.batch_size} x {t.sequence_length} tokens"
        yield self._part("autocast's copies", passes.casts, casts, "weights in bfloat16, during a pass")
        yield self._part("activations", passes.saved(t.batch_size, t.sequence_length), forward, f"kept of {body}")
        head = passes.loss_peak(tokens - t.batch_size)
        yield self._part("loss", head, forward, "logits, their gradients and the head's")
        yield self._part("gradients", self.theta, backward, "until the optimizer has stepped")
        tied = passes.backward_extra()
        yield self._part("tied gradient", tied, backward, "the embedding's, of lookup and head, while they are added")
        if t.rounding == "stochastic":
            # Of an element: on a GPU, in one compiled kernel, its random bits; on a CPU what stands between as well.
            nbytes = min(self._block, max(self.shapes.parameters)) * (8 if self.cuda else 36)
            yield self._part("rounding", nbytes, backward, "random bits of a block")

    def _sampled(self) -> tuple[int, int]:
        """Bytes of `UpdateSample`: two places as int64 of each element; its value in float64."""
        elements = min(SAMPLED, self.shapes.total)
        return 16 * elements, 8 * elements

    @property
    def _block(self) -> int:
        return ACCELERATOR_BLOCK if self.cuda else CPU_BLOCK

    def _checkpoint(self) -> Iterable[MemoryItem]:
        """What comes and goes in looking, predicting and verifying."""
        v, t, passes = self.config.verify, self.config.training, self.passes
        rows = min(v.batch_sequences, max(v.budget, v.val_sequences))
        nbytes = passes.evaluation_peak(rows * t.sequence_length)
        yield self._part("verification", nbytes, _with_cascades("verify"), f"a pass over {rows} sequences")
        rows, width = self._probes()
        nbytes = passes.casts_of_body + passes.forward_peak(passes.probe_tokens(rows * width))
        yield self._part("fingerprint", nbytes, ["observe"], "a pass over the probes")
        yield self._part("probes' masks", rows * width**2 * self.weight, _RUNNING, "which probe sees which tokens")
        predict = _with_cascades("predict")
        yield self._part("workspace", self._workspace(), predict, "float32 blocks of predictions")
        asked = [passes.evaluation_peak(v.batch_sequences * t.sequence_length)] if self.needs.selection else []
        if self.needs.gradients:
            tokens = t.batch_size * t.sequence_length
            saved = passes.saved(t.batch_size, t.sequence_length) + passes.loss_peak(tokens - t.batch_size)
            asked.append(max(saved, FLOAT * sum(self.shapes.moved) + passes.backward_extra()))
        if asked:
            yield self._part("asked by predictors", passes.casts + max(asked), predict, "losses, gradients")

    def _probes(self) -> tuple[int, int]:
        """Rows and width of the packed probes, with a token for every byte, which no tokenizer exceeds by much."""
        longest = self.config.model.context or self.config.training.sequence_length
        lengths = [min(len(text.encode()), longest) for text in self.config.probes.texts]
        rows = best_rows(lengths)
        return len(rows), max(sum(lengths[index] for index in row) for row in rows)

    def _workspace(self) -> int:
        """Inputs that are not float32 beside their results, the result, and two values in between; or sums of squares
        in float64 from two inputs."""
        inputs = max(3, self.needs.snapshots)
        loaded = 0 if self.stored == self.weight == FLOAT and not self.cuda else inputs + 1
        block = min(self._block, max(self.shapes.moved))
        return block * max(FLOAT * (loaded + 2), 3 * 2 * FLOAT)

    def _host_only(self) -> Iterable[MemoryItem]:
        """What lies in host memory wherever the run is."""
        moved = sum(self.shapes.moved)
        if "trained" in self.config.cascade.kinds:
            # Memory that was locked once is kept for the next time.
            buffer_kinds = 2 * self.shapes.total + self.shapes.total - moved
            nbytes = self._hosted([buffer_kinds], self.weight)
            yield MemoryItem("set aside", nbytes, "host", _RUNNING, "the moments, for trained cascades to come back to")
        if not self.exact:
            nbytes = self._hosted([moved], self.weight)
            yield MemoryItem("theta_t", nbytes, "host", _RUNNING, "set aside, since the history rounds it")
        # A head that is tied later to the embedding, or the largest weight's rounded form beside its float32 one.
        head = FLOAT * self.shapes.embedding if self.shapes.tied else 0
        rounded = self.weight * max(self.shapes.parameters) if self.weight < FLOAT else 0
        build = FLOAT * self.shapes.whole + max(head, rounded)
        yield MemoryItem("initial weights", build, "host", frozenset({"build"}), "drawn in float32")
        fingerprints = len(self.config.checkpoint_steps) + 1
        nbytes = 100 * FLOAT * self.shapes.hidden * fingerprints
        yield MemoryItem("fingerprints", nbytes, "host", _RUNNING, f"{fingerprints} of 100 probes")

    def saving(self, overlap: bool) -> MemoryItem:
        """The copies that are written: while training goes on, or while it waits."""
        if overlap:
            nbytes = copied_bytes(self.config, self.shapes, self.weight, self.kept, self._hosted)
            return MemoryItem(IN_FLIGHT, nbytes, "host", _RUNNING, "copies, written meanwhile")
        nbytes = written_bytes(self.config, self.shapes, self.weight) if self.cuda else 0
        return MemoryItem("files", nbytes, "host", frozenset({"save"}), "copies of what is written to disk")


def _with_cascades(*moments: str) -> frozenset[str]:
    return frozenset({*moments, *(f"cascade {moment}" for moment in moments)})
