"""Job 1: kernels and roofline at GPT-2 124M, and what has to be bit-identical on the device.

Every figure stands beside its floor at the rates measured in the same job (a large copy, a large bfloat16 product).
Goals: training step at 45 % of its floor, predictions at 70 % of the copy rate, a sweep in 1.1 times its forward passes
and in a tenth of the paper's way, fingerprints in 0.5 % of training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import identity
import torch
from job import BENCHMARKS, Part, Sitting, found, run_job
from timing import as_accelerator, median, rates

from leapverify.capacity.machine import Accelerator
from leapverify.config.resolved import Resolved
from leapverify.observe import similarity
from leapverify.predict import predictor
from leapverify.study.apparatus import Apparatus, build, open_corpus
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.tokenizers import load_tokenizer

sys.path.append(str(BENCHMARKS))

from _floors import PAPER_COPIES, Floors, seconds, total

MODES = ("off", "default", "reduce-overhead")


def apparatus(sitting: Sitting, **settings: Any) -> Apparatus:
    """One seed, untrained."""
    config = Resolved.of(sitting.config("gpt2-124m", seeds=[42], **settings))
    return build(config, 42, sitting.device, open_corpus(config))


def floors_of(a: Apparatus) -> Floors:
    tokenizer = load_tokenizer(a.config.data.tokenizer)
    lengths = [len(tokenizer.encode(text)) for text in a.config.probes.texts]
    return Floors(a.config.settings, lengths, vocab_size=tokenizer.vocab_size)


def with_history(sitting: Sitting) -> Apparatus:
    """A seed that stands at a checkpoint: some steps, a full ring, the optimizer's state."""
    a = apparatus(sitting)
    interval = a.config.observe.interval_steps
    for number in range(1, a.history.length + 1):
        a.train(number, number, 1)
        a.history.push(number * interval, list(a.moved.values()))
    a.history.optimizer = a.optimizer_state(a.history.steps[-1])
    return a


def machine(sitting: Sitting) -> Mapping[str, Any]:
    return found(7, **rates(sitting.device, small=sitting.reduced))


def measured_device(sitting: Sitting) -> Accelerator:
    return as_accelerator(rates(sitting.device, small=sitting.reduced, repeats=3))


def step(sitting: Sitting, mode: str) -> Mapping[str, Any]:
    a, repeats, calls = apparatus(sitting, training__compile=mode), *((2, 2) if sitting.reduced else (7, 40))
    at = iter(range(1, 10**9))

    def one() -> None:
        number = next(at)
        a.step(a.model, a.optimizer, a.batch(number), a.schedule(1))

    taken_s = median(one, sitting.device, repeats=repeats, calls=calls, warm=2 if sitting.reduced else 20)
    floor_s, t = seconds(floors_of(a).training_step(), measured_device(sitting)), a.config.training
    return found(
        repeats * calls,
        compile=mode,
        step_s=taken_s,
        floor_s=floor_s,
        share_of_floor=floor_s / taken_s,
        tokens_per_s=t.batch_size * t.sequence_length / taken_s,
    )


def predictors(sitting: Sitting) -> Mapping[str, Any]:
    a, repeats = with_history(sitting), 2 if sitting.reduced else 9
    floors, device, out = floors_of(a), measured_device(sitting), list(a.moved.values())
    rows = []
    for name in a.config.sweep.predictors:
        method = predictor(name)
        run = partial(method.predict, a.history, max(a.config.sweep.horizons), out=out)
        taken_s, moved = median(run, sitting.device, repeats=repeats), total(floors.prediction(name)).bytes
        share = moved / taken_s / device.bandwidth
        rows.append({"predictor": name, "seconds": taken_s, "bytes": moved, "share_of_copy_rate": share})
    return found(repeats, predictors=rows)


def sweep(sitting: Sitting) -> Mapping[str, Any]:
    a, repeats = with_history(sitting), 1 if sitting.reduced else 3
    tensors, floors = list(a.moved.values()), floors_of(a)
    # The ring's newest snapshot is theta_t, as at every checkpoint.
    before = [each.detach().clone() for each in tensors]
    sweeper = Sweeper(tensors, a.history, a.verifier, a.config.sweep)
    point = SweepPoint(42, a.history.steps[-1], "stable", a.verifier.measure(), 0.01)
    swept_s = median(lambda: sweeper.sweep(point), sitting.device, repeats=repeats)
    same = all(torch.equal(one, other) for one, other in zip(before, tensors, strict=True))
    rows = sweeper.sweep(point)
    fixed, count = a.config.verify.sequences, len(floors.candidates())
    # Where the paired test went on, the sweep had more sequences to run than the fixed ones.
    needed = sum(max(fixed, row.paired_sequences or 0) for row in rows) + fixed * (count - len(rows))
    forward_s = needed / fixed * median(a.verifier.loss_of, sitting.device, repeats=repeats * 3)
    paper_s = {kind: _paper(a, sitting, pinned=kind == "pinned") for kind in ("pageable", "pinned")}
    device = measured_device(sitting)
    return found(
        repeats,
        predictions=count,
        sequences=needed,
        sweep_s=swept_s,
        forwards_s=forward_s,
        sweep_over_forwards=swept_s / forward_s,
        sweep_floor_s=seconds(floors.sweep(), device),
        paper_s_per_evaluation=paper_s,
        times_faster_per_evaluation={kind: each * count / swept_s for kind, each in paper_s.items()},
        restored_bit_identical=same,
    )


def _paper(a: Apparatus, sitting: Sitting, *, pinned: bool) -> float:
    """One evaluation as the paper's code describes it: three state dicts from the host, weights loaded, the loss."""
    held = [
        {name: each.detach().to("cpu", torch.float32, copy=True) for name, each in a.moved.items()}
        for _ in range(PAPER_COPIES)
    ]
    if pinned and sitting.device == "cuda":
        held = [{name: each.pin_memory() for name, each in state.items()} for state in held]

    @torch.no_grad()
    def evaluate() -> None:
        here = [{name: each.to(sitting.device, copy=True) for name, each in state.items()} for state in held]
        for name, parameter in a.moved.items():
            parameter.copy_(here[0][name] + (here[1][name] - here[2][name]))
        a.verifier.loss_of()

    return median(evaluate, sitting.device, repeats=1 if sitting.reduced else 5)


def fingerprint(sitting: Sitting) -> Mapping[str, Any]:
    a, repeats = apparatus(sitting), 3 if sitting.reduced else 15
    floors, interval, first = floors_of(a), a.config.observe.interval_steps, a.fingerprinter()
    taken_s = median(lambda: similarity(a.fingerprinter(), first), sitting.device, repeats=repeats)
    device = measured_device(sitting)
    step_s = median(lambda: a.train(1, 1, 1), sitting.device, repeats=3, calls=1 if sitting.reduced else 20)
    floor_s = seconds(floors.fingerprint(), device)
    return found(
        repeats,
        probe_tokens=sum(floors.probe_lengths),
        positions=a.fingerprinter.positions,
        fingerprint_s=taken_s,
        floor_s=floor_s,
        share_of_training=taken_s / (interval * step_s),
        share_of_training_at_the_floor=floor_s / (interval * seconds(floors.training_step(), device)),
    )


def parts(modes: Sequence[str]) -> tuple[Part, ...]:
    return (
        Part("machine", machine),
        *(Part(f"step {mode}", partial(step, mode=mode), minutes=1.5) for mode in modes),
        Part("predictors", predictors),
        Part("sweep", sweep, minutes=2),
        Part("fingerprint", fingerprint),
        Part("resume", identity.resume, minutes=2),
        Part("leap", identity.rejected_leap),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    known = argparse.ArgumentParser(add_help=False)
    known.add_argument("--compile", default=None)
    known.add_argument("--reduced", action="store_true")
    options, _ = known.parse_known_args(arguments)
    # Compiling takes a minute of a CPU and tells nothing about a GPU.
    default = MODES[:1] if options.reduced else MODES
    return run_job(1, parts(options.compile.split(",") if options.compile else default), arguments)


if __name__ == "__main__":
    sys.exit(main())
