from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict.nino import mlp as module
from leapverify.predict.nino import nino_mlp, published_k
from leapverify.predict.nino.parameter_types import ParameterType, per_parameter, warn_once
from leapverify.predict.nino.scaling import scales
from leapverify.predict.nino.schedule import columns
from leapverify.predict.predictor import require_request
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History
from nino_checkpoints import PUBLISHED, write_mlp

GPT2 = {
    "transformer.wte.weight": (11, 6),
    "transformer.wpe.weight": (4, 6),
    "transformer.h.0.ln_1.weight": (6,),
    "transformer.h.0.ln_1.bias": (6,),
    "transformer.h.0.attn.c_attn.weight": (6, 18),
    "transformer.h.0.attn.c_attn.bias": (18,),
    "transformer.h.0.mlp.c_fc.weight": (6, 24),
}
GPT2_KINDS = {
    "transformer.wte.weight": 5,
    "transformer.wpe.weight": 6,
    "transformer.h.0.ln_1.weight": 4,
    "transformer.h.0.mlp.c_fc.weight": 1,
}
ODD = {"scalar": (), "none": (0,), "none of three": (2, 0, 3), "one": (1,), "cube": (3, 4, 2), "matrix": (5, 4)}


def history_of(
    shapes: dict[str, tuple[int, ...]], layout: Layout | None = None, dtype: torch.dtype = torch.float32
) -> History:
    generator = torch.Generator().manual_seed(5)
    point = [0.02 * torch.randn(shape, generator=generator) + (name[-6:] == "weight") for name, shape in shapes.items()]
    history = History(point, 5, dtype=dtype)
    for number in range(1, 6):
        history.push(200 * number, point)
        point = [each + 2e-3 * torch.randn(each.shape, generator=generator) for each in point]
    history.layout = layout or Layout(tuple(shapes), "gpt2", 2, 2)
    return history


def reference(state: dict[str, Tensor], states: Sequence[np.ndarray], kind: np.ndarray, k: int) -> np.ndarray:
    """The printed formula in float64, one parameter after another; states oldest first."""
    table = {name: each.double().numpy() for name, each in state.items()}
    stacked = np.stack(states)
    mean, std = stacked.mean(), stacked.std(ddof=1)
    new = np.empty(stacked.shape[1:])
    for place in np.ndindex(new.shape):
        x = (stacked[(slice(None), *place)] - mean) / (std + 1e-6)
        h = table["edge_proj.fc.0.weight"] @ x + table["edge_proj.fc.0.bias"] + table["layer_embed.weight"][kind[place]]
        for i in (0, 2, 4):
            h = table[f"edge_mlp.fc.{i}.weight"] @ h + table[f"edge_mlp.fc.{i}.bias"]
            h = h / (1 + np.exp(-h))
        out = table["edge_mlp.fc.6.weight"] @ h + table["edge_mlp.fc.6.bias"]
        new[place] = (x[-1] + out[k - 1]) * std + mean
    return new


def kind_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = np.full(shape, GPT2_KINDS.get(name, 2))
    if name.endswith("c_attn.weight"):
        kind[:, :6], kind[:, 6:12], kind[:, 12:] = 7, 8, 9
    return kind


@pytest.mark.parametrize("which", ["random", "nino_mlp.pt", "nino_mlp_h32.pt"])
@pytest.mark.parametrize("k", [1, 13, 40])
def test_it_is_the_formula_in_float64(which: str, k: int, tmp_path: Path) -> None:
    file = write_mlp(tmp_path / "mlp.pt", hid=16) if which == "random" else PUBLISHED / which
    if not file.is_file():
        pytest.skip("the published files are not beside this checkout: shared/data/nino")
    state = torch.load(file, weights_only=True)["state_dict"]
    history = history_of(GPT2)
    got = nino_mlp(file).predict(history, 200 * k)
    for i, (name, shape) in enumerate(GPT2.items()):
        states = [each.tensors[i].double().numpy() for each in history]
        expected = reference(state, states, kind_of(name, shape), k)
        moved = np.abs(expected - states[-1]).max()
        # Beside the last digit of the weights: 1e-5 of the largest motion.
        np.testing.assert_allclose(got[i].numpy(), expected, rtol=1.2e-7, atol=1e-5 * moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_and_unbiased_deviation_are_those_of_all_states_together(dtype: torch.dtype) -> None:
    shapes = {"a.weight": (700, 900), "b.bias": (5,), "c": (), "none": (0,)}
    history = history_of(shapes, dtype=dtype)
    found = scales(require_request(nino_needs(), history, 1, None))
    for i, name in enumerate(shapes):
        whole = torch.stack([each.tensors[i].double() for each in history])
        if name != "none":
            assert found[i].mean == pytest.approx(float(whole.mean()), rel=1e-6)
            assert found[i].std == pytest.approx(float(whole.std()), rel=1e-5)
        else:
            assert found[i].std == 0


def nino_needs() -> module.Needs:
    return module.NEEDS


def test_equal_numbers_have_no_deviation_and_stay(tmp_path: Path) -> None:
    history = history_of({"a": (1000, 999)})
    for step in range(2000, 2500, 100):
        history.push(step, [torch.full((1000, 999), 0.1)])
    assert torch.equal(nino_mlp(write_mlp(tmp_path / "mlp.pt")).predict(history, 300)[0], history[-1].tensors[0])


def test_between_whole_k_outputs_are_joined_linearly_and_k_0_is_no_change(tmp_path: Path) -> None:
    predictor = nino_mlp(write_mlp(tmp_path / "mlp.pt"))
    history = history_of(GPT2)
    now = history[-1].tensors
    at = {horizon: predictor.predict(history, horizon) for horizon in (50, 200, 350, 400)}
    for i, start in enumerate(now):
        torch.testing.assert_close(at[50][i] - start, (at[200][i] - start) / 4, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(at[350][i], at[200][i] / 4 + at[400][i] * 3 / 4, rtol=1e-5, atol=1e-6)


def test_columns() -> None:
    assert columns(0.25) == ((0, 0.25),)
    assert columns(1.0) == ((0, 1.0),)
    assert columns(2.25) == ((1, 0.75), (2, 0.25))
    assert columns(40.0) == ((39, 1.0),)


def test_the_published_schedule() -> None:
    assert published_k(10_000) == (40, 33, 26, 21, 16, 11, 8, 5, 3, 1)
    assert published_k(999) == (40,)
    assert published_k(2_000, 1_000) == (40, 1)
    with pytest.raises(ValueError, match="0 steps with a jump every 1000 are no plan"):
        published_k(0)


def test_a_fixed_k_and_the_scale(tmp_path: Path) -> None:
    file = write_mlp(tmp_path / "mlp.pt")
    history = history_of(GPT2)
    fixed = nino_mlp(file, k=7)
    assert not fixed.needs.horizon
    assert nino_mlp(file).needs.horizon
    seven = nino_mlp(file).predict(history, 1400)
    assert all(torch.equal(a, b) for a, b in zip(fixed.predict(history, 3), seven, strict=True))
    half = nino_mlp(file, scale=0.5).predict(history, 1400)
    for now, a, b in zip(history[-1].tensors, half, seven, strict=True):
        torch.testing.assert_close(a - now, (b - now) / 2, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="k = 41 is not a column of NiNo: use 1 to 40, or none for K / spacing"):
        nino_mlp(file, k=41)


def test_it_declines_what_it_does_not_reach_or_cannot_name(tmp_path: Path) -> None:
    predictor = nino_mlp(write_mlp(tmp_path / "mlp.pt"))
    history = history_of(GPT2)
    predictor.predict(history, 8000)
    with pytest.raises(Declined, match="reaches 40 spacings on, that is 8000 steps, and not 8001: predict fewer steps"):
        predictor.predict(history, 8001)
    history.layout = Layout(("a", "b"))
    with pytest.raises(Declined, match="needs one name per tensor, the history's layout has 2 for 7 tensors"):
        predictor.predict(history, 200)
    history.layout = None
    with pytest.raises(Declined, match="needs the names of the tensors, the history has none"):
        predictor.predict(history, 200)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_of_any_shape_and_name_are_typed_by_shape_and_the_log_says_so_once(
    dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_mlp(tmp_path / "mlp.pt")
    history = history_of(ODD, Layout(tuple(ODD)), dtype)
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        got = nino_mlp(file).predict(history, 100)
        nino_mlp(file).predict(history, 100)
    assert [each.message for each in caplog.records] == [
        "NiNo does not know scalar, none, none of three and 3 more: typed by shape, as fully connected or as biases"
    ]
    state = torch.load(file, weights_only=True)["state_dict"]
    full = nino_mlp(file).predict(history, 200)
    for i, (name, shape) in enumerate(ODD.items()):
        assert got[i].shape == shape
        if 0 not in shape:
            states = [each.tensors[i].double().numpy() for each in history]
            expected = reference(state, states, np.full(shape, 1 if name == "matrix" else 2), 1)
            np.testing.assert_allclose(full[i].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [7, 64, 5000])
def test_blocks_and_strides_do_not_matter(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = nino_mlp(write_mlp(tmp_path / "mlp.pt"))
    history = history_of(GPT2)
    expected = predictor.predict(history, 300)
    monkeypatch.setattr(module, "rows_of", lambda _: rows)
    out = [torch.zeros(shape[::-1], dtype=torch.float64).permute(*range(len(shape))[::-1]) for shape in GPT2.values()]
    predictor.predict(history, 300, out=out)
    for got, wanted in zip(out, expected, strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=1e-6, atol=1e-6)


def test_a_state_that_is_not_finite_spoils_only_its_own_tensor(tmp_path: Path) -> None:
    history = history_of(GPT2)
    history[-1].tensors[0][0, 0] = math.nan
    got = nino_mlp(write_mlp(tmp_path / "mlp.pt")).predict(history, 200)
    assert not bool(torch.isfinite(got[0]).any())
    assert all(bool(torch.isfinite(each).all()) for each in got[1:])


def kinds(name: str, shape: tuple[int, ...], heads: int | None = 2) -> list[tuple[int, int, int, int | None]]:
    return [
        (each.kind, each.dim, each.start, each.length) for each in per_parameter(Layout((name,), "", heads), [shape])
    ]


def test_types() -> None:
    whole = {
        "model.embed_tokens.weight": ParameterType.TOKEN_EMBEDDING,
        "model.layers.3.self_attn.q_proj.weight": ParameterType.QUERY,
        "model.layers.3.self_attn.k_proj.weight": ParameterType.KEY,
        "model.layers.3.self_attn.v_proj.weight": ParameterType.VALUE,
        "model.layers.3.mlp.gate_proj.weight": ParameterType.LINEAR,
        "gpt_neox.embed_in.weight": ParameterType.TOKEN_EMBEDDING,
        "lm_head.weight": ParameterType.LINEAR,
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": ParameterType.LINEAR,
    }
    for name, kind in whole.items():
        assert kinds(name, (4, 6)) == [(kind, 0, 0, None)], name
    assert kinds("model.layers.0.self_attn.q_proj.bias", (6,)) == [(ParameterType.BIAS, 0, 0, None)]
    assert kinds("model.norm.weight", (6,)) == [(ParameterType.NORM, 0, 0, None)]
    assert kinds("conv.weight", (2, 3, 3, 3)) == [(ParameterType.CONVOLUTION, 0, 0, None)]
    joint = [(ParameterType.QUERY, 1, 0, 4), (ParameterType.KEY, 1, 4, 4), (ParameterType.VALUE, 1, 8, 4)]
    assert kinds("h.0.attn.c_attn.weight", (4, 12)) == joint
    assert kinds("h.0.attn.c_attn.weight", (12, 4)) == [(kind, 0, start, size) for kind, _, start, size in joint]
    assert kinds("h.0.attn.c_attn.weight", (5, 12)) == [(ParameterType.LINEAR, 0, 0, None)]
    by_head = [(7, 0, 0, 2), (8, 0, 2, 2), (9, 0, 4, 2), (7, 0, 6, 2), (8, 0, 8, 2), (9, 0, 10, 2)]
    assert kinds("gpt_neox.layers.0.attention.query_key_value.weight", (12, 4)) == by_head
    assert kinds("gpt_neox.layers.0.attention.query_key_value.weight", (12, 4), None) == [
        (ParameterType.LINEAR, 0, 0, None)
    ]
