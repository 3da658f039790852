"""3D joints of many persons at once, from rays of any number of views and what bodies are like."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from disguisor_ros.core.covariance import inverses
from disguisor_ros.core.skeleton import (
    ANGLE_SIGMA,
    BONE_A,
    BONE_B,
    KEYPOINT_SIGMA_M,
    MIRROR,
    STANDING_M,
    SWAP_GROUPS,
)

#: Residual in standard deviations from which a keypoint counts for less.
ROBUST = 2.0

#: Residuals in standard deviations count for no more than this when starts are compared.
_FAR = 4.0

#: Bones are measured where two views see both ends, from this score times robust weight on;
#: noise of one instant beside that of the joints, metres.
_SEEN = 0.3
_BONE_NOISE_M = 0.02

#: What holds joints that rays do not, inverse square metres: next to nothing.
_LOOSE = 1e-3

#: Joints (column) that a detector swaps together (row).
_LIMBS = np.array([np.isin(np.arange(17), limb) for limb in SWAP_GROUPS]) * 1.0

_EYE = np.eye(3)
_ROW, _COLUMN = np.indices((3, 3)).reshape(2, 9)


@dataclass
class Rays:
    """What V views see of P persons.

    Parameters
    ----------
    centers : ndarray, shape (V, 3), metres, world
    rays : ndarray, shape (P, V, 17, 3), world
        Unit directions.
    score : ndarray, shape (P, V, 17)
        0 where a view does not see the joint.
    sigma_m : ndarray, shape (17,), metres
        Where a keypoint of score 1 lies against its joint.
    """

    centers: np.ndarray
    rays: np.ndarray
    score: np.ndarray
    sigma_m: np.ndarray = field(default_factory=lambda: KEYPOINT_SIGMA_M)

    def take(self, persons: np.ndarray) -> Rays:
        """The same of some of the persons."""
        taken = Rays(self.centers, self.rays[persons], self.score[persons])
        taken.quadratic = self.quadratic[persons]  # made once: a hundred times as dear as this
        return taken

    def pick(self, person: np.ndarray, joint: np.ndarray) -> Rays:
        """Single joints of persons, as if they were the joints of one."""
        rays, score = self.rays[person, :, joint], self.score[person, :, joint]
        return Rays(self.centers, rays.swapaxes(0, 1)[None], score.T[None], self.sigma_m[joint])

    @cached_property
    def by_axis(self) -> np.ndarray:
        """The rays, shape (3, P, V, 17): along a short last axis sums take twice as long."""
        return self.rays.transpose(3, 0, 1, 2).copy()

    @cached_property
    def quadratic(self) -> np.ndarray:
        """Matrix and vector of the squared distance from each ray, shape (P, V, 17, 9 + 3)."""
        across = _EYE.ravel() - self.rays[..., _ROW] * self.rays[..., _COLUMN]
        # The point of the ray nearest to the origin.
        nearest = self.centers[:, None] - (self.rays @ self.centers[..., None]) * self.rays
        return self.score[..., None] ** 2 * np.concatenate([across, nearest], axis=-1)


@dataclass
class Triangulated:
    """Joints of P persons.

    Parameters
    ----------
    joints : ndarray, shape (P, 17, 3), metres, world
    covariance : ndarray, shape (P, 17, 3, 3), square metres
    residual : ndarray, shape (P, V, 17)
        Distance of each ray from its joint in standard deviations; NaN where there is no ray.
    confidence : ndarray, shape (P, 17)
        Largest score of a view times the robust weight that its ray ended with.
    bones, bone_variance : ndarray, shape (P, 26), metres and square metres
        See :func:`bone_lengths`.
    """

    joints: np.ndarray
    covariance: np.ndarray
    residual: np.ndarray
    confidence: np.ndarray
    bones: np.ndarray
    bone_variance: np.ndarray

    def of(self, person: int) -> Triangulated:
        """One person's part, without the axis of persons."""
        return Triangulated(*(array[person] for array in vars(self).values()))


def stack(persons: list[Triangulated], views: int) -> Triangulated:
    """Parts of single persons as one."""
    if not persons:
        bones = (0, len(BONE_A))
        shapes = ((0, 17, 3), (0, 17, 3, 3), (0, views, 17), (0, 17), bones, bones)
        return Triangulated(*(np.zeros(shape) for shape in shapes))
    return Triangulated(*map(np.array, zip(*(vars(p).values() for p in persons))))


def consensus_points(observations: Rays) -> np.ndarray:
    """Joints by the pair of views that most other views agree with; NaN where one view sees it.

    Every pair of rays proposes its closest point; the proposal with the least robust cost over all
    views wins (an exhaustive RANSAC).

    Returns
    -------
    ndarray, shape (P, 17, 3), metres, world
    """
    centers, rays, score = observations.centers, observations.rays, observations.score
    persons, views = score.shape[:2]
    first, second = np.triu_indices(views, 1)
    if len(first) == 0 or persons == 0:
        return np.full((persons, score.shape[2], 3), np.nan)
    a, b = rays[:, first], rays[:, second]
    baseline = centers[first] - centers[second]
    cosine = np.einsum("pkja,pkja->pkj", a, b)
    along_a, along_b = (np.einsum("pkja,ka->pkj", ray, baseline) for ray in (a, b))
    sin2 = np.maximum(1.0 - cosine**2, 1e-9)
    depth_a = (cosine * along_b - along_a) / sin2
    depth_b = (along_b - cosine * along_a) / sin2
    points = 0.5 * (
        centers[first][None, :, None]
        + depth_a[..., None] * a
        + centers[second][None, :, None]
        + depth_b[..., None] * b
    )
    both = np.sqrt(score[:, first] * score[:, second])
    usable = (both > 0) & (depth_a > 0.1) & (depth_b > 0.1) & (sin2 > 0.003)
    offset = points[:, :, None] - centers[None, None, :, None]
    depth = np.einsum("pkvja,pvja->pkvj", offset, rays)
    aside2 = np.maximum(np.einsum("pkvja,pkvja->pkvj", offset, offset) - depth**2, 0.0)
    sigma2 = observations.sigma_m**2 + (ANGLE_SIGMA * depth) ** 2
    cost = np.minimum(aside2 / sigma2, 9.0)
    cost = np.where(depth > 0.1, cost, 9.0) * score[:, None]
    cost = cost.sum(axis=2) - 1e-3 * both * sin2
    cost = np.where(usable, cost, np.inf)
    best = cost.argmin(axis=1)
    points = np.take_along_axis(points, best[:, None, :, None], axis=1)[:, 0]
    found = np.isfinite(np.take_along_axis(cost, best[:, None], axis=1)[:, 0])
    return np.where(found[..., None], points, np.nan)


def renewed(observations: Rays, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints to start from; where two views or more see one elsewhere, what they agree on.

    Also what :func:`ray_costs` says of them.

    A fast foot is not where its track expects it, and a search that starts there takes all views
    that see it for outliers.

    Parameters
    ----------
    observations : Rays
    joints : ndarray, shape (P, 17, 3), metres, world
        As expected; NaN where nothing is.
    """
    costs = ray_costs(observations, joints)
    doubted = (costs > ROBUST**2).sum(axis=1) > 1
    person, joint = np.nonzero(doubted & (np.nansum(costs, axis=1) > _FAR**2))
    if len(person) == 0:
        return joints, costs
    seen = observations.pick(person, joint)
    agreed = consensus_points(seen)
    after = ray_costs(seen, agreed)[0].T
    better = np.nansum(costs[person, :, joint] - after, axis=1) > _FAR**2
    joints, person, joint = joints.copy(), person[better], joint[better]
    joints[person, joint], costs[person, :, joint] = agreed[0, better], after[better]
    return joints, costs


def bone_lengths(
    joints: np.ndarray, information: np.ndarray, vector: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How long the bones of P persons are by the rays alone.

    What was known of the bones has moved the joints: measured from these, they would hardly ever
    be learnt.

    Parameters
    ----------
    joints : ndarray, shape (P, 17, 3), metres, world
    information, vector : ndarray, shapes (P, 17, 3, 3) and (P, 17, 3)
        Of the joints by the rays, and its product with where these meet.
    weight : ndarray, shape (P, V, 17)
        Scores times the robust weights that the rays ended with.

    Returns
    -------
    length, variance : ndarray, shape (P, 26), metres and square metres
        The variance is infinite where fewer than two views see one of the ends.
    """
    covariance = inverses(information + _LOOSE * _EYE)
    pulled = vector - (information @ joints[..., None])[..., 0]
    points = joints + (covariance @ pulled[..., None])[..., 0]
    bone = points[:, BONE_A] - points[:, BONE_B]
    ends = covariance[:, BONE_A] + covariance[:, BONE_B]
    square = (bone**2).sum(axis=-1)
    along = (bone * (ends @ bone[..., None])[..., 0]).sum(axis=-1) / np.maximum(square, 1e-6)
    # Noise across a bone only ever makes it longer.
    noise = np.einsum("pbaa->pb", ends) - along
    length = np.sqrt(np.maximum(square - noise, 0.1 * square))
    variance = along + 0.5 * noise**2 / np.maximum(length, 0.01) ** 2 + _BONE_NOISE_M**2
    views = (weight > _SEEN).sum(axis=1)
    seen = np.minimum(views[:, BONE_A], views[:, BONE_B]) > 1
    return length, np.where(seen, variance, np.inf)


def unswap(observations: Rays, joints: np.ndarray, costs: np.ndarray) -> Rays:
    """Exchange left and right of limbs that a view has confused.

    A limb of a view is exchanged when that brings its rays clearly closer to the joints than they
    are (:func:`ray_costs`).
    """
    doubtful = np.nonzero((costs > 3.0**2).any(axis=(1, 2)))[0]
    if len(doubtful) == 0:
        return observations
    mirrored = observations.take(doubtful)
    mirrored = Rays(
        mirrored.centers, mirrored.rays[:, :, MIRROR], mirrored.score[:, :, MIRROR]
    )
    change = costs[doubtful] - ray_costs(mirrored, joints[doubtful])
    both = np.isfinite(change)
    gain = np.where(both, change, 0.0) @ _LIMBS.T
    clear = 4.0 * np.sqrt(both @ _LIMBS.T) + 1e-9
    swapped = (gain > clear) @ _LIMBS > 0
    if not swapped.any():
        return observations
    rays, score = observations.rays.copy(), observations.score.copy()
    rays[doubtful] = np.where(swapped[..., None], mirrored.rays, rays[doubtful])
    score[doubtful] = np.where(swapped, mirrored.score, score[doubtful])
    return Rays(observations.centers, rays, score)


def ray_costs(observations: Rays, joints: np.ndarray) -> np.ndarray:
    """Squared residuals of rays, none more than ``_FAR``, shape (P, V, 17); NaN without ray."""
    residual = in_sigmas(observations, *ray_errors(observations, joints))
    return np.minimum(residual, _FAR) ** 2


def in_sigmas(observations: Rays, depth, aside2, sigma2) -> np.ndarray:
    """Distances of rays from joints in standard deviations, by :func:`ray_errors`, (P, V, 17).

    NaN without ray.
    """
    residual = np.where(depth > 0.05, np.sqrt(aside2 / sigma2) * observations.score, 10.0)
    return np.where((observations.score > 0) & np.isfinite(depth), residual, np.nan)


def ray_errors(observations: Rays, joints: np.ndarray) -> tuple[np.ndarray, ...]:
    """Depths along rays, squared distances from them, variance of these at score 1."""
    centers, joints = observations.centers.T[:, None, :, None], joints.transpose(2, 0, 1)
    offset = np.subtract(joints[:, :, None], centers, order="C")
    depth = np.einsum("apvj,apvj->pvj", offset, observations.by_axis)
    aside2 = np.maximum(np.einsum("apvj,apvj->pvj", offset, offset) - depth**2, 0.0)
    return depth, aside2, observations.sigma_m**2 + (ANGLE_SIGMA * depth) ** 2


def complete(joints: np.ndarray, observations: Rays) -> np.ndarray:
    """Fill in joints that are not known, from a standing body laid over those that are.

    Joints that one view sees are moved on to its ray.

    Parameters
    ----------
    joints : ndarray, shape (P, 17, 3), metres, world
        NaN where not known; persons without any known joint stay NaN.
    """
    known = np.isfinite(joints).all(axis=-1)
    if known.all():
        return joints
    body = _overlay(joints, known)
    seen = observations.score.argmax(axis=1)
    ray = np.take_along_axis(observations.rays, seen[:, None, :, None], axis=1)[:, 0]
    center = observations.centers[seen]
    depth = np.maximum(((body - center) * ray).sum(-1, keepdims=True), 0.3)
    on_ray = np.where((observations.score.max(axis=1) > 0)[..., None], center + depth * ray, body)
    return np.where(known[..., None], joints, on_ray)


def _overlay(joints: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The standing body moved (rotation and translation) on to the known joints."""
    weight = known * 1.0
    count = np.maximum(weight.sum(axis=1), 1e-9)[:, None]
    points = np.where(known[..., None], joints, 0.0)
    center = (weight[..., None] * points).sum(1) / count
    model_center = weight @ STANDING_M / count
    a = (STANDING_M - model_center[:, None]) * weight[..., None]
    b = (points - center[:, None]) * weight[..., None]
    # Few or collinear joints leave turns open: keep the body upright unless they say otherwise.
    covariance = np.einsum("pja,pjb->pab", a, b) + 0.02 * np.diag([1e-3, 1e-3, 1.0])
    u, _, vt = np.linalg.svd(covariance)
    sign = np.linalg.det(u @ vt)
    flip = np.broadcast_to(_EYE, u.shape).copy()
    flip[:, 2, 2] = np.sign(sign)
    rotation = np.swapaxes(u @ flip @ vt, 1, 2)
    body = (STANDING_M - model_center[:, None]) @ np.swapaxes(rotation, 1, 2) + center[:, None]
    return np.where(known.any(axis=1)[:, None, None], body, np.nan)
