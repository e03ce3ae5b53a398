"""The wheel: builds, carries everything, and runs from where it was installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
ASSETS = (
    "py.typed",
    "predict/learnt/introspection.json",
    "predict/learnt/introspection.safetensors",
    "predict/learnt/wnn.json",
    "predict/learnt/wnn.safetensors",
    "report/page.html",
    "report/page.css",
    "report/page.js",
    "report/paper.json",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    pytest.importorskip("build", reason="the build package is not installed: pip install -e '.[dev]'")
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_types_pages_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for asset in ASSETS:
        assert f"leapverify/{asset}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests") for name in names)


def test_the_installed_wheel_runs_a_study(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([*install, "--disable-pip-version-check"], check=True, capture_output=True)
    script = (
        "import sys, leapverify\n"
        f"assert leapverify.__file__.startswith({str(site)!r}), leapverify.__file__\n"
        "from leapverify.cli.main import main\n"
        "if __name__ == '__main__':\n"
        "    main(sys.argv[1:])\n"
    )
    runner = tmp_path / "run.py"
    runner.write_text(script)
    settings = ["sweep.predictors=[linear,momentum]", "verify.sequences=8", "verify.budget=8", "cascade.kinds=[]"]
    command = [sys.executable, str(runner), "study", "--steps", "100", "--seeds", "42-43", "--device", "cpu", *settings]
    environment = {**os.environ, "PYTHONPATH": str(site), "LEAPVERIFY_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "report: runs/tiny/report.html"
    assert (tmp_path / "runs" / "tiny" / "report.html").stat().st_size > 1e6
