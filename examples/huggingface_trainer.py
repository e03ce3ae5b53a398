"""Leaping in the Trainer of transformers: a small GPT-2 reads the sources of Python's standard library.

Needs pip install 'leapverify[accelerate]'. Runs in seconds on a CPU and downloads nothing:
python examples/huggingface_trainer.py [OUTPUT_FOLDER]
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from leapverify.integrations.transformers import LeapCallback

STEPS, BATCH, LENGTH = 200, 16, 32


def windows(part: slice) -> Any:
    """Some of the files, as windows of bytes: a list of examples, which serves as a data set."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[part]
    tokens = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH).long()
    return [{"input_ids": row, "labels": row} for row in rows]


def main(output: str) -> None:
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it gives
    torch.manual_seed(0)
    shape = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    # Three disjoint sets: for training, for verdicts on leaps, and for reporting, which no verdict ever reads.
    train, heldout, evaluation = (windows(slice(first, None, 10)) for first in (1, 2, 3))

    leap = LeapCallback(
        heldout=DataLoader(heldout, batch_size=16, shuffle=True),
        interval=20,
        policy="line-search",
        predictor="linear",
        log=f"{output}/leaps.jsonl",
    )
    arguments = TrainingArguments(
        output_dir=output,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        logging_steps=20,
        eval_strategy="steps",
        eval_steps=100,
        save_steps=100,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=evaluation[:256], callbacks=[leap])
    trainer.train()

    for event in leap.leap.events if leap.leap else []:
        print(f"step {event.step:3d} ({event.effective_step:3d} with leaps)  {event.status}: {event.reason}")
    print(f"{trainer.state.global_step} real steps for {leap.effective_step}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else folder)
