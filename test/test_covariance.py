"""Covariances of places."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from disguisor_ros.core.covariance import bounded, grown_along, largest_sigma, pose_covariance


def test_largest_sigma_is_that_of_the_worst_direction():
    assert largest_sigma(np.diag([0.04, 0.01, 0.09])) == 0.3
    assert np.isnan(largest_sigma(np.diag([np.nan, 1, 1])))


def test_bounds_hold_in_each_principal_direction():
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    out = bounded(turn @ np.diag([0.01, 0.25, 1.0]) @ turn.T, least=0.2, most=0.5)
    np.testing.assert_allclose(out, turn @ np.diag([0.04, 0.25, 0.25]) @ turn.T)


@given(st.lists(st.floats(-2, 2), min_size=9, max_size=9))
def test_what_is_within_the_bounds_is_not_changed(numbers):
    root = np.array(numbers).reshape(3, 3)
    np.testing.assert_allclose(bounded(root @ root.T), root @ root.T, atol=1e-9)


def test_a_pose_is_known_in_place_and_in_turn():
    place = np.array([[0.04, 0.01, 0], [0.01, 0.01, 0], [0, 0, 0.09]])
    out = pose_covariance(place, 180 / np.pi)
    np.testing.assert_allclose(out[:3, :3], place)
    np.testing.assert_allclose(out[3:, 3:], np.eye(3))
    assert not out[:3, 3:].any() and not out[3:, :3].any()


def test_grown_standard_deviations():
    """0.1, 0.2 and 0.3 m: only the one along a way of 5 cm is larger, by that."""
    covariance = np.diag([0.01, 0.04, 0.09])
    out = grown_along(covariance, np.array([0, -0.05, 0]))
    np.testing.assert_allclose(out, np.diag([0.1, 0.25, 0.3]) ** 2)
    np.testing.assert_array_equal(grown_along(covariance, np.zeros(3)), covariance)
