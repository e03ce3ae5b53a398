"""The command line under the real torchrun: one study, one sentence, one exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leapverify import load_study, run_study
from spread_micro import near

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "torchrun_study.sh"
SETTINGS = [
    *("training.steps=20", "training.warmup_steps=3", "training.lr=1e-3", "observe.interval_steps=10"),
    *("verify.sequences=8", "verify.budget=16", "verify.batch_sequences=5", "verify.val_sequences=8"),
    *("regimes.thresholds=fixed", "regimes.low=0.9", "regimes.high=0.95"),
]


TINY = ("seeds=[42]", "model.layers=1", "model.hidden=16", "model.heads=2", "training.sequence_length=16")
DYING = """
import os, signal
from leapverify.cli import main as cli
from leapverify.study import apparatus

steps, real = [0], apparatus.train_step

def dying(*arguments, **named):
    steps[0] += 1
    if os.environ["RANK"] == "1" and steps[0] == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)

apparatus.train_step = dying
cli.main()
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"}


def test_the_example_records_what_one_process_does(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["sh", str(EXAMPLE), str(out), f"data.source=text:{text}", *SETTINGS]
    ran = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    # Rank 0 alone speaks, of the study and then of the sweep.
    assert ran.stdout.splitlines() == [f"report: {out / 'report.html'}"] * 2
    assert ran.stderr.count("step 20/20") == 2
    found = load_study(out)
    one = run_study(found.config, tmp_path / "one", device="cpu")
    assert {row.predictor for row in found.predictions} == {"linear", "taylor-3"}
    found.predictions, one.predictions = [], []
    near(one, found)


@pytest.mark.failure(10)
def test_where_a_rank_is_killed_the_others_leave_with_one_sentence(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), "study"]
    command += ["tiny", f"data.source=text:{text}", *SETTINGS, *TINY, "--out", str(out)]
    ran = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode != 0
    said = [line for line in ran.stderr.splitlines() if line.startswith("leapverify: ")]
    assert len(said) == 1, ran.stderr
    assert "waited for a rank that has ended" in said[0]
    assert "RanksDivergedError" not in said[0]
    assert (out / "seed-42" / "records" / "checkpoints.parquet").is_file()
