"""One value per seed: the mean always, spread and interval from two seeds on, reasons where something is missing."""

import math
import statistics

import pytest

from leapverify.analysis.over_seeds import summarise
from leapverify.core.statistics import bootstrap_interval


def test_mean_std_and_cov_equal_the_standard_librarys():
    values = {42: 0.2, 43: 0.5, 44: 0.3, 45: 0.9}
    found = summarise(values, n=40)
    column = list(values.values())
    assert found.mean == pytest.approx(statistics.mean(column))
    assert found.std == pytest.approx(statistics.stdev(column))
    assert found.cov_percent == pytest.approx(100 * statistics.stdev(column) / statistics.mean(column))
    assert (found.n, found.seeds, found.reason) == (40, 4, None)


def test_the_interval_over_few_seeds_is_wider_than_their_middle():
    found = summarise({1: 0.2, 2: 0.5, 3: 0.3, 4: 0.9, 5: 0.4}, n=5)
    assert found.low < 0.2 < found.mean < found.high < 0.9


def test_equal_seeds_have_no_width():
    found = summarise({1: 0.5, 2: 0.5, 3: 0.5}, n=3)
    assert (found.low, found.high, found.std, found.cov_percent) == (0.5, 0.5, 0.0, 0.0)


def test_order_of_the_seeds_is_of_no_account():
    assert summarise({2: 0.1, 1: 0.7}, n=2) == summarise({1: 0.7, 2: 0.1}, n=2)


def test_a_lower_level_gives_a_narrower_interval():
    values = {seed: math.sin(seed) for seed in range(9)}
    wide = summarise(values, n=9)
    narrow = bootstrap_interval([*values.values()], statistics.fmean, seed=0, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_missing_parts_are_none_and_say_why():
    one = summarise({42: 0.3}, n=7)
    assert (one.mean, one.std, one.cov_percent, one.low, one.high) == (0.3, None, None, None, None)
    assert one.reason == "one seed has no spread over seeds"
    zero = summarise({42: 0.0, 43: 0.0}, n=7)
    assert (zero.mean, zero.std, zero.cov_percent, zero.low) == (0.0, 0.0, None, 0.0)
    assert zero.reason == "a mean of 0 has no CoV"
    none = summarise({}, n=0, missing="nobody was there")
    assert (none.mean, none.std, none.low, none.seeds, none.reason) == (None, None, None, 0, "nobody was there")
