"""Temporal filter on SE(3) for one head: constant velocity in place, random walk in rotation."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.covariance import motion_noise
from disguisor_ros.core.rotations import exp_so3, log_so3

#: Spectral density of a head's acceleration, m^2/s^3.
AGILITY = 0.4

#: Random walk of a head's rotation, degrees per root second.
WALK_DEG = 35.0

#: Standard deviation of the velocity of a head seen for the first time, m/s.
FIRST_VELOCITY = 0.5

#: A gap longer than this, or an innovation larger than that, starts the filter anew.
MAX_GAP_S = 1.0
MAX_JUMP_M = 0.30


class PoseFilter:
    """Kalman filter of position and velocity, and of rotation on its tangent space.

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
        self.rotation = rotation
        self.motion = np.concatenate([translation, np.zeros(3)])
        self.motion_covariance = np.zeros((6, 6))
        self.motion_covariance[:3, :3] = covariance[:3, :3]
        self.motion_covariance[3:, 3:] = FIRST_VELOCITY**2 * np.eye(3)
        self.rotation_covariance = covariance[3:, 3:]
        self.stamp_ns = stamp_ns

    @property
    def translation(self) -> np.ndarray:
        """Position at the filter's stamp, shape (3,), metres, world."""
        return self.motion[:3]

    @property
    def covariance(self) -> np.ndarray:
        """Of translation and rotation, shape (6, 6)."""
        out = np.zeros((6, 6))
        out[:3, :3] = self.motion_covariance[:3, :3]
        out[3:, 3:] = self.rotation_covariance
        return out

    def predicted(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and translation expected at a stamp."""
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        return self.rotation, self.motion[:3] + seconds * self.motion[3:]

    def update(self, rotation, translation, covariance, stamp_ns: int) -> None:
        """Take a measured pose at a stamp; parameters as in the constructor."""
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        _, expected = self.predicted(stamp_ns)
        jump = np.linalg.norm(translation - expected)
        if not 0 <= seconds <= MAX_GAP_S or jump > MAX_JUMP_M:
            self._start(rotation, translation, covariance, stamp_ns)
            return
        forward = np.eye(6)
        forward[:3, 3:] = seconds * np.eye(3)
        prior = forward @ self.motion_covariance @ forward.T
        prior += np.kron(motion_noise(AGILITY, seconds), np.eye(3))
        gain = prior[:, :3] @ np.linalg.inv(prior[:3, :3] + covariance[:3, :3])
        motion = forward @ self.motion
        self.motion = motion + gain @ (translation - motion[:3])
        self.motion_covariance = prior - gain @ prior[:3]
        walked = self.rotation_covariance + np.deg2rad(WALK_DEG) ** 2 * seconds * np.eye(3)
        gain = walked @ np.linalg.inv(walked + covariance[3:, 3:])
        self.rotation = exp_so3(gain @ log_so3(rotation @ self.rotation.T)) @ self.rotation
        self.rotation_covariance = walked - gain @ walked
        self.stamp_ns = stamp_ns
