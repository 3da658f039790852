"""Levenberg-Marquardt over many small problems of one kind at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def levenberg_marquardt(
    linearize: Callable, retract: Callable, start: tuple[np.ndarray, ...], iterations: int
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Minimise B sums of squares, each with a damping of its own (Marquardt 1963).

    Parameters
    ----------
    linearize : callable
        State to cost (B,), gradient (B, n) and Gauss-Newton matrix (B, n, n), each of them half
        the derivative of the cost.
    retract : callable
        State and step (B, n) to the state moved by the step.
    start : tuple of ndarray, shapes (B, ...)
        State to begin with; it is left as it is.
    iterations : int
        At most so many; it ends when no cost changes by a thousandth.

    Returns
    -------
    state : tuple of ndarray
    cost : ndarray, shape (B,)
    normal : ndarray, shape (B, n, n)
        Gauss-Newton matrix there.
    """
    state = tuple(part.copy() for part in start)
    cost, gradient, normal = linearize(*state)
    damping = np.full(len(cost), 1e-3)
    for _ in range(iterations):
        diagonal = np.einsum("bii->bi", normal)
        damped = (damping[:, None] * diagonal + 1e-9)[..., None] * np.eye(diagonal.shape[1])
        step = -np.linalg.solve(normal + damped, gradient[..., None])[..., 0]
        trial = retract(*state, step)
        terms = linearize(*trial)
        better = terms[0] < cost
        done = np.abs(cost - terms[0]) < 1e-3 * cost
        damping = np.where(better, damping * 0.2, damping * 8.0)
        for kept, new in zip((*state, cost, gradient, normal), (*trial, *terms), strict=True):
            kept[better] = new[better]
        if done.all():
            break
    return state, cost, normal
