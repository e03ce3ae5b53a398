"""The callback in a trainer of TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lazily import Lazily
from leapverify.integrations.losses import causal_losses
from stdlib_gpt2 import batches, same_weights, small_gpt2, windows

trl = Lazily("trl")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<{i}>": i for i in range(256)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<1>", eos_token="<2>", unk_token="<0>")


def _trained(folder: Path, **options: Any) -> tuple[Any, Any]:
    from datasets import Dataset

    from leapverify.integrations.transformers import LeapCallback

    torch.set_num_threads(1)
    rows = Dataset.from_dict({"input_ids": windows(0, 64).tolist()})
    arguments = trl.SFTConfig(
        output_dir=str(folder), max_steps=24, per_device_train_batch_size=8, learning_rate=1e-3, report_to=[],
        lr_scheduler_type="constant", save_strategy="no", logging_steps=4, use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    callback = LeapCallback(batches(64, 64), causal_losses, interval=4, **options)
    made = trl.SFTTrainer(
        model=small_gpt2(), args=arguments, train_dataset=rows, processing_class=_tokenizer(), callbacks=[callback]
    )
    made.train()
    return made, callback


@pytest.mark.failure(7)
def test_shadow_leaves_supervised_fine_tuning_as_it_was_and_live_leaps(tmp_path: Path) -> None:
    plain, _ = _trained(tmp_path / "off", mode="off")
    shadow, watching = _trained(tmp_path / "shadow", mode="shadow", policy="fixed", horizon=2, criterion="always")
    assert watching.leap.report()["attempts"] > 0
    assert same_weights(plain.model, shadow.model)
    live, leaping = _trained(tmp_path / "live", policy="fixed", horizon=2, criterion="always")
    assert leaping.leap.disabled is None
    assert leaping.leap.leapt > 0
    assert live.state.global_step + leaping.leap.leapt >= 24
    assert any("leap/effective_step" in row for row in live.state.log_history)
