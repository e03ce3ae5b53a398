import itertools

import pytest
from pydantic import ValidationError

from leapverify.errors import ConfigError
from leapverify.race.config import TASKS, Length, RaceConfig, TextConfig, TextLength
from leapverify.race.presets import PRESETS, preset
from leapverify.train.models import ModelSpec


def refused(**changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        RaceConfig.model_validate({**preset("tiny").model_dump(), **changes})
    return str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_whole_and_survives_the_way_through_plain_data(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert RaceConfig.model_validate(config.model_dump(mode="json")) == config
    assert not {*config.seeds} & {*config.tuning_seeds}
    assert len(config.seeds) >= 8


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", ["pretrain", "finetune", "lora"])
def test_grids_go_up_by_factors_of_two(name: str, task: str) -> None:
    for grid in getattr(preset(name), task).grids.values():
        assert [b / a for a, b in itertools.pairwise(grid)] == pytest.approx([2.0] * (len(grid) - 1))


def test_tiny_is_the_study_of_that_name() -> None:
    from leapverify.config.presets import preset as study

    race, other = preset("tiny").text, study("tiny")
    assert race.model == other.model
    assert (race.batch_size, race.sequence_length) == (other.training.batch_size, other.training.sequence_length)


def test_length_is_found_by_name() -> None:
    config = preset("tiny")
    assert [config.length(task).steps for task in TASKS] == [300, 150, 150, 2000, 400]


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no race preset 'tinny': did you mean tiny\?"):
        preset("tinny")
    with pytest.raises(ConfigError, match="there is no race preset 'x': there are tiny, gpt2-124m"):
        preset("x")


def test_it_is_frozen_and_knows_all_its_keys() -> None:
    config = preset("tiny")
    with pytest.raises(ValidationError, match="frozen"):
        config.alpha = 0.1  # type: ignore[misc]
    assert "Extra inputs are not permitted" in refused(colour="red")


def test_a_race_is_not_tuned_on_its_own_seeds() -> None:
    assert "seeds [3, 4] are raced and tuned on" in refused(seeds=(3, 4, 5), tuning_seeds=(4, 3))


@pytest.mark.parametrize("name", ["tasks", "optimizers", "arms", "seeds", "tuning_seeds"])
def test_lists_name_something_and_each_thing_once(name: str) -> None:
    assert "the list [] in the race must name at least one thing, and each once" in refused(**{name: ()})
    twice = {"tasks": "noise", "optimizers": "sgd", "arms": "wsd", "seeds": 1, "tuning_seeds": 1000}[name]
    assert "each once" in refused(**{name: (twice, twice)})


def test_unknown_optimizers_are_refused() -> None:
    assert "optimizer 'lion' is unknown: give adamw, muon, sgd" in refused(optimizers=("adamw", "lion"))
    with pytest.raises(ValidationError, match="optimizer 'lion' is unknown"):
        TextLength(steps=9, warmup_steps=1, eval_every=1, interval=1, usual={"lion": 1.0}, grids={})


@pytest.mark.parametrize("grid", [(), (2e-3, 1e-3), (1e-3, 1e-3)])
def test_grids_ascend(grid: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="must hold at least one rate, ascending"):
        TextLength(steps=9, warmup_steps=1, eval_every=1, interval=1, usual={}, grids={"adamw": grid})


@pytest.mark.parametrize("name", ["warmup_steps", "eval_every", "interval"])
def test_nothing_is_longer_than_a_run(name: str) -> None:
    numbers = {"steps": 10, "warmup_steps": 1, "eval_every": 1, "interval": 1}
    with pytest.raises(ValidationError, match=f"{name} is 10 where a run has 10 steps: set it below them"):
        Length(**{**numbers, name: 10})


def test_sequences_fit_the_context() -> None:
    with pytest.raises(ValidationError, match="sequence_length 64 is above the model's context 32"):
        TextConfig(model=ModelSpec(context=32))
