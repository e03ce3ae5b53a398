"""The variations: each changes what it says and nothing else; the set is run, gone on with, and judged."""

from __future__ import annotations

import json

import pytest

from leapverify.claims import run as findings
from leapverify.claims.evidence import BASE, CONSTANT, LENGTHS, RATES_AND_INTERVALS
from leapverify.claims.variations import BASE_SEEDS, OTHER_SEEDS, as_lines, base_config, chosen, variations
from leapverify.config.overrides import differences
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError
from leapverify.io.storage import read_sealed, write_sealed
from leapverify.runs import execution

NARROWED = {"seeds", "observe.lyapunov", "sweep.predictors", "sweep.horizons"}


@pytest.fixture
def every():
    return {v.name: v for v in variations(base_config(preset("tiny"), {}, None))}


def test_a_variation_changes_what_it_says_and_a_narrower_sweep(every):
    base = every[BASE].config
    for name, variation in every.items():
        if name != BASE:
            changed = {line.split(":")[0] for line in differences(base, variation.config)}
            # A constant schedule at the same peak sets the peak and changes nothing by it.
            assert changed - NARROWED == set(variation.settings) - ({"training.lr"} if name == CONSTANT[0] else set())
            assert variation.reason


def test_the_variations_are_those_of_their_names(every):
    base = every[BASE].config
    half, double, short, long = (every[name].config for name in RATES_AND_INTERVALS)
    assert (half.training.lr, double.training.lr) == (base.training.lr / 2, base.training.lr * 2)
    assert (short.observe.interval_steps, long.observe.interval_steps) == (25, 100)
    assert [every[name].config.training.steps for name in LENGTHS] == [900, 1200, 1800]
    shares = {every[name].config.training.warmup_steps / every[name].config.training.steps for name in LENGTHS}
    assert shares == {base.training.warmup_steps / base.training.steps}
    assert Resolved.of(every["shared-init"].config).training.init == "shared"
    assert Resolved.of(every["half-moments"].config).sweep.moments == "float16"
    assert every["bfloat16-stochastic"].config.training.rounding == "stochastic"
    assert {every[name].config.training.lr for name in ("paper-rate", "bfloat16", "bfloat16-stochastic")} == {5e-5}


def test_the_larger_model_has_about_four_times_the_parameters(every):
    from leapverify.study.apparatus import parameters_of

    small, large = (parameters_of(Resolved.of(every[name].config)) for name in (BASE, "larger"))
    assert small is not None
    assert large is not None
    assert 3 < large / small < 4.5


def test_seeds_are_paired_with_the_base_studys_first(every):
    seeds = every[BASE].config.seeds
    assert len(seeds) == BASE_SEEDS
    assert {v.config.seeds for name, v in every.items() if name != BASE} == {seeds[:OTHER_SEEDS]}


@pytest.mark.parametrize("name", ["gpt2-124m", "qwen2.5-1.5b", "qwen2.5-7b"])
def test_every_preset_has_its_set(name):
    found = variations(base_config(preset(name), {}, [42, 43]))
    assert len({v.name for v in found}) == len(found)
    assert found[0].config.seeds == (42, 43)


def test_a_users_settings_reach_every_variation():
    found = variations(base_config(preset("tiny"), {"training.batch_size": 3, "sweep.horizons": [5, 10]}, [1, 2, 3]))
    assert {v.config.training.batch_size for v in found} == {3}
    assert found[0].config.sweep.horizons == (5, 10)
    assert {v.config.sweep.horizons for v in found[1:]} == {(5,)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"switches.lr_floor": True}, "findings begin with every switch off"),
        ({"observe.interval_steps": 100}, "halve and double observe.interval_steps, and 100 steps in 1500"),
        ({"observe.interval_steps": 25}, "halve and double observe.interval_steps, and 25 steps in 1500"),
        ({"observe.nothing": 25}, "there is no setting 'observe.nothing'"),
    ],
)
def test_settings_that_leave_no_set_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("(", r"\(")):
        base_config(preset("tiny"), settings, None)


def test_only_and_skip_choose_and_refuse(every):
    names = list(every)
    found = list(every.values())
    assert [v.name for v in chosen(found, ["constant", "base"], None)] == ["base", "constant"]
    assert [v.name for v in chosen(found, None, ["base"])] == names[1:]
    with pytest.raises(ConfigError, match="--only names 'constnt', which is no variation: did you mean constant"):
        chosen(found, ["constnt"], None)
    with pytest.raises(ConfigError, match="--skip names 'x'"):
        chosen(found, None, ["x"])
    with pytest.raises(ConfigError, match="leave no variation"):
        chosen(found, ["base"], ["base"])


def test_the_list_of_the_set_has_a_line_each(every):
    lines = list(as_lines(list(every.values())))
    assert len(lines) == 2 + len(every)
    assert "| constant-quarter | training.lr=3.75e-05, training.schedule=constant |" in "\n".join(lines)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, text):
    """Two variations of a micro study, judged, and then a third."""
    from micro import MICRO

    settings = {**MICRO, "data.source": f"text:{text}", "training.steps": 40, "sweep.horizons": [5, 10]}
    settings |= {"sweep.predictors": ["hold", "random", "linear", "momentum", "adam"]}
    settings.pop("verify.budget")
    seeds = settings.pop("seeds")
    out, alone = tmp_path_factory.mktemp("findings"), execution("in-process")

    def run(only, **more):
        planned = findings.plan(preset("tiny"), settings, seeds, only)
        return findings.run_findings(planned, out, device="cpu", execution=alone, **more)

    return run, out, run(["base", "length-0.6"])


def test_variations_are_ordinary_studies_in_folders_of_their_names(ran):
    _, out, _ = ran
    shown = {item.name for item in out.iterdir() if not item.name.startswith(".")}
    assert shown == {"base", "length-0.6", "manifest.json", "tables"}
    assert (out / "base" / "report.html").is_file()


def test_what_was_not_run_is_named_in_the_results(ran):
    _, out, judged = ran
    tree = json.loads((out / "tables" / "findings.json").read_text())
    assert tree["missing"]["constant"] == "was not run"
    assert set(tree["missing"]) & {"base", "length-0.6"} == set()
    assert len(tree["findings"]) == len(judged.findings)
    assert "larger (was not run)" in judged.path.read_text()
    assert {finding.verdict for finding in judged.findings} == {"not decided"}


def test_numbers_come_from_the_studies(ran):
    from leapverify.study.folder import Study

    _, out, judged = ran
    final = Study(out / "base").checkpoints[-1]
    momentum = next(finding for finding in judged.findings if finding.key == "momentum-explodes")
    rows = [
        row
        for row in Study(out / "base").predictions
        if row.predictor == "momentum" and row.horizon == 5 and row.status == "ok"
    ]
    assert final.step == 40
    assert momentum.bars[0].quantity.found.n == len(rows)


@pytest.mark.slow
def test_a_later_call_adds_a_variation_and_reads_the_others(ran):
    run, out, _ = ran
    before = (out / "base" / "report.html").stat().st_mtime_ns
    told = set()
    run(["constant"], watcher=lambda progress: told.add(progress.study))
    tree = json.loads((out / "tables" / "findings.json").read_text())
    assert "constant" not in tree["missing"]
    assert "base" not in tree["missing"]
    assert (out / "base" / "report.html").stat().st_mtime_ns == before
    assert told == {"constant"}


def test_a_document_without_marks_is_refused_before_anything_runs(ran, tmp_path):
    run, out, _ = ran
    doc = tmp_path / "doc.md"
    doc.write_text("nothing")
    with pytest.raises(ValueError, match="has no single place for results"):
        run(["larger"], doc=doc)
    assert not (out / "larger").exists()


def test_a_variation_that_cannot_run_does_not_cost_the_others(ran):
    run, out, _ = ran
    (out / "rate-half").mkdir()
    (out / "rate-half" / "foreign.txt").write_text("not a study")
    assert run(["rate-half", "base"]).failed.keys() == {"rate-half"}
    tree = json.loads((out / "tables" / "findings.json").read_text())
    assert "is not empty and holds no study" in tree["missing"]["rate-half"]
    assert "base" not in tree["missing"]


def test_a_folder_of_something_else_is_refused_and_the_findings_in_it_stay(ran, tmp_path):
    run, out, _ = ran
    before = (out / "tables" / "findings.md").read_bytes()
    (out / "base" / "config.yaml").rename(tmp_path / "kept.yaml")
    text = read_sealed(tmp_path / "kept.yaml", "")
    write_sealed(out / "base" / "config.yaml", text.replace("lr: 0.001", "lr: 0.002"))
    with pytest.raises(ConfigError, match="base holds a study with another configuration"):
        run(["constant"])
    (tmp_path / "kept.yaml").rename(out / "base" / "config.yaml")
    assert (out / "tables" / "findings.md").read_bytes() == before
    planned = findings.plan(preset("tiny"), {}, None, ["base"])
    with pytest.raises(ConfigError, match=r"kept\.txt is a file, and findings need a folder"):
        findings.run_findings(planned, _file(tmp_path / "kept.txt"), device="cpu")
    with pytest.raises(ConfigError, match="base holds a single study: name another --out"):
        findings.run_findings(planned, out / "base", device="cpu")
    missing = findings.plan(preset("tiny"), {"data.source": "text:/nowhere/at/all"}, None, ["base"])
    with pytest.raises(ConfigError, match="/nowhere/at/all does not exist"):
        findings.run_findings(missing, tmp_path / "new", device="cpu")
    assert not (tmp_path / "new").exists()


def _file(path):
    path.write_text("a file")
    return path


def test_the_command_lists_the_set_without_running_it(tmp_path, capsys, monkeypatch):
    from leapverify.cli import main as cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(
            ["findings", "--dry-run", "--skip", "bfloat16,bfloat16-stochastic", "training.lr=1e-3", "--seeds", "1-3"]
        )
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert "| rate-double | training.lr=0.002 |" in shown
    assert "bfloat16" not in shown
    assert not list(tmp_path.iterdir())


def test_a_wrong_name_is_wrong_use(capsys):
    from leapverify.cli import main as cli

    with pytest.raises(SystemExit) as left:
        cli.main(["findings", "--dry-run", "--only", "bas"])
    assert left.value.code == 2
    assert "did you mean base?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        cli.main(["findings", "--dry-run", "--only", ""])
    assert left.value.code == 2
    assert "--only '' is no list of different names" in capsys.readouterr().err
