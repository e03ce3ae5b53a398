"""Whole races by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from leapverify.errors import ConfigError, hint
from leapverify.race.config import Length, RaceConfig, TextConfig, TextLength
from leapverify.train.models import ModelSpec, gpt2_124m_spec

_CONVEX = Length(steps=2000, warmup_steps=20, eval_every=25, interval=50)
_NOISE = Length(steps=400, warmup_steps=20, eval_every=20, interval=50)


def preset(name: str) -> RaceConfig:
    """The preset of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no race preset {name!r}: {hint(name, PRESETS)}")
    return PRESETS[name]()


def tiny() -> RaceConfig:
    """The model and batches of the study of that name: 0.13 M parameters over bytes; minutes on two cores.

    Every grid holds the best rate of first trials well inside: 2e-3 (AdamW) and 1.6e-2 (Muon) for pre-training, 4e-3
    and 1.6e-2 for fine-tuning, 8e-3 for LoRA. A model this small takes rates far above the usual ones.
    """
    muon = (4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
    short = Length(steps=150, warmup_steps=8, eval_every=15, interval=10)
    return RaceConfig(
        preset="tiny",
        text=TextConfig(model=ModelSpec(family="gpt2", layers=2, hidden=64, heads=4, context=128, dropout=0.0)),
        pretrain=_text(
            Length(steps=300, warmup_steps=15, eval_every=15, interval=20),
            1e-3,
            adamw=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
            muon=muon,
        ),
        finetune=_text(short, 5e-5, adamw=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), muon=muon),
        lora=_text(short, 2e-4, adamw=(2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)),
        convex=_CONVEX,
        noise=_NOISE,
    )


def gpt2_124m() -> RaceConfig:
    """GPT-2 124M in bfloat16 on one GPU: pre-training and LoRA fine-tuning.

    Dropout is off. Its text has to be named: `text.source` for pre-training, `data` for fine-tuning.
    """
    pretrain = (1.5e-4, 3e-4, 6e-4, 1.2e-3, 2.4e-3)
    finetune, lora = (2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4), (2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3)
    short = Length(steps=400, warmup_steps=20, eval_every=20, interval=20)
    return RaceConfig(
        preset="gpt2-124m",
        tasks=("pretrain", "lora"),
        tuning_seeds=(1000,),
        text=TextConfig(
            model=gpt2_124m_spec().model_copy(update={"dropout": 0.0}),
            source="wikitext-103",
            tokenizer="gpt2",
            batch_size=16,
            sequence_length=256,
            precision="bfloat16",
            base_steps=1000,
            base_lr=6e-4,
        ),
        pretrain=_text(
            Length(steps=1000, warmup_steps=50, eval_every=50, interval=50),
            6e-4,
            adamw=pretrain,
            muon=tuple(4 * rate for rate in pretrain),
        ),
        finetune=_text(short, 5e-5, adamw=finetune, muon=finetune),
        lora=_text(short, 2e-4, adamw=lora, muon=lora),
        convex=_CONVEX,
        noise=_NOISE,
    )


def _text(length: Length, usual: float, **grids: tuple[float, ...]) -> TextLength:
    """A language task of this length: AdamW's usual rate, and the rates to choose from by optimizer."""
    return TextLength(**length.model_dump(), usual={"adamw": usual}, grids=grids)


PRESETS: Mapping[str, Callable[[], RaceConfig]] = {"tiny": tiny, "gpt2-124m": gpt2_124m}
