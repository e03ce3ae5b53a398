"""The findings on paper: verdicts first, every number in three forms, and a document whose marked part is filled."""

import csv
import io
import json
from pathlib import Path

import pytest

from findings_records import by_eta, whole_set
from leapverify.claims.catalogue import judge_findings
from leapverify.claims.evidence import Evidence
from leapverify.claims.page import (
    BEGIN,
    END,
    as_csv,
    as_markdown,
    as_tree,
    filled,
    require_marks,
    verdict_lines,
    write_findings,
)


@pytest.fixture(scope="module")
def found():
    return judge_findings(whole_set(by_eta, seeds=range(4)))


def tables(text: str) -> list[list[str]]:
    """The Markdown tables of a text, each as its lines."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def test_the_table_of_verdicts_comes_first_with_a_row_a_claim(found):
    text = as_markdown(found)
    first = tables(text)[0]
    assert text.startswith("| claim | verdict here | measured (95 % over seeds) | decisive control | n |")
    assert len(first) == 2 + len(found)
    for line, finding in zip(first[2:], found, strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[0] == finding.claim
        assert cells[1] == f"**{finding.verdict}**"
        assert cells[3] == finding.control
        # What made the verdict, with its interval and its n.
        made = [bar.quantity for bar in finding.bars if bar.verdict == finding.verdict] or list(finding.measured)
        assert cells[2].startswith(f"{made[0].name}: {made[0].here}")
        assert made[0].interval in cells[2]
        assert cells[4] == made[0].behind


def test_every_claim_has_its_own_table_with_all_its_quantities(found):
    own = tables(as_markdown(found))[1:]
    assert len(own) == len(found)
    for lines, finding in zip(own, found, strict=True):
        assert {line.count("|") for line in lines} == {6}
        assert len(lines) == 2 + len(finding.bars) + len(finding.beside)
        assert sum("**" in line for line in lines) == len(finding.bars)


def test_findings_without_any_study_are_written_with_their_reasons():
    nothing = judge_findings(Evidence({}, {"base": "failed: no loss"}))
    assert len(verdict_lines(nothing)) == len(nothing)
    assert all("none: " in line for line in verdict_lines(nothing))
    assert as_markdown(nothing).count("base failed: no loss") > 10


def test_a_claim_that_falls_says_what_explains_it_and_no_other_does(found):
    text = as_markdown(found)
    falls = [finding for finding in found if finding.verdict == "falls"]
    assert falls
    assert text.count("**What explains the difference.**") == len(falls)


def test_the_csv_holds_every_number_in_full(found):
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(rows) == sum(len(finding.bars) + len(finding.beside) for finding in found)
    first = found[0].bars[0]
    row = next(row for row in rows if row["role"] == "decides")
    assert float(row["value"]) == first.quantity.found.value
    assert (row["side"], float(row["line"]), row["reading"]) == ("above", 0.0, first.reading)
    assert all(row["reason"] for row in rows if not row["value"])


def test_the_tree_is_strict_json_and_says_what_is_missing(found):
    tree = json.loads(json.dumps(as_tree(found, {"larger": "was not run"}), allow_nan=False))
    assert [entry["key"] for entry in tree["findings"]] == [finding.key for finding in found]
    assert tree["missing"] == {"larger": "was not run"}
    assert tree["findings"][0]["bars"][0]["verdict"] == "falls"


def test_the_terminal_gets_one_line_a_claim_with_what_decided(found):
    lines = verdict_lines(found)
    assert len(lines) == len(found)
    assert all(finding.key in line and finding.verdict in line for finding, line in zip(found, lines, strict=True))


def test_a_document_is_filled_between_its_marks_and_filled_again_alike(found, tmp_path):
    doc = tmp_path / "findings.md"
    doc.write_text(f"# Title\n\n{BEGIN}\nbefore this\n{END}\n\nAfter.\n")
    for _ in range(2):
        path = write_findings(found, tmp_path / "tables", about=["Of a trial."], missing={}, doc=doc)
        text = doc.read_text()
        assert text.startswith("# Title\n\n")
        assert text.endswith("\n\nAfter.\n")
        assert "before this" not in text
        assert text.count("| claim | verdict here |") == 1
        assert "Of a trial." in text
    assert "Of a trial." in path.read_text()
    assert {item.name for item in path.parent.iterdir()} == {"findings.md", "findings.csv", "findings.json"}


@pytest.mark.parametrize("text", ["no marks", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_document_without_a_single_place_is_refused_before_anything_is_written(found, tmp_path, text):
    doc = tmp_path / "findings.md"
    doc.write_text(text)
    with pytest.raises(ValueError, match="has no single place for results: write"):
        write_findings(found, tmp_path / "tables", about=[], missing={}, doc=doc)
    assert not (tmp_path / "tables").exists()
    assert doc.read_text() == text


def test_a_document_that_is_not_there_is_refused(found, tmp_path):
    with pytest.raises(ValueError, match="is no file: name a Markdown file"):
        write_findings(found, tmp_path / "tables", about=[], missing={}, doc=tmp_path / "none.md")


def test_the_projects_own_document_has_its_place():
    require_marks(Path(__file__).parents[2] / "docs" / "findings.md")


def test_what_stands_around_the_marks_is_kept_to_the_letter():
    assert filled(f"a {BEGIN} b {END} c", "new") == f"a {BEGIN}\n\nnew\n{END} c"
