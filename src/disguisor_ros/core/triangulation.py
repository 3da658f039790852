"""3D joints of many persons at once, from rays of any number of views and what bodies are like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.skeleton import (
    ARM_COVARIANCE_M2,
    ARM_MEAN_M,
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_SIGMA_M,
    HEIGHT_SIGMA_M,
    KEYPOINT_SIGMA_M,
    MIRROR,
    PIXEL_SIGMA,
    POSE_SIGMA_M,
    STANDING_M,
    SWAP_GROUPS,
)

#: Residual in standard deviations from which a keypoint counts for less.
_ROBUST = 2.0

#: No joint is nearer to the floor, metres.
_SOLE_M = 0.03

_EYE = np.eye(3)

_JOINT = np.arange(17)

#: +1 and -1 where a bone (column) begins and ends.
_INCIDENCE = 1.0 * (_JOINT[:, None] == BONE_A) - (_JOINT[:, None] == BONE_B)

#: Joints with a prior of their own or none: shoulders, arms and hips.
_NOT_LIMP = np.isin(_JOINT, (5, 6, 7, 8, 9, 10, 11, 12))

#: Elbow and wrist of the left and the right arm.
_ARMS = np.array([[7, 9], [8, 10]])

#: Mean and information of arms in the frame of the trunk (x forward, y left, z up), shapes
#: (2, 2, 3) and (2, 2, 2, 3, 3): side, joint(, joint).
_SIDE = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
_ARM_MEAN_M = _SIDE[:, None] * ARM_MEAN_M
_ARM_INFORMATION = (
    np.linalg.inv(ARM_COVARIANCE_M2).reshape(2, 3, 2, 3).swapaxes(1, 2)
    * _SIDE[:, None, None, :, None]
    * _SIDE[:, None, None, None, :]
)


@dataclass
class Observations:
    """What V views see of P persons.

    Parameters
    ----------
    centers : ndarray, shape (V, 3), metres, world
    rays : ndarray, shape (P, V, 17, 3), world
        Unit directions.
    score : ndarray, shape (P, V, 17)
        0 where a view does not see the joint.
    """

    centers: np.ndarray
    rays: np.ndarray
    score: np.ndarray

    def take(self, persons: np.ndarray) -> Observations:
        """The same of some of the persons."""
        return Observations(self.centers, self.rays[persons], self.score[persons])


@dataclass
class Prior:
    """What is expected of P persons before they are seen.

    Parameters
    ----------
    joints : ndarray, shape (P, 17, 3), metres, world
        NaN where nothing is expected.
    sigma_m : ndarray, shape (P, 17)
    """

    joints: np.ndarray
    sigma_m: np.ndarray


@dataclass
class Triangulated:
    """Joints of P persons.

    Parameters
    ----------
    joints : ndarray, shape (P, 17, 3), metres, world
    covariance : ndarray, shape (P, 17, 3, 3), square metres
    residual : ndarray, shape (P, V, 17)
        Distance of each ray from its joint in standard deviations; NaN where there is no ray.
    weight : ndarray, shape (P, V, 17)
        Score times the robust weight that the ray ended with.
    """

    joints: np.ndarray
    covariance: np.ndarray
    residual: np.ndarray
    weight: np.ndarray

    def of(self, person: int) -> Triangulated:
        """One person's part, without the axis of persons."""
        return Triangulated(*(array[person] for array in self._arrays()))

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.joints, self.covariance, self.residual, self.weight


def stack(persons: list[Triangulated], views: int) -> Triangulated:
    """Parts of single persons as one."""
    if not persons:
        shapes = ((0, 17, 3), (0, 17, 3, 3), (0, views, 17), (0, views, 17))
        return Triangulated(*(np.zeros(shape) for shape in shapes))
    return Triangulated(*(np.array(part) for part in zip(*(p._arrays() for p in persons))))


def consensus_points(observations: Observations) -> np.ndarray:
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
        return np.full((persons, 17, 3), np.nan)
    a, b = rays[:, first], rays[:, second]
    baseline = (centers[first] - centers[second])[None, :, None]
    cosine = (a * b).sum(-1)
    along_a, along_b = (a * baseline).sum(-1), (b * baseline).sum(-1)
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
    depth = (offset * rays[:, None]).sum(-1)
    aside2 = np.maximum((offset**2).sum(-1) - depth**2, 0.0)
    sigma2 = KEYPOINT_SIGMA_M**2 + (PIXEL_SIGMA * depth) ** 2
    cost = np.minimum(aside2 / sigma2, 9.0)
    cost = np.where(depth > 0.1, cost, 9.0) * score[:, None]
    cost = cost.sum(axis=2) - 1e-3 * both * sin2
    cost = np.where(usable, cost, np.inf)
    best = cost.argmin(axis=1)
    points = np.take_along_axis(points, best[:, None, :, None], axis=1)[:, 0]
    found = np.isfinite(np.take_along_axis(cost, best[:, None], axis=1)[:, 0])
    return np.where(found[..., None], points, np.nan)


def unswap(observations: Observations, joints: np.ndarray) -> Observations:
    """Exchange left and right of limbs that a view has confused.

    A limb of a view is exchanged when that brings its rays clearly closer to the joints.
    """
    straight = residuals(observations, joints)
    doubtful = np.nonzero((straight > 3.0).any(axis=(1, 2)))[0]
    if len(doubtful) == 0:
        return observations
    mirrored = observations.take(doubtful)
    mirrored = Observations(
        mirrored.centers, mirrored.rays[:, :, MIRROR], mirrored.score[:, :, MIRROR]
    )
    crossed = residuals(mirrored, joints[doubtful])
    straight = straight[doubtful]
    both = np.isfinite(straight) & np.isfinite(crossed)
    before = np.where(both, np.minimum(straight, 4.0) ** 2, 0.0)
    after = np.where(both, np.minimum(crossed, 4.0) ** 2, 0.0)
    rays, score = observations.rays.copy(), observations.score.copy()
    for limb in SWAP_GROUPS:
        gain = (before[..., limb] - after[..., limb]).sum(-1)
        clear = 4.0 * np.sqrt(both[..., limb].sum(-1)) + 1e-9
        person, view = np.nonzero(gain > clear)
        if len(person):
            at = doubtful[person][:, None], view[:, None], limb[None]
            rays[at] = mirrored.rays[person[:, None], view[:, None], limb[None]]
            score[at] = mirrored.score[person[:, None], view[:, None], limb[None]]
    return Observations(observations.centers, rays, score)


def residuals(observations: Observations, joints: np.ndarray) -> np.ndarray:
    """Distances of rays from joints in standard deviations, shape (P, V, 17); NaN without ray."""
    depth, aside2, sigma2 = _ray_errors(observations, joints)
    residual = np.where(depth > 0.05, np.sqrt(aside2 / sigma2) * observations.score, 10.0)
    return np.where((observations.score > 0) & np.isfinite(depth), residual, np.nan)


def _ray_errors(observations: Observations, joints: np.ndarray) -> tuple[np.ndarray, ...]:
    """Depths along rays, squared distances from them, variance of these at score 1."""
    offset = joints[:, None] - observations.centers[None, :, None]
    depth = np.einsum("pvja,pvja->pvj", offset, observations.rays)
    aside2 = np.maximum(np.einsum("pvja,pvja->pvj", offset, offset) - depth**2, 0.0)
    return depth, aside2, KEYPOINT_SIGMA_M**2 + (PIXEL_SIGMA * depth) ** 2


def complete(joints: np.ndarray, observations: Observations) -> np.ndarray:
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


def solve(
    observations: Observations,
    start: np.ndarray,
    prior: Prior | None = None,
    floor_z_m: float | None = None,
    iterations: int = 3,
) -> Triangulated:
    """Most likely joints given rays, bone lengths, the floor and predictions.

    Iteratively reweighted Gauss-Newton on all 51 coordinates of a person: distances of joints
    from their rays (Cauchy weights), bone lengths, poses of arms, heights of a standing person for
    joints that fewer than two views see, and predictions of tracks. The distance from the ray over
    its depth is the reprojection error in radians, so this minimises the reprojection error of
    any lens model without its derivative.

    Parameters
    ----------
    observations : Observations
    start : ndarray, shape (P, 17, 3), metres, world
        First guess, finite.
    prior : Prior, optional
    floor_z_m : float, optional
        Height of the floor; without it heights mean nothing.
    iterations : int
    """
    joints = start.copy()
    across = observations.score[..., None, None] ** 2 * (
        _EYE - observations.rays[..., :, None] * observations.rays[..., None, :]
    )
    pulled = np.einsum("pvjab,vb->pvja", across, observations.centers)
    lonely = (observations.score > 0).sum(axis=1) < 2
    limp = lonely & ~_NOT_LIMP
    if prior is not None:  # who was seen to lie or sit is not drawn upright
        lonely &= ~np.isfinite(prior.joints).all(-1)
    for _ in range(iterations):
        factor = _ray_factor(observations, joints)
        blocks = np.einsum("pvj,pvjab->pjab", factor, across)
        vector = np.einsum("pvj,pvja->pja", factor, pulled)
        if prior is not None:
            _add_prior(blocks, vector, joints, prior)
        _add_pose(blocks, vector, joints, limp)
        if floor_z_m is not None:
            _add_heights(blocks, vector, joints, floor_z_m, lonely)
        vector -= np.einsum("pjab,pjb->pja", blocks, joints)
        normal = _normal_matrix(blocks, vector, joints)
        _add_arms(normal, vector, joints)
        step = np.linalg.solve(normal, vector.reshape(len(joints), 51, 1))
        joints = joints + np.clip(step.reshape(joints.shape), -0.5, 0.5)
    inverse = np.linalg.inv(normal).reshape(len(joints), 17, 3, 17, 3)
    covariance = np.einsum("pjajb->pjab", inverse)
    residual = residuals(observations, joints)
    robust = 1.0 / (1.0 + (np.nan_to_num(residual, nan=1e3) / _ROBUST) ** 2)
    return Triangulated(joints, covariance, residual, observations.score * robust)


def _ray_factor(observations: Observations, joints: np.ndarray) -> np.ndarray:
    _, aside2, sigma2 = _ray_errors(observations, joints)
    return 1.0 / (sigma2 + aside2 * (observations.score / _ROBUST) ** 2)


def _add_prior(blocks, vector, joints, prior: Prior) -> None:
    known = np.isfinite(prior.joints).all(-1)
    expected = np.where(known[..., None], prior.joints, joints)
    innovation2 = ((joints - expected) ** 2).sum(-1) / prior.sigma_m**2
    # A prediction that is far off must not hold the person back: it would show as lag.
    information = known / (prior.sigma_m**2 * (1.0 + innovation2 / 9.0))
    blocks += information[..., None, None] * _EYE
    vector += information[..., None] * expected


def _add_pose(blocks, vector, joints, limp: np.ndarray) -> None:
    """Draw joints that are badly seen to where they mostly are in the frame of the trunk."""
    some = np.nonzero(limp.any(axis=1))[0]
    if len(some) == 0:
        return
    body = joints[some]
    top = body[:, 5:7].mean(1)
    place = (STANDING_M - STANDING_M[5:7].mean(0)) @ _trunk_axes(body) + top[:, None]
    off2 = ((body - place) ** 2).sum(-1) / POSE_SIGMA_M**2
    information = limp[some] / (POSE_SIGMA_M**2 * (1.0 + off2 / 9.0))
    blocks[some] += information[..., None, None] * _EYE
    vector[some] += information[..., None] * place


def _add_arms(normal, vector, joints) -> None:
    """Draw arms to where they mostly are: a Gaussian over elbow and wrist from the shoulder.

    The trunk is taken as it is: a raised arm turns nobody.
    """
    axes = _trunk_axes(joints)
    place = joints[:, 5:7, None] + _ARM_MEAN_M @ axes[:, None]
    turn = axes[:, None, None, None]
    information = turn.swapaxes(-1, -2) @ _ARM_INFORMATION @ turn
    off = joints[:, _ARMS] - place
    pull = np.einsum("psjkab,pskb->psja", information, off)
    robust = 1.0 / (1.0 + (off * pull).sum((-2, -1)) / 9.0)
    vector[:, _ARMS] -= robust[..., None, None] * pull
    information *= robust[..., None, None, None, None]
    by_joint = normal.reshape(len(joints), 17, 3, 17, 3)
    by_joint[:, _ARMS[:, :, None], :, _ARMS[:, None]] += information.transpose(1, 2, 3, 0, 4, 5)


def _trunk_axes(joints: np.ndarray) -> np.ndarray:
    """Forward, left and up of trunks as rows, shape (P, 3, 3)."""
    up = _unit(joints[:, 5:7].mean(1) - joints[:, 11:13].mean(1))
    left = joints[:, 5] - joints[:, 6] + joints[:, 11] - joints[:, 12]
    left = _unit(left - (left * up).sum(-1, keepdims=True) * up)
    return np.stack([np.cross(left, up), left, up], axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def _add_heights(blocks, vector, joints, floor_z_m: float, lonely: np.ndarray) -> None:
    height = joints[..., 2] - floor_z_m
    if lonely.any():
        off = (height - STANDING_M[:, 2]) / HEIGHT_SIGMA_M
        factor = np.where(lonely, 1.0 / (HEIGHT_SIGMA_M**2 * (1.0 + (off / 2.0) ** 2)), 0.0)
        blocks[..., 2, 2] += factor
        vector[..., 2] += factor * (STANDING_M[:, 2] + floor_z_m)
    sunk = height < _SOLE_M
    if sunk.any():
        blocks[sunk, 2, 2] += 1.0 / 0.05**2
        vector[sunk, 2] += (floor_z_m + _SOLE_M) / 0.05**2


def _normal_matrix(blocks: np.ndarray, vector: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Normal equations over all joints: blocks on the diagonal plus bones; adds to ``vector``."""
    persons = len(joints)
    bone = joints[:, BONE_A] - joints[:, BONE_B]
    length = np.maximum(np.sqrt(np.einsum("pka,pka->pk", bone, bone)), 1e-3)
    axis = bone / length[..., None]
    short = BONE_LENGTH_M - length
    factor = 1.0 / (BONE_SIGMA_M**2 + (short / 3.0) ** 2)
    outer = (factor[..., None] * axis)[..., :, None] * axis[..., None, :]
    vector += np.einsum("jk,pka->pja", _INCIDENCE, (factor * short)[..., None] * axis)
    normal = np.zeros((persons, 17, 17, 3, 3))
    normal[:, BONE_A, BONE_B] = normal[:, BONE_B, BONE_A] = -outer
    diagonal = np.tensordot(outer, np.abs(_INCIDENCE), axes=(1, 1))
    normal[:, _JOINT, _JOINT] = blocks + np.moveaxis(diagonal, -1, 1) + 0.5 * _EYE
    return normal.transpose(0, 1, 3, 2, 4).reshape(persons, 51, 51)
