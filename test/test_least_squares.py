"""Levenberg-Marquardt over a batch."""

import numpy as np

from disguisor_ros.core.least_squares import levenberg_marquardt


def rosenbrock(point):
    """Residuals 10 (y - x^2) and 1 - x."""
    x, y = point.T
    residual = np.stack([10 * (y - x**2), 1 - x], axis=-1)
    zero = np.zeros_like(x)
    slope = np.stack([np.stack([-20 * x, zero + 10], -1), np.stack([zero - 1, zero], -1)], axis=1)
    gradient = np.einsum("bin,bi->bn", slope, residual)
    return (residual**2).sum(axis=1), gradient, slope.swapaxes(1, 2) @ slope


def test_each_problem_of_a_batch_reaches_its_minimum_and_the_start_is_left_alone():
    start = np.array([[-1.2, 1.0], [0.0, 0.0], [1.0, 1.0], [3.0, -2.0]])
    before = start.copy()
    (point,), cost, normal = levenberg_marquardt(
        rosenbrock, lambda point, step: (point + step,), (start,), 200
    )
    np.testing.assert_allclose(point, 1.0, atol=0.05)
    assert (cost < 1e-3).all() and normal.shape == (4, 2, 2)
    np.testing.assert_array_equal(start, before)
