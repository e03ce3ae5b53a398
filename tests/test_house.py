"""The house rules that no linter holds: what an import brings, the public names, the versions."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_importing_the_package_brings_no_heavy_library() -> None:
    script = "import sys, leapverify.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_public_name_is_there_and_described() -> None:
    import leapverify

    for name in leapverify.__all__:
        assert getattr(leapverify, name).__doc__, name
    assert sorted(leapverify._HOMES) == leapverify.__all__
    assert all(f"`{name}`" in str(leapverify.__doc__) for name in leapverify.__all__)
    with pytest.raises(AttributeError, match="it offers AnnealMemory"):
        _ = leapverify.nothing


def test_the_versions_agree() -> None:
    import leapverify

    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert about["project"]["version"] == leapverify.__version__
    assert f"version: {leapverify.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{leapverify.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
