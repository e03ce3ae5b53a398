import math
import random
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leapverify.race.config import RaceConfig
from leapverify.race.optimizers import make_optimizers
from leapverify.race.presets import preset
from leapverify.race.tasks import Material, RaceTask, build_tasks
from leapverify.train.documents import load_documents

Make = Callable[[str, int], Material]
NAMES = ("pretrain", "finetune", "lora", "convex", "noise")


def written(folder: Path, seed: int) -> str:
    chance = random.Random(seed)
    for number in range(60):
        lines = [" ".join(f"{chance.randrange(10**9):x}" for _ in range(8)) for _ in range(6)]
        (folder / f"document-{number:02d}.txt").write_text("\n\n".join(lines))
    return f"text:{folder}"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RaceConfig:
    sources = [written(tmp_path_factory.mktemp("text"), seed) for seed in (0, 1)]
    tree: dict[str, Any] = preset("tiny").model_dump()
    tree["text"]["model"] |= {"layers": 1, "hidden": 16, "heads": 2, "context": 32}
    tree["text"] |= {"source": sources[0], "batch_size": 2, "sequence_length": 16, "heldout_batch": 5}
    tree["text"] |= {"val_sequences": 70, "base_steps": 4}
    return RaceConfig.model_validate({**tree, "data": sources[1], "device": "cpu"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("race")


@pytest.fixture(scope="module")
def make(config: RaceConfig, folder: Path) -> Make:
    tasks = build_tasks(config)

    def material(name: str, seed: int) -> Material:
        tasks[name].prepare(seed, folder)
        return tasks[name].material(seed, folder)

    return material


def tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch if isinstance(batch, tuple | list) else [getattr(batch, each.name) for each in fields(batch)]
    return [part for part in parts if isinstance(part, Tensor)]


def numbers(material: Material, draws: int = 3) -> list[Tensor]:
    batches = [material.batch(1), material.batch(7), *(material.heldout() for _ in range(draws)), *material.val()]
    return [*material.model.state_dict().values(), *(t for batch in batches for t in tensors(batch)), material.probes]


def rows(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def sequences(batches: list[Any]) -> set[tuple[int, ...]]:
    return {tuple(row) for batch in batches for row in batch.tokens.tolist()}


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_material_each_time(name: str, make: Make) -> None:
    before = torch.get_rng_state()
    first, again = make(name, 3), make(name, 3)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(numbers(first), numbers(again), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_has_other_weights_and_batches(name: str, make: Make) -> None:
    one, other = make(name, 3), make(name, 4)
    differ = [not torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)]
    assert any(differ)
    for draw in (lambda each: each.batch(1), lambda each: each.heldout()):
        assert not torch.equal(tensors(draw(one))[0], tensors(draw(other))[0])


@pytest.mark.parametrize("name", NAMES)
def test_held_out_batches_do_not_depend_on_what_is_trained(name: str, make: Make) -> None:
    one, other = make(name, 3), make(name, 3)
    for step in range(1, 5):
        one.loss(one.model, one.batch(step)).backward()
    assert torch.equal(tensors(one.heldout())[0], tensors(other.heldout())[0])
    assert not torch.equal(tensors(one.heldout())[0], tensors(one.batch(1))[0][: len(tensors(one.heldout())[0])])


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_rows_average_to_the_loss(name: str, make: Make) -> None:
    material = make(name, 3)
    batch = material.batch(1)
    assert material.model.training
    mean = float(rows(material.losses(material.model, batch)).mean().detach())
    assert mean == pytest.approx(float(material.loss(material.model, batch).detach()), rel=1e-5)
    positions = tensors(batch)[0].numel() if name in ("pretrain", "finetune", "lora") else len(tensors(batch)[0])
    assert material.step_positions == positions


@pytest.mark.parametrize("name", NAMES)
def test_tasks_say_how_they_are_run(name: str, config: RaceConfig) -> None:
    task = build_tasks(config)[name]
    assert isinstance(task, RaceTask)
    assert task.name == name
    assert task.schedule == ("constant" if name in ("convex", "noise") else "cosine")
    for optimizer in task.optimizers:
        grid = task.grid(optimizer)
        assert list(grid) == sorted(grid)
        assert "usual" not in task.rates_of(optimizer) or task.usual_lr(optimizer) > 0
    with pytest.raises(ValueError, match=f"task {name} is not run with lion: give {task.optimizers[0]}"):
        task.grid("lion")


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_three_sets_share_no_sequence(name: str, make: Make) -> None:
    material = make(name, 3)
    assert material.heldout_size is not None
    train = sequences([material.batch(step) for step in range(1, 60)])
    heldout = sequences([material.heldout() for _ in range(2 * material.heldout_size)])
    val = sequences(material.val())
    assert len(val) == 70
    assert not train & heldout
    assert not train & val
    assert not heldout & val


def test_held_out_text_is_gone_through_once_a_pass(make: Make) -> None:
    material = make("pretrain", 3)
    assert material.heldout_size is not None
    drawn = [tuple(row) for _ in range(2 * material.heldout_size) for row in material.heldout().tokens.tolist()]
    every = {*drawn}
    count = len(every)
    assert -(-count // 5) == material.heldout_size
    assert {*drawn[:count]} == every
    assert {*drawn[count : 2 * count]} == every
    assert drawn[:count] != drawn[count : 2 * count]


def test_the_base_model_is_pre_trained_once_and_shared(make: Make, config: RaceConfig, folder: Path) -> None:
    tuned = make("finetune", 5)
    path = folder / "base-seed-5.safetensors"
    written_at = path.stat().st_mtime_ns
    lora, start = make("lora", 5), make("pretrain", 5)
    assert path.stat().st_mtime_ns == written_at
    batch = tuned.batch(1)
    losses = [float(each.loss(each.model, batch).detach()) for each in (tuned, lora, start)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_a_base_model_of_another_recipe_is_made_again(config: RaceConfig, tmp_path: Path) -> None:
    build_tasks(config)["lora"].prepare(0, tmp_path)
    longer = config.model_copy(update={"text": config.text.model_copy(update={"base_steps": 5})})
    task = build_tasks(longer)["lora"]
    with pytest.raises(ValueError, match="was pre-trained by another recipe"):
        task.material(0, tmp_path)
    task.prepare(0, tmp_path)
    task.material(0, tmp_path)


def test_a_base_model_that_is_missing_is_named(config: RaceConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base-seed-0.safetensors is missing: call prepare\(seed, folder\) before"):
        build_tasks(config)["finetune"].material(0, tmp_path)


def test_lora_trains_adapters_of_all_matrices_and_nothing_else(make: Make) -> None:
    model = make("lora", 3).model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 4
    assert all("lora_" in name for name in trained)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(make, "lora", "adamw", 1e-2, 3, model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained


def test_lora_without_peft_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"lora needs the package peft: pip install 'leapverify\[race\]'"):
        make("lora", 3)


def train(
    make: Make,
    name: str,
    optimizer: str,
    lr: float,
    steps: int,
    model: nn.Module | None = None,
) -> list[float]:
    material = make(name, 3)
    model = model or material.model
    optimizers, losses = make_optimizers(optimizer, model, lr), []
    for step in range(1, steps + 1):
        loss = material.loss(model, material.batch(step))
        losses.append(float(loss.detach()))
        model.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
    return losses


@pytest.mark.parametrize(
    ("name", "optimizer", "lr"),
    [
        ("pretrain", "adamw", 1e-2),
        ("pretrain", "muon", 2e-2),
        ("finetune", "muon", 2e-2),
        ("lora", "adamw", 2e-2),
        ("convex", "adamw", 0.125),
    ],
)
def test_training_lowers_the_loss(name: str, optimizer: str, lr: float, make: Make) -> None:
    losses = train(make, name, optimizer, lr, 30)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_convex_rate_is_held_down_by_one_direction(make: Make) -> None:
    """The grid's last rate but one trains, its last diverges; the curvatures say that it must."""
    features, _ = make("convex", 3).batch(1)
    curvatures = torch.linalg.eigvalsh(features.double().T @ features.double() / len(features))
    edge = 2 * (1 + 0.9) / float(curvatures[-1])
    assert 0.0625 < edge < 0.125
    assert float(curvatures[-1] / curvatures[-2]) > 1e4
    falling = train(make, "convex", "sgd", 0.0625, 60)
    assert falling[-1] < falling[0]
    assert not train(make, "convex", "sgd", 0.125, 60)[-1] < 1e3


def test_convex_trajectories_are_nearly_lines(make: Make) -> None:
    """Fifty steps, twice: both displacements point the same way, and a leap of a hundred more lowers the loss."""
    material = make("convex", 3)
    (optimizer,) = make_optimizers("sgd", material.model, 0.0625)
    weight, states = material.model.get_parameter("head.weight"), []
    for step in range(1, 201):
        material.loss(material.model, material.batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (100, 150, 200):
            states.append(weight.detach().clone())
    one, two = states[1] - states[0], states[2] - states[1]
    assert float(torch.cosine_similarity(one.flatten(), two.flatten(), dim=0)) > 0.99
    batch = material.heldout()
    with torch.no_grad():
        now = rows(material.losses(material.model, batch)).mean()
        weight.add_(two, alpha=2.0)
        assert rows(material.losses(material.model, batch)).mean() < 0.95 * now


def test_noise_starts_at_its_best(make: Make) -> None:
    material = make("noise", 3)
    losses = rows(material.losses(material.model, material.batch(1)))
    assert torch.allclose(losses, torch.full_like(losses, math.log(8)))
    train(make, "noise", "adamw", 1e-2, 50, material.model)
    with torch.no_grad():
        reported = rows(material.losses(material.model, material.val()[0])).mean()
    assert float(reported) > math.log(8)


def test_tasks_run_with_those_of_their_optimizers_that_are_asked_for(config: RaceConfig) -> None:
    tasks = build_tasks(config.model_copy(update={"optimizers": ("muon", "adamw")}))
    assert list(tasks) == list(NAMES)
    assert {name: task.optimizers for name, task in tasks.items()} == {
        "pretrain": ("adamw", "muon"),
        "finetune": ("adamw", "muon"),
        "lora": ("adamw",),
        "convex": ("adamw",),
        "noise": ("adamw",),
    }
    with pytest.raises(ValueError, match="task lora is run with adamw, the race with muon: add one of its optimizers"):
        build_tasks(config.model_copy(update={"optimizers": ("muon",), "tasks": ("lora",)}))


def test_the_librarys_prose_is_not_among_its_code() -> None:
    prose, code = list(load_documents("stdlib-prose")), list(load_documents("stdlib-code"))
    everything = list(load_documents("stdlib"))
    assert len({document.name for document in prose}) == len(prose) > 100
    assert all(document.text.strip() for document in prose)
    left_out = {document.name for document in everything} - {document.name for document in code}
    assert left_out
    assert {name.partition("/")[0] for name in left_out} == {"pydoc_data"}


def test_paragraphs_of_the_prose_occur_once() -> None:
    chapters: dict[str, str] = {}
    for document in load_documents("stdlib-prose"):
        name = document.name.partition("#")[0]
        chapters[name] = chapters.get(name, "") + document.text
    paragraphs = [" ".join(part.split()) for text in chapters.values() for part in text.split("\n\n")]
    long = [paragraph for paragraph in paragraphs if len(paragraph) > 80]
    assert len(long) == len({*long}) > 500


def test_a_python_without_its_manual_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="without pydoc_data, give text:PATH instead of stdlib-prose"):
        list(load_documents("stdlib-prose"))
