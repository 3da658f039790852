"""Covariances of places: how far off something may be, and in which direction."""

from __future__ import annotations

import numpy as np

#: A face is covered this many standard deviations of its place around.
MARGIN_SIGMAS = 1.7

#: Where the minor of each element of a matrix (3, 3) has its own, row by row.
_MINOR_A = np.array([4, 5, 3, 7, 8, 6, 1, 2, 0])
_MINOR_B = np.array([5, 3, 4, 8, 6, 7, 2, 0, 1])
_MINOR_C = np.array([7, 8, 6, 1, 2, 0, 4, 5, 3])
_MINOR_D = np.array([8, 6, 7, 2, 0, 1, 5, 3, 4])


def largest_sigma(covariance: np.ndarray) -> float:
    """Standard deviation in the direction in which it is largest; NaN when it is not finite.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
    """
    if not np.isfinite(covariance).all():
        return float("nan")
    return float(np.sqrt(max(np.linalg.eigvalsh(covariance)[-1], 0.0)))


def inverses(matrices: np.ndarray) -> np.ndarray:
    """Inverses of symmetric matrices, shape (..., 3, 3), by their cofactors.

    For many that is a third of the time of :func:`numpy.linalg.inv`.
    """
    m = matrices.reshape(-1, 9).T.copy()  # along a long last axis all is faster
    cofactors = m[_MINOR_A] * m[_MINOR_D] - m[_MINOR_B] * m[_MINOR_C]
    cofactors /= (m[:3] * cofactors[:3]).sum(axis=0)
    return cofactors.T.reshape(matrices.shape)


def bounded(covariance: np.ndarray, least: float = 0.0, most: float = np.inf) -> np.ndarray:
    """The covariance with standard deviations between two bounds, in each principal direction.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
    least, most : float
    """
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.clip(values, least**2, most**2)) @ vectors.T


def block_diagonal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Matrix (6, 6) of two (3, 3): of a pose whose place and turn tell nothing of each other."""
    out = np.zeros((6, 6))
    out[:3, :3], out[3:, 3:] = first, second
    return out


def pose_covariance(place: np.ndarray, turn_deg: float) -> np.ndarray:
    """Covariance (6, 6) of a pose, metres and radians.

    Parameters
    ----------
    place : ndarray, shape (3, 3), square metres
        Of the position.
    turn_deg : float
        Standard deviation of the rotation about each axis, degrees.
    """
    return block_diagonal(place, np.deg2rad(turn_deg) ** 2 * np.eye(3))


def place_confidence(variance: float) -> float:
    """Confidence, 0 to 1, in a head whose place has a variance, square metres: 0.78 at 6 cm."""
    return float(np.exp(-variance / 0.12**2))


def grown_along(covariance: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Covariance (3, 3) whose standard deviation along a way (3,), metres, is larger by that."""
    length = np.linalg.norm(way)
    if length == 0:
        return covariance
    sigma = np.sqrt(way @ covariance @ way) / length
    return covariance + ((1 + sigma / length) ** 2 - (sigma / length) ** 2) * np.outer(way, way)
