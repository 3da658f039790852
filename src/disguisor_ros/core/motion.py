"""How things move that accelerate at random, and stop by themselves."""

from __future__ import annotations

import numpy as np


def motion_noise(density: float, seconds: float | np.ndarray) -> np.ndarray:
    """Covariance of place and velocity along an axis after a time of random acceleration.

    Of white noise, so that what happens in a second does not depend on into how many steps it
    is divided (Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and
    Navigation, section 6.2.2).

    Parameters
    ----------
    density : float, m^2/s^3
        Spectral density of the acceleration.
    seconds : float or ndarray, shape (...)

    Returns
    -------
    ndarray, shape (2, 2, ...)
    """
    return density * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])


def fading_s(seconds: float | np.ndarray, over_s: float) -> float | np.ndarray:
    """How far something goes in a time, over its speed, when the speed fades over ``over_s``."""
    return over_s * (1.0 - np.exp(-seconds / over_s))
