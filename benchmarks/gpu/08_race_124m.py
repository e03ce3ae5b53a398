"""Job 8: does leaping pay at GPT-2 124M: pre-training, and LoRA; a race keeps every run that has ended.

AdamW, and of the arms those that decide: the engine, the tuned decay, the leap over the decay, and their controls.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from job import Part, Sitting, found, run_job

CALL = "from leapverify.cli.main import main; main()"


def race(sitting: Sitting, task: str) -> Mapping[str, Any]:
    out, preset = sitting.state / task, "tiny" if sitting.reduced else "gpt2-124m"
    words = ["race", preset, "--tasks", task, "--out", out, "--device", sitting.device]
    words += ["--optimizers", "adamw", "--arms", "leap-auto" if sitting.reduced else "leap-auto,wsd,anneal"]
    words += ["--seeds", "0-1"] if sitting.reduced else []
    o = sitting.options
    text = {"text.source": o.data, "data": o.data, "text.tokenizer": o.tokenizer}
    words += [word for key, value in text.items() if value for word in ("--set", f"{key}={value}")]
    words += [word for each in sitting.options.settings for word in ("--set", each)]
    said = sitting.command("-c", CALL, *words).strip().splitlines()
    return found(2 if sitting.reduced else 8, verdicts=said[:-1], tables=_tables(out))


def _tables(out: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for path in sorted(out.glob("**/tables/*.csv")):
        with path.open(newline="") as lines:
            found[path.stem] = list(csv.DictReader(lines))
    return found


PARTS = tuple(Part(task, partial(race, task=task), minutes=3) for task in ("pretrain", "lora"))

if __name__ == "__main__":
    sys.exit(run_job(8, PARTS))
