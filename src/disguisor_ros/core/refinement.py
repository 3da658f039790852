"""Most likely joints of many persons at once: rays, bones, postures, floor and predictions.

A body is a core (head and trunk, 9 joints) with four limbs of two joints, each tied to the core
by one bone. Limbs are eliminated first: only 27 of the 51 coordinates are solved for together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from disguisor_ros.core.covariance import inverses
from disguisor_ros.core.skeleton import (
    ARM_COVARIANCE_M2,
    ARM_MEAN_M,
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_VARIANCE_M2,
    CORE,
    HEIGHT_SIGMA_M,
    POSE_SIGMA_M,
    STANDING_M,
)
from disguisor_ros.core.triangulation import (
    ROBUST,
    Rays,
    Triangulated,
    bone_lengths,
    in_sigmas,
    ray_errors,
)

#: No joint is nearer to the floor, metres.
_SOLE_M = 0.03

#: Steps at most. Joints that move less have come to rest, metres, and their person is left alone:
#: the next step would be a tenth of that.
_ITERATIONS = 8
_STILL_M = 0.02

#: Whom one view sees starts from a fitted body; what has not come to rest soon is nobody.
_HELD_ITERATIONS = 4

#: How closely a distance that was settled beforehand is kept, in its standard deviations: what
#: bones and heights say of it has been heard.
_HELD = 0.1

#: What is wrong with the prediction of one joint is mostly wrong with all: of the joints of a body
#: so many count as independent.
_TOGETHER = 4.0

_EYE = np.eye(3)

#: Elbow and wrist or knee and ankle of each limb, and where it hangs on the core.
_LIMBS = np.array([[7, 9], [8, 10], [13, 15], [14, 16]])
_ROOT = np.searchsorted(CORE, [5, 6, 11, 12])

#: Joints that are drawn to their place in the frame of the trunk when they are badly seen.
_HEAD = np.arange(17) < 5
_LEGS = np.arange(17) > 12

#: How far each joint of the head (row) is from its place when the joints of the core (column) are
#: moved: that place lies on the line from hips to shoulders, prolonged.
_BEYOND = (STANDING_M[:5, 2].mean() - STANDING_M[5, 2]) / (STANDING_M[5, 2] - STANDING_M[11, 2])
_OFF_TRUNK = np.hstack(
    [np.eye(5), np.tile([-(1 + _BEYOND) / 2] * 2 + [_BEYOND / 2] * 2, (5, 1))]
)

#: Left and up of the trunk (rows) as sums of joints; which axes come after each one.
_TRUNK = np.zeros((3, 17))
_TRUNK[1, [5, 6, 11, 12]] = [1, -1, 1, -1]
_TRUNK[2, [5, 6, 11, 12]] = [1, 1, -1, -1]
_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])

#: Elements of the normal equations among the blocks of single joints, of bones, and one of zeros.
_PARTS = np.full((17, 17), 17 + 26)
_PARTS[np.arange(17), np.arange(17)] = np.arange(17)
_PARTS[BONE_A, BONE_B] = _PARTS[BONE_B, BONE_A] = 17 + np.arange(26)
_PARTS = 9 * _PARTS[:, None, :, None] + np.arange(9).reshape(3, 1, 3)
_CORE_PARTS = _PARTS[CORE][:, :, CORE].reshape(27, 27)
_LIMB_PARTS = np.array([_PARTS[limb][:, :, limb].reshape(6, 6) for limb in _LIMBS])
_LINK_PARTS = _PARTS[_LIMBS[:, 0], :, CORE[_ROOT]]

#: +1 and -1 where a bone (column) begins and ends.
_INCIDENCE = 1.0 * (np.arange(17)[:, None] == BONE_A) - (np.arange(17)[:, None] == BONE_B)
_TOUCHES = np.abs(_INCIDENCE)

#: Mean and information of arms in the frame of the trunk (x forward, y left, z up), shapes
#: (2, 2, 3) and (2, 6, 6): side, joint and axis.
_SIDE = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
_ARMS = _LIMBS[:2]
_ARM_MEAN_M = _SIDE[:, None] * ARM_MEAN_M
_ARM_INFORMATION = (
    np.linalg.inv(ARM_COVARIANCE_M2) * np.tile(_SIDE, 2)[:, :, None] * np.tile(_SIDE, 2)[:, None]
)


@dataclass
class Prior:
    """What is expected of P persons before they are seen.

    Parameters
    ----------
    joints : ndarray, shape (P, 17, 3), metres, world
        NaN where nothing is expected.
    covariance : ndarray, shape (P, 17, 3, 3), square metres
        Of each joint by itself.
    drift : ndarray, shape (P, 17, 3), metres
        One standard deviation of a shift of all joints together: of a distance that was guessed.
    bones, bone_variance : ndarray, shape (P, 26) or (26,), metres and square metres
        Lengths of bones and how well they are known; of any adult unless given.
    """

    joints: np.ndarray
    covariance: np.ndarray
    drift: np.ndarray
    bones: np.ndarray = field(default_factory=lambda: BONE_LENGTH_M)
    bone_variance: np.ndarray = field(default_factory=lambda: BONE_VARIANCE_M2)

    def information(self) -> np.ndarray:
        """Inverse covariance of each joint, shape (P, 17, 3, 3); 0 where nothing is expected."""
        known = np.isfinite(self.joints[..., 0])
        total = self.covariance + self.drift[..., :, None] * self.drift[..., None, :]
        known = known[..., None, None]
        return known * inverses(np.where(known, total, _EYE))


def carried(observations: Rays, prior: Prior) -> Prior:
    """The prior with its joints moved to where several views see the body as a whole.

    Joints are held to their predictions one by one, which together would hold the body far more
    firmly than it is known: who turns back on the line of sight of cameras side by side, along
    which rays tell little, would go on as he went for a second. What is off by less than a
    standard deviation is mostly noise.

    Parameters
    ----------
    observations : Rays
    prior : Prior
    """
    met = np.isfinite(prior.joints[..., 0]) & ((observations.score > 0).sum(axis=1) > 1)
    some = np.nonzero(met.any(axis=1))[0]
    if len(some) == 0:
        return prior
    seen, met = observations.take(some), met[some, :, None, None]
    joints = np.where(met[..., 0], prior.joints[some], 0.0)
    blocks, meeting = _ray_equations(seen, *ray_errors(seen, joints)[1:])
    pull = meeting[..., None] - blocks @ joints[..., None]
    variance = (met * prior.covariance[some]).sum(axis=1) / met.sum(axis=1) / _TOGETHER
    firm = inverses(variance)
    way = np.linalg.solve((met * blocks).sum(axis=1) + firm, (met * pull).sum(axis=1))
    sigmas2 = way.swapaxes(1, 2) @ firm @ way
    moved = prior.joints.copy()
    moved[some] += (sigmas2 / (sigmas2 + 1.0) * way).swapaxes(1, 2)
    return replace(prior, joints=moved)


@dataclass
class Held:
    """Distances of persons from the one camera that sees them, settled before.

    Parameters
    ----------
    persons : ndarray, shape (S,), int
        Whose.
    pull : ndarray, shape (S, 9, 3)
        Directions from the camera to the joints of the core, times weights that sum to 1.
    distance_m : ndarray, shape (S,), metres
        Sum of the products of pull and joints.
    sigma_m : ndarray, shape (S,), metres
        Standard deviation of the distance.
    """

    persons: np.ndarray
    pull: np.ndarray
    distance_m: np.ndarray
    sigma_m: np.ndarray


def solve(
    observations: Rays,
    start: np.ndarray,
    prior: Prior | None = None,
    floor_z_m: float | None = None,
    held: Held | None = None,
) -> Triangulated:
    """Most likely joints given rays, bone lengths, postures, the floor and predictions.

    Iteratively reweighted Gauss-Newton on all 51 coordinates of a person: distances of joints
    from their rays (Cauchy weights), bone lengths, poses of arms, heights of a standing person for
    joints that fewer than two views see, and predictions of tracks. The distance from the ray over
    its depth is the reprojection error in radians, so this minimises the reprojection error of
    any lens model without its derivative.

    Parameters
    ----------
    observations : Rays
    start : ndarray, shape (P, 17, 3), metres, world
        First guess, finite.
    prior : Prior, optional
    floor_z_m : float, optional
        Height of the floor; without it heights mean nothing.
    held : Held, optional
    """
    joints, covariance = start.copy(), np.empty((*start.shape, 3))
    problem = _Problem.of(observations, prior, floor_z_m, held)
    moving = np.arange(len(start))
    for k in range(_ITERATIONS):
        equations = problem.linearized(joints[moving])
        step = np.clip(equations.step(), -0.5, 0.5)
        joints[moving] += step
        still = np.abs(step).max(axis=(1, 2)) < _STILL_M
        still |= k + 1 >= np.where(problem.firmness > 0, _HELD_ITERATIONS, _ITERATIONS)
        if still.any():
            covariance[moving[still]] = equations.covariance(still)
            if still.all():
                break
            problem, moving = problem.take(~still), moving[~still]
    errors = ray_errors(observations, joints)
    residual = in_sigmas(observations, *errors)
    robust = 1.0 / (1.0 + (residual / ROBUST) ** 2)
    weight = np.where(np.isfinite(residual), observations.score * robust, 0.0)
    bones = bone_lengths(joints, *_ray_equations(observations, *errors[1:]), weight)
    return Triangulated(joints, covariance, residual, weight.max(axis=1), *bones)


@dataclass
class _Problem:
    """What holds the joints of P persons; see :func:`solve`.

    Parameters
    ----------
    observations : Rays
    expected : ndarray, shape (P, 17, 3), metres, world
    information : ndarray, shape (P, 17, 3, 3)
        0 where nothing is expected.
    limp : ndarray, shape (P, 17), bool
        Joints that are drawn to their place in the frame of the trunk.
    lonely : ndarray, shape (P, 17), bool
        Joints that are drawn to the height at which they mostly are.
    floor_z_m : float or None
    pull : ndarray, shape (P, 9, 3)
    distance_m : ndarray, shape (P,)
    firmness : ndarray, shape (P,)
        See :class:`Held`; inverse variance, 0 for whom several views see.
    bones, bone_variance : ndarray, shape (P, 26)
        See :class:`Prior`.
    """

    observations: Rays
    expected: np.ndarray
    information: np.ndarray
    limp: np.ndarray
    lonely: np.ndarray
    floor_z_m: float | None
    pull: np.ndarray
    distance_m: np.ndarray
    firmness: np.ndarray
    bones: np.ndarray
    bone_variance: np.ndarray

    @classmethod
    def of(cls, observations, prior, floor_z_m, held) -> _Problem:
        persons = len(observations.score)
        lonely = (observations.score > 0).sum(axis=1) < 2
        limp = lonely & (_HEAD | _LEGS)
        if prior is None:
            nothing = np.full((persons, 17, 3), np.nan)
            prior = Prior(nothing, np.zeros((persons, 17, 3, 3)), np.zeros((persons, 17, 3)))
        known = np.isfinite(prior.joints[..., 0])
        lonely &= ~known  # who was seen to lie or sit is not drawn upright
        pull, distance_m = np.zeros((persons, 9, 3)), np.zeros(persons)
        firmness = np.zeros(persons)
        if held is not None:
            pull[held.persons], distance_m[held.persons] = held.pull, held.distance_m
            firmness[held.persons] = (_HELD * held.sigma_m) ** -2.0
            limp[held.persons] = False  # expected in a posture of their own
        return cls(
            observations, np.where(known[..., None], prior.joints, 0.0), prior.information(),
            limp, lonely, floor_z_m, pull, distance_m, firmness,
            np.zeros((persons, 1)) + prior.bones, np.zeros((persons, 1)) + prior.bone_variance,
        )  # fmt: skip

    def take(self, persons: np.ndarray) -> _Problem:
        """The same of some of the persons."""
        return _Problem(
            self.observations.take(persons), self.expected[persons],
            self.information[persons], self.limp[persons], self.lonely[persons], self.floor_z_m,
            self.pull[persons], self.distance_m[persons], self.firmness[persons],
            self.bones[persons], self.bone_variance[persons],
        )  # fmt: skip

    def linearized(self, joints: np.ndarray) -> Equations:
        """Normal equations at joints, shape (P, 17, 3)."""
        _, aside2, sigma2 = ray_errors(self.observations, joints)
        blocks, meeting = _ray_equations(self.observations, aside2, sigma2)
        vector = meeting - (blocks @ joints[..., None])[..., 0]
        _add_prior(blocks, vector, joints, self.expected, self.information)
        axes = _trunk_axes(joints)
        _add_pose(blocks, vector, joints, axes, self.limp & _LEGS)
        if self.floor_z_m is not None:
            _add_heights(blocks, vector, joints, self.floor_z_m, self.lonely)
        equations = Equations(blocks, vector, joints, self.bones, self.bone_variance)
        equations.add_arms(joints, axes)
        equations.add_heads(joints, axes, self.limp[:, _HEAD])
        if self.firmness.any():
            equations.hold(self.pull, self.distance_m, self.firmness, joints)
        return equations


def _ray_equations(observations: Rays, aside2, sigma2):
    """Information of joints by their rays alone, and its product with where these meet."""
    factor = 1.0 / (sigma2 + aside2 * (observations.score / ROBUST) ** 2)
    total = np.einsum("pvj,pvjk->pjk", factor, observations.quadratic)
    return total[..., :9].reshape(*total.shape[:2], 3, 3), total[..., 9:]


def _add_prior(blocks, vector, joints, expected, information) -> None:
    off = joints - expected
    pull = (information @ off[..., None])[..., 0]
    # Joints mostly rest, and now and then go fast: a prediction that is off must not hold the
    # person back, it would show as lag.
    robust = 1.0 / (1.0 + np.einsum("pja,pja->pj", off, pull))
    blocks += robust[..., None, None] * information
    vector -= robust[..., None] * pull


def _add_pose(blocks, vector, joints, axes, limp: np.ndarray) -> None:
    """Draw joints that are badly seen to where they mostly are in the frame of the trunk."""
    some = np.nonzero(limp.any(axis=1))[0]
    if len(some) == 0:
        return
    body = joints[some]
    top = body[:, 5:7].mean(1)
    place = (STANDING_M - STANDING_M[5:7].mean(0)) @ axes[some] + top[:, None]
    off = body - place
    information = limp[some] / (POSE_SIGMA_M**2 + (off**2).sum(-1) / 9.0)
    blocks[some] += information[..., None, None] * _EYE
    vector[some] -= information[..., None] * off


def _trunk_axes(joints: np.ndarray) -> np.ndarray:
    """Forward, left and up of trunks as rows, shape (P, 3, 3)."""
    axes = _TRUNK @ joints
    left, up = axes[:, 1], axes[:, 2]
    up[:] = _unit(up)
    left[:] = _unit(left - np.einsum("pa,pa->p", left, up)[:, None] * up)
    axes[:, 0] = left[:, _NEXT] * up[:, _LAST] - left[:, _LAST] * up[:, _NEXT]
    return axes


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.einsum("pa,pa->p", vectors, vectors))
    return vectors / np.maximum(length, 1e-6)[:, None]


def posture_costs(joints: np.ndarray) -> np.ndarray:
    """How unusual head and arms of P persons are: they tell the front of a body from its back.

    Returns
    -------
    ndarray, shape (P, 7), squared standard deviations
        Of each joint of the head, and of each arm.
    """
    axes = _trunk_axes(joints)
    head, arms = _off_usual_head(joints, axes), _off_usual_arms(joints, axes)
    head = (head**2).sum(axis=-1) / POSE_SIGMA_M[:5] ** 2
    arms = (arms * (_ARM_INFORMATION @ arms)).sum(axis=(-2, -1))
    return np.concatenate([head, arms], axis=1)


def _off_usual_head(joints: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """From where heads mostly are over their shoulders, shape (P, 5, 3), metres, world."""
    neck = joints[:, 5:7].mean(axis=1, keepdims=True)
    return joints[:, :5] - neck - (STANDING_M[:5] - STANDING_M[5:7].mean(axis=0)) @ axes


def _off_usual_arms(joints: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """From where arms mostly are in the frame of the trunk, shape (P, 2, 6, 1), metres."""
    off = (joints[:, _ARMS] - joints[:, 5:7, None]) @ axes.swapaxes(1, 2)[:, None]
    return (off - _ARM_MEAN_M).reshape(-1, 2, 6, 1)


def _add_heights(blocks, vector, joints, floor_z_m: float, lonely: np.ndarray) -> None:
    height = joints[..., 2] - floor_z_m
    if lonely.any():
        off = height - STANDING_M[:, 2]
        factor = lonely / (HEIGHT_SIGMA_M**2 + (off / 2.0) ** 2)
        blocks[..., 2, 2] += factor
        vector[..., 2] -= factor * off
    sunk = height < _SOLE_M
    if sunk.any():
        blocks[sunk, 2, 2] += 1.0 / 0.05**2
        vector[sunk, 2] += (_SOLE_M - height[sunk]) / 0.05**2


class Equations:
    """Normal equations of P persons: core, limbs, and the bones between them.

    Parameters
    ----------
    blocks : ndarray, shape (P, 17, 3, 3)
        What holds each joint by itself.
    vector : ndarray, shape (P, 17, 3)
        Negative gradient of that.
    joints : ndarray, shape (P, 17, 3), metres, world
    bones, bone_variance : ndarray, shape (P, 26) or (26,), metres and square metres
        See :class:`Prior`.
    """

    def __init__(
        self,
        blocks: np.ndarray,
        vector: np.ndarray,
        joints: np.ndarray,
        bones: np.ndarray = BONE_LENGTH_M,
        bone_variance: np.ndarray = BONE_VARIANCE_M2,
    ):
        persons = len(joints)
        bone = _INCIDENCE.T @ joints
        length = np.maximum(np.sqrt(np.einsum("pba,pba->pb", bone, bone)), 1e-3)
        axis = bone / length[..., None]
        short = bones - length
        factor = 1.0 / (bone_variance + (short / 3.0) ** 2)
        pull = factor[..., None] * axis
        outer = pull[..., :, None] * axis[..., None, :]
        vector = vector + _INCIDENCE @ (short[..., None] * pull)
        diagonal = (_TOUCHES @ outer.reshape(persons, -1, 9)).reshape(blocks.shape)
        diagonal += blocks + 0.5 * _EYE
        parts = np.concatenate([diagonal, -outer, np.zeros((persons, 1, 3, 3))], axis=1)
        parts = parts.reshape(persons, -1)
        self.core, self.core_vector = parts.take(_CORE_PARTS, axis=1), vector[:, CORE]
        self.link, self.limbs = parts.take(_LINK_PARTS, axis=1), parts.take(_LIMB_PARTS, axis=1)
        self.limb_vector = vector[:, _LIMBS].reshape(persons, 4, 6)

    def add_arms(self, joints: np.ndarray, axes: np.ndarray) -> None:
        """Draw arms to where they mostly are: a Gaussian over elbow and wrist from the shoulder.

        The trunk is taken as it is: a raised arm turns nobody.
        """
        off = _off_usual_arms(joints, axes)
        pull = _ARM_INFORMATION @ off
        robust = 1.0 / (1.0 + np.einsum("psab,psab->ps", off, pull) / 9.0)
        turn = np.zeros((len(joints), 1, 6, 6))
        turn[:, 0, :3, :3] = turn[:, 0, 3:, 3:] = axes
        back = robust[..., None, None] * turn.swapaxes(-1, -2)
        self.limb_vector[:, :2] -= (back @ pull)[..., 0]
        self.limbs[:, :2] += back @ _ARM_INFORMATION @ turn

    def add_heads(self, joints: np.ndarray, axes: np.ndarray, limp: np.ndarray) -> None:
        """Draw heads that are badly seen to where they mostly are over their shoulders.

        Trunk and head move together: such a head is known no better than the trunk is.
        """
        some = np.nonzero(limp.any(axis=1))[0]
        if len(some) == 0:
            return
        off = _off_usual_head(joints[some], axes[some])
        information = limp[some] / (POSE_SIGMA_M[:5] ** 2 + (off**2).sum(-1) / 9.0)
        weighted = (information[..., None] * _OFF_TRUNK).swapaxes(1, 2)
        core = self.core.reshape(-1, 9, 3, 9, 3)
        for axis in range(3):
            core[some, :, axis, :, axis] += weighted @ _OFF_TRUNK
        self.core_vector[some] -= weighted @ off

    def hold(self, pull, distance_m, firmness, joints: np.ndarray) -> None:
        """Keep distances that were settled before; see :class:`Held`."""
        short = distance_m - (pull * joints[:, CORE]).sum((1, 2))
        flat = pull.reshape(-1, 27)
        self.core += firmness[:, None, None] * flat[:, :, None] * flat[:, None]
        self.core_vector += (firmness * short)[:, None, None] * pull

    def step(self) -> np.ndarray:
        """Solution, shape (P, 17, 3)."""
        persons = len(self.core)
        self._inverse = np.linalg.inv(self.limbs)
        # How a limb follows its root, and what the root feels of it.
        self._follow = self._inverse[..., :3] @ self.link
        own = (self._inverse @ self.limb_vector[..., None])[..., 0]
        core = self.core.reshape(persons, 9, 3, 9, 3)
        core[:, _ROOT, :, _ROOT] -= (self.link @ self._follow[..., :3, :]).swapaxes(0, 1)
        vector = self.core_vector
        vector[:, _ROOT] -= (self.link @ own[..., :3, None])[..., 0]
        self._core_inverse = np.linalg.inv(self.core)
        moved = (self._core_inverse @ vector.reshape(persons, 27, 1)).reshape(-1, 9, 3)
        step = np.empty((persons, 17, 3))
        step[:, CORE] = moved
        limbs = own - (self._follow @ moved[:, _ROOT, :, None])[..., 0]
        step[:, _LIMBS] = limbs.reshape(persons, 4, 2, 3)
        return step

    def covariance(self, persons: np.ndarray) -> np.ndarray:
        """Diagonal blocks of the inverse of some persons, (K, 17, 3, 3); after :meth:`step`."""
        follow, inverse = self._follow[persons], self._inverse[persons]
        core = self._core_inverse[persons].reshape(-1, 9, 3, 9, 3)
        core = core[:, np.arange(9), :, np.arange(9)].swapaxes(0, 1)
        limbs = follow @ core[:, _ROOT] @ follow.swapaxes(-1, -2) + inverse
        covariance = np.empty((len(core), 17, 3, 3))
        covariance[:, CORE] = core
        covariance[:, _LIMBS[:, 0]] = limbs[..., :3, :3]
        covariance[:, _LIMBS[:, 1]] = limbs[..., 3:, 3:]
        return covariance
