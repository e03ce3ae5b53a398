"""What is wrong with a study although every file is the one that was written."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from audit_runs import problems
from leapverify.audit import AuditIssue, audit
from leapverify.audit.heldout import Text, check_text, contained
from leapverify.audit.lineage import nonfinite
from leapverify.io import records
from leapverify.io.manifest import NAME, Manifest
from leapverify.io.records import Checkpoint, LossPoint, Prediction
from leapverify.io.storage import read_json, read_sealed, save_tensors, write_json, write_sealed
from leapverify.study.folder import SeedFolder

SEEDS = (42, 43)


def sealed(run: Path) -> None:
    """List what is there now, as if it had been written so."""
    (run / NAME).unlink(missing_ok=True)
    Manifest(run).write()


def with_rows(
    run: Path, name: str, kind: Any, change: Callable[[list[Any]], list[Any]], *, joined: bool = True
) -> None:
    """Change seed 42's rows of a kind, and what is joined from them."""
    for path in (run / "seed-42" / "records" / name, *([run / name] if joined else [])):
        rows = records.read(path, kind)
        other = [row for row in rows if row.seed != 42]
        changed = change([row for row in rows if row.seed == 42]) + other
        for each in (path, path.with_suffix(".json")):
            each.unlink()
        records.write(path, kind, changed)
    sealed(run)


def said(run: Path, check: str) -> list[AuditIssue]:
    found = problems(run)
    assert all(each.remedy for each in found)
    return [each for each in found if each.check == check]


def second(rows: list[Any], **changes: Any) -> list[Any]:
    return [rows[0], dataclasses.replace(rows[1], **changes), *rows[2:]]


def test_a_number_that_is_not_finite_in_records_is_named(run: Path) -> None:
    with_rows(run, "checkpoints.parquet", Checkpoint, lambda rows: second(rows, val_loss=math.nan))
    first, joined = said(run, "nonfinite")
    assert first.path == "seed-42/records/checkpoints.parquet"
    assert joined.path == "checkpoints.parquet"
    assert "1 of 4 values of val_loss are not finite, the first (nan) at seed 42, step 20" in first.text


@pytest.mark.parametrize("where", ["snapshots", "optimizer"])
def test_a_number_that_is_not_finite_in_tensors_is_named(run: Path, where: str) -> None:
    path = run / "seed-43" / where / "step-000020.safetensors"
    tensors = load_file(path)
    name = next(name for name, each in tensors.items() if each.is_floating_point() and each.ndim == 2)
    tensors[name][1, 1] = math.inf
    for each in (path, path.with_suffix(".json")):
        each.unlink()
    save_tensors(path, tensors, step=20)
    sealed(run)
    (found,) = problems(run)
    assert (found.path, found.check) == (f"seed-43/{where}/step-000020.safetensors", "nonfinite")
    assert f"holds 1 values that are not finite, in {name}" in found.text


def test_large_tensors_are_looked_at_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leapverify.audit.lineage.PIECE", 10)
    wide = torch.zeros(7, 4, 2)
    wide[6, 3, 1] = math.nan
    save_tensors(tmp_path / "a.safetensors", {"scalar": torch.tensor(1.0), "wide": wide, "bits": torch.ones(3).int()})
    assert nonfinite(tmp_path / "a.safetensors") == ("wide", 1)


def test_a_row_twice_is_named(run: Path) -> None:
    with_rows(run, "curve.parquet", LossPoint, lambda rows: [*rows, rows[3]])
    first, _ = said(run, "duplicate")
    assert first.path == "seed-42/records/curve.parquet"
    assert "1 rows more than once, the first of seed 42, step 20" in first.text


def test_a_checkpoint_that_is_missing_is_named(run: Path) -> None:
    with_rows(run, "checkpoints.parquet", Checkpoint, lambda rows: [rows[0], *rows[2:]])
    texts = [each.text for each in said(run, "gap")]
    assert "has a checkpoint at step 30 where 20 is due (every 10)" in texts


def test_a_step_of_the_curve_that_is_missing_is_named(run: Path) -> None:
    with_rows(run, "curve.parquet", LossPoint, lambda rows: [row for row in rows if row.step not in (15, 25)])
    (found,) = said(run, "gap")
    assert "lacks the loss of 2 steps, the first of step 15" in found.text


def test_rows_of_the_sweep_that_are_missing_are_named(run: Path) -> None:
    with_rows(run, "predictions.parquet", Prediction, lambda rows: rows[:-1])
    (found,) = said(run, "gap")
    assert "lacks rows at 1 of 4 swept checkpoints, the first at step 40" in found.text


def test_a_snapshot_that_the_configuration_keeps_and_is_missing_is_named(run: Path) -> None:
    for suffix in (".safetensors", ".json"):
        (run / "seed-42" / "snapshots" / f"step-000030{suffix}").unlink()
    sealed(run)
    (found,) = said(run, "gap")
    assert (found.path, found.text) == ("seed-42/snapshots", "lacks the file of step 30")


def test_joined_records_that_say_something_else_are_named(run: Path) -> None:
    with_rows(run, "curve.parquet", LossPoint, lambda rows: second(rows, heldout_loss=1.0), joined=False)
    (found,) = problems(run)
    assert found.path == "curve.parquet"
    assert "does not say of seed 42 what seed-42/records/curve.parquet says" in found.text


def test_a_clock_that_was_set_back_is_named(run: Path) -> None:
    with_rows(run, "checkpoints.parquet", Checkpoint, lambda rows: second(rows, elapsed_s=0.0, observe_s=-1.0))
    texts = [each.text for each in said(run, "clock")]
    assert any("up to step 10: the clock was set back" in text for text in texts)
    assert any("1 values of observe_s are below 0" in text for text in texts)


def test_records_that_another_configuration_made_are_named(run: Path) -> None:
    text = read_sealed(run / "config.yaml", "").replace("  lr: 0.001", "  lr: 0.002")
    (run / "config.yaml").unlink()
    write_sealed(run / "config.yaml", text)
    sealed(run)
    texts = [each.text for each in said(run, "config")]
    assert texts[0] == "is not the configuration that environment.json says this study began with"
    assert texts[1].endswith("and 320 tokens at step 10 where config.yaml gives 0.00187301 and 320")


def test_a_study_that_says_it_is_done_and_is_not_is_named(run: Path) -> None:
    (run / "seed-43" / "done.json").unlink()
    sealed(run)
    (found,) = problems(run)
    assert (found.path, found.check) == ("done.json", "done")
    assert "says that the study is done, and seed 43 has not finished" in found.text
    shutil.rmtree(run / "seed-43")
    sealed(run)
    assert "seed 43 is missing" in " ".join(each.text for each in problems(run))


def test_a_seed_that_was_not_asked_for_is_named(run: Path) -> None:
    shutil.copytree(run / "seed-42", run / "seed-44")
    sealed(run)
    texts = [each.text for each in problems(run) if each.path == "seed-44"]
    assert texts == ["is of a seed that config.yaml does not name (42, 43)"]


def as_seed(run: Path, to: int, of: int, mix: float = 0.0) -> None:
    """Give a seed the tensors of another, or a mixture with its own, marked as its own."""
    for path in sorted((run / f"seed-{to}").rglob("*.safetensors")):
        other = load_file(run / f"seed-{of}" / path.relative_to(run / f"seed-{to}"))
        own, mark = load_file(path), read_json(path.with_suffix(".json"))
        for each in (path, path.with_suffix(".json")):
            each.unlink()
        mixed = {n: t if not t.is_floating_point() else (1 - mix) * t + mix * own[n] for n, t in other.items()}
        save_tensors(path, mixed, **{key: mark[key] for key in ("step", "probes") if key in mark})
    sealed(run)


def test_seeds_that_are_one_run_are_named(run: Path) -> None:
    as_seed(run, 43, 42)
    (found,) = problems(run)
    assert (found.path, found.check) == ("seed-43", "lineage")
    assert "is the run of seed 42 once more (weights at step 40: correlation 1.000000)" in found.text


def test_seeds_that_share_an_initialisation_are_named(run: Path) -> None:
    as_seed(run, 43, 42, mix=0.3)
    (found,) = problems(run)
    assert "shares its initialisation with seed 42 (weights at step 10: correlation 0." in found.text


def test_fingerprints_tell_where_the_weights_are_gone(run: Path) -> None:
    as_seed(run, 43, 42)
    for seed in SEEDS:
        shutil.rmtree(run / f"seed-{seed}" / "snapshots")
    sealed(run)
    (found,) = said(run, "lineage")
    assert "is the run of seed 42 once more (fingerprints of the last checkpoint" in found.text


@pytest.mark.failure(14)
def test_text_that_stands_in_two_sets_is_named(tmp_path: Path) -> None:
    from small_text import write_documents

    texts = write_documents(tmp_path)
    # The same documents under other names, but for their first line: no two are identical.
    for path in sorted(texts.glob("*.txt")):
        (tmp_path / f"again-{path.name}").write_text(f"{path.stem}\n\n{path.read_text()}")
    found = list(check_text(Text(f"text:{texts}", "bytes"), "config.yaml", set()))
    assert {each.check for each in found} == {"heldout"}
    worst = next(each for each in found if "held out for decisions" in each.text and "trained on" in each.text)
    assert worst.problem
    assert "it is a leak" in worst.text
    assert "documents differ" in worst.remedy


@pytest.mark.failure(14)
def test_text_that_is_not_at_hand_is_said(run: Path) -> None:
    (note,) = check_text(Text("text:/nowhere", "bytes"), "config.yaml", set())
    assert not note.problem
    assert "was not looked at: the text is not at hand" in note.text


def test_a_run_of_tokens_is_found_at_any_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leapverify.audit.heldout._PIECE", 50)
    tokens = torch.randint(0, 256, (1000,), generator=torch.Generator().manual_seed(0)).numpy().astype("uint16")
    starts = (0, 1, 49, 50, 51, 499, 936)
    needles = [tokens[start : start + 64] for start in starts]
    strange = needles[3].copy()
    strange[7] ^= 1
    assert contained([*needles, strange], tokens) == [True] * len(starts) + [False]
    assert contained(needles, tokens[:30]) == [False] * len(starts)
    assert contained([], tokens) == []


def test_an_unfinished_study_is_no_problem(run: Path) -> None:
    (run / NAME).unlink()
    (run / "done.json").unlink()
    (run / "seed-43" / "done.json").unlink()
    found = audit(run)
    assert [each.path for each in found] == [NAME, "seed-43"]
    assert not any(each.problem for each in found)


def test_records_of_another_version_are_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SCHEMA_VERSION", 2)
    found = [each for each in problems(run) if each.check == "schema"]
    assert "holds Checkpoint/1 where Checkpoint/2 is needed" in found[0].text


def test_done_that_names_other_steps_is_named(run: Path) -> None:
    path = SeedFolder(run, 42).path / "done.json"
    path.unlink()
    write_json(path, {"steps": 30})
    sealed(run)
    (found,) = problems(run)
    assert "ended at step 30, its checkpoints end at 40" in found.text
