"""Temporal filter on SE(3) for one head: nearly constant velocity in place and in rotation."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.covariance import block_diagonal
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

#: A gap longer than this starts the filter anew, and so does an innovation that is larger than
#: that, metres, and than so many of its standard deviations: a guessed distance may leap.
MAX_GAP_S = 1.0
MAX_JUMP_M = 0.30
MAX_JUMP_SIGMAS = 2.0

#: The steady pose keeps still over this time, seconds, as long as it agrees with the filter.
CALM_S = 0.2

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

    Attributes
    ----------
    rotation, translation
        Of the filter.
    steady_rotation, steady_translation
        The same with less tremble: it follows the filter's the less, the better both agree, and
        is never farther from it than 0.4 standard deviations (times the slack) of a measurement,
        however that moves.
    """

    def __init__(self, rotation, translation, covariance, stamp_ns: int):
        self._start(rotation, translation, covariance, stamp_ns)

    def _start(self, rotation, translation, covariance, stamp_ns) -> None:
        self.rotation, self.spin = rotation, np.zeros(3)
        self.translation, self.velocity = translation, np.zeros(3)
        self.steady_rotation, self.steady_translation = rotation, translation
        self._place = block_diagonal(covariance[:3, :3], FIRST_VELOCITY**2 * _EYE)
        self._turn = block_diagonal(covariance[3:, 3:], FIRST_SPIN**2 * _EYE)
        self.stamp_ns = stamp_ns

    @property
    def covariance(self) -> np.ndarray:
        """Of translation and rotation, shape (6, 6)."""
        return block_diagonal(self._place[:3, :3], self._turn[:3, :3])

    @property
    def calmed(self) -> tuple[np.ndarray, np.ndarray]:
        """From the steady pose to the filter's: way (3,), metres, and turn (3,), radians."""
        turn = log_so3(self.rotation @ self.steady_rotation.T)
        return self.translation - self.steady_translation, turn

    def predicted(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (3, 3) and translation (3,), metres, that are expected at a stamp."""
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        turned = exp_so3(self.spin * fading_s(seconds, TURN_S))
        return turned @ self.rotation, self.translation + seconds * self.velocity

    def update(self, rotation, translation, covariance, stamp_ns: int, slack=1.0) -> None:
        """Take a measured pose at a stamp; parameters as in the constructor.

        ``slack`` is from how many standard deviations of the measurement on the steady pose
        follows at once.
        """
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        if not 0 <= seconds <= MAX_GAP_S:
            self._start(rotation, translation, covariance, stamp_ns)
            return
        turned, moved = self.predicted(stamp_ns)
        off = translation - moved
        forward = np.array([[1.0, seconds], [0.0, 1.0]])
        prior = _predicted(self._place, forward, motion_noise(AGILITY, seconds))
        leap = _sigmas(off, prior[:3, :3] + covariance[:3, :3]) > MAX_JUMP_SIGMAS
        if leap and np.linalg.norm(off) > MAX_JUMP_M:
            self._start(rotation, translation, covariance, stamp_ns)
            return
        gain, self._place = _kalman(prior, covariance[:3, :3])
        step = gain @ off
        self.translation, self.velocity = moved + step[:3], self.velocity + step[3:]
        left = np.exp(-seconds / TURN_S)
        forward = np.array([[1.0, fading_s(seconds, TURN_S)], [0.0, left]])
        prior = _predicted(self._turn, forward, motion_noise(TURN_AGILITY, seconds))
        gain, self._turn = _kalman(prior, covariance[3:, 3:])
        step = gain @ log_so3(rotation @ turned.T)
        self.rotation, self.spin = exp_so3(step[:3]) @ turned, left * self.spin + step[3:]
        self.stamp_ns = stamp_ns
        self._calm(np.exp(-seconds / CALM_S), slack**2 * covariance)

    def _calm(self, still: float, covariance: np.ndarray) -> None:
        """Move the steady pose towards the filter's; ``still``, 0 to 1, is how far it need not.

        It follows at once what is off by a standard deviation (``covariance``, (6, 6)).
        """
        off, turn = self.calmed
        agrees = still * max(1 - _sigmas(off, covariance[:3, :3]) ** 2, 0.0)
        self.steady_translation = self.translation - agrees * off
        agrees = still * max(1 - _sigmas(turn, covariance[3:, 3:]) ** 2, 0.0)
        self.steady_rotation = exp_so3(-agrees * turn) @ self.rotation


def _sigmas(off: np.ndarray, covariance: np.ndarray) -> float:
    """How many standard deviations something (3,) is off (Mahalanobis)."""
    return float(np.sqrt(off @ np.linalg.solve(covariance, off)))


def _predicted(covariance, forward, noise) -> np.ndarray:
    """Covariance (6, 6) after a motion; ``forward`` and ``noise`` (2, 2) are those of an axis."""
    forward = np.kron(forward, _EYE)
    return forward @ covariance @ forward.T + np.kron(noise, _EYE)


def _kalman(prior, measured) -> tuple[np.ndarray, np.ndarray]:
    """Gain (6, 3) of a measurement of the place, and the covariance (6, 6) after it."""
    gain = prior[:, :3] @ np.linalg.inv(prior[:3, :3] + measured)
    return gain, prior - gain @ prior[:3]
