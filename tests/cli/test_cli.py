"""The command line as a user types it: exit codes, one line for every failure, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leapverify.cli.arguments import parse_seeds
from leapverify.cli.main import main
from leapverify.config.overrides import dump_config
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from micro import MICRO


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    output = capsys.readouterr()
    return int(leave.value.code or 0), output.out, output.err


def micro_words(text: Path, **changes: object) -> list[str]:
    """The micro study as words of a command line."""
    settings = {**MICRO, "data.source": f"text:{text}", **{k.replace("__", "."): v for k, v in changes.items()}}
    return [f"{key}={value}" for key, value in settings.items()]


WRONG = [
    (["study", "tinny"], "there is no preset 'tinny': did you mean tiny?"),
    (["study", "tiny", "big"], "'big' is neither a preset nor key=value"),
    (["study", "--set", "training.lrr=1"], "no setting 'training.lrr': did you mean lr"),
    (["study", "--set", "training.lr"], "'training.lr' is not key=value"),
    (["study", "--set", "sweep.predictors=[lineaar]"], "unknown predictor 'lineaar': did you mean linear"),
    (["study", "--seeds", "46-42"], "counts downwards"),
    (["study", "--seeds", "a"], "is no list of seeds"),
    (["study", "--seeds", "1,1"], "names a seed twice"),
    (["study", "--seeds", "0-2000"], "at most 1000"),
    (["study", "--steps", "0"], "--steps 0 is not a positive number"),
    (["study", "--steps", "10"], "raise --steps"),
    (["study", "--steps", "many"], "'--steps'"),
    (["study", "--device", "tpu"], "--device 'tpu' is not auto, cpu or cuda"),
    (["study", "--data", "text:/nowhere/at/all"], "/nowhere/at/all"),
    (["study", "--data", "library"], "library"),
    (["study", "--tokenizer", "./no-such-folder"], "no-such-folder does not exist"),
    (["study", "--faster"], "--faster"),
    (["report", "/nowhere"], "/nowhere"),
    (["sweep", "/nowhere"], "/nowhere is no run folder"),
    (["sweep", "/nowhere", "--horizons", "5,x"], "--horizons '5,x' are no positive numbers"),
    (["train"], "train"),
    (["study", "tiny", "snapshots.every=null"], "snapshots.every is null while all checkpoints are to be kept"),
    (["study", "--minutes", "0"], "--minutes 0 is no time to work"),
    (["presets", "--gpu-gb", "0"], "--gpu-gb 0 is no size of a memory: give gigabytes above 0"),
    (["presets", "--gpu-gb", "nan"], "--gpu-gb nan is no size of a memory"),
    (["doctor", "--host-gb", "-8"], "--host-gb -8 is no size of a memory"),
    (["doctor", "--host-gb", "inf"], "--host-gb inf is no size of a memory"),
    (["presets", "--gpu-gb", "much"], "--gpu-gb"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert error.startswith("leapverify: ")
    assert error.count("\n") == 1
    assert text in error
    assert "Traceback" not in error


def test_cuda_without_a_gpu_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = run(capsys, "study", "--device", "cuda", "--out", str(tmp_path / "run"))
    assert code == 2
    assert "sees no GPU here: use --device cpu or auto" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["", "short"])
def test_too_little_text_is_refused_by_name(capsys, tmp_path, content):
    path = tmp_path / "small.txt"
    path.write_text(content)
    code, _, error = run(capsys, "study", "--data", f"text:{path}", "--out", str(tmp_path / "run"))
    assert code == 2
    assert "small.txt" in error
    assert error.count("\n") == 1


def test_a_study_from_the_command_line_and_its_report_again(capsys, tmp_path, text):
    out = str(tmp_path / "run")
    code, output, error = run(capsys, "study", *micro_words(text), "--out", out, "--seeds", "7", "--device", "cpu")
    assert (code, output) == (0, f"report: {out}/report.html\n")
    assert "seed 7  step 60/60" in error
    page = tmp_path / "run" / "report.html"
    first = page.read_bytes()
    page.unlink()
    assert run(capsys, "report", out)[0] == 0
    assert page.read_bytes() == first


def test_a_failing_seed_is_exit_code_1_in_one_line(capsys, tmp_path, text):
    words = micro_words(text, training__lr="1e30", training__grad_clip="null")
    code, _, error = run(capsys, "study", *words, "--out", str(tmp_path / "run"), "--device", "cpu")
    assert code == 1
    assert "leapverify: seed 42: the training loss is nan" in error.splitlines()[-1]


def test_presets_lists_all_with_their_cost(capsys):
    code, output, _ = run(capsys, "presets")
    assert code == 0
    for text in ("tiny", "gpt2-124m", "124.44 M", "qwen2.5-1.5b", "1.54 B", "qwen2.5-7b", "7.62 B"):
        assert text in output


def test_presets_say_what_fits_a_machine_that_is_only_thought_of(capsys):
    code, output, _ = run(capsys, "presets", "--gpu-gb", "80", "--host-gb", "200")
    assert code == 0
    assert all(len(line) <= 110 for line in output.splitlines())
    rows = output.split("what fits a GPU of 80 GB and 200 GB of host memory")[1].splitlines()
    seven = next(number for number, row in enumerate(rows) if row.startswith("qwen2.5-7b"))
    assert rows[seven].count("no:") == 3  # float32 weights, wherever the ring lies
    assert rows[seven + 1].count("no:") == 1
    assert "*" in rows[seven + 1]
    small = run(capsys, "presets", "--gpu-gb", "40", "--host-gb", "100")[1]
    assert small.count("no:") > output.count("no:")


def test_doctor_says_which_setting_would_make_a_preset_fit(capsys, tmp_path):
    code, output, _ = run(capsys, "doctor", "--out", str(tmp_path), "--gpu-gb", "24", "--host-gb", "100")
    assert code == 0
    line = next(line for line in output.splitlines() if "preset qwen2.5-1.5b" in line)
    assert line.startswith("no")
    assert "GB of GPU memory where 22.3 are to be had: set training.weights=bfloat16" in line


def test_doctor_names_every_preset_and_why_not(capsys, tmp_path):
    code, output, _ = run(capsys, "doctor", "--out", str(tmp_path))
    assert code == 0
    assert "preset tiny" in output
    seven = next(line for line in output.splitlines() if "preset qwen2.5-7b" in line)
    assert seven.startswith("ok") or "needs" in seven or "days" in seven


def test_ranges_and_lists_of_seeds():
    assert parse_seeds("42-44,50") == [42, 43, 44, 50]
    with pytest.raises(ConfigError):
        parse_seeds("42-")


@pytest.mark.slow
def test_the_installed_command_works_without_a_terminal(tmp_path):
    command = [Path(sys.executable).parent / "leapverify", "study", "--set", "training.lr=-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "training.lr is -1" in done.stderr


PAPER = {"gpt2-124m": {}, "qwen2.5-1.5b": {"model.kv_heads": 1}, "qwen2.5-7b": {"model.kv_heads": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_the_paper_presets_run_at_reduced_width(capsys, tmp_path, text, name):
    small = {
        "model.layers": 2,
        "model.hidden": 16,
        "model.heads": 2,
        "model.intermediate": 32,
        "model.vocab_size": "null",
        "training.batch_size": 2,
        "training.sequence_length": 16,
        "verify.sequences": 8,
        "verify.budget": 8,
        "verify.batch_sequences": 8,
        "verify.val_sequences": 8,
        "sweep.horizons": "[5, 50]",
        **PAPER[name],
    }
    words = [f"{key}={value}" for key, value in small.items()]
    options = ["--steps", "100", "--seeds", "42", "--data", f"text:{text}", "--tokenizer", "bytes", "--device", "cpu"]
    code, _, error = run(capsys, "study", name, *words, *options, "--out", str(tmp_path / "run"))
    assert code == 0, error
    assert "step 100/100" in error


def test_the_micro_study_is_a_whole_configuration(micro):
    assert isinstance(micro(), StudyConfig)
    assert "preset: tiny" in dump_config(micro())
