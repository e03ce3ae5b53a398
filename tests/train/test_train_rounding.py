"""Stochastic rounding as theorems, and AdamW with it against torch's own."""

from __future__ import annotations

import copy
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leap_loops import Loop, fingerprint_of, make
from leapverify.leap.optimizers import adam_state
from leapverify.predict import predictor
from leapverify.train import optimizer as rounding
from leapverify.train.batches import Batch, make_batch
from leapverify.train.loop import train_step
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import StochasticAdamW, adamw_block_, build_optimizer, stochastic_round_, stream_seed
from leapverify.train.state import load_state
from leapverify.trajectory.history import History, OptimizerState
from saved_states import save_state

BFLOAT16 = torch.bfloat16


def noise_like(value: Tensor, seed: int = 0) -> Tensor:
    return torch.randint(0, 2**16, value.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(seed))


def rounded(value: Tensor, noise: Tensor) -> Tensor:
    out = torch.empty(value.shape, dtype=BFLOAT16)
    stochastic_round_(out, value, noise)
    return out


def values(count: int, seed: int = 0) -> Tensor:
    """Float32 values of both signs over many binades."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(-60, 60, (count,), generator=generator)
    return torch.ldexp(torch.randn(count, generator=generator), size)


def neighbours(value: Tensor) -> tuple[Tensor, Tensor]:
    """The bfloat16 numbers next to each value, towards 0 and away from it, as float64."""
    below = value.view(torch.int32) & ~0xFFFF
    return below.view(torch.float32).double(), (below + 0x10000).view(torch.float32).double()


# Rounding


def test_all_bfloat16_values_stay_what_they_are() -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    every = patterns.view(BFLOAT16)
    for noise in (torch.zeros(2**16, dtype=torch.int32), torch.full((2**16,), 0xFFFF, dtype=torch.int32)):
        found = rounded(every.float(), noise)
        number = ~every.isnan()
        assert torch.equal(found[number].view(torch.int16), patterns[number])  # -0 and infinities among them
        assert bool(found[~number].isnan().all())


def test_nan_with_a_low_payload_stays_nan() -> None:
    # Cut off, these patterns would read as infinities or, carried over, as -0.
    patterns = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF, -1], dtype=torch.int32)
    for noise in (0, 0xFFFF):
        found = rounded(patterns.view(torch.float32), torch.full((4,), noise, dtype=torch.int32))
        assert bool(found.isnan().all())


def test_a_value_goes_to_one_of_its_neighbours_in_proportion() -> None:
    value = values(200)
    low, high = neighbours(value)
    share_up = torch.zeros(200, dtype=torch.float64)
    for noise in range(0, 2**16, 2**4):  # evenly spread draws: the share is exact to 2^-12
        found = rounded(value, torch.full((200,), noise, dtype=torch.int32)).double()
        assert bool(((found == low) | (found == high)).all())
        share_up += found == high
    wanted = (value.double() - low) / (high - low)
    torch.testing.assert_close(share_up / 2**12, wanted, rtol=0, atol=2**-12)


def test_the_mean_over_draws_is_the_value() -> None:
    value = values(300)
    draws = 4000
    found = torch.stack([rounded(value, noise_like(value, seed)).double() for seed in range(draws)]).mean(0)
    low, high = neighbours(value)
    p = (value.double() - low) / (high - low)
    error = (high - low).abs() * (p * (1 - p) / draws).sqrt()
    z = (found - value.double()) / error.clamp(min=1e-300)
    assert float(z.abs().max()) < 4.5
    # Nearest rounding is off by many of these errors: the test can fail.
    assert float(((value.bfloat16().double() - value.double()) / error).abs().max()) > 50


def test_streams_are_a_function_of_place_and_time() -> None:
    seeds = {stream_seed(s, t, n, b) for s in range(3) for t in range(30) for n in range(12) for b in range(11)}
    assert len(seeds) == 3 * 30 * 12 * 11
    assert all(0 <= each < 2**63 for each in seeds)
    assert stream_seed(1, 2, 3, 4) == stream_seed(1, 2, 3, 4)


# The step


def twins(dtype: torch.dtype, **options: object) -> tuple[list[nn.Parameter], list[nn.Parameter], list[dict]]:
    """Two copies of three parameters, and the groups for one of them."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in ((40, 30), (50,), ())]
    ours, theirs = ([nn.Parameter(each.to(dtype, copy=True)) for each in start] for _ in range(2))
    groups = [{"lr": 3e-2, "weight_decay": 0.1, **options}, {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-3}]
    return ours, theirs, groups


def grouped(parameters: list[nn.Parameter], options: list[dict]) -> list[dict]:
    return [{"params": parameters[:1], **options[0]}, {"params": parameters[1:], **options[1]}]


def give_gradients(*lists: list[nn.Parameter], step: int) -> None:
    for parameters in lists:
        generator = torch.Generator().manual_seed(step)
        for number, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            # The second has a gradient in every other step only.
            parameter.grad = None if number == 1 and step % 2 else gradient


def test_float32_weights_are_stepped_as_torch_steps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "block_size", lambda device: 70)
    ours, theirs, options = twins(torch.float32)
    mine = StochasticAdamW(grouped(ours, options), lr=1e-3)
    other = torch.optim.AdamW(grouped(theirs, options), lr=1e-3, fused=True)
    for step in range(1, 21):
        give_gradients(ours, theirs, step=step)
        mine.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert mine.state[a].keys() == other.state[b].keys()
        for key, value in other.state[b].items():
            torch.testing.assert_close(mine.state[a][key], value, rtol=1e-5, atol=1e-8)
    assert int(mine.state[ours[1]]["step"]) == 10


def test_each_rounded_result_is_a_neighbour_of_the_exact_one() -> None:
    ours, theirs, options = twins(BFLOAT16)
    mine = StochasticAdamW(grouped(ours, options))
    give_gradients(ours, step=1)
    give_gradients(ours, step=2)
    mine.step()
    exact = [nn.Parameter(each.detach().float()) for each in theirs]
    other = torch.optim.AdamW(grouped(exact, options), fused=True)
    give_gradients(theirs, step=2)
    for parameter, twin in zip(exact, theirs, strict=True):
        parameter.grad = twin.grad.float()
    other.step()
    for a, b in zip(ours, exact, strict=True):
        moments = [(mine.state[a][key], other.state[b][key]) for key in ("exp_avg", "exp_avg_sq")]
        for found, wanted in ((a, b), *moments):
            low, high = neighbours(wanted.detach())
            slack = 1e-6 * wanted.detach().double().abs()
            between = (found.double().abs() >= low.abs() - slack) & (found.double().abs() <= high.abs() + slack)
            assert found.dtype == BFLOAT16
            assert bool(between.all())


def test_small_steps_arrive_in_the_mean_where_nearest_loses_them() -> None:
    count, steps, lr = 20_000, 50, 1e-4  # 1e-4 is 1/78 of the distance 2^-7 between numbers above 1
    moved = {}
    for kind in ("nearest", "stochastic"):
        weight = nn.Parameter(torch.full((count,), 1.5, dtype=BFLOAT16))
        optimizer = build_optimizer([weight], lr, weight_decay=0.0, rounding=kind, seed=3)  # type: ignore[arg-type]
        for _ in range(steps):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[kind] = float(weight.detach().double().mean() - 1.5)
    assert moved["nearest"] == 0.0
    error = 2**-7 * math.sqrt(lr / 2**-7 * steps / count)
    assert moved["stochastic"] == pytest.approx(-lr * steps, abs=5 * error)


def test_v_never_shrinks_under_nearest_rounding_and_does_in_the_mean_under_stochastic() -> None:
    """0.999 takes a thousandth; half the distance to the number below is 2^-9 of it at least."""
    steps, per_value = 1000, 200
    start = torch.linspace(1, 2, 128).bfloat16().repeat(per_value)  # every mantissa, many times over
    found = {}
    for kind in ("nearest", "stochastic"):
        weight = nn.Parameter(torch.zeros_like(start))
        optimizer = build_optimizer([weight], 0.0, rounding=kind, seed=5)  # type: ignore[arg-type]
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        optimizer.state[weight]["exp_avg_sq"].copy_(start)
        for _ in range(steps):
            optimizer.step()
        found[kind] = optimizer.state[weight]["exp_avg_sq"]
    assert torch.equal(found["nearest"], start)
    exact = 0.999**steps  # 0.3677
    ratio = float(found["stochastic"].double().mean() / start.double().mean())
    # Each step adds a variance of at most (2^-7 v)^2 x 0.128 (1 - 0.128), and there are 25,600 values.
    assert ratio == pytest.approx(exact, abs=5 * 2**-7 * math.sqrt(steps * 0.112 / len(start)))
    assert abs(ratio - exact) < 0.01 < 1 - exact


def test_torch_computes_a_bfloat16_step_in_float32_and_rounds_once_where_it_is_fused() -> None:
    """Why `build_optimizer` asks for the fused kernel: the plain one rounds in between."""
    different = {}
    for fused in (True, False):
        generator = torch.Generator().manual_seed(2)
        weight = nn.Parameter(torch.randn(4000, generator=generator).bfloat16())
        optimizer = torch.optim.AdamW([weight], lr=1e-2, fused=fused, foreach=False)
        for step in (1, 2):
            weight.grad = torch.randn(4000, generator=generator).bfloat16()
            state = {key: value.clone() for key, value in optimizer.state[weight].items()} if step > 1 else {}
            exact = nn.Parameter(weight.detach().float())
            reference = torch.optim.AdamW([exact], lr=1e-2, fused=True)
            if state:
                reference.state[exact] = {key: value.float() for key, value in state.items()}
            exact.grad = weight.grad.float()
            reference.step()
            optimizer.step()
        moments = [(optimizer.state[weight][k], reference.state[exact][k]) for k in ("exp_avg", "exp_avg_sq")]
        pairs = [(weight, exact), *moments]
        different[fused] = max(float((a != b.bfloat16()).float().mean()) for a, b in pairs)
        assert {found.dtype for found, _ in moments} == {BFLOAT16}
    assert different[True] < 2e-3  # ties that a fused multiply-add breaks
    assert different[False] > 0.02


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
def test_the_compiled_block_is_the_eager_one() -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (30, 21)
    theta, m, gradient = (torch.randn(shape, generator=generator).bfloat16() for _ in range(3))
    v = torch.rand(shape, generator=generator).bfloat16()
    bits = torch.empty(shape, dtype=torch.int64).random_(generator=generator)
    group = {"betas": (0.9, 0.999), "lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8}
    constants = rounding._constants(group, 3, theta.device)
    eager, compiled = ([each.clone() for each in (theta, m, v)] for _ in range(2))
    adamw_block_(*eager, gradient, bits, constants)
    rounding._compiled()(*compiled, gradient, bits, constants)
    for a, b, before in zip(eager, compiled, (theta, m, v), strict=True):
        assert float((a != b).float().mean()) < 0.005  # a multiply-add rounds once instead of twice
        torch.testing.assert_close(a, b, rtol=2**-7, atol=1e-6)
        assert not torch.equal(b, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
def test_the_kernel_is_compiled_for_no_form_of_tensor_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a limit of variants (8) torch would run all further ones as they are written."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(rounding, "block_size", lambda device: 900)
    monkeypatch.setattr(rounding, "_compiled", lambda: kernel)
    kernel = torch.compile(adamw_block_, dynamic=True, backend=backend)
    shapes = [(30, 30), (97, 30), (30,), (10, 30), (30, 90), (1, 30), (1,), (), (3, 4, 5), (2, 3, 2, 2), (64, 64)]
    generator = torch.Generator().manual_seed(6)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    start = [*(each.bfloat16() for each in start), *(each.clone() for each in start[:3])]
    ends = []
    for compiled in (False, True):
        weights = [nn.Parameter(each.clone()) for each in start]
        optimizer = StochasticAdamW(weights, compiled=compiled)
        for step in (1, 2):
            give_gradients(weights, step=step)
            optimizer.step()
        ends.append(weights)
    assert all(map(torch.equal, *ends))
    assert 0 < len(graphs) <= 6


# Random bits, state and company


def bfloat16_run(seed: int = 1) -> tuple[nn.Module, StochasticAdamW]:
    spec = ModelSpec(layers=2, hidden=16, heads=2, dropout=0.1)
    model = build_model(spec, seed=seed, vocab_size=30, sequence_length=8, dtype=BFLOAT16)
    optimizer = build_optimizer(model.parameters(), 1e-3, rounding="stochastic", seed=7)
    assert isinstance(optimizer, StochasticAdamW)
    return model, optimizer


def batch(step: int) -> Batch:
    return make_batch(torch.randint(0, 30, (3, 8), generator=torch.Generator().manual_seed(step)))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    return [float(train_step(model, optimizer, batch(step), 1e-3)) for step in range(first, last + 1)]


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for p in model.parameters() for _, value in sorted(optimizer.state[p].items())]
    return [each.detach().clone() for each in (*model.parameters(), *moments)]


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    torch.manual_seed(3)
    model, optimizer = bfloat16_run()
    losses = train(model, optimizer, 1, 3)
    save_state(path, model, optimizer, step=3)
    losses += train(model, optimizer, 4, 6)

    torch.manual_seed(99)
    resumed, other = bfloat16_run(seed=2)
    load_state(path, resumed, other)
    assert train(resumed, other, 4, 6) == losses[3:]
    found, wanted = everything(resumed, other), everything(model, optimizer)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, wanted, strict=True))
    assert {other.state[p][key].dtype for p in resumed.parameters() for key in ("exp_avg", "exp_avg_sq")} == {BFLOAT16}


def test_another_seed_rounds_otherwise_and_copies_round_alike() -> None:
    weights = []
    for seed, copied in ((7, False), (7, True), (8, False)):
        weight = nn.Parameter(torch.linspace(1, 2, 500).bfloat16())
        optimizer = build_optimizer([weight], 1e-3, rounding="stochastic", seed=seed)
        optimizer = copy.deepcopy(optimizer) if copied else optimizer
        target = optimizer.param_groups[0]["params"][0]
        for _ in range(3):
            target.grad = torch.ones_like(target)
            optimizer.step()
        weights.append(target.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_no_global_random_stream_moves() -> None:
    model, optimizer = bfloat16_run()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state()
    optimizer.step()
    assert random.getstate() == before[0]
    assert str(np.random.get_state(legacy=False)) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_predictors_and_the_engine_read_its_state() -> None:
    model, optimizer = bfloat16_run()
    train(model, optimizer, 1, 3)
    parameters = list(model.parameters())
    state = OptimizerState.from_optimizer(optimizer, parameters, step=3)
    assert adam_state([optimizer], parameters, 3, [[[1e-3]]]) is not None
    assert state.steps == (3,) * len(parameters)
    assert {each.dtype for each in (*state.m, *state.v)} == {BFLOAT16}
    assert state.v[0] is optimizer.state[parameters[0]]["exp_avg_sq"]

    # The values count, not the type that they are stored in.
    predicted = []
    for held in (state, state.rounded(torch.float32)):
        history = History([each.float() for each in parameters], 1)
        history.push(3, [each.float() for each in parameters])
        history.optimizer = held
        predicted.append([each.clone() for each in predictor("adam").predict(history, 20)])
    assert all(torch.equal(a, b) for a, b in zip(*predicted, strict=True))
    assert not torch.equal(predicted[0][0], parameters[0].float())


def bfloat16_loop() -> Loop:
    loop = make("gpt2")
    loop.model.to(BFLOAT16)
    loop.optimizer = build_optimizer(loop.model.parameters(), 1e-3, rounding="stochastic", seed=7)
    loop.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, 400)
    return loop


def test_a_leap_that_is_rejected_leaves_no_trace_in_it_and_one_that_is_accepted_is_trained_on() -> None:
    ends = {}
    for criterion in (None, "never", "always"):
        loop = bfloat16_loop()
        options = {"mode": "live", "policy": "fixed", "predictor": "adam", "horizon": 3, "criterion": criterion}
        engine = loop.leap(**options) if criterion else None
        loop.run(12, engine)
        if engine is not None:
            assert engine.disabled is None
            assert engine.report()["attempts"] > 0
        ends[criterion] = fingerprint_of(loop)
        assert {parameter.dtype for parameter in loop.model.parameters()} == {BFLOAT16}
        assert all(bool(parameter.isfinite().all()) for parameter in loop.model.parameters())
    assert ends["never"] == ends[None] != ends["always"]


def test_a_parameter_without_moments_stands_among_bfloat16_ones_as_one() -> None:
    weights = [nn.Parameter(torch.ones(3, dtype=BFLOAT16)) for _ in range(2)]
    optimizer = build_optimizer(weights, 1e-3)
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    state = OptimizerState.from_optimizer(optimizer, weights, step=1)
    assert {each.dtype for each in (*state.m, *state.v)} == {BFLOAT16}


def test_a_closure_is_evaluated_with_gradients() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = StochasticAdamW([weight])

    def closure() -> float:
        loss = (weight**2).sum()
        weight.grad = torch.autograd.grad(loss, weight)[0]
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert not torch.equal(weight, torch.ones(4))


@pytest.mark.parametrize("flag", ["amsgrad", "maximize", "capturable"])
def test_other_forms_of_the_step_are_refused(flag: str) -> None:
    message = f"{flag}=True is no step that StochasticAdamW takes: leave it False"
    with pytest.raises(ValueError, match=message):
        StochasticAdamW([nn.Parameter(torch.ones(2))], **{flag: True})
    optimizer = StochasticAdamW([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], flag: True})
    assert len(optimizer.param_groups) == 1


def test_types_that_it_does_not_round_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a parameter is torch\.float16, which .* does not round: use bfloat16 or"):
        StochasticAdamW([nn.Parameter(torch.ones(2, dtype=torch.float16))])


def test_moments_of_another_type_than_the_weights_are_refused_at_loading(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model, optimizer = bfloat16_run()
    train(model, optimizer, 1, 1)
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].float()
    save_state(path, model, optimizer, step=1)
    with pytest.raises(ValueError, match=r"exp_avg_sq\.\S+ as float32 .* where the weights are bfloat16 .*: AdamW"):
        load_state(path, *bfloat16_run())
