"""The floor under a study: the least time that its parts take on a device, from operations and bytes.

A part is a row of phases, each of which must have ended before the next begins; a phase takes as long as the slowest
of its operations, its bytes and its transfers. Launches of kernels, reading text and writing files are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from _operations import Architecture, Work, architecture, backward, forward, probes, rows

from leapverify.capacity.machine import Accelerator
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.predict import predictor

Phases = tuple[Work, ...]

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
COMPUTE = 2
"""Bytes of a number in a pass: bfloat16, by autocast or because the weights are."""
PAPER_COPIES = 3
"""Full float32 copies from host to device for each predictor and K, in the way that the paper's code describes."""


def seconds(phases: Phases, device: Accelerator) -> float:
    """The least time of a part on a device."""
    return sum(max(p.flops / device.flops, p.bytes / device.bandwidth, p.link / device.link) for p in phases)


def total(phases: Phases) -> Work:
    """Everything that a part moves and computes."""
    return sum(phases, Work())


class Floors:
    """The least work of each part of a study, for one seed.

    Args:
        config: the study.
        probe_lengths: tokens of each probe.
        vocab_size: the tokenizer's, where the model names none.
        host_ring: snapshots lie in host memory, so that reading them crosses the link.
    """

    def __init__(
        self,
        config: StudyConfig,
        probe_lengths: Sequence[int],
        *,
        vocab_size: int | None = None,
        host_ring: bool = False,
    ) -> None:
        t, s = config.training, config.sweep
        self.config, self.probe_lengths, self.host_ring = Resolved.of(config), tuple(probe_lengths), host_ring
        self.model: Architecture = architecture(config.model, vocab_size, t.sequence_length)
        rank = config.tuning.lora_rank
        adapters = sum(inputs + outputs for inputs, outputs in self.model.block) * self.model.layers
        self.trained = self.model.parameters if rank is None else rank * adapters
        """Parameters: all, or two factors of that rank for every matrix of a layer."""
        self.element = SIZES[t.weights]
        """Bytes of a stored weight, gradient and moment."""
        self.ring_element = self.element if s.history == "auto" else SIZES[s.history]
        self.moment_element = min(self.element, SIZES[s.moments])

    @property
    def weights(self) -> int:
        """Bytes of all trained weights as they are stored."""
        return self.element * self.trained

    def training_step(self) -> Phases:
        """Forward and backward pass with the casts that they need; the norm of the gradients; AdamW in one pass."""
        step = Work(bytes=7 * self.weights)  # reads weight, gradient, two moments, writes all but the gradient
        norm = () if self.config.training.grad_clip is None else (Work(bytes=self.weights),)
        return *self._passes(), *norm, step

    def _passes(self) -> Phases:
        """Forward and backward pass of a training batch."""
        t = self.config.training
        tokens = rows(t.batch_size, t.sequence_length)
        passes = forward(self.model, tokens, COMPUTE) + backward(self.model, tokens, COMPUTE)
        # A gradient that arrives in the type of the pass is written in that of the weights.
        return (passes + 2 * self._cast(self.model.matrices),)

    def evaluation(self, sequences: int) -> Phases:
        """A forward pass over held-out sequences, with the weights cast once."""
        tokens = rows(sequences, self.config.training.sequence_length)
        return (forward(self.model, tokens, COMPUTE) + self._cast(self.model.matrices),)

    def fingerprint(self) -> Phases:
        """All probes through the layers, real tokens only."""
        passes = forward(self.model, probes(self.probe_lengths), COMPUTE)
        return (passes + self._cast(self.model.body_matrices),)

    def prediction(self, name: str) -> Phases:
        """Every input that the predictor declares read once, the prediction written once; one loss of a candidate and
        one gradient where it asks for such."""
        needs = predictor(name).needs
        moments = 2 * self.moment_element * self.trained if needs.optimizer_state else 0
        # Of the averages at least both once, of the newest snapshot no second copy.
        averages = Work(bytes=2 * SIZES["float32"] * self.trained) if needs.averages else Work()
        kept = needs.reach + max(0, needs.recent - 1) + len(needs.milestones)
        found = (self._snapshots(kept) + averages + Work(bytes=moments + self.weights),)
        asked = self.evaluation(self.config.verify.selection_sequences) if needs.selection else ()
        return *found, *asked, *(self._passes() if needs.gradients else ())

    def push(self) -> Phases:
        """The weights into the ring."""
        return (Work(bytes=self.weights) + self._snapshots(1),)

    def restore(self) -> Phases:
        """The weights back out of a copy on the device."""
        return (Work(bytes=2 * self.weights),)

    def candidates(self) -> list[str]:
        """The predictor of every prediction of one sweep, one for each K and scale."""
        s = self.config.sweep
        scales = {"momentum": len(s.momentum_scales)}
        return [name for name in s.predictors for _ in s.horizons for _ in range(scales.get(name, 1))]

    def sweep(self, sequences: int | None = None) -> Phases:
        """One checkpoint: the snapshot, every prediction with its verification, and the weights back.

        Args:
            sequences: that the paired test looks at for each prediction; the fixed set, the least, by default.
        """
        verified = self.evaluation(sequences or self.config.verify.sequences)
        every = [phase for name in self.candidates() for phase in (*self.prediction(name), *verified)]
        return *self.push(), *every, *self.restore()

    def sweep_forwards(self, sequences: int | None = None) -> Phases:
        """The verifications of a sweep alone."""
        return self.evaluation(sequences or self.config.verify.sequences) * len(self.candidates())

    def paper_sweep(self, sequences: int | None = None) -> Phases:
        """The same verifications with three whole float32 copies from the host before each, as the paper describes."""
        copies = Work(link=PAPER_COPIES * SIZES["float32"] * self.trained)
        return (copies, *self.evaluation(sequences or self.config.verify.sequences)) * len(self.candidates())

    def cascade(self) -> Phases:
        """All cascades from one start: state put aside and back, predictions, real steps, losses."""
        c, fixed = self.config.cascade, self.evaluation(self.config.verify.sequences)
        aside = (Work(bytes=2 * 3 * self.weights),)  # weights and two moments, read and written
        found: list[Work] = []
        for depth, horizon in c.shapes:
            if "chained" in c.kinds:
                for name in c.predictors:
                    found += aside + (self.prediction(name) + fixed + self.push()) * depth + aside
            if "trained" in c.kinds:
                for name in c.trained_predictors:
                    link = self.prediction(name) + fixed + self.training_step() * horizon + fixed + self.push()
                    found += aside + link * depth + aside
        return tuple(found)

    def checkpoint(self) -> Phases:
        """What every checkpoint measures besides the sweep: baseline on the whole budget, validation, fingerprint."""
        v = self.config.verify
        return self.evaluation(v.budget) + self.evaluation(v.val_sequences) + self.fingerprint()

    def curve_evaluations(self) -> int:
        """Held-out losses between checkpoints, in a whole run."""
        return len(self.config.curve_steps - set(self.config.checkpoint_steps))

    def study(self, device: Accelerator, *, starts: int = 0) -> float:
        """Seconds of one seed at least, every checkpoint swept.

        Args:
            device: what it runs on.
            starts: checkpoints from which cascades start.
        """
        config, checkpoints = self.config, len(self.config.checkpoint_steps)
        return (
            config.training.steps * seconds(self.training_step(), device)
            + checkpoints * (seconds(self.checkpoint(), device) + seconds(self.sweep(), device))
            + self.curve_evaluations() * seconds(self.evaluation(config.verify.sequences), device)
            + starts * seconds(self.cascade(), device)
        )

    def _cast(self, elements: int) -> Work:
        """Stored weights to the type of the passes, or gradients back."""
        return Work() if self.element == COMPUTE else Work(bytes=(self.element + COMPUTE) * elements)

    def _snapshots(self, count: int) -> Work:
        size = float(count * self.ring_element * self.trained)
        return Work(link=size) if self.host_ring else Work(bytes=size)
