"""What the catalogue says of itself, the page and the README agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from leapverify.predict import CATALOGUE, Needs
from leapverify.predict.describe import describe, documented, in_words, needs_of, page

ROOT = Path(__file__).resolve().parents[2]
OURS = ("hold", "random", "linear", "quadratic", "quadratic-paper", "quadratic-clamped", "momentum", "adam")
LITERATURE = [name for name in CATALOGUE if name not in (*OURS, "adam-constant", "taylor-3", "taylor-4")]


@pytest.mark.parametrize("name", LITERATURE)
def test_those_of_the_literature_say_source_and_cost(name: str) -> None:
    text = describe(name)
    assert "Cost:" in text
    assert "Source:" in text or "our own" in text.lower()
    assert "Args:" not in text
    assert "Raises:" not in text


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_one_says_something_and_is_named_in_the_readme(name: str) -> None:
    assert len(describe(name)) > 5
    family = f"{name.rpartition('-')[0]}-"
    readme = (ROOT / "README.md").read_text()
    assert f"`{name}`" in readme or (name[-1].isdigit() and (f"`{family}n`" in readme or f"`{family}r`" in readme))


def test_the_page_is_the_one_in_the_docs() -> None:
    assert (ROOT / "docs" / "predictors.md").read_text() == page(CATALOGUE), (
        "docs/predictors.md is not what the code says: leapverify predictors --doc docs/predictors.md"
    )


def test_the_table_in_the_readme_is_the_catalogue() -> None:
    readme = (ROOT / "README.md").read_text()
    assert documented(readme) == readme, "README.md: leapverify predictors --doc README.md"
    assert documented("no comments") == page(CATALOGUE)


def test_needs_in_words() -> None:
    assert in_words(needs_of("hold")) == "1 snapshot"
    assert in_words(needs_of("nino-mlp")).startswith("5 evenly spaced snapshots, names of tensors")
    assert in_words(Needs(3, upto=8, milestones=(0.5, 0), horizon=False)) == (
        "3 to 8 snapshots, the states at 0.5 t, 0 t; the same for every K"
    )
