"""Cascades offload what they change and nothing else, and everything comes back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.config.study import CascadeConfig
from leapverify.study import restore
from leapverify.study.cascade import Cascader, Start
from leapverify.study.restore import OffloadBuffer, RestorePoint, WeightRestorer
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verifier
from micro import timeless

SHAPES = ((3, 4), (2, 5))
BOTH = CascadeConfig(shapes=SHAPES, predictors=("linear", "adam"), trained_predictors=("hold", "linear", "adam"))


class Net(nn.Module):
    """Everything that a training step changes: running statistics, masks, weights that no prediction moves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 3)
        self.late = nn.Linear(3, 1)
        self.spare = nn.Parameter(torch.ones(2))  # has no gradient, and no moments, before the first trained link
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.out(self.drop(self.norm(x)))).squeeze(1) * self.fixed.prod()


class Run:
    """A run with history that stands at step 30; predictions move `out` and `late` only."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        self.model = Net().train()
        self.model.drop.eval()
        self.model.norm.train()
        trained = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2, foreach=False)
        self.moved = [*self.model.out.parameters(), *self.model.late.parameters()]
        self.history = History(self.moved, 3, dtype=dtype)
        self.count = 0
        self.fails: Callable[[], None] = lambda: None
        for step in (10, 20, 30):
            for _ in range(2):
                self.step(use_spare=False)
            self.history.push(step, self.moved)
        self.history.optimizer = self.state(30)
        x = torch.randn(16, 4)
        self.verifier = Verifier(self.model, [(x, x.sum(1))], self.loss, sequences=16, budget=16)
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.fails()
        return (model(batch[0]) - batch[1]) ** 2

    def step(self, use_spare: bool = True) -> None:
        self.model.drop.train()
        self.optimizer.zero_grad(set_to_none=True)
        x = torch.randn(8, 4) + random.random() + np.random.rand()
        loss = (self.model(x) - x.sum(1)).square().mean()
        (loss + self.model.spare.sum() if use_spare else loss).backward()
        self.optimizer.step()

    def train(self, _: int, step: int, count: int) -> None:
        self.fails()
        for index in range(count):
            self.optimizer.param_groups[0]["lr"] = 1e-2 / (step + index)
            self.step()

    def state(self, step: int) -> OptimizerState:
        return OptimizerState.from_optimizer(self.optimizer, self.moved, step=step)

    def cascader(self, settings: CascadeConfig = BOTH) -> Cascader:
        return Cascader(
            self.model, self.optimizer, self.moved, self.history, self.verifier, self.train, self.state, settings
        )

    def picture(self) -> list[Any]:
        """Everything that must come back."""
        states = [self.optimizer.state[each] for each in sorted(self.optimizer.state, key=id)]
        tensors = [*self.model.parameters(), *self.model.buffers(), *(v for s in states for v in s.values())]
        kept = [snapshot.tensors for snapshot in self.history]
        tensors = [tensor.detach().clone() for tensor in [*tensors, *(t for tensors in kept for t in tensors)]]
        about = [
            [id(each) for each in sorted(self.optimizer.state, key=id)],
            [group["lr"] for group in self.optimizer.param_groups],
            [module.training for module in self.model.modules()],
            [each.grad is None for each in self.model.parameters()],
            (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
            self.history.steps,
        ]
        return [tensors, about]


def assert_unchanged(before: list[Any], after: list[Any]) -> None:
    assert len(before[0]) == len(after[0])
    for a, b in zip(before[0], after[0], strict=True):
        assert torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
    assert before[1] == after[1]


class Late(OffloadBuffer):
    """An offload buffer whose copies run as late as they may: not before somebody waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[list[Tensor], list[Tensor]]] = []

    def wait(self) -> None:
        for out, source in self.due:
            super()._copy(out, source)
        self.due = []

    def _copy(self, out: list[Tensor], source: list[Tensor]) -> None:
        self.due.append((out, source))


@pytest.fixture(params=["at once", "as late as may be"])
def any_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that run beside other work may run at any time between their start and the next wait."""
    if request.param != "at once":
        monkeypatch.setattr(restore, "OffloadBuffer", Late)


KINDS = [("chained",), ("trained",), ("chained", "trained"), ("trained", "chained")]


@pytest.mark.failure(6)
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_everything_comes_back(any_time: None, kinds: tuple[Any, ...], dtype: torch.dtype) -> None:
    run = Run(dtype)
    before, cascader = run.picture(), run.cascader(BOTH.model_copy(update={"kinds": kinds}))
    for _ in range(2):
        links = cascader.run(Start(1, 30, 1.0))
        assert_unchanged(before, run.picture())
    assert len(links) == sum(5 * (2 if kind == "chained" else 3) for kind in kinds)
    assert {link.status for link in links} == {"ok"}


def test_when_the_copies_run_does_not_change_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = timeless(Run().cascader().run(Start(1, 30, 1.0)))
    monkeypatch.setattr(restore, "OffloadBuffer", Late)
    assert timeless(Run().cascader().run(Start(1, 30, 1.0))) == plain
    assert len({link["loss"] for link in plain}) > len(plain) // 2


def test_cascades_follow_one_another_as_if_each_were_the_first() -> None:
    together = Run().cascader().run(Start(1, 30, 1.0))
    apart = []
    for kind, names in (("chained", BOTH.predictors), ("trained", BOTH.trained_predictors)):
        for name in names:
            for shape in SHAPES:
                only = {"kinds": (kind,), "predictors": (name,), "trained_predictors": (name,), "shapes": (shape,)}
                apart += Run().cascader(CascadeConfig(**only)).run(Start(1, 30, 1.0))
    assert timeless(together) == timeless(apart)


@pytest.mark.failure(6, 8)
def test_a_cascade_that_leaves_the_numbers_leaves_no_trace(any_time: None) -> None:
    run = Run()
    run.optimizer.state[run.moved[0]]["exp_avg"].fill_(3e38)
    run.optimizer.state[run.moved[0]]["exp_avg_sq"].zero_()
    before = run.picture()
    links = run.cascader(BOTH.model_copy(update={"predictors": ("adam",)})).run(Start(1, 30, 1.0))
    assert_unchanged(before, run.picture())
    assert {link.status for link in links if link.predictor == "adam"} == {"nonfinite"}
    assert all(link.link == 1 and link.strict is False for link in links if link.predictor == "adam")


@pytest.mark.failure(9)
@pytest.mark.parametrize("kind", ["chained", "trained"])
@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cascade_that_fails_leaves_no_trace(any_time: None, kind: Any, after: int, dtype: torch.dtype) -> None:
    run = Run(dtype)
    before, calls = run.picture(), []

    def fail() -> None:
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("out of memory")

    run.fails = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        run.cascader(BOTH.model_copy(update={"kinds": (kind,)})).run(Start(1, 30, 1.0))
    assert_unchanged(before, run.picture())


# --- what is held -----------------------------------------------------------------------------------------------------


def allocated(action: Callable[[], object]) -> int:
    """Most bytes that torch held at once during an action, above those before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def large(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(300, 100).to(dtype), torch.randn(70_000), torch.tensor(3.0)]


def test_an_offload_buffer_holds_what_it_says_and_only_once() -> None:
    tensors, keeper = large(), OffloadBuffer()
    size = sum(tensor.nbytes for tensor in tensors)
    assert keeper.nbytes == 0
    peak = allocated(lambda: keeper.save(tensors))
    assert size <= peak == keeper.nbytes < size + 3 * 256

    def again() -> None:
        for _ in range(3):
            keeper.save(tensors)
            keeper.wait()
            keeper.restore()
            keeper.wait()

    assert allocated(again) == 0


def test_an_offload_buffer_restores_what_was_saved_last_any_number_of_times() -> None:
    tensors, keeper = large(torch.bfloat16), OffloadBuffer()
    keeper.save([tensor.clone() for tensor in tensors])
    keeper.save(tensors)
    kept = [tensor.clone() for tensor in tensors]
    for value in (1.0, 2.0):
        for tensor in tensors:
            tensor.fill_(value)
        keeper.restore()
        keeper.wait()
        assert all(map(torch.equal, tensors, kept))
    other = [torch.arange(5), torch.zeros(0)]  # other shapes: other memory
    keeper.save(other)
    other[0].zero_()
    keeper.restore()
    assert other[0].tolist() == [0, 1, 2, 3, 4]
    keeper.save([])
    keeper.restore()
    assert keeper.nbytes == 0


@pytest.mark.parametrize("kinds", [("chained",), ("trained",)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_cascade_offloads_what_it_changes_and_the_history_lacks(kinds: Any, dtype: torch.dtype) -> None:
    run = Run(dtype)
    cascader = run.cascader(BOTH.model_copy(update={"kinds": kinds}))
    cascader.run(Start(1, 30, 1.0))
    moved = {id(each) for each in run.moved}
    needed = list(run.moved) if dtype != torch.float32 else []
    if kinds == ("trained",):
        needed += [each for each in run.model.parameters() if each.requires_grad and id(each) not in moved]
        needed += [*run.model.buffers(), *(v for state in run.optimizer.state.values() for v in state.values())]
    held = sum(-(-each.nbytes // 256) * 256 for each in needed)
    assert cascader.nbytes == held


def test_a_large_cascade_holds_no_other_copies() -> None:
    """Chained links of a predictor that needs one snapshot: one buffer of the ring's, besides blocks."""
    torch.manual_seed(0)
    model = nn.Linear(2000, 500, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.weight.grad = torch.randn_like(model.weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    parameters = list(model.parameters())
    history = History(parameters, 2)
    for step in (1, 2):
        history.push(step, parameters)
    history.optimizer = OptimizerState.from_optimizer(optimizer, parameters, step=2)
    verifier = Verifier(model, [None], lambda m, _: m.weight[0].square().mean(), sequences=1, budget=1)
    settings = CascadeConfig(kinds=("chained",), shapes=((2, 5),), predictors=("adam",))
    cascader = Cascader(model, optimizer, parameters, history, verifier, no_training, no_state, settings)
    size, block = parameters[0].nbytes, 4 * 2**18
    peak = allocated(lambda: cascader.run(Start(1, 2, 1.0)))
    assert size <= peak < size + 8 * block
    assert cascader.nbytes == 0
    assert history.nbytes == 3 * size


def no_training(*_: int) -> None:
    raise AssertionError("chained links train nothing")


def no_state(_: int) -> OptimizerState:
    raise AssertionError("chained links ask for no state")


def test_a_restorer_shares_one_copy_between_sweep_and_cascades() -> None:
    run = Run(torch.float16)
    shared = WeightRestorer(run.moved, run.history)
    cascader = Cascader(
        run.model, run.optimizer, run.moved, run.history, run.verifier, run.train, run.state, BOTH, restorer=shared
    )
    before = run.picture()
    shared.save()
    held = shared.nbytes
    cascader.run(Start(1, 30, 1.0))
    assert shared.nbytes == held > 0
    assert_unchanged(before, run.picture())


def test_going_back_without_having_left_touches_nothing() -> None:
    run = Run()
    point = RestorePoint(run.model, run.optimizer)
    point.save()
    versions = [tensor._version for tensor in every_tensor(run)]
    point.restore()
    point.wait()
    assert versions == [tensor._version for tensor in every_tensor(run)]


def every_tensor(run: Run) -> Sequence[Tensor]:
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    return [*run.model.parameters(), *run.model.buffers(), *states]
