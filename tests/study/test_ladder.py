"""The ladder: every switch alone and all together, in one table."""

from __future__ import annotations

import csv

import pytest

from leapverify.config.study import SWITCH_SETTINGS
from leapverify.runs import execution
from leapverify.study import ladder
from leapverify.study.ladder import run_ladder, variants
from leapverify.study.run import run_study


@pytest.fixture(scope="module")
def climbed(tmp_path_factory, text):
    """A micro study with its ladder."""
    from leapverify.config.overrides import with_settings
    from leapverify.config.presets import preset
    from micro import MICRO

    settings = {**MICRO, "data.source": f"text:{text}", "sweep.predictors": ["hold", "linear", "momentum", "adam"]}
    config = with_settings(preset("tiny"), {**settings, "cascade.kinds": [], "training.steps": 40})
    out = tmp_path_factory.mktemp("ladder") / "run"
    run_study(config, out, device="cpu")
    run_ladder(config, out, device="cpu")
    with (out / "tables" / "ladder.csv").open() as handle:
        return config, out, list(csv.DictReader(handle))


def value(rows, variant: str, quantity: str) -> float:
    return next(float(row["mean"]) for row in rows if (row["variant"], row["quantity"]) == (variant, quantity))


def test_a_ladder_of_one_switch_has_its_run_and_its_column(micro, tmp_path, monkeypatch):
    few = {"training__steps": 20, "cascade__kinds": [], "sweep__predictors": ["momentum"], "sweep__horizons": [5]}
    config = micro(**few)
    monkeypatch.setattr(ladder, "variants", lambda _: {"lr_floor": variants(config)["lr_floor"]})
    table = run_ladder(config, tmp_path / "run", device="cpu", execution=execution("in-process"))
    assert [cell.strip() for cell in table.read_text().splitlines()[0].split("|")[3:-1]] == ["none", "lr_floor"]
    assert (tmp_path / "run" / "ladder" / "lr_floor" / "report.html").is_file()


@pytest.mark.slow
def test_every_switch_has_its_run_and_its_rows(climbed):
    _, out, rows = climbed
    assert {row["variant"] for row in rows} == {"none", "all", *SWITCH_SETTINGS}
    assert {row["table"] for row in rows} == {"3", "6", "7", "9"}
    for name in (*SWITCH_SETTINGS, "all"):
        assert (out / "ladder" / name / "report.html").is_file()


@pytest.mark.slow
def test_the_wide_table_has_a_column_for_every_variant(climbed):
    _, out, _ = climbed
    head = (out / "tables" / "ladder.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in head.split("|")[3:-1]] == ["none", *SWITCH_SETTINGS, "all"]


@pytest.mark.slow
def test_a_switch_moves_what_it_should_and_nothing_else(climbed):
    _, _, rows = climbed
    loss = "final validation loss"
    same = ("half_moments", "half_snapshots", "scale_search", "unmasked_pooling", "per_probe_similarity")
    for name in same:
        # None of these touches training.
        assert value(rows, name, loss) == value(rows, "none", loss), name
    for name in ("padding_in_loss", "lr_floor"):
        assert value(rows, name, loss) != value(rows, "none", loss), name
    ratio = "L_hat/L_t of momentum at K=20"
    assert value(rows, "scale_search", ratio) < value(rows, "none", ratio)


@pytest.mark.slow
def test_one_seed_is_its_own_shared_initialisation(climbed):
    _, _, rows = climbed
    loss = "final validation loss"
    assert value(rows, "shared_init", loss) == value(rows, "none", loss)


@pytest.mark.slow
def test_shared_initialisation_gives_every_seed_the_first_ones_weights(climbed):
    from leapverify.config.resolved import Resolved
    from leapverify.study.apparatus import build, open_corpus

    config, _, _ = climbed
    variant = Resolved.of(variants(config)["shared_init"])
    corpus = open_corpus(variant)
    one, two = (build(variant, seed, "cpu", corpus) for seed in (42, 43))
    plain = build(Resolved.of(config), 43, "cpu", corpus)
    assert all((a == b).all() for a, b in zip(one.parameters.values(), two.parameters.values(), strict=True))
    assert any((a != b).any() for a, b in zip(one.parameters.values(), plain.parameters.values(), strict=True))
    assert (one.batch(1).tokens != two.batch(1).tokens).any()
