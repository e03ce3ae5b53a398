"""The templates of words.toml: each is said by some page, and tables and figures have both of their parts."""

import re
import tomllib
from pathlib import Path

import pytest

import leapverify.report
from leapverify.report.kit.table import SPREAD
from leapverify.report.kit.words import Words, words

REPORT = Path(leapverify.report.__file__).parent
FOLDERS = sorted(path.parent.name for path in REPORT.glob("*/words.toml"))


def entries(folder: str) -> dict[str, dict[str, str]]:
    return tomllib.loads((REPORT / folder / "words.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_template_is_left_that_nothing_says(folder):
    code = "".join(path.read_text(encoding="utf-8") for path in (REPORT / folder).glob("*.py"))
    named = set(re.findall(r'"([a-z0-9_-]+)"', code)) | {"heading", "note", "title", "caption", "topic"}
    # One part of the signals is named by the field that was not recorded.
    named |= {f"no_{name}" for name in ("straightness", "lyapunov")}
    found = entries(folder)
    shared = found.pop("shared")
    assert {entry for entry in found if entry not in named} == set()
    assert {part for parts in found.values() for part in parts if part not in named} == set()
    whole = (REPORT / folder / "words.toml").read_text(encoding="utf-8")
    assert {name for name in shared if f"{{{name}}}" not in whole} == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_table_has_a_note_and_a_figure_a_caption(folder):
    for name, parts in entries(folder).items():
        assert ("heading" in parts) == ("note" in parts), name
        assert ("title" in parts) == ("caption" in parts), name


def test_shared_words_stand_in_others_and_values_are_not_templates():
    made = Words({"shared": {"WHY": "because {SPREAD}"}, "one": {"topic": "Of {name}", "text": "{WHY} {value:.1f}"}})
    assert made.say("one", "text", value=2) == f"because {SPREAD} 2.0"
    assert made.line("one", "", False, name="{braces}").topic == "Of {braces}"
    assert words("study") is words("study")
