"""Pose of a head from nose, eyes and ears over all views, with torso and past as priors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from disguisor_ros.core.covariance import block_diagonal, bounded, place_confidence
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.least_squares import levenberg_marquardt
from disguisor_ros.core.observations import Observations
from disguisor_ros.core.rotations import (
    exp_so3,
    hat,
    left_jacobian_inverse,
    log_so3,
    yaw_matrix,
)
from disguisor_ros.core.types import HEAD_JOINTS, Person3D

#: Keypoints of the head as indices of an array.
HEAD = np.array(HEAD_JOINTS)

#: How far the base of the neck may be from where the torso puts it, metres.
NECK_SIGMA_M = 0.045

#: Rotation of the head on an upright torso: mean and standard deviation of roll, pitch (down is
#: positive) and yaw, degrees; yaw beyond the limit is hardly possible.
TORSO_MEAN_DEG = (0.0, 12.0, 0.0)
TORSO_SIGMA_DEG = (13.0, 22.0, 42.0)
YAW_LIMIT_DEG = 80.0
YAW_LIMIT_SIGMA_DEG = 6.0

#: Tilt of the torso up to which the head is held level, and from which it goes along, degrees.
LEAN_DEG = (30.0, 65.0)

#: What a head does in a second, as a random walk: metres and degrees per root second.
WALK_M = 0.25
WALK_DEG = 60.0

#: Keypoints of one detection err together: as many count as one.
CORRELATED_KEYPOINTS = 4.0

#: No pose is known better than this: detectors err alike from frame to frame.
FLOOR_M = 0.012
FLOOR_DEG = 6.0

#: Standard deviation of the turn of a head about each axis when keypoints tell it, degrees (in
#: simulated rooms 7 to 10, however well the place is known), or this share of what they leave open
#: (as square; 10 to 27 degrees before few cameras, then 0.5 to 0.9 of it).
TURN_DEG = 12.0
_TURN_SHARE = 0.5

#: Levenberg-Marquardt steps at most.
_ITERATIONS = 10

#: Yaws about the torso's from which a head is sought, degrees.
STARTS_DEG = (0.0, 60.0, -60.0)


@dataclass
class HeadState:
    """Pose of a head with its uncertainty.

    Parameters
    ----------
    rotation : ndarray, shape (3, 3)
        World <- head.
    translation : ndarray, shape (3,), metres, world
    covariance : ndarray, shape (6, 6)
        Of translation (metres) and rotation (radians, world axes).
    scale : float
        Size over the template's.
    place : ndarray, shape (3, 3), square metres, world
        Covariance of the middle of the face.
    method : str
        ``keypoints``, ``body`` or ``predicted``; see :class:`~disguisor_ros.core.types.Head`.
    stamp_ns : int
    """

    rotation: np.ndarray
    translation: np.ndarray
    covariance: np.ndarray
    scale: float
    place: np.ndarray
    method: str
    stamp_ns: int

    @property
    def confidence(self) -> float:
        """Confidence, 0 to 1, in a head whose place is known so well."""
        return place_confidence(np.trace(self.place) / 3)

    @property
    def told(self) -> np.ndarray:
        """Covariance (6, 6) of the head as others are told it: its face, and how it is turned."""
        turn = bounded(_TURN_SHARE * self.covariance[3:, 3:], np.deg2rad(TURN_DEG))
        return block_diagonal(self.place, turn)

    def carried(self, moved: np.ndarray, spread: np.ndarray, stamp_ns: int) -> HeadState:
        """The head of somebody whom no camera sees, moved with the body since it was seen.

        Parameters
        ----------
        moved : ndarray, shape (3,), metres
        spread : ndarray, shape (3, 3), square metres, world
            Covariance of that motion.
        stamp_ns : int
        """
        seconds = max((stamp_ns - self.stamp_ns) * 1e-9, 0.0)
        turned = np.deg2rad(WALK_DEG) ** 2 * seconds
        loose = self.loosened(spread)
        return replace(
            loose,
            translation=self.translation + moved,
            covariance=loose.covariance + np.diag([0.0] * 3 + [turned] * 3),
            method="predicted",
            stamp_ns=stamp_ns,
        )

    def loosened(self, spread: np.ndarray) -> HeadState:
        """The same head, its place less certain by a covariance (3, 3), square metres."""
        covariance = self.covariance.copy()
        covariance[:3, :3] += spread
        return replace(self, covariance=covariance, place=self.place + spread)


class HeadSolver:
    """Levenberg-Marquardt over head poses, all persons and several starts in one batch.

    Parameters
    ----------
    template : HeadTemplate
    neck_base : ndarray, shape (3,), metres, head frame
        Where the base of the neck lies under the head.
    """

    def __init__(self, template: HeadTemplate, neck_base: np.ndarray):
        self.neck_base = neck_base
        self.points = template.keypoints
        self.middle = np.array([0.5 * template.keypoints[0, 0], 0.0, 0.0])

    def landmarks(self, state: HeadState) -> np.ndarray:
        """Nose, eyes and ears of a head in the world, shape (5, 3), metres."""
        return state.translation + state.scale * self.points @ state.rotation.T

    def __call__(
        self,
        persons: list[Person3D],
        seen: Observations,
        neck: np.ndarray,
        neck_covariance: np.ndarray,
        chest: np.ndarray,
        scale: np.ndarray,
        previous: list[HeadState | None],
        stamp_ns: int,
    ) -> list[HeadState]:
        """Solve all heads of an instant.

        Parameters
        ----------
        persons : list of B Person3D
        seen : Observations
        neck : ndarray, shape (B, 3), metres, world
            Base of the neck on the torso.
        neck_covariance : ndarray, shape (B, 3, 3), square metres
        chest : ndarray, shape (B, 3, 3)
            World <- body rotation of the chest.
        scale : ndarray, shape (B,)
        previous : list of B HeadState or None
        stamp_ns : int
        """
        starts = len(STARTS_DEG) + 1
        rows = np.repeat(np.arange(len(persons)), starts)
        torso = _righted(chest)
        neck_information = np.linalg.inv(neck_covariance + NECK_SIGMA_M**2 * np.eye(3))
        upright = torso @ exp_so3(np.deg2rad(TORSO_MEAN_DEG))
        prior = _Prior.of(previous, stamp_ns)
        rotation = np.empty((len(persons), starts, 3, 3))
        for k, yaw in enumerate(np.deg2rad(STARTS_DEG)):
            rotation[:, k] = torso @ yaw_matrix(yaw) @ exp_so3(np.deg2rad(TORSO_MEAN_DEG))
        rotation[:, -1] = np.where(prior.known[:, None, None], prior.rotation, upright)
        problem = _Problem(
            seen.select(rows), neck[rows], neck_information[rows], torso[rows], scale[rows],
            prior.select(rows),
            self.points, self.neck_base,
        )  # fmt: skip
        rotation = rotation.reshape(-1, 3, 3)
        base = np.einsum("bij,j->bi", rotation, self.neck_base) * scale[rows, None]
        (rotation, translation), cost, normal = levenberg_marquardt(
            problem.linearize, _moved, (rotation, neck[rows] - base), _ITERATIONS
        )
        best = np.argmin(cost.reshape(-1, starts), axis=1) + np.arange(len(persons)) * starts
        covariance = CORRELATED_KEYPOINTS * np.linalg.inv(normal[best])
        observed = seen.weight[:, :, HEAD].sum(axis=(1, 2))
        return [
            self._state(person, rotation[i], translation[i], covariance[b], scale[b],
                        observed[b], stamp_ns)
            for b, (person, i) in enumerate(zip(persons, best))
        ]  # fmt: skip

    def _state(self, person, rotation, translation, covariance, scale, observed, stamp_ns):
        floor = np.repeat([FLOOR_M**2, np.deg2rad(FLOOR_DEG) ** 2], 3)
        covariance = covariance + np.diag(floor)
        lever = np.concatenate([np.eye(3), -hat(scale * rotation @ self.middle)], axis=1)
        if not person.detections:
            method = "predicted"
        elif observed > 0 or person.confidence[HEAD].any():
            method = "keypoints"
        else:
            method = "body"
        return HeadState(
            rotation, translation, covariance, float(scale), lever @ covariance @ lever.T,
            method, stamp_ns,
        )  # fmt: skip


def _moved(rotation: np.ndarray, translation: np.ndarray, step: np.ndarray) -> tuple:
    """Poses moved by steps (B, 6): translation, then rotation about world axes."""
    return exp_so3(step[:, 3:]) @ rotation, translation + step[:, :3]


def _righted(chest: np.ndarray) -> np.ndarray:
    """Rotation that heads are held to: who leans keeps the head level, who lies does not."""
    up = chest[:, :, 2]
    axis = np.cross(up, [0.0, 0.0, 1.0])
    tilt = np.arctan2(np.linalg.norm(axis, axis=1), up[:, 2])
    share = np.interp(np.rad2deg(tilt), LEAN_DEG, (1.0, 0.0))
    axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9)
    return exp_so3((share * tilt)[:, None] * axis) @ chest


@dataclass
class _Prior:
    """Head poses of the last instant, their information grown old."""

    known: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    information: np.ndarray

    @classmethod
    def of(cls, previous: list[HeadState | None], stamp_ns: int) -> _Prior:
        count = len(previous)
        prior = cls(
            np.array([state is not None for state in previous]),
            np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3)), np.zeros((count, 6, 6)),
        )  # fmt: skip
        for i, state in enumerate(previous):
            if state is None:
                continue
            seconds = max((stamp_ns - state.stamp_ns) * 1e-9, 0.0)
            walk = np.repeat([WALK_M**2, np.deg2rad(WALK_DEG) ** 2], 3) * seconds
            prior.rotation[i], prior.translation[i] = state.rotation, state.translation
            prior.information[i] = np.linalg.inv(state.covariance + np.diag(walk))
        return prior

    def select(self, rows: np.ndarray) -> _Prior:
        return _Prior(
            self.known[rows], self.rotation[rows], self.translation[rows], self.information[rows]
        )


@dataclass
class _Problem:
    """Residuals of N head poses."""

    seen: Observations
    neck: np.ndarray
    neck_information: np.ndarray
    torso: np.ndarray
    scale: np.ndarray
    prior: _Prior
    points: np.ndarray
    neck_base: np.ndarray

    def linearize(self, rotation: np.ndarray, translation: np.ndarray) -> tuple:
        """Cost (N,), gradient (N, 6) and Gauss-Newton matrix (N, 6, 6)."""
        arms = np.einsum("bij,kj->bki", rotation, self.points) * self.scale[:, None, None]
        cost, pull, weight = self.seen.point_terms(translation[:, None] + arms, HEAD)
        slope = np.concatenate(
            [np.broadcast_to(np.eye(3), (*arms.shape, 3)), -hat(arms)], axis=-1
        )
        gradient = np.einsum("bkin,bki->bn", slope, pull)
        normal = np.einsum("bkin,bkij,bkjm->bnm", slope, weight, slope, optimize=True)
        self._add_neck(rotation, translation, cost, gradient, normal)
        self._add_torso(rotation, cost, gradient, normal)
        self._add_past(rotation, translation, cost, gradient, normal)
        return cost, gradient, normal

    def _add_neck(self, rotation, translation, cost, gradient, normal) -> None:
        arm = np.einsum("bij,j->bi", rotation, self.neck_base) * self.scale[:, None]
        off = translation + arm - self.neck
        slope = np.concatenate(
            [np.broadcast_to(np.eye(3), (len(arm), 3, 3)), -hat(arm)], axis=-1
        )
        weighted = self.neck_information @ slope
        cost += np.einsum("bi,bij,bj->b", off, self.neck_information, off)
        gradient += np.einsum("bin,bi->bn", weighted, off)
        normal += np.swapaxes(slope, 1, 2) @ weighted

    def _add_torso(self, rotation, cost, gradient, normal) -> None:
        back = np.swapaxes(self.torso, -1, -2)
        relative = log_so3(back @ rotation)
        turned = left_jacobian_inverse(relative) @ back
        weight = 1 / np.deg2rad(TORSO_SIGMA_DEG)
        yaw = relative[:, 2]
        over = yaw - np.clip(yaw, *np.deg2rad([-YAW_LIMIT_DEG, YAW_LIMIT_DEG]))
        limit = np.where(over != 0, 1 / np.deg2rad(YAW_LIMIT_SIGMA_DEG), 0.0)
        off = np.concatenate(
            [(relative - np.deg2rad(TORSO_MEAN_DEG)) * weight, (over * limit)[:, None]], axis=-1
        )
        slope = np.concatenate(
            [weight[:, None] * turned, limit[:, None, None] * turned[:, 2:3]], axis=1
        )
        cost += (off * off).sum(axis=-1)
        gradient[:, 3:] += np.einsum("bin,bi->bn", slope, off)
        normal[:, 3:, 3:] += np.swapaxes(slope, 1, 2) @ slope

    def _add_past(self, rotation, translation, cost, gradient, normal) -> None:
        turn = log_so3(rotation @ np.swapaxes(self.prior.rotation, -1, -2))
        off = np.concatenate([translation - self.prior.translation, turn], axis=-1)
        slope = np.zeros((len(off), 6, 6))
        slope[:, :3, :3] = np.eye(3)
        slope[:, 3:, 3:] = left_jacobian_inverse(turn)
        pushed = np.einsum("bij,bj->bi", self.prior.information, off)
        cost += np.einsum("bi,bi->b", off, pushed)
        gradient += np.einsum("bin,bi->bn", slope, pushed)
        normal += np.swapaxes(slope, 1, 2) @ self.prior.information @ slope
