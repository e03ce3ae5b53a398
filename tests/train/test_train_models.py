import random
from pathlib import Path

import numpy as np
import pytest
import torch

from leapverify.train.models import (
    ModelSpec,
    build_model,
    gpt2_124m_spec,
    parameter_count,
    qwen_1_5b_spec,
    qwen_7b_spec,
)

TINY = {
    "gpt2": ModelSpec(family="gpt2", layers=2, hidden=16, heads=2, dropout=0.1),
    "qwen2": ModelSpec(family="qwen2", layers=2, hidden=16, heads=4, kv_heads=2, intermediate=24),
}


def build(spec: ModelSpec, seed: int = 1, vocab_size: int = 50, sequence_length: int = 12) -> torch.nn.Module:
    return build_model(spec, seed=seed, vocab_size=vocab_size, sequence_length=sequence_length)


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("spec", "exact", "rounded"),
    [
        (gpt2_124m_spec(), 124_439_808, "0.12"),
        (qwen_1_5b_spec(), 1_543_714_304, "1.54"),
        (qwen_7b_spec(), 7_615_616_512, "7.62"),
    ],
)
def test_the_papers_models_have_their_sizes(spec: ModelSpec, exact: int, rounded: str) -> None:
    count = parameter_count(spec)
    assert count == exact
    assert f"{count / 1e9:.2f}" == rounded


@pytest.mark.parametrize("family", TINY)
def test_counting_agrees_with_the_model_itself(family: str) -> None:
    spec = TINY[family]
    built = sum(parameter.numel() for parameter in build(spec).parameters())
    assert parameter_count(spec, vocab_size=50, sequence_length=12) == built


def test_an_untied_head_counts_its_own() -> None:
    spec = TINY["gpt2"]
    untied = spec.model_copy(update={"tie_embeddings": False})
    assert parameter_count(untied, 50) - parameter_count(spec, 50) == 50 * 16


@pytest.mark.parametrize("family", TINY)
def test_weights_follow_from_the_seed_alone(family: str) -> None:
    first = weights(build(TINY[family], seed=3))
    torch.rand(5)
    again, other = weights(build(TINY[family], seed=3)), weights(build(TINY[family], seed=4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("family", TINY)
def test_no_global_random_stream_moves(family: str) -> None:
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    build(TINY[family])
    assert random.getstate() == before[0]
    assert str(np.random.get_state(legacy=False)) == str(before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("family", TINY)
def test_models_are_float32_in_training_mode_and_causal(family: str) -> None:
    model = build(TINY[family])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.training
    tokens = torch.arange(12).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 8:] += 20
    model.eval()
    with torch.no_grad():
        a, b = model(tokens).logits, model(changed).logits
    assert a.shape == (1, 12, 50)
    torch.testing.assert_close(a[:, :8], b[:, :8])
    assert not torch.allclose(a[:, 8:], b[:, 8:])


def test_dropout_is_what_was_asked_for() -> None:
    tokens = torch.arange(12).unsqueeze(0)
    for rate, same in ((0.0, True), (0.5, False)):
        model = build(TINY["gpt2"].model_copy(update={"dropout": rate}))
        assert torch.equal(model(tokens).logits, model(tokens).logits) is same


def test_a_mapping_does_as_well() -> None:
    spec = TINY["qwen2"]
    model = build_model(spec.model_dump(), seed=1, vocab_size=50, sequence_length=12)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(build(spec)), strict=True))


@pytest.mark.parametrize("family", TINY)
def test_bfloat16_weights_are_the_rounded_float32_ones(family: str, tmp_path: Path) -> None:
    options = {"seed": 3, "vocab_size": 50, "sequence_length": 12}
    drawn, kept = (build_model(TINY[family], dtype=dtype, **options) for dtype in (torch.bfloat16, torch.float32))
    assert {parameter.dtype for parameter in drawn.parameters()} == {torch.bfloat16}
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(weights(drawn), weights(kept), strict=True))
    kept.save_pretrained(tmp_path)
    spec = ModelSpec(family=family, pretrained=str(tmp_path))  # type: ignore[arg-type]
    read = build_model(spec, dtype=torch.bfloat16, **options)
    assert all(torch.equal(a, b) for a, b in zip(weights(read), weights(drawn), strict=True))
    for model in (drawn, read):
        # Rotary frequencies in bfloat16 would move the positions.
        found = dict(model.named_buffers())
        for name, buffer in kept.named_buffers():
            assert torch.equal(found[name], buffer)
            assert found[name].dtype == buffer.dtype
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert model.training
        model(torch.arange(12).unsqueeze(0)).logits.sum().backward()
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.bfloat16}


@pytest.mark.parametrize("family", TINY)
def test_pretrained_weights_come_from_a_folder(family: str, tmp_path: object) -> None:
    saved = build(TINY[family])
    saved.save_pretrained(tmp_path)  # type: ignore[operator]
    spec = ModelSpec(family=family, pretrained=str(tmp_path))  # type: ignore[arg-type]
    for seed in (1, 2):
        model = build(spec, seed=seed)
        assert model.training
        assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(saved), strict=True))
    with pytest.raises(ValueError, match="vocab_size 50 is below the tokenizer's 51"):
        build(spec, vocab_size=51)


def test_pretrained_weights_that_cannot_be_had_are_refused_in_one_line(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        build(ModelSpec(pretrained=str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("give a local folder")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 3}, "hidden 64 is no multiple of heads 3: change one of them"),
        ({"kv_heads": 3}, "heads 4 is no multiple of kv_heads 3: change one of them"),
        ({"family": "qwen2", "hidden": 12, "heads": 4}, "hidden/heads 3 is odd: rotary positions need it even"),
        ({"family": "bert"}, "family"),
        ({"width": 3}, "width"),
        ({"layers": 0}, "layers"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_architectures_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModelSpec(**change)  # type: ignore[arg-type]


def test_models_too_small_for_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 40 is below the tokenizer's 50: raise it or leave it out"):
        build(ModelSpec(vocab_size=40))
    with pytest.raises(ValueError, match="context 8 is below the sequence length 12: raise it or leave it out"):
        build(ModelSpec(context=8))
    with pytest.raises(ValueError, match="gpt2 has no grouped heads, use qwen2"):
        build(ModelSpec(kv_heads=2))
    with pytest.raises(ValueError, match="names no vocab_size: give the tokenizer's"):
        parameter_count(ModelSpec())
