"""docs/security.md shows the limits as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from leapverify.io.untrusted import limits

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.failure(15)
def test_the_table_is_that_of_the_code() -> None:
    assert limits.as_markdown() in PAGE


@pytest.mark.failure(15)
def test_every_limit_is_in_the_table() -> None:
    constants = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    shown = {each.value for each in limits.TABLE}
    assert {name for name, value in constants.items() if value not in shown} == {"MIB"}


def test_the_page_is_linked() -> None:
    assert "docs/security.md" in (ROOT / "README.md").read_text()
