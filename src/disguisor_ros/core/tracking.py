"""Identity and motion of people over time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from disguisor_ros.core.motion import fading_s, motion_noise
from disguisor_ros.core.skeleton import BONE_LENGTH_M, BONE_OF_SIZE_M, BONE_OWN_M2

#: Spectral density of each joint's acceleration, m^2/s^3, as white noise: what a joint does in a
#: second does not depend on the frame rate. Wrists and ankles swing.
_AGILITY = np.full(17, 3.0)
_AGILITY[[9, 10, 15, 16]] = 9.0

#: That is how far joints may go. Mostly they rest, within this share of its variance; but heads
#: turn, and where they are turned is filtered behind (``pose_filter.py``).
_RESTING = np.where(np.arange(17) < 5, 1.0, 0.1)[:, None, None]

#: Detectors' errors stay for a while: where joints were just now says no more than this, metres.
_LASTING_M = 0.02

#: Velocities fade over this time, seconds: people stop.
_FADE_S = 0.8

#: What a joint does beside the body's own motion is over after this time, seconds: an arm swings.
_SWING_S = 0.15

#: The same of a whole body, and how well its place is measured, metres.
_BODY_AGILITY = 0.4
_BODY_NOISE_M = 0.05

#: Speed that somebody whom nobody sees may have taken up, standard deviation, m/s.
_STROLL = 0.3

#: A body that was not seen for longer is not extrapolated further, seconds.
_HORIZON_S = 0.5

#: How long errors of measured bones stay the same, seconds, and how far a bone that is known
#: looks longer or shorter from another side, metres.
_BONE_S = 1.0
_BONE_LEAST_M = 0.022

#: Ears, shoulders and hips; the share of each joint in their mean.
_TRUNK = np.array([3, 4, 5, 6, 11, 12])
_OF_TRUNK = np.isin(np.arange(17), _TRUNK) / len(_TRUNK)

_EYE = np.eye(3)


@dataclass
class Prediction:
    """Joints of T tracks at an instant, or of one without the first axis (:meth:`of`).

    Parameters
    ----------
    joints : ndarray, shape (T, 17, 3), metres, world
    covariance : ndarray, shape (T, 17, 3, 3), square metres
        Of each joint by itself, as it mostly is; of a distribution with long tails.
    reach : ndarray, shape (T, 17, 3, 3), square metres
        The same of all that joints may do.
    body_covariance : ndarray, shape (T, 3, 3), square metres
        Of the body as a whole.
    drift : ndarray, shape (T, 17, 3), metres
        One standard deviation of a shift of all joints together along the rays of the one view
        that saw them.
    body : list of ndarray, shape (17, 3), metres, world, or None
        Joints when the distance was last measured: what the person's size and height are known
        from. None if it never was.
    body_age_s : ndarray, shape (T,)
        Time since then, seconds.
    bones, bone_variance : ndarray, shape (T, 26), metres and square metres
        Lengths of the person's bones.
    """

    joints: np.ndarray
    covariance: np.ndarray
    reach: np.ndarray
    body_covariance: np.ndarray
    drift: np.ndarray
    body: list[np.ndarray | None]
    body_age_s: np.ndarray
    bones: np.ndarray
    bone_variance: np.ndarray

    def of(self, track: int) -> Prediction:
        """One track's part."""
        return Prediction(*(part[track] for part in vars(self).values()))


@dataclass
class Track:
    """A person over time.

    Parameters
    ----------
    track_id : int
    joints : ndarray, shape (17, 3), metres, world
    covariance : ndarray, shape (17, 3, 3), square metres
        Of each joint by itself.
    stamp_ns : int
        When the joints were last measured.
    velocity : ndarray, shape (17, 3), m/s
    velocity_variance : ndarray, shape (17,)
    body_velocity : ndarray, shape (3,), m/s
        Of the trunk, over a longer time.
    body_lag : ndarray, shape (3,), metres
        From the joints to where the filter of that velocity has the trunk.
    body_covariance : ndarray, shape (2, 2)
        Of place and velocity in that filter, per axis.
    drift : ndarray, shape (17, 3), metres
        See :class:`Prediction`.
    body : ndarray, shape (17, 3), or None
        See :class:`Prediction`.
    body_stamp_ns : int
        When that was.
    bone_weight, bone_excess : ndarray, shape (26,)
        Of all that was measured of the person's bones: inverse variances, and how much longer
        than usual the bones were, weighted by these.
    seen_s, vain_s : float
        Seconds in which the person was seen, and those since then in which the cameras that saw
        the person last have looked in vain.
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
    body_velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    body_lag: np.ndarray = field(default_factory=lambda: np.zeros(3))
    body_covariance: np.ndarray = field(default_factory=lambda: np.diag([0.05**2, 0.3**2]))
    drift: np.ndarray = field(default_factory=lambda: np.zeros((17, 3)))
    body: np.ndarray | None = None
    body_stamp_ns: int = 0
    bone_weight: np.ndarray = field(default_factory=lambda: np.zeros(26))
    bone_excess: np.ndarray = field(default_factory=lambda: np.zeros(26))
    age: int = 0
    hits: int = 1
    seen_s: float = 0.0
    vain_s: float = 0.0
    cameras: set[str] = field(default_factory=set)

    @property
    def anchored(self) -> bool:
        """Whether the distance was ever measured, by two views or by depth."""
        return self.body is not None

    def missed_s(self, stamp_ns: int) -> float:
        """Seconds since the person was last seen."""
        return (stamp_ns - self.stamp_ns) * 1e-9

    def update(
        self,
        joints: np.ndarray,
        covariance: np.ndarray,
        stamp_ns: int,
        measured: bool = True,
        drift: np.ndarray | None = None,
    ) -> None:
        """Take over joints that were estimated with the prediction as prior; shapes as there.

        Where the distance was guessed and not measured, a change of it is no motion; of others,
        see :func:`learn_motion`.
        """
        if not measured:
            fading = np.exp(-self.missed_s(stamp_ns) / _FADE_S)
            self.velocity, self.body_velocity = self.velocity * fading, self.body_velocity * fading
        self.joints, self.covariance, self.stamp_ns = joints, covariance, stamp_ns
        self.drift = np.zeros((17, 3)) if drift is None else drift
        if measured:
            self.body, self.body_stamp_ns = joints, stamp_ns
        self.hits += 1
        self.vain_s = 0.0


def predict(tracks: list[Track], stamp_ns: int) -> Prediction:
    """Where people are at a later time.

    Bodies go on as they went for a while; what the joints did beside that fades at once.
    """
    if not tracks:
        joints, bones = np.zeros((0, 17, 3)), np.zeros((0, 26))
        none, nothing = bones[:, 0], joints[..., None] * _EYE
        return Prediction(joints, nothing, nothing, nothing[:, 0], joints, [], none, bones, bones)
    elapsed = np.array([track.missed_s(stamp_ns) for track in tracks])[:, None, None]
    soon = np.minimum(elapsed, _HORIZON_S)
    speed_variance = np.array([track.body_covariance[1, 1] for track in tracks])[:, None, None]
    # The body's velocity as far as it is more than noise (James-Stein).
    walking = np.array([[track.body_velocity] for track in tracks])
    noise = 3.0 * speed_variance / np.maximum((walking**2).sum(-1, keepdims=True), 1e-9)
    walking *= np.maximum(0.0, 1.0 - noise)
    beside = np.array([track.velocity for track in tracks]) - walking
    moved = walking * fading_s(soon, _FADE_S) + beside * fading_s(elapsed, _SWING_S)
    joints = np.array([track.joints for track in tracks]) + moved
    spread = np.array([track.velocity_variance for track in tracks])[..., None] * elapsed**2
    spread += _AGILITY[:, None] * motion_noise(1.0, soon)[0, 0]
    known = np.array([track.covariance for track in tracks]) + _LASTING_M**2 * _EYE
    spread = spread[..., None] * _EYE
    # Who walks may as well stop or turn back.
    back = walking.swapaxes(1, 2) * walking
    body_covariance = ((speed_variance + _STROLL**2) * _EYE + back) * elapsed**2
    bones, bone_variance = lengths_of_bones(tracks)
    bone_variance += _BONE_LEAST_M**2
    drift, body = np.array([track.drift for track in tracks]), [track.body for track in tracks]
    body_age_s = 1e-9 * np.array([stamp_ns - track.body_stamp_ns for track in tracks])
    return Prediction(
        joints, known + _RESTING * spread, known + spread, body_covariance, drift, body,
        body_age_s, bones, bone_variance,
    )  # fmt: skip


def learn_bones(
    tracks: list[Track], length: np.ndarray, variance: np.ndarray, stamp_ns: int
) -> None:
    """Take measured lengths of the bones of T people and their variances, shape (T, 26).

    Detectors' errors stay for a while: what was measured just before says little more.
    """
    for track, bones, spread in zip(tracks, length, variance, strict=True):
        weight = min(max(track.missed_s(stamp_ns), 1e-3) / _BONE_S, 1.0) / spread
        track.bone_weight += weight
        track.bone_excess += weight * (bones - BONE_LENGTH_M)


def lengths_of_bones(tracks: list[Track]) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the bones of T people as far as they were measured, and their variances, (T, 26).

    Each bone also tells how tall the person is, and so of the others.
    """
    weight = np.array([track.bone_weight for track in tracks])
    excess = np.array([track.bone_excess for track in tracks])
    left = 1.0 / (1.0 + BONE_OWN_M2 * weight)
    size_variance = 1.0 / (1.0 + (left * weight) @ BONE_OF_SIZE_M**2)[:, None]
    size = size_variance * ((left * excess) @ BONE_OF_SIZE_M)[:, None]
    length = BONE_LENGTH_M + left * (BONE_OWN_M2 * excess + BONE_OF_SIZE_M * size)
    variance = left * BONE_OWN_M2 + (left * BONE_OF_SIZE_M) ** 2 * size_variance
    return length, variance


def learn_motion(
    tracks: list[Track],
    expected: np.ndarray,
    expected_covariance: np.ndarray,
    joints: np.ndarray,
    covariance: np.ndarray,
    drift: np.ndarray,
    stamp_ns: int,
) -> None:
    """Learn velocities of T people from where they were measured, later than the last time.

    Joints that were expected and measured have shape (T, 17, 3), metres, world, their covariances
    (T, 17, 3, 3), and ``drift`` is that of the measured ones, as in :class:`Prediction`.

    To be called before :meth:`Track.update`, which takes over the same joints.
    """
    if not tracks:
        return
    elapsed = np.array([[track.missed_s(stamp_ns)] for track in tracks])
    # A distance that was guessed, before or now, is no place to tell a motion from.
    guessed = np.array([track.drift for track in tracks])
    variance = per_axis(covariance) + (guessed**2 + drift**2).sum(axis=-1)
    motion = np.array([track.velocity_variance for track in tracks])
    motion += _AGILITY * np.minimum(elapsed, _HORIZON_S)
    noise = variance + per_axis(expected_covariance)
    gain = motion * elapsed**2 / (motion * elapsed**2 + noise)
    velocity = np.array([track.velocity for track in tracks])
    velocity *= np.exp(-elapsed / _FADE_S)[..., None]
    velocity += (gain / elapsed)[..., None] * (joints - expected)
    left = np.minimum(np.maximum(motion * (1.0 - gain), 0.05**2), 1.5**2)
    # The trunk's velocity by a Kalman filter, whose own place lags behind the joints.
    moved = _OF_TRUNK @ (joints - np.array([track.joints for track in tracks]))
    forward = np.eye(2) + elapsed[..., None] * np.eye(2, k=1)
    prior = forward @ np.array([track.body_covariance for track in tracks])
    prior = prior @ forward.swapaxes(1, 2)
    prior += motion_noise(_BODY_AGILITY, elapsed[:, 0]).transpose(2, 0, 1)
    gain = prior[:, 0] / (prior[:, 0, :1] + _BODY_NOISE_M**2 + (variance @ _OF_TRUNK)[:, None])
    body_velocity = np.array([track.body_velocity for track in tracks])
    lag = np.array([track.body_lag for track in tracks]) + body_velocity * elapsed - moved
    body_velocity -= gain[:, 1:] * lag
    lag -= gain[:, :1] * lag
    prior -= gain[:, :, None] * prior[:, :1]
    for k, track in enumerate(tracks):
        track.velocity, track.velocity_variance = velocity[k], left[k]
        track.body_velocity, track.body_lag = body_velocity[k], lag[k]
        track.body_covariance = prior[k]


def per_axis(covariance: np.ndarray) -> np.ndarray:
    """Mean variance along an axis of covariances (..., 3, 3)."""
    return np.einsum("...aa->...", covariance) / 3.0


def body_distance(joints_a: np.ndarray, joints_b: np.ndarray) -> np.ndarray:
    """Distance of bodies: mean over ears, shoulders and hips, metres.

    Parameters
    ----------
    joints_a, joints_b : ndarray, shape (..., 17, 3), metres, world
        Broadcast against each other.
    """
    offset = joints_a[..., _TRUNK, :] - joints_b[..., _TRUNK, :]
    return np.sqrt(np.einsum("...a,...a->...", offset, offset)).mean(axis=-1)
