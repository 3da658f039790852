"""Identity and motion of people over time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Unforeseen acceleration of a joint, standard deviation, m/s^2.
_ACCELERATION = 6.0

#: Velocities fade over this time, seconds: people stop.
_FADE_S = 0.4

#: A body that was not seen for longer is not extrapolated further, seconds.
_HORIZON_S = 0.5


#: Ears, shoulders and hips.
_TRUNK = [3, 4, 5, 6, 11, 12]


@dataclass
class Track:
    """A person over time.

    Parameters
    ----------
    track_id : int
    joints : ndarray, shape (17, 3), metres, world
    covariance : ndarray, shape (17, 3, 3), square metres
    stamp_ns : int
        When the joints were last measured.
    velocity : ndarray, shape (17, 3), m/s
    velocity_variance : ndarray, shape (17,)
    age, hits : int
        Instants since birth, and those at which the person was seen.
    """

    track_id: int
    joints: np.ndarray
    covariance: np.ndarray
    stamp_ns: int
    velocity: np.ndarray = field(default_factory=lambda: np.zeros((17, 3)))
    velocity_variance: np.ndarray = field(default_factory=lambda: np.full(17, 0.5**2))
    age: int = 0
    hits: int = 0

    def missed_s(self, stamp_ns: int) -> float:
        """Seconds since the person was last seen."""
        return (stamp_ns - self.stamp_ns) * 1e-9

    def predict(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Joints at a later time, (17, 3), and their variance per axis, (17,)."""
        elapsed = self.missed_s(stamp_ns)
        moving = _FADE_S * (1.0 - np.exp(-min(elapsed, _HORIZON_S) / _FADE_S))
        joints = self.joints + self.velocity * moving
        variance = np.trace(self.covariance, axis1=1, axis2=2) / 3.0
        variance = variance + self.velocity_variance * elapsed**2
        return joints, variance + 0.25 * (_ACCELERATION * min(elapsed, _HORIZON_S) ** 2) ** 2

    def update(self, joints: np.ndarray, covariance: np.ndarray, stamp_ns: int) -> None:
        """Take over joints that were estimated with the prediction as prior."""
        elapsed = self.missed_s(stamp_ns)
        if elapsed > 0:
            expected, variance = self.predict(stamp_ns)
            motion = self.velocity_variance + (_ACCELERATION * min(elapsed, _HORIZON_S)) ** 2
            noise = np.trace(covariance, axis1=1, axis2=2) / 3.0 + variance
            gain = motion * elapsed**2 / (motion * elapsed**2 + noise)
            fading = np.exp(-elapsed / _FADE_S)
            self.velocity = self.velocity * fading + (
                (gain / elapsed)[:, None] * (joints - expected)
            )
            self.velocity_variance = np.clip(motion * (1.0 - gain), 0.05**2, 1.5**2)
        self.joints, self.covariance, self.stamp_ns = joints, covariance, stamp_ns
        self.hits += 1


def body_distance(joints_a: np.ndarray, joints_b: np.ndarray) -> np.ndarray:
    """Distance of bodies: mean over ears, shoulders and hips, metres.

    Parameters
    ----------
    joints_a, joints_b : ndarray, shape (..., 17, 3), metres, world
        Broadcast against each other.
    """
    offset = joints_a[..., _TRUNK, :] - joints_b[..., _TRUNK, :]
    return np.linalg.norm(offset, axis=-1).mean(axis=-1)
