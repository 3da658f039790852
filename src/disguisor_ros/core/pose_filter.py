"""Temporal filter on SE(3) for one head: nearly constant velocity in place and in rotation."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.motion import fading_s, motion_noise
from disguisor_ros.core.rotations import exp_so3, log_so3

#: Spectral densities of a head's acceleration: m^2/s^3 and rad^2/s^3.
AGILITY = 0.6
TURN_AGILITY = 15.0

#: Heads that turn stop turning over this time, seconds.
TURN_S = 0.2

#: Standard deviations of the velocities of a head seen for the first time: m/s and rad/s.
FIRST_VELOCITY = 0.5
FIRST_SPIN = 1.0

#: A gap longer than this, or an innovation larger than that, starts the filter anew.
MAX_GAP_S = 1.0
MAX_JUMP_M = 0.30

_EYE = np.eye(3)


class PoseFilter:
    """Kalman filters of position and velocity, and of rotation and spin on its tangent space.

    Parameters
    ----------
    rotation : ndarray, shape (3, 3)
        World <- head.
    translation : ndarray, shape (3,), metres, world
    covariance : ndarray, shape (6, 6)
        Of translation (metres) and rotation (radians, world axes).
    stamp_ns : int
    """

    def __init__(self, rotation, translation, covariance, stamp_ns: int):
        self._start(rotation, translation, covariance, stamp_ns)

    def _start(self, rotation, translation, covariance, stamp_ns) -> None:
        self.rotation, self.spin = rotation, np.zeros(3)
        self.translation, self.velocity = translation, np.zeros(3)
        self._place = _block_diagonal(covariance[:3, :3], FIRST_VELOCITY**2 * _EYE)
        self._turn = _block_diagonal(covariance[3:, 3:], FIRST_SPIN**2 * _EYE)
        self.stamp_ns = stamp_ns

    @property
    def covariance(self) -> np.ndarray:
        """Of translation and rotation, shape (6, 6)."""
        return _block_diagonal(self._place[:3, :3], self._turn[:3, :3])

    def predicted(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and translation expected at a stamp."""
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        turned = exp_so3(self.spin * fading_s(seconds, TURN_S))
        return turned @ self.rotation, self.translation + seconds * self.velocity

    def update(self, rotation, translation, covariance, stamp_ns: int) -> None:
        """Take a measured pose at a stamp; parameters as in the constructor."""
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        turned, moved = self.predicted(stamp_ns)
        jump = np.linalg.norm(translation - moved)
        if not 0 <= seconds <= MAX_GAP_S or jump > MAX_JUMP_M:
            self._start(rotation, translation, covariance, stamp_ns)
            return
        forward = np.array([[1.0, seconds], [0.0, 1.0]])
        noise = motion_noise(AGILITY, seconds)
        gain, self._place = _kalman(self._place, forward, noise, covariance[:3, :3])
        step = gain @ (translation - moved)
        self.translation, self.velocity = moved + step[:3], self.velocity + step[3:]
        left = np.exp(-seconds / TURN_S)
        forward = np.array([[1.0, fading_s(seconds, TURN_S)], [0.0, left]])
        noise = motion_noise(TURN_AGILITY, seconds)
        gain, self._turn = _kalman(self._turn, forward, noise, covariance[3:, 3:])
        step = gain @ log_so3(rotation @ turned.T)
        self.rotation, self.spin = exp_so3(step[:3]) @ turned, left * self.spin + step[3:]
        self.stamp_ns = stamp_ns


def _kalman(covariance, forward, noise, measured) -> tuple[np.ndarray, np.ndarray]:
    """Gain (6, 3) of a measurement, and the covariance (6, 6) after it.

    ``forward`` and ``noise`` (2, 2) are those of place and velocity along each axis.
    """
    forward = np.kron(forward, _EYE)
    prior = forward @ covariance @ forward.T + np.kron(noise, _EYE)
    gain = prior[:, :3] @ np.linalg.inv(prior[:3, :3] + measured)
    return gain, prior - gain @ prior[:3]


def _block_diagonal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    out = np.zeros((6, 6))
    out[:3, :3], out[3:, 3:] = first, second
    return out
