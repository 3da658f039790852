"""Identity and motion of people over time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Unforeseen acceleration of a joint, standard deviation, m/s^2.
_ACCELERATION = 6.0

#: Velocities fade over this time, seconds: people stop.
_FADE_S = 0.8

#: A body that was not seen for longer is not extrapolated further, seconds.
_HORIZON_S = 0.5


#: Ears, shoulders and hips.
_TRUNK = [3, 4, 5, 6, 11, 12]


@dataclass
class Prediction:
    """Joints of a track at an instant, (17, 3), and their variance per axis, (17,)."""

    joints: np.ndarray
    variance: np.ndarray


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
    anchored : bool
        Whether the distance was ever measured, by two views or by depth.
    age, hits : int
        Instants since birth, and those at which the person was seen.
    cameras : set of str
        That saw the person last.
    """

    track_id: int
    joints: np.ndarray
    covariance: np.ndarray
    stamp_ns: int
    velocity: np.ndarray = field(default_factory=lambda: np.zeros((17, 3)))
    velocity_variance: np.ndarray = field(default_factory=lambda: np.full(17, 0.5**2))
    anchored: bool = False
    age: int = 0
    hits: int = 1
    cameras: set[str] = field(default_factory=set)

    def missed_s(self, stamp_ns: int) -> float:
        """Seconds since the person was last seen."""
        return (stamp_ns - self.stamp_ns) * 1e-9

    def predict(self, stamp_ns: int) -> Prediction:
        """Where the person is at a later time."""
        elapsed = self.missed_s(stamp_ns)
        moving = _FADE_S * (1.0 - np.exp(-min(elapsed, _HORIZON_S) / _FADE_S))
        variance = _per_axis(self.covariance) + self.velocity_variance * elapsed**2
        variance += 0.25 * (_ACCELERATION * min(elapsed, _HORIZON_S) ** 2) ** 2
        return Prediction(self.joints + self.velocity * moving, variance)

    def update(
        self,
        joints: np.ndarray,
        covariance: np.ndarray,
        stamp_ns: int,
        expected: Prediction,
        measured: bool = True,
    ) -> None:
        """Take over joints that were estimated with the prediction as prior.

        Where the distance was guessed and not measured, a change of it is no motion.
        """
        elapsed = self.missed_s(stamp_ns)
        if elapsed > 0 and not measured:
            self.velocity = self.velocity * np.exp(-elapsed / _FADE_S)
        elif elapsed > 0:
            motion = self.velocity_variance + (_ACCELERATION * min(elapsed, _HORIZON_S)) ** 2
            noise = _per_axis(covariance) + expected.variance
            gain = motion * elapsed**2 / (motion * elapsed**2 + noise)
            fading = np.exp(-elapsed / _FADE_S)
            change = (gain / elapsed)[:, None] * (joints - expected.joints)
            self.velocity = self.velocity * fading + change
            self.velocity_variance = np.clip(motion * (1.0 - gain), 0.05**2, 1.5**2)
        self.joints, self.covariance, self.stamp_ns = joints, covariance, stamp_ns
        self.hits += 1


def _per_axis(covariance: np.ndarray) -> np.ndarray:
    return np.einsum("jaa->j", covariance) / 3.0


def body_distance(joints_a: np.ndarray, joints_b: np.ndarray) -> np.ndarray:
    """Distance of bodies: mean over ears, shoulders and hips, metres.

    Parameters
    ----------
    joints_a, joints_b : ndarray, shape (..., 17, 3), metres, world
        Broadcast against each other.
    """
    offset = joints_a[..., _TRUNK, :] - joints_b[..., _TRUNK, :]
    return np.linalg.norm(offset, axis=-1).mean(axis=-1)
