"""A GPT-2 of a few thousand parameters and windows of bytes from the standard library, for tests of the frameworks."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LENGTH = 16
STEPS = 60
INTERVAL, HORIZON = 4, 5

ALWAYS = {
    "policy": "fixed",
    "predictor": "linear",
    "horizon": HORIZON,
    "criterion": "always",
    "interval": INTERVAL,
    "sequences": 16,
    "leap_in_decay": True,
}
"""A leap at every second checkpoint: whatever it does to the loss, it surely happens."""


def small_gpt2(seed: int = 0) -> nn.Module:
    """Two heads, one layer, with GPT-2's dropout, so that a disturbed random stream shows in the weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def windows(first: int, count: int) -> Tensor:
    """`count` windows of bytes, (count, LENGTH), of one source file."""
    text = Path(sysconfig.get_path("stdlib"), "argparse.py").read_bytes()
    tokens = torch.tensor(list(text[: (first + count) * LENGTH]))
    return tokens.view(-1, LENGTH)[first:]


def examples(first: int, count: int) -> list[dict[str, Tensor]]:
    """Windows as a Trainer takes them: one dict each, with labels."""
    return [{"input_ids": row, "labels": row} for row in windows(first, count)]


def batches(first: int, count: int, size: int = 8) -> list[dict[str, Tensor]]:
    """Windows as batches of dicts, without labels."""
    return [{"input_ids": rows} for rows in windows(first, count).split(size)]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models hold the same bits."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def broken_loss(after: int) -> Any:
    """A loss function that fails from its call number `after` + 1 on."""
    from leapverify.integrations.losses import causal_losses

    calls = 0

    def loss(model: nn.Module, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise RuntimeError("the disk of the held-out data is gone")
        return causal_losses(model, batch)

    return loss
