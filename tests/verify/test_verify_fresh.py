"""Fresh held-out batches: in order, without a trace in the run's random streams, and the same ones after a resume."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from leapverify.verify import Exhausted, FreshBatches


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(12)), batch_size=3, shuffle=True)


class Crops:
    """A set whose batches are cut at random from all three global streams, as augmentation does."""

    def __iter__(self) -> Iterator[tuple[float, float, float]]:
        for _ in range(4):
            yield random.random(), float(np.random.rand()), float(torch.rand(()))


def crop() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def streams() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, tuple(np.asarray(keys).tolist()), tuple(rest), tuple(torch.get_rng_state().tolist())


def take(fresh: FreshBatches) -> Any:
    """The next batch, in the next window if this one has no more."""
    try:
        return fresh.draw()
    except Exhausted:
        fresh.open_window()
        return fresh.draw()


def plain(batch: Any) -> Any:
    return [each.tolist() for each in batch] if isinstance(batch, (list, Tensor)) else batch


HELDOUT: dict[str, Callable[[], Any]] = {
    "list": lambda: [10, 11, 12],
    "shuffled loader": shuffled,
    "random crops": Crops,
    "function": lambda: crop,
}


@pytest.mark.failure(6)
@pytest.mark.parametrize("kind", HELDOUT)
def test_drawing_leaves_no_trace_in_the_random_streams(kind: str) -> None:
    before = streams()
    fresh = FreshBatches(HELDOUT[kind]())
    for _ in range(6):
        take(fresh)
    assert streams() == before


@pytest.mark.failure(9)
def test_a_failing_draw_leaves_no_trace_either() -> None:
    def broken() -> Any:
        torch.rand(())
        raise OSError("disk")

    before = streams()
    with pytest.raises(OSError, match="disk"):
        FreshBatches(broken).draw()
    assert streams() == before


@pytest.mark.failure(5)
@pytest.mark.parametrize("kind", HELDOUT)
def test_every_draw_is_the_same_after_a_resume(kind: str) -> None:
    whole = FreshBatches(HELDOUT[kind](), seed=5)
    expected = [plain(take(whole)) for _ in range(15)]
    for stop in (0, 1, 3, 4, 7, 12):
        first = FreshBatches(HELDOUT[kind](), seed=5)
        drawn = [plain(take(first)) for _ in range(stop)]
        torch.rand(3)  # the run goes on in between
        second = FreshBatches(HELDOUT[kind](), seed=5)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert (second.draws, second.passes, second.left) == (first.draws, first.passes, first.left)
        assert drawn + [plain(take(second)) for _ in range(15 - stop)] == expected


def test_random_batches_are_fresh_each_time_and_depend_on_the_seed_alone() -> None:
    first, again, other = (FreshBatches(crop, seed=seed) for seed in (0, 0, 1))
    drawn = [first.draw() for _ in range(20)]
    assert len(set(drawn)) == 20
    assert [again.draw() for _ in range(20)] == drawn
    assert not {other.draw() for _ in range(20)} & set(drawn)


def test_a_set_is_gone_through_in_order_and_begins_again() -> None:
    fresh = FreshBatches([10, 11, 12])
    assert (fresh.draws, fresh.size, fresh.passes) == (0, 3, 0.0)
    assert [take(fresh) for _ in range(7)] == [10, 11, 12, 10, 11, 12, 10]
    assert (fresh.draws, fresh.passes) == (7, 7 / 3)


def test_a_shuffled_loader_gives_every_row_once_a_pass_and_another_order_in_the_next() -> None:
    fresh = FreshBatches(shuffled())
    passes = [torch.cat([take(fresh)[0] for _ in range(4)]).tolist() for _ in range(2)]
    assert [sorted(each) for each in passes] == [list(range(12))] * 2
    assert passes[0] != passes[1]


def test_the_size_of_a_stream_is_known_once_it_was_gone_through() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    fresh = FreshBatches(DataLoader(Stream(), batch_size=2))
    assert (fresh.size, fresh.passes) == (None, None)
    drawn = [take(fresh).tolist() for _ in range(3)]
    assert drawn == [[0, 1], [2, 3], [0, 1]]
    assert (fresh.size, fresh.passes) == (2, 1.5)


def test_a_function_has_no_size_and_goes_forward_as_far_as_it_was() -> None:
    calls = iter(range(100))
    fresh = FreshBatches(lambda: next(calls))
    assert [fresh.draw() for _ in range(4)] == [0, 1, 2, 3]
    assert (fresh.draws, fresh.size, fresh.passes) == (4, None, None)
    anew = iter(range(100))
    resumed = FreshBatches(lambda: next(anew))
    resumed.load_state_dict(fresh.state_dict())
    assert resumed.draw() == 4
    fresh.load_state_dict({"draws": 2, "position": 0})
    assert (fresh.draws, fresh.draw()) == (2, 4)


# --- windows ----------------------------------------------------------------------------------------------------------


def window(fresh: FreshBatches, most: int = 100) -> list[Any]:
    """All that a new window gives, or the first so many."""
    fresh.open_window()
    given: list[Any] = []
    while len(given) < most:
        left = fresh.left
        try:
            given.append(plain(fresh.draw()))
        except Exhausted:
            assert left in (0, None)
            break
        assert left is None or left > 0
        assert left is None or fresh.left == left - 1
    return given


def test_a_window_of_a_list_gives_every_batch_once_from_wherever_it_begins() -> None:
    fresh = FreshBatches([10, 11, 12])
    assert window(fresh, 2) == [10, 11]
    assert window(fresh) == [12, 10, 11]
    assert window(fresh) == [12, 10, 11]
    with pytest.raises(Exhausted, match="all 3 held-out batches that this window gives have been used"):
        fresh.draw()
    assert fresh.draws == 8
    assert window(fresh, 1) == [12]


def test_the_first_window_is_open_from_the_beginning() -> None:
    fresh = FreshBatches([10])
    assert (fresh.left, fresh.draw(), fresh.left) == (1, 10, 0)
    with pytest.raises(Exhausted):
        fresh.draw()


def test_a_window_of_a_loader_ends_with_the_pass_and_the_next_begins_a_new_one() -> None:
    fresh = FreshBatches(shuffled())
    rows = [[row for [batch] in window(fresh, most) for row in batch] for most in (3, 9, 9, 1, 9)]
    assert [len(each) for each in rows] == [9, 3, 12, 3, 9]
    assert all(len(set(each)) == len(each) for each in rows)
    assert sorted(rows[0] + rows[1]) == sorted(rows[2]) == sorted(rows[3] + rows[4]) == list(range(12))


def test_no_window_begins_where_the_pass_holds_too_little_for_a_decision() -> None:
    fresh = FreshBatches(shuffled())
    fresh.require(3, 6)
    assert len(window(fresh, 3)) == 3
    assert len(window(fresh)) == 4  # one was left
    assert len(window(fresh, 2)) == 2
    assert len(window(fresh)) == 2  # two were left


def test_a_stream_tells_its_size_at_its_end_and_a_function_never_ends() -> None:
    class Stream:
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    stream = FreshBatches(Stream())
    assert (stream.left, window(stream), stream.left) == (None, [0, 1, 2, 3], 0)
    assert (window(stream, 1), stream.left) == ([0], 3)
    function = FreshBatches(crop)
    assert (len(window(function)), function.left) == (100, None)


@pytest.mark.failure(5)
@pytest.mark.parametrize("kind", HELDOUT)
def test_a_window_goes_on_after_a_resume(kind: str) -> None:
    for before in range(8):
        whole, resumed = FreshBatches(HELDOUT[kind]()), FreshBatches(HELDOUT[kind]())
        window(whole, 2)
        window(whole, before)
        resumed.load_state_dict(whole.state_dict())
        for fresh in (whole, resumed):
            fresh.open_window = lambda: None  # type: ignore[method-assign]
        assert resumed.left == whole.left
        assert window(resumed, 9) == window(whole, 9)


@pytest.mark.parametrize(
    ("count", "each", "sequences", "message"),
    [
        (1, 64, 80, r"has 64 sequences \(1 batch\), and 128 are needed .* give at least 2 such batches$"),
        (1, 64, 16, r"has 64 sequences \(1 batch\), and 128 are needed"),
        (2, 8, 24, r"has 16 sequences \(2 batches\), and 24 are needed .* give at least 3 such batches$"),
        (16, 1, 17, "at least 17 such batches, or a loss function that gives one loss for each sequence"),
    ],
)
def test_a_set_that_is_too_small_is_named(count: int, each: int, sequences: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FreshBatches(list(range(count))).require(each, sequences)
    FreshBatches(list(range(100))).require(each, sequences)
    FreshBatches(crop).require(each, sequences)


def test_a_stream_that_turns_out_too_small_is_named_at_its_end() -> None:
    class Stream:
        def __iter__(self) -> Iterator[int]:
            return iter(range(2))

    fresh = FreshBatches(Stream())
    fresh.require(8, 24)
    assert (fresh.draw(), fresh.draw()) == (0, 1)
    with pytest.raises(ValueError, match=r"has 16 sequences \(2 batches\), and 24 are needed"):
        fresh.draw()


@pytest.mark.parametrize(
    ("heldout", "message"),
    [
        (None, "no held-out data were given: pass a list of batches or a function that gives a fresh batch"),
        ([], r"the held-out set is empty \(0 batches\): give at least one batch"),
        (iter([1, 2]), r"a list_iterator, which can be read only once: .*lambda: next\(it\)"),
        ((x for x in [1]), "a generator, which can be read only once"),
        ({"input_ids": 1}, "a dict, one batch and no set: put it into a list"),
        (torch.zeros(2, 3), "a Tensor, one batch and no set: put it into a list"),
        (7, "a int, which holds no batches"),
    ],
)
def test_what_is_no_held_out_set_is_named(heldout: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FreshBatches(heldout)


class ReadOnce:
    """Looks like a set, and is exhausted after one pass."""

    def __init__(self, count: int) -> None:
        self.rows = iter(range(count))

    def __iter__(self) -> Iterator[int]:
        return self.rows


def test_what_only_shows_while_drawing_is_named() -> None:
    with pytest.raises(ValueError, match="the held-out set is empty"):
        FreshBatches(ReadOnce(0)).draw()
    once = FreshBatches(ReadOnce(2))
    assert [once.draw(), once.draw()] == [0, 1]
    once.open_window()
    with pytest.raises(ValueError, match="gave nothing when it was gone through again after 2 batches"):
        once.draw()
    ends = iter([1])
    short = FreshBatches(lambda: next(ends))
    short.draw()
    with pytest.raises(ValueError, match="no batch left after 1 draws: give one that never ends"):
        short.draw()
    with pytest.raises(ValueError, match="the held-out function returned nothing: return one batch a call"):
        FreshBatches(lambda: None).draw()


def test_a_state_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="is no state of held-out batches: pass what state_dict"):
        FreshBatches([1]).load_state_dict({"draws": 1})
    long = FreshBatches([1, 2, 3])
    for _ in range(3):
        long.draw()
    with pytest.raises(ValueError, match="ended before its batch 3, where the run had been: give the same set again"):
        FreshBatches([1, 2]).load_state_dict(long.state_dict())
    with pytest.raises(ValueError, match="seed = -1"):
        FreshBatches([1], seed=-1)
