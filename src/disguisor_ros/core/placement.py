"""How far a person is that only one view sees: body, floor, track and depth put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.posture import place, place_again
from disguisor_ros.core.skeleton import CORE, POSE_SIGMA_M
from disguisor_ros.core.tracking import Prediction, per_axis
from disguisor_ros.core.types import HEAD_JOINTS, DepthView

#: How well depth tells a body's distance, and single joints of it, metres; limbs leave the plane.
_DEPTH_M = 0.05
_DEPTH_JOINT_M = np.where(np.arange(17) < 5, 0.06, 0.04)

#: A track's distance is never better known than that, metres.
_TRACK_M = 0.03

#: Standard deviations apart from which two distances contradict each other.
_CONTRADICTS = 3.0

#: How far behind the skin head and trunk lie, metres, and what they count for in finding the
#: body in a depth image: something mostly stands before hips.
_SKIN_M = np.array([0.0, 0.02, 0.02, 0.02, 0.02, 0.07, 0.07, 0.09, 0.09])
_VOTES = np.array([1.0] * 7 + [0.5] * 2)

#: Distances that differ by less than this share belong to one body.
_SAME_BODY = 0.05

#: Depth may show somebody so many times farther off than expected, or nearer: somebody who was
#: measured before, and somebody who was guessed to stand and may lie.
_FAR_MEASURED, _FAR_GUESSED = 1.6, 5.0

#: A trunk is this much deep along the view; what is farther off is something else, metres.
_DEEP_BODY_M = 0.15

#: Nobody whom one view alone has ever seen is nearer to it, metres: who fills the image is hardly
#: found as a whole person, and a stray detection must not cover all of it.
NEAREST_BODY_M = 0.8

#: ... nor are his head and trunk higher over the floor.
HIGHEST_M = 2.1

#: ... but for that nobody is moved farther away than this, metres: a room ends somewhere.
_FARTHEST_M = 8.0


@dataclass
class Settled:
    """A person whom one view sees, the distance settled.

    Parameters
    ----------
    joints : ndarray, shape (17, 3), metres, world
        First guess.
    expected : ndarray, shape (17, 3), metres, world
        Where joints are expected at that distance: as the track has them, else in the posture
        that suits the rays best.
    variance : ndarray, shape (17,), square metres
        Of that.
    pull : ndarray, shape (9, 3)
        Directions from the camera to head and trunk, times weights that sum to 1.
    distance_m, sigma_m : float
        Mean distance of head and trunk, weighted alike, and its standard deviation.
    held_m : float
        Standard deviation against what bones and heights still say.
    measured : bool
        Whether depth has confirmed it.
    """

    joints: np.ndarray
    expected: np.ndarray
    variance: np.ndarray
    pull: np.ndarray
    distance_m: float
    sigma_m: float
    held_m: float
    measured: bool


def settle(
    center: np.ndarray,
    rays: np.ndarray,
    score: np.ndarray,
    floor_z_m: float | None,
    track: Prediction | None,
    depth: DepthView | None,
) -> Settled:
    """Find out how far away somebody is from all that is known but rays.

    The size of the body and its height come with errors that stay (short people stay short), so
    that seeing them again and again makes nobody surer: the distance of a track and the one that
    the body suggests are mixed, each with the weight of the other's variance, and the variance is
    that of the mixture. Depth is a measurement.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, world
        Of the camera.
    rays : ndarray, shape (17, 3), world
    score : ndarray, shape (17,)
    floor_z_m : float, optional
    track : Prediction, optional
        A body that was measured is a better measure of size than any standing adult, whether it
        stands, sits or lies.
    depth : DepthView, optional
    """
    span = _Span(center, score)
    anchored = track is not None and track.body is not None
    joints, distance, variance = _guessed(span, rays, score, floor_z_m, track)
    moved = None
    if depth is not None:
        moved, distance, variance = _measured(
            span, joints, score, depth, distance, variance, anchored
        )
    if not anchored:
        distance = max(distance, _least_distance_m(center, joints, distance, floor_z_m))
    joints = span.scaled(joints if moved is None else moved, distance)
    expected = span.scaled(track.joints, distance) if anchored else joints.copy()
    own = per_axis(track.covariance) if anchored else POSE_SIGMA_M**2
    if moved is not None:
        used = CORE[score[CORE] > 0]
        expected[used], own[used] = joints[used], _DEPTH_JOINT_M[used] ** 2
    sigma_m = float(np.sqrt(variance))
    held_m = sigma_m if moved is None else _DEPTH_M
    return Settled(
        joints, expected, own, span.pull(joints), distance, sigma_m, held_m, moved is not None
    )


def _guessed(span: _Span, rays, score, floor_z_m, track) -> tuple[np.ndarray, float, float]:
    """Joints, their mean distance and its variance, from body, floor and track alone."""
    center = span.center
    if track is not None and track.body is not None:
        body = place_again(center, rays, score, track.body, track.body_age_s)
        joints = along_rays(center, rays, score, track.joints)
        joints = np.where(np.isfinite(joints), joints, track.joints)
    else:
        body = place(center, rays, score, floor_z_m)
        joints = body.joints
    distance = span.of(body.joints)
    variance = (body.share * distance) ** 2
    if track is not None:
        there, known = span.of(track.joints), span.variance(track)
        distance, variance = _mixed(there, known, distance, variance)
    return span.scaled(joints, distance), distance, variance


def _measured(
    span: _Span, joints, score, depth, distance, variance, anchored
) -> tuple[np.ndarray | None, float, float]:
    """Joints where depth shows them (None where it does not), their distance and its variance."""
    far = _FAR_MEASURED if anchored else _FAR_GUESSED
    share = np.sqrt(variance) / distance
    shown = to_depth(joints, span.center, score, depth, share, far)
    if shown is None:
        return None, distance, variance
    moved, agreed = shown
    measured, noise = span.of(moved), (_DEPTH_M / agreed) ** 2
    off2 = (measured - distance) ** 2
    if off2 < _CONTRADICTS**2 * (variance + noise):
        gain = variance / (variance + noise)
        return moved, distance + gain * (measured - distance), gain * noise
    if anchored:  # something stands in front, or the camera sees past the body
        return None, distance, variance + off2 / 4
    return moved, measured, noise + off2 / 4


def _least_distance_m(
    center: np.ndarray, joints: np.ndarray, distance: float, floor_z_m: float | None
) -> float:
    """How near to a camera somebody may be whose joints lie so at a distance, metres."""
    top = np.nanmax(joints[CORE, 2])
    if floor_z_m is None or top <= floor_z_m + HIGHEST_M or center[2] <= floor_z_m + HIGHEST_M:
        return NEAREST_BODY_M
    drop = (center[2] - floor_z_m - HIGHEST_M) / max(center[2] - top, 0.01)
    return max(NEAREST_BODY_M, min(distance * drop, _FARTHEST_M))


class _Span:
    """Distance of a body from a camera: that of head and trunk, those that are seen above all."""

    def __init__(self, center: np.ndarray, score: np.ndarray):
        self.center = center
        self.weight = score[CORE] + 0.02
        self.weight /= self.weight.sum()

    def of(self, joints: np.ndarray) -> float:
        """Distance of joints, shape (17, 3), metres."""
        return float(self.weight @ np.linalg.norm(joints[CORE] - self.center, axis=-1))

    def scaled(self, joints: np.ndarray, distance_m: float) -> np.ndarray:
        """Joints moved along their rays to a distance."""
        return self.center + (joints - self.center) * (distance_m / self.of(joints))

    def pull(self, joints: np.ndarray) -> np.ndarray:
        """How the distance changes with each joint of the core, shape (9, 3)."""
        offset = joints[CORE] - self.center
        return self.weight[:, None] * offset / np.linalg.norm(offset, axis=-1, keepdims=True)

    def variance(self, track: Prediction) -> float:
        """Variance of the distance at which a track is expected, square metres."""
        drift = np.abs((self.pull(track.joints) * track.drift[CORE]).sum(-1)).sum()
        return float(drift**2 + per_axis(track.body_covariance) + _TRACK_M**2)


def _mixed(a: float, variance_a: float, b: float, variance_b: float) -> tuple[float, float]:
    """Mean and variance of a mixture of two estimates whose errors may be the same."""
    share = variance_a / (variance_a + variance_b)
    variance = (1 - share) * variance_a + share * variance_b + share * (1 - share) * (a - b) ** 2
    return a + share * (b - a), variance


def along_rays(
    center: np.ndarray, rays: np.ndarray, score: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Joints on their rays, as far away as they are expected, shape (17, 3), metres, world.

    Parameters
    ----------
    center, rays, score
        As for :func:`settle`; NaN comes out for joints that are not seen.
    expected : ndarray, shape (17, 3), metres, world
    """
    distance = np.maximum(np.linalg.norm(expected - center, axis=-1, keepdims=True), 0.3)
    return np.where((score > 0)[:, None], center + distance * rays, np.nan)


def to_depth(
    joints: np.ndarray,
    center: np.ndarray,
    score: np.ndarray,
    view: DepthView,
    share: float,
    far: float,
) -> tuple[np.ndarray, float] | None:
    """Move joints that one view sees along their rays, to where a depth image shows the body.

    What stands in front hides parts of a body, so the joints vote: the largest set of them that
    agree on the distance wins.

    Parameters
    ----------
    joints : ndarray, shape (17, 3), metres, world
        First guess.
    center : ndarray, shape (3,), metres, world
        Of the camera that saw the joints.
    score : ndarray, shape (17,)
    view : DepthView
    share : float
        Standard deviation of the guessed distance, as a share of it.
    far : float
        So many times farther off or nearer than guessed the body may be.

    Returns
    -------
    joints : ndarray, shape (17, 3)
    agreed : float
        Share of the votes that were for this distance, 0 to 1.

    None where depth says nothing about this person.
    """
    known = (score[CORE] > 0) & np.isfinite(joints[CORE, 0])
    used = CORE[known]
    if len(used) < 2:
        return None
    offset = joints[used] - center
    placed = np.linalg.norm(offset, axis=-1)
    surface = surface_distances(center, offset / placed[:, None], view)
    factor = (surface + _SKIN_M[known]) / placed
    factor[~((factor > 1 / far) & (factor < far))] = np.nan
    if np.isfinite(factor).sum() < max(2, len(used) / 3):
        return None
    alike = np.abs(factor[:, None] - factor[None]) < _SAME_BODY
    surprise = np.minimum(np.abs(np.nan_to_num(factor, nan=2.0) - 1.0) / share, _CONTRADICTS)
    votes = alike @ _VOTES[known] - 0.25 * surprise**2
    best = alike[int(votes.argmax())]
    if best.sum() < 2:
        return None
    common = np.median(factor[best])
    each = np.full(17, common)
    near = (np.abs(factor - common) * placed < _DEEP_BODY_M) & (used > max(HEAD_JOINTS))
    each[used[near]] = factor[near]
    agreed = _VOTES[known][best].sum() / _VOTES[known].sum()
    return center + (joints - center) * each[:, None], float(agreed)


def surface_distances(center: np.ndarray, rays: np.ndarray, view: DepthView) -> np.ndarray:
    """Distances along rays to what a depth image shows, shape (J,), metres; NaN where nothing.

    The depth sensor may have its own place and lens: along each ray, the first point that lies
    just behind the measured surface is taken.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, world
    rays : ndarray, shape (J, 3), world
        Unit directions.
    view : DepthView
    """
    distances = np.arange(0.4, 8.0, 0.03)
    pixels, depth = view.camera.project(center + distances[:, None, None] * rays)
    height, width = view.image.shape[:2]
    column, row = np.moveaxis(np.rint(np.nan_to_num(pixels, nan=-1.0)).astype(int), -1, 0)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    measured = view.image[np.where(inside, row, 0), np.where(inside, column, 0)] * view.unit_m
    behind = depth - measured.astype(np.float64)
    hit = inside & np.isfinite(measured) & (measured > 0) & (behind >= 0) & (behind < 0.15)
    return np.where(hit.any(axis=0), distances[hit.argmax(axis=0)], np.nan)
