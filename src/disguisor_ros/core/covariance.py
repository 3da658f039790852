"""Covariances of places: how far off something may be, and in which direction."""

from __future__ import annotations

import numpy as np


def largest_sigma(covariance: np.ndarray) -> float:
    """Standard deviation in the direction in which it is largest; NaN when it is not finite.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
    """
    if not np.isfinite(covariance).all():
        return float("nan")
    return float(np.sqrt(max(np.linalg.eigvalsh(covariance)[-1], 0.0)))


def bounded(covariance: np.ndarray, least: float = 0.0, most: float = np.inf) -> np.ndarray:
    """The covariance with standard deviations between two bounds, in each principal direction.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
    least, most : float
    """
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.clip(values, least**2, most**2)) @ vectors.T


def motion_noise(density: float, seconds: float) -> np.ndarray:
    """Covariance (2, 2) of place and velocity along an axis after a time of random acceleration.

    Of white noise, so that what happens in a second does not depend on into how many steps it
    is divided (Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and
    Navigation, section 6.2.2).

    Parameters
    ----------
    density : float, m^2/s^3
        Spectral density of the acceleration.
    seconds : float
    """
    return density * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
