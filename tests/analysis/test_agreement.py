"""Agreement in both forms: by hand, by counting, within bounds, and against chance."""

from collections import Counter

import numpy as np
import pytest

from leapverify.analysis.study.agreement import agreement

SHORT = {"u": "unknown", "c": "chaotic", "t": "transition", "s": "stable"}


@pytest.fixture
def labelled(checkpoint):
    """Checkpoints from one string of labels per seed."""
    return lambda *strips: [
        checkpoint(seed=42 + i, step=50 * (j + 1), regime=SHORT[label])
        for i, strip in enumerate(strips)
        for j, label in enumerate(strip)
    ]


def random_strips(seed, seeds, length):
    rng = np.random.default_rng(seed)
    return ["u" + "".join(rng.choice(list("cts"), size=length)) for _ in range(seeds)]


def test_by_hand(labelled):
    found = agreement(labelled("ucts", "ucss", "ucsc", "utss"))
    assert found.modal == pytest.approx((1 + 3 / 4 + 3 / 4 + 3 / 4) / 4)
    assert found.unanimous == pytest.approx(1 / 4)
    assert (found.n, found.seeds, found.reason) == (4, 4, None)


@pytest.mark.parametrize(("seeds", "length"), [(2, 9), (4, 39), (5, 39)])
def test_it_equals_counting(labelled, seeds, length):
    strips = random_strips(seeds, seeds, length)
    counts = [Counter(column).most_common(1)[0][1] for column in zip(*strips, strict=True)]
    found = agreement(labelled(*strips))
    assert found.modal == pytest.approx(sum(counts) / seeds / len(counts))
    assert found.unanimous == pytest.approx(sum(count == seeds for count in counts) / len(counts))
    assert found.modal * seeds * (length + 1) == pytest.approx(round(found.modal * seeds * (length + 1)))


@pytest.mark.parametrize("seed", range(5))
def test_unanimous_never_exceeds_modal(labelled, seed):
    found = agreement(labelled(*random_strips(seed, 4, 12)))
    assert 0.0 < found.unanimous < found.modal < 1.0
    assert found.modal >= 2 / 4  # four labels of three kinds: two are alike


def test_equal_seeds_agree_wholly_and_chance_says_how_much_that_is_worth(labelled):
    found = agreement(labelled("uccccttttssss", "uccccttttssss", "uccccttttssss"))
    assert (found.modal, found.unanimous) == (1.0, 1.0)
    mean, low, high = found.modal_chance
    assert low <= mean <= high < 1.0


def test_seeds_in_one_regime_agree_wholly_by_chance(labelled):
    found = agreement(labelled("ussss", "ussss"))
    assert (found.modal, found.modal_chance, found.unanimous_chance) == (1.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))


def test_chance_of_two_seeds_is_the_exact_expectation(labelled):
    # Shares of each regime are independent over checkpoints: P(agree) = sum of squared shares; modal = (1 + P)/2.
    strip = "c" * 20 + "t" * 12 + "s" * 8
    found = agreement(labelled("u" + strip, "u" + strip), shuffles=4000)
    agree = (20**2 + 12**2 + 8**2) / 40**2
    assert found.unanimous_chance[0] == pytest.approx((1 + 40 * agree) / 41, abs=0.005)
    assert found.modal_chance[0] == pytest.approx((1 + 40 * (1 + agree) / 2) / 41, abs=0.005)


def test_independent_labels_score_what_chance_says(labelled):
    inside = 0
    for seed in range(40):
        found = agreement(labelled(*random_strips(seed, 4, 30)), shuffles=100)
        inside += found.modal_chance[1] <= found.modal <= found.modal_chance[2]
    assert inside >= 32  # 95 % expected


def test_only_common_steps_count(labelled):
    rows = labelled("ucts", "uctt")
    assert agreement(rows[:-1]).modal == 1.0
    assert agreement(rows[:-1]).n == 3


def test_missing_agreement_says_why(labelled, checkpoint):
    assert agreement(labelled("ucts")).reason == "one seed cannot agree with another"
    apart = agreement([checkpoint(seed=1, step=50), checkpoint(seed=2, step=100)])
    assert (apart.modal, apart.reason) == (None, "the seeds share no step")
