"""The model that a seed begins with: random, pretrained, or what another study has trained; whole or with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.config.overrides import flat, load_config
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError
from leapverify.study.folder import DONE, SeedFolder
from leapverify.study.source import SeedTrajectory
from leapverify.train.adapters import require_peft, with_adapters
from leapverify.train.models import build_model

MAKE_ONE = "leapverify study tiny --set data.source=stdlib-code --out"
"""What makes the start of the presets `tiny-finetune` and `tiny-lora`."""


def first_model(config: Resolved, seed: int, vocab_size: int) -> nn.Module:
    """The model of a seed before its first step, on the CPU.

    Args:
        config: the study.
        seed: of the run; adapters are drawn from it.
        vocab_size: the tokenizer's.

    Raises:
        ConfigError: `tuning.start` cannot be begun from.
        ValueError: the vocabulary or the context is too small for the data, weights cannot be had, or no peft.
    """
    tuning, dtype = config.tuning, config.weights_dtype
    begins = config.seeds[0] if config.training.init == "shared" else seed
    model = build_model(
        config.model,
        seed=begins,
        vocab_size=vocab_size,
        sequence_length=config.training.sequence_length,
        dtype=dtype,
    )
    if tuning.start is not None:
        _put_in(model, start_weights(config, begins))
    if tuning.lora_rank is None:
        return model
    rank, alpha = tuning.lora_rank, tuning.lora_alpha
    with_adapters(model, config.model.family, begins, rank=rank, alpha=alpha)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.train()


def start_weights(config: Resolved, seed: int) -> dict[str, Tensor]:
    """The last kept weights of the seed of the start that this one goes on from.

    Raises:
        ConfigError: the start has none.
        Damaged: the file is incomplete or altered.
    """
    folder = SeedFolder(Path(str(config.tuning.start)), _seed_of_start(config, seed))
    source = SeedTrajectory(folder)
    if not source.steps:
        raise ConfigError(
            f"tuning.start {config.tuning.start} kept no weights of seed {folder.seed}: run it anew with "
            "--set snapshots.weights=all"
        )
    return source.weights(source.steps[-1])


def check_start(config: Resolved) -> None:
    """Look whether `tuning.start` can be begun from.

    Raises:
        ConfigError: it is no finished study of whole weights of this very architecture.
        ValueError: adapters are asked for, and peft is not installed.
    """
    tuning = config.tuning
    if tuning.lora_rank is not None:
        require_peft()
    if tuning.start is None:
        return
    folder = Path(tuning.start)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"tuning.start {folder} is no run folder of a study: make one ({MAKE_ONE} {folder}), or name another "
            "with --set tuning.start=FOLDER"
        )
    base = Resolved.of(load_config(folder / "config.yaml"))
    if not (folder / DONE).is_file():
        raise ConfigError(f"tuning.start {folder} has not finished: give its study command again first")
    if base.tuning.lora_rank is not None:
        raise ConfigError(
            f"tuning.start {folder} is a LoRA run, which keeps its adapters only: name a study of whole weights"
        )
    different = _differences(base, config)
    if different:
        raise ConfigError(
            f"tuning.start {folder} is of another model ({'; '.join(different)}): set the same ones here, or name "
            "another start"
        )
    for seed in config.seeds:
        start_weights(config, seed)


def _seed_of_start(config: Resolved, seed: int) -> int:
    """The same seed where the start has it, else one by its position."""
    seeds = load_config(Path(str(config.tuning.start)) / "config.yaml").seeds
    return seed if seed in seeds else seeds[config.seeds.index(seed) % len(seeds)]


def _differences(base: Resolved, config: Resolved) -> list[str]:
    there, here = _architecture(base), _architecture(config)
    return [f"{key} {there[key]} there, {here[key]} here" for key in here if there[key] != here[key]]


def _architecture(config: Resolved) -> dict[str, Any]:
    """All that must be the same for weights to mean the same."""
    spec = config.model
    found = flat(spec.model_dump(exclude={"dropout"}), "model.")
    if spec.pretrained is not None:
        found = {"model.family": spec.family, "model.pretrained": spec.pretrained}
    else:
        found["model.context"] = spec.context or config.training.sequence_length
    return {**found, "data.tokenizer": config.data.tokenizer}


def _put_in(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
