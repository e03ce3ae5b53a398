import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leapverify.train.batches import Windows, batch_indices, make_batch

SIZES = st.integers(1, 40)


@given(SIZES, st.integers(1, 12), st.integers(0, 2**31), st.integers(0, 3))
def test_every_epoch_is_a_permutation(n_windows: int, batch_size: int, seed: int, epoch: int) -> None:
    steps = -(-n_windows * (epoch + 1) // batch_size)
    visited = [index for step in range(1, steps + 1) for index in batch_indices(n_windows, batch_size, step, seed)]
    assert sorted(visited[epoch * n_windows : (epoch + 1) * n_windows]) == list(range(n_windows))


@given(SIZES, st.integers(1, 12), st.integers(1, 1000), st.integers(0, 2**31))
def test_a_step_depends_on_its_number_and_the_seed_alone(n_windows: int, batch_size: int, step: int, seed: int) -> None:
    wanted = batch_indices(n_windows, batch_size, step, seed)
    for other in range(1, 7):
        batch_indices(n_windows, batch_size, step + other, seed + other)
    np.random.default_rng().random()
    assert batch_indices(n_windows, batch_size, step, seed) == wanted


def test_the_order_is_what_it_was_in_another_process() -> None:
    assert batch_indices(10, 4, 1, 42) + batch_indices(10, 4, 2, 42) + batch_indices(10, 4, 3, 42)[:2] == [
        int(index) for index in np.random.Generator(np.random.PCG64([42, 0])).permutation(10)
    ]


def test_seeds_and_epochs_differ() -> None:
    orders = [tuple(batch_indices(50, 50, step, seed)) for seed in range(5) for step in (1, 2, 3)]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int]) -> None:
    text = f"{numbers[0]} sequences, batch {numbers[1]}, step {numbers[2]}: each must be at least 1"
    with pytest.raises(ValueError, match=text):
        batch_indices(*numbers, seed=1)


@pytest.fixture
def windows() -> Windows:
    tokens = np.arange(100, 120, dtype=np.uint16)
    return Windows(tokens, np.array([0, 5, 7]), np.array([5, 7, 20]), length=6, pad_id=9)


def test_rows_are_padded_and_cut_to_the_length(windows: Windows) -> None:
    batch = windows.batch([1, 2, 0])
    assert batch.tokens.tolist() == [
        [105, 106, 9, 9, 9, 9],
        [107, 108, 109, 110, 111, 112],
        [100, 101, 102, 103, 104, 9],
    ]
    assert batch.mask.sum(dim=1).tolist() == [2, 6, 5]
    assert batch.tokens.dtype == torch.int64
    assert windows.sequence(0).tolist() == [100, 101, 102, 103, 104, 9]
    assert (len(batch), len(windows)) == (3, 3)


def test_counted_predictions_are_those_of_real_tokens(windows: Windows) -> None:
    batch = windows.batch([1, 2, 0])
    assert batch.counted is not None
    real = torch.zeros(3 * 5, dtype=torch.bool)
    real[batch.counted] = True
    assert torch.equal(real.view(3, 5), batch.mask[:, 1:])
    assert windows.batch([2]).counted is None


def test_a_batch_moves_as_a_whole(windows: Windows) -> None:
    moved = windows.batch([0, 1]).to("meta")
    assert moved.counted is not None
    assert {moved.tokens.device.type, moved.mask.device.type, moved.counted.device.type} == {"meta"}


@pytest.mark.parametrize(("device", "ahead"), [("meta", True), ("cpu", False)])
def test_the_host_reads_no_batch_that_is_still_on_its_way(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, device: str, ahead: bool
) -> None:
    """From a GPU to the host, a copy that nobody waits for would be read before it has arrived."""
    asked: list[bool] = []
    plain = torch.Tensor.to

    def to(tensor: torch.Tensor, *args: object, non_blocking: bool = False) -> torch.Tensor:
        asked.append(non_blocking)
        return plain(tensor, *args, non_blocking=non_blocking)

    monkeypatch.setattr(torch.Tensor, "to", to)
    windows.batch([0, 1]).to(device)
    assert set(asked) == {ahead}


def test_a_batch_without_padding_counts_everything() -> None:
    batch = make_batch(torch.zeros(2, 4, dtype=torch.int64))
    assert batch.counted is None
    assert bool(batch.mask.all())


@given(SIZES, st.data())
def test_spread_indices_are_different_and_even(n_windows: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, n_windows))
    row = np.zeros(n_windows, dtype=np.int64)
    found = Windows(row, row, row, length=2, pad_id=0).spread(count)
    assert len(set(found)) == count
    assert all(0 <= index < n_windows for index in found)
    gaps = np.diff([*found, n_windows + found[0]])
    assert gaps.max() - gaps.min() <= 1


def test_more_sequences_than_there_are_are_refused(windows: Windows) -> None:
    with pytest.raises(ValueError, match="4 sequences asked for where there are 3: ask for fewer, or give more text"):
        windows.spread(4)
