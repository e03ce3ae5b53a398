"""Every example runs as it stands, and leaps."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NEEDS = {
    "plain_pytorch": "torch",
    "huggingface_trainer": "accelerate",
    "lightning_callback": "lightning",
    "accelerate_loop": "accelerate",
}
ELSEWHERE = {
    "ray_study": "runs/test_executor_ray.py",
    "torchrun_live": "leap/test_ranks_torchrun.py",
}
"""Examples that another test runs, because they take more than one process."""


def test_none_is_forgotten() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS) | set(ELSEWHERE)
    for name, test in ELSEWHERE.items():
        assert f"{name}.py" in (Path(__file__).resolve().parent / test).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_the_example_runs_and_leaps(name: str, tmp_path: Path) -> None:
    package = NEEDS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'leapverify[{package}]'")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "accepted: the held-out loss is lower" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_torchtitan_page_is_python() -> None:
    """Its code cannot run here, because its library asks for older packages; it compiles at least."""
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLES / "torchtitan.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "torchtitan.md", "exec")
