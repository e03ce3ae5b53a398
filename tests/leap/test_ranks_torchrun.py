"""The example of several ranks runs as written, through the real torchrun."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "torchrun_live.py"


@pytest.mark.failure(11)
def test_the_torchrun_example_runs_and_leaps(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLE)]
    done = subprocess.run(
        [*command, "--way", "fsdp"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) of (\d+) leaps accepted on 2 ranks \(fsdp\)", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) > 0
    assert done.stdout.count("with leaps)  accepted") == int(found[1])
    assert not list(tmp_path.iterdir())
