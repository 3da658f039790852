"""Who belongs to whom."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from disguisor_ros.core.assignment import assign


def test_the_least_sum_wins_over_the_least_pair():
    rows, columns = assign(np.array([[1.0, 2.0, 9.0], [2.0, 9.0, 9.0]]))
    np.testing.assert_array_equal(rows, [0, 1])
    np.testing.assert_array_equal(columns, [1, 0])


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_costs_as_little_as_scipy(seed, rows, columns):
    cost = np.random.default_rng(seed).choice([-3.0, 0.0, 0.5, 2.0, 1e3], (rows, columns))
    found, best = assign(cost), linear_sum_assignment(cost)
    assert len(found[0]) == min(rows, columns) == len(set(found[1]))
    assert cost[found].sum() == pytest.approx(cost[best].sum())


@pytest.mark.parametrize("never", [np.nan, np.inf])
def test_who_does_not_go_together_stays_alone(never):
    rows, columns = assign(np.array([[never, 1.0], [never, 2.0]]))
    assert rows.tolist() == [0] and columns.tolist() == [1]
    assert not len(assign(np.full((2, 2), never))[0])
