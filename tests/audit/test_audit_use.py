"""`leapverify verify`: what it prints, its exit codes, and that it writes nothing; ladders, races, products."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from audit_runs import flip, problems
from leapverify.audit import audit
from leapverify.cli.main import main
from leapverify.predict.learnt.files import SHIPPED


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *words])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_healthy_run_is_exit_code_0(capsys: pytest.CaptureFixture[str], healthy: Path) -> None:
    assert said(capsys, str(healthy)) == (0, f"{healthy}: nothing is wrong\n", "")
    assert said(capsys, str(healthy), "--json") == (0, "", "")


def test_a_damaged_one_is_exit_code_1_with_one_line_each(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    flip(run / "tables" / "table-01.csv")
    (run / "seed-42" / ".x.0123456789ab").touch()
    code, out, _ = said(capsys, str(run))
    assert code == 1
    assert out.splitlines() == [
        "wrong  tables/table-01.csv: is altered: its sha256 is not that of the manifest; "
        f"leapverify report {run} writes it again",
        "wrong  seed-42/.x.0123456789ab: is what a killed writer left, and nothing reads it; delete it",
        f"{run}: 2 problems",
    ]
    code, out, _ = said(capsys, str(run), "--json")
    assert code == 1
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["tables/table-01.csv", "seed-42/.x.0123456789ab"]


@pytest.mark.parametrize("make", [False, True])
def test_no_run_folder_is_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "x").mkdir()
    code, _, error = said(capsys, str(tmp_path / "x"))
    assert code == 2
    assert error == f"leapverify: {tmp_path / 'x'} is no run folder: name one that a study, a race or the findings " + (
        "have written\n"
    )


def test_the_folder_of_a_seed_is_no_run_folder(capsys: pytest.CaptureFixture[str], healthy: Path) -> None:
    for name in ("seed-42", "seed-42/fingerprints.safetensors"):
        code, _, error = said(capsys, str(healthy / name))
        assert (code, error.partition(":")[2].strip()) == (
            2,
            f"{healthy / name} is no run folder: name one that a study, a race or the findings have written",
        )


def test_a_folder_that_nobody_may_look_into_is_passed_over(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def refusing(path: object, *arguments: object, **options: object) -> os.stat_result:
        if "/closed/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)  # type: ignore[arg-type]

    (run.parent / "closed").mkdir()
    monkeypatch.setattr(os, "stat", refusing)
    assert said(capsys, str(run.parent)) == (0, f"{run.parent}: nothing is wrong\n", "")


def test_nothing_is_written(healthy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(healthy, run)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.rglob("*")}
    for path in [*run.rglob("*"), run]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    assert audit(run) == []
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.rglob("*")} == before
    for path in [run, *run.rglob("*")]:
        os.chmod(path, 0o755)


def test_a_report_mends_tables_and_keeps_what_it_did_not_write(
    capsys: pytest.CaptureFixture[str], run: Path, healthy: Path
) -> None:
    flip(run / "tables" / "table-01.csv")
    flip(run / "memory.txt")
    with pytest.raises(SystemExit):
        main(["report", str(run)])
    capsys.readouterr()
    assert [each.path for each in problems(run)] == ["memory.txt"], "a new manifest must not declare it whole"
    assert (run / "tables" / "table-01.csv").read_bytes() == (healthy / "tables" / "table-01.csv").read_bytes()


def test_run_folders_below_are_looked_at_too(run: Path, healthy: Path) -> None:
    variant = run / "ladder" / "shared_init"
    shutil.copytree(healthy, variant)
    assert audit(run) == []
    assert audit(run / "ladder") == []
    flip(variant / "curve.parquet")
    (found,) = audit(run)
    assert found.path == "ladder/shared_init/curve.parquet"


@pytest.mark.parametrize("kind", ["introspection", "wnn"])
def test_a_learnt_predictor_is_looked_at(tmp_path: Path, kind: str) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(SHIPPED / f"{kind}{suffix}", tmp_path / f"mine{suffix}")
    path = tmp_path / "mine.safetensors"
    assert audit(path) == audit(tmp_path) == []
    card = path.with_suffix(".json").read_text()
    path.with_suffix(".json").write_text(card.replace('"seeds": [', '"seeds": [42, ', 1))
    assert "is not the card that stands in the weights" in audit(path)[0].text
    path.with_suffix(".json").write_text("{")
    assert "is damaged: it is no JSON" in audit(path)[0].text
    path.with_suffix(".json").write_text(card)
    flip(path)
    (found,) = audit(path)
    assert found.path == "mine.safetensors"
    assert found.problem
