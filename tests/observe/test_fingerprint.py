"""Fingerprints: equal to one probe at a time, whatever the layout; blind to padding and order; without a trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lazily import transformers
from leapverify.observe.fingerprint import Fingerprinter
from leapverify.observe.probes import ProbeSet, paper_probes

VOCAB = 40
LENGTHS = (3, 11, 7, 1, 16, 7, 5, 12, 2, 9, 16, 4)
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    **ENDS,
}


class Bytes:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def family(name: str) -> nn.Module:
    rotary = {"num_key_value_heads": 2}
    configs = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=16, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3, **ENDS
        ),
        "qwen2": lambda: transformers.Qwen2Config(**SIZES, **rotary, initializer_range=0.3),
        "qwen3": lambda: transformers.Qwen3Config(**SIZES, **rotary, head_dim=4, initializer_range=0.3),
        "llama": lambda: transformers.LlamaConfig(**SIZES, **rotary, initializer_range=0.3),
        "mistral": lambda: transformers.MistralConfig(**SIZES, **rotary, head_dim=4, initializer_range=0.3),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES, initializer_range=0.3),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(configs[name]())


def probes_of(lengths=LENGTHS, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCAB, (length,), generator=generator) for length in lengths]


@torch.no_grad()
def one_at_a_time(model: nn.Module, probes: list[Tensor], pooling: str = "mean") -> Tensor:
    hidden = [model.base_model(probe[None]).last_hidden_state[0].double() for probe in probes]
    return torch.stack([h.mean(0) if pooling == "mean" else h[-1] for h in hidden])


class Plain(nn.Module):
    """A model of no library: embedding, a mixing recurrence, norm, head; draws numbers in every forward pass."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, dim)
        self.drop = nn.Dropout(0.5)
        self.batch = nn.BatchNorm1d(dim)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCAB)
        self.broken = False

    def forward(self, tokens: Tensor) -> Tensor:
        torch.randn(3), random.random(), np.random.rand(2)
        self.batch.running_mean.add_(1.0)
        x = self.drop(self.embed(tokens)).cumsum(1)
        if self.broken:
            raise RuntimeError("broken in the middle")
        return self.head(self.norm(x))


@pytest.fixture
def plain() -> Plain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Plain()


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen3", "llama", "mistral", "gpt_neox"])
def test_packed_equals_one_probe_at_a_time(name, attention, pooling):
    model = family(name).double().eval()
    model.set_attn_implementation(attention)
    fingerprinter = Fingerprinter(model, probes_of(), pooling=pooling)
    reference = one_at_a_time(model, probes_of(), pooling)
    assert fingerprinter.positions < 1.1 * sum(LENGTHS)
    assert len(fingerprinter._batches) == 1
    # Fused attention leaves nothing but the last rounding to float32; eager attention takes its softmax in float32.
    tight = {"sdpa": {"rtol": 6e-8, "atol": 1e-12}, "eager": {"rtol": 1e-5, "atol": 1e-6}}
    torch.testing.assert_close(fingerprinter().double(), reference, **tight[attention])


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_packed_equals_the_float64_reference_to_float32_rounding(name):
    model = family(name).eval()
    result = Fingerprinter(model, probes_of())()
    torch.testing.assert_close(result.double(), one_at_a_time(model.double(), probes_of()), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_a_packed_probe_does_not_see_its_neighbours(name):
    model = family(name).double().eval()
    others = probes_of(seed=1)
    others[4] = probes_of()[4]
    mine, theirs = Fingerprinter(model, probes_of())(), Fingerprinter(model, others)()
    torch.testing.assert_close(mine[4], theirs[4], rtol=1e-6, atol=0)
    assert (mine[5] - theirs[5]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_the_order_of_probes_orders_the_rows_and_nothing_else(name):
    model = family(name).double().eval()
    order = np.random.default_rng(0).permutation(len(LENGTHS)).tolist()
    probes = probes_of()
    shuffled = Fingerprinter(model, [probes[i] for i in order])()
    torch.testing.assert_close(shuffled, Fingerprinter(model, probes)()[order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_the_size_of_a_batch_changes_nothing(batch_tokens):
    model = family("gpt2").double().eval()
    result = Fingerprinter(model, probes_of(), batch_tokens=batch_tokens)()
    torch.testing.assert_close(result, one_at_a_time(model, probes_of()).float(), rtol=1e-6, atol=1e-9)


def test_probes_come_as_texts_token_lists_or_one_tensor():
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=256, n_positions=96, n_embd=8, n_layer=1, n_head=2, **ENDS)
    )
    texts = ["first probe", "and a second one"]
    ids = [torch.tensor(list(text.encode())) for text in texts]
    wanted = Fingerprinter(model, ids)()
    assert torch.equal(Fingerprinter(model, texts, tokenizer=Bytes())(), wanted)
    assert torch.equal(Fingerprinter(model, ProbeSet(tuple(texts), ("x", "y")), tokenizer=Bytes())(), wanted)
    square = torch.arange(12).reshape(3, 4)
    assert torch.equal(Fingerprinter(model, square)(), Fingerprinter(model, list(square))())
    result = Fingerprinter(model, paper_probes(), tokenizer=Bytes())()
    assert (result.shape, result.dtype, result.device.type) == ((100, 8), torch.float32, "cpu")
    assert len(result.unique(dim=0)) == 100


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_unmasked_pooling_equals_a_plain_padded_forward_pass(name):
    model = family(name).double().eval()
    rows = nn.utils.rnn.pad_sequence(probes_of(), batch_first=True, padding_value=0)
    with torch.no_grad():
        reference = model.base_model(rows).last_hidden_state.mean(1)
    unmasked = Fingerprinter(model, probes_of(), masked=False)()
    torch.testing.assert_close(unmasked, reference.float(), rtol=1e-6, atol=1e-9)
    masked = Fingerprinter(model, probes_of())()
    longest = [i for i, length in enumerate(LENGTHS) if length == max(LENGTHS)]
    torch.testing.assert_close(unmasked[longest], masked[longest], rtol=1e-6, atol=1e-9)
    assert (unmasked - masked).abs().amax(1).topk(len(LENGTHS) - len(longest)).values.min() > 0.01


def test_what_stands_in_padding_cannot_reach_the_result():
    model = family("gpt2").double().eval()
    wanted = Fingerprinter(model, probes_of())()
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = float("nan")
    assert torch.equal(Fingerprinter(model, probes_of())(), wanted)
    assert torch.isnan(Fingerprinter(model, probes_of(), masked=False)()).any()


@pytest.mark.parametrize("layer", ["transformer.h.0", "transformer.h.1.mlp.act", "lm_head"])
def test_any_layer_of_a_packed_model_may_be_named(layer):
    model = family("gpt2").double().eval()
    result = Fingerprinter(model, probes_of(), layer=layer)()
    rows = []
    for probe in probes_of():
        caught = []
        handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o, c=caught: c.append(o))
        with torch.no_grad():
            model(probe[None])
        handle.remove()
        rows.append((caught[0][0] if isinstance(caught[0], tuple) else caught[0])[0].mean(0))
    torch.testing.assert_close(result, torch.stack(rows).float(), rtol=1e-6, atol=1e-9)


def test_other_models_are_observed_after_the_last_norm(plain):
    with torch.no_grad():
        plain.eval()
        rows = [plain.norm(plain.embed(probe[None]).cumsum(1))[0].mean(0) for probe in probes_of()]
    fingerprinter = Fingerprinter(plain, probes_of())
    torch.testing.assert_close(fingerprinter(), torch.stack(rows))
    assert fingerprinter.positions == sum(LENGTHS)
    named = Fingerprinter(plain, probes_of(), layer="norm", pooling="last")()
    last = [plain.norm(plain.embed(probe[None]).cumsum(1))[0, -1] for probe in probes_of()]
    torch.testing.assert_close(named, torch.stack(last).detach())


def test_without_norm_the_input_of_the_last_linear_is_taken():
    model = nn.Sequential(nn.Embedding(VOCAB, 4), nn.Tanh(), nn.Linear(4, 9))
    rows = torch.stack([model[:2](probe).mean(0) for probe in probes_of()]).detach()
    torch.testing.assert_close(Fingerprinter(model, probes_of())(), rows)


def test_float_probes_of_several_shapes():
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randn(length, 3, generator=generator) for length in (4, 2, 4, 1)]
    wanted = torch.stack([model(x).mean(0) for x in sequences]).detach()
    torch.testing.assert_close(Fingerprinter(model, sequences)(), wanted)
    vectors = torch.randn(6, 3, generator=generator)
    torch.testing.assert_close(Fingerprinter(model, vectors)(), model(vectors).detach())


def test_autocast_and_half_precision_models_give_float32():
    model = family("gpt2").eval()
    exact = Fingerprinter(model, probes_of())()
    rounded = Fingerprinter(model, probes_of(), autocast=torch.bfloat16)()
    halved = Fingerprinter(family("gpt2").bfloat16(), probes_of())()
    for result in (rounded, halved):
        assert result.dtype == torch.float32
        assert 0 < (result - exact).abs().max() < 0.2


@pytest.mark.slow
def test_compiled_models_are_looked_into():
    model = family("gpt2").eval()
    wanted = Fingerprinter(model, probes_of())()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(Fingerprinter(compiled, probes_of())(), wanted)
    hooked = Fingerprinter(model, probes_of(), layer="transformer.h.0")()
    compiled(probes_of()[0][None])
    assert torch.equal(Fingerprinter(compiled, probes_of(), layer="transformer.h.0")(), hooked)
    model.transformer.h[0].compile(backend="eager")
    compiled(probes_of()[0][None])
    assert torch.equal(Fingerprinter(compiled, probes_of(), layer="transformer.h.0")(), hooked)


def test_the_present_weights_are_observed():
    model = family("gpt2").eval()
    fingerprinter = Fingerprinter(model, probes_of())
    first = fingerprinter()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    second = fingerprinter()
    assert not torch.equal(first, second)
    assert torch.equal(second, Fingerprinter(model, probes_of())())


@pytest.mark.parametrize("broken", [False, True])
def test_observing_leaves_no_trace(plain, broken):
    plain.train()
    plain.norm.eval()
    plain.broken = broken
    fingerprinter = Fingerprinter(plain, probes_of())
    flags = [module.training for module in plain.modules()]
    buffers = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    streams = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    if broken:
        with pytest.raises(RuntimeError, match="broken in the middle"):
            fingerprinter()
    else:
        assert torch.equal(fingerprinter(), fingerprinter())
    assert [module.training for module in plain.modules()] == flags
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in plain.named_buffers())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == streams[:2]
    assert torch.equal(torch.get_rng_state(), streams[2])
    assert not any(module._forward_hooks for module in plain.modules())
    assert all(parameter.grad is None for parameter in plain.parameters())


def test_dropout_does_not_reach_a_fingerprint():
    model = family("gpt2").train()
    training = Fingerprinter(model, probes_of())()
    assert torch.equal(training, Fingerprinter(model.eval(), probes_of())())


def test_max_tokens_cuts_every_probe():
    model = family("gpt2").double()
    cut = Fingerprinter(model, probes_of(), max_tokens=5)()
    assert torch.equal(cut, Fingerprinter(model, [probe[:5] for probe in probes_of()])())


def test_identity_tells_apart_what_may_not_be_compared(plain):
    model, probes = family("gpt2"), probes_of()
    variants = [
        Fingerprinter(model, probes),
        Fingerprinter(model, probes, pooling="last"),
        Fingerprinter(model, probes, masked=False),
        Fingerprinter(model, probes, layer="transformer.h.0"),
        Fingerprinter(model, probes, autocast=torch.bfloat16),
        Fingerprinter(model, probes, max_tokens=3),
        Fingerprinter(model, probes[::-1]),
        Fingerprinter(plain, probes),
    ]
    assert len({variant.identity for variant in variants}) == len(variants)
    assert Fingerprinter(family("qwen2"), probes, batch_tokens=7).identity == variants[0].identity


class NotCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 4)
        self.final = nn.LayerNorm(4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return nn.functional.layer_norm(x, (4,), self.final.weight, self.final.bias)


def test_nothing_captured_is_said_loudly():
    with pytest.raises(ValueError, match="nothing was captured: layer 'final' was not called as a module"):
        Fingerprinter(NotCalled(), probes_of())()


def test_bad_input(plain):
    model, probes = family("gpt2"), probes_of()
    with pytest.raises(ValueError, match=r"the probes are texts: pass tokenizer="):
        Fingerprinter(model, ["some text"])
    with pytest.raises(ValueError, match="at least one probe, and none was given"):
        Fingerprinter(model, [])
    with pytest.raises(ValueError, match="probe 1 has no tokens"):
        Fingerprinter(model, [probes[0], probes[1][:0]])
    with pytest.raises(ValueError, match=r"probe 0 has shape \(1, 3\): token ids are 1-D"):
        Fingerprinter(model, [probes[0][None]])
    with pytest.raises(ValueError, match="probe 1 has token 97, the model's embedding 40: use its tokenizer"):
        Fingerprinter(model, [probes[0], torch.tensor([1, 97])])
    with pytest.raises(ValueError, match="probe 0 has 17 tokens, the model's context 16: pass max_tokens=16"):
        Fingerprinter(model, probes_of((17,)))
    with pytest.raises(ValueError, match=r"layer 'h.9' is no module of GPT2LMHeadModel: its last ones are .*lm_head"):
        Fingerprinter(model, probes, layer="h.9")
    with pytest.raises(ValueError, match="pooling 'max' is unknown: use one of mean, last"):
        Fingerprinter(model, probes, pooling="max")
    with pytest.raises(ValueError, match="max_tokens=0 leaves nothing of a probe: use 1 or more"):
        Fingerprinter(model, probes, max_tokens=0)
    with pytest.raises(ValueError, match="masked=False pads token ids, but the probes are float tensors"):
        Fingerprinter(plain, torch.randn(2, 3), masked=False)
    with pytest.raises(ValueError, match="Tanh has no norm and no Linear to observe: name the layer"):
        Fingerprinter(nn.Tanh(), probes)
    with pytest.raises(ValueError, match=r"layer 'weird' gave shape \(1, 16, 4, 4\) for inputs of shape"):
        Fingerprinter(Weird(), probes_of((16,)), layer="weird")()
    with pytest.raises(ValueError, match="layer 'weird' gave a str, not a tensor"):
        Fingerprinter(Weird(text=True), probes_of((16,)), layer="weird")()


class Weird(nn.Module):
    def __init__(self, text: bool = False) -> None:
        super().__init__()
        self.weird = Say() if text else nn.Unflatten(-1, (4, 4))
        self.embed = nn.Embedding(VOCAB, 16)

    def forward(self, tokens: Tensor) -> object:
        return self.weird(self.embed(tokens))


class Say(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "a text"
