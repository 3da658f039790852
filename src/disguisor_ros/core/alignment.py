"""The pose of one head that the depth around it agrees with.

The measured points are moved onto the zero level of the template's distance field by robust
Gauss-Newton, as in signed-distance tracking (Schmidt, Newcombe, Fox: DART, RSS 2014), with a
one-sided term that keeps the head out of space that the cameras have seen through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.covariance import bounded, pose_covariance
from disguisor_ros.core.depth_evidence import Evidence
from disguisor_ros.core.distance_field import CAP_M
from disguisor_ros.core.head_pose import TURN_DEG
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.rotations import exp_so3, left_jacobian_inverse, log_so3
from disguisor_ros.core.types import Head

#: Widths of the robust kernel at the steps from all starts and at those from the best, metres.
COARSE_KERNEL_M = (0.05, 0.05, 0.04, 0.03, 0.022, 0.016)
FINE_KERNEL_M = (0.015, 0.012, 0.012, 0.012)

#: Points that the choice of starts, the steps from all starts and those from the best look at.
START_POINTS = 70
COARSE_POINTS = 200
FINE_POINTS = 500

#: Patch of surface whose error is one independent draw, square metres: head shapes differ.
PATCH_M2 = 0.04**2

#: Starts of the search: offsets on a lattice, metres, and turns about the neck, degrees.
LATTICE_M = (-0.08, -0.04, 0.0, 0.04, 0.08)
LATTICE_YAW_DEG = (-25.0, 0.0, 25.0)

#: Standard deviation of the logarithm of a head's size about the body's guess.
SCALE_SIGMA = 0.04

#: Free rays: standard deviation of how deep they may cut the head, metres.
FREE_SIGMA_M = 0.010
FREE_KERNEL_M = 0.03

#: Least standard deviation of the place of a prediction, metres.
PRIOR_FLOOR_M = 0.02


@dataclass
class Registration:
    """Outcome of registering one head.

    Parameters
    ----------
    rotation, translation : ndarray, shapes (3, 3) and (3,)
        World <- head.
    scale : float
    covariance : ndarray, shape (6, 6)
        Of translation (metres) and rotation (radians, world axes).
    fitness : float
        Share of the visible measured surface that agrees, 0 to 1.
    area_m2 : float
        Agreeing area across the rays, square metres.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float
    covariance: np.ndarray
    fitness: float
    area_m2: float


def prior_covariance(head: Head) -> np.ndarray:
    """Covariance (6, 6) of a head before registration, its turn as keypoints mostly tell it."""
    return pose_covariance(bounded(head.covariance[:3, :3], PRIOR_FLOOR_M), TURN_DEG)


def head_scale(head: Head, template: HeadTemplate) -> float:
    """Size of a head over the template's, from its vertices."""
    across = np.linalg.norm(head.vertices[0] - head.vertices[-1])
    return float(across / np.linalg.norm(template.vertices[0] - template.vertices[-1]))


@dataclass
class _State:
    """K candidate poses."""

    rotation: np.ndarray
    translation: np.ndarray
    log_scale: np.ndarray
    cap: np.ndarray

    def pick(self, k: int) -> _State:
        """One of the candidates, as a batch of one."""
        one = slice(k, k + 1)
        return _State(
            self.rotation[one], self.translation[one], self.log_scale[one], self.cap[one]
        )


class Alignment:
    """Least squares of one head on its evidence."""

    def __init__(self, field, evidence: Evidence, head: Head, template, expected):
        self.field, self.evidence, self.expected = field, evidence, expected
        self.rotation = head.tf_world_head[:3, :3]
        self.center = head.tf_world_head[:3, 3]
        self.scale = head_scale(head, template)
        self.prior = np.diag([0.0] * 6 + [SCALE_SIGMA**-2, CAP_M[1] ** -2])
        self.prior[:6, :6] = np.linalg.inv(prior_covariance(head))

    def solve(self) -> Registration:
        """Descend from many starts on few points, then from the best on more."""
        everything = self.evidence
        self.evidence = everything.thinned(COARSE_POINTS)
        state = self._descend(self._starts(), COARSE_KERNEL_M)
        self.evidence = everything.thinned(FINE_POINTS)
        cost, _, _ = self.linearize(state, FINE_KERNEL_M[0])
        state = self._descend(state.pick(int(np.argmin(cost))), FINE_KERNEL_M)
        _, _, normal = self.linearize(state, FINE_KERNEL_M[-1])
        fitness, area = self._fitness(state)
        return Registration(
            state.rotation[0], state.translation[0],
            float(self.scale * np.exp(state.log_scale[0])),
            np.linalg.inv(normal[0])[:6, :6], fitness, area,
        )  # fmt: skip

    def _descend(self, state: _State, kernels: tuple) -> _State:
        for kernel in kernels:
            _, gradient, normal = self.linearize(state, kernel)
            step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
            size = np.maximum(np.linalg.norm(step[:, :3], axis=1) / 0.04, 1)
            size = np.maximum(size, np.linalg.norm(step[:, 3:6], axis=1) / 0.3)
            state = self._retract(state, step / size[:, None])
        return state

    def _starts(self) -> _State:
        """The prediction, the expectation if any, and the best places on a lattice of turns."""
        few = self.evidence.thinned(START_POINTS)
        lattice = np.stack(np.meshgrid(*[LATTICE_M] * 3, indexing="ij"), -1).reshape(-1, 3)
        rotations, places = [self.rotation], [self.center]
        yaws = LATTICE_YAW_DEG
        if self.expected is not None:
            rotations.append(self.expected[0])
            places.append(self.expected[1])
            yaws = (0.0,)
        for yaw in np.deg2rad(yaws):
            turned = self.rotation @ exp_so3(np.array([0, 0, yaw]))
            local = (few.points - self.center) @ (turned / self.scale)
            offsets = lattice @ (turned / self.scale)
            placed = (local[None] - offsets[:, None]).astype(np.float32)
            cost = (self.field.excess(placed) @ few.areas) / (0.01**2 * PATCH_M2)
            cost += np.einsum("li,ij,lj->l", lattice, self.prior[:3, :3], lattice)
            cost += yaw**2 * self.prior[3, 3]
            rotations.append(turned)
            places.append(self.center + lattice[np.argmin(cost)])
        count = len(rotations)
        return _State(
            np.array(rotations), np.array(places), np.zeros(count), np.full(count, CAP_M[0])
        )

    @staticmethod
    def _retract(state: _State, step: np.ndarray) -> _State:
        return _State(
            exp_so3(step[:, 3:6]) @ state.rotation, state.translation + step[:, :3],
            np.clip(state.log_scale + step[:, 6], -0.1, 0.1),
            np.clip(state.cap + step[:, 7], 0.0, 0.05),
        )  # fmt: skip

    def linearize(self, state: _State, kernel: float) -> tuple:
        """Cost (K,), gradient (K, 8) and Gauss-Newton matrix (K, 8, 8)."""
        cost, gradient, normal = self._depth_terms(state, np.float32(kernel))
        turn = log_so3(state.rotation @ self.rotation.T)
        off = np.concatenate(
            [state.translation - self.center, turn, state.log_scale[:, None],
             state.cap[:, None] - CAP_M[0]], axis=1)  # fmt: skip
        slope = np.tile(np.eye(8), (len(off), 1, 1))
        slope[:, 3:6, 3:6] = left_jacobian_inverse(turn)
        weighted = self.prior @ slope
        cost += np.einsum("ki,ij,kj->k", off, self.prior, off)
        gradient += np.einsum("kin,ki->kn", weighted, off)
        normal += np.swapaxes(slope, 1, 2) @ weighted
        return cost, gradient, normal

    def _lookup(self, state: _State):
        """Field at the surface points and at the free rays' points nearest to the head.

        Distances (K, N + M) in metres; normals and arms from the head's origin in the world.
        """
        points = np.concatenate(
            [np.broadcast_to(self.evidence.points, (len(state.cap), *self.evidence.points.shape)),
             self._nearest(state)], axis=1)  # fmt: skip
        scale = (self.scale * np.exp(state.log_scale)).astype(np.float32)
        arms = points - state.translation[:, None].astype(np.float32)
        local = arms @ (state.rotation.astype(np.float32) / scale[:, None, None])
        distance, slope, offset, weight, scalp = self.field(local)
        scale = scale[:, None]
        radial = scale * (distance - np.einsum("kni,kni->kn", slope, local))
        normals = slope @ np.swapaxes(state.rotation, 1, 2).astype(np.float32)
        return scale * distance, normals, arms, radial, offset, weight, scalp

    def _nearest(self, state: _State) -> np.ndarray:
        """Seen-through points of the rays that are nearest to the head, shape (K, M, 3)."""
        evidence = self.evidence
        to_center = state.translation[:, None].astype(np.float32) - evidence.origins
        along = np.einsum("kni,ni->kn", to_center, evidence.directions)
        along = np.minimum(along, evidence.reach - np.float32(0.02))
        return evidence.origins + along[..., None] * evidence.directions

    def _residuals(self, state: _State):
        """Distances from what is expected, their derivatives, shares and weights."""
        evidence, count = self.evidence, len(self.evidence.points)
        off, normals, arms, radial, offset, weight, scalp = self._lookup(state)
        jacobian = np.empty((*off.shape, 8), dtype=np.float32)
        np.negative(normals, out=jacobian[..., :3])
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            jacobian[..., 3 + i] = normals[..., j] * arms[..., k] - normals[..., k] * arms[..., j]
        jacobian[..., 6] = radial
        np.negative(scalp, out=jacobian[..., 7])
        surface, free = slice(None, count), slice(count, None)
        off[:, surface] -= (offset + scalp * state.cap[:, None].astype(np.float32))[:, surface]
        facing = np.einsum("kni,ni->kn", normals[:, surface], evidence.views)
        # A ray that was seen through must not be inside the head; outside it says nothing.
        off[:, free] = np.minimum(off[:, free] + np.float32(0.003), 0)
        jacobian[:, free, 7] = 0
        known = (weight > 0) * np.float32(1 / PATCH_M2)
        share = known * np.concatenate([evidence.areas, evidence.ray_areas])
        share[:, surface] *= np.clip(0.5 - 2 * facing, 0, 1)
        weight[:, free] = 1 / FREE_SIGMA_M
        return off, jacobian, share, weight

    def _depth_terms(self, state: _State, kernel: np.float32) -> tuple:
        """Robust (Geman-McClure) normal equations of the depth pixels.

        A surface point far off costs nothing, as one that is not on the head; one near is a gain.
        """
        off, jacobian, share, weight = self._residuals(state)
        count = len(self.evidence.points)
        width = np.full(off.shape[1], FREE_KERNEL_M, dtype=np.float32)
        width[:count] = kernel
        root = 1 / (1 + (off / width) ** 2)
        information = share * weight**2
        cost = information * off**2 * root
        cost[:, :count] -= information[:, :count] * kernel**2
        weighted = jacobian * (information * root**2)[..., None]
        gradient = np.einsum("kni,kn->ki", weighted, off).astype(np.float64)
        normal = (np.swapaxes(weighted, 1, 2) @ jacobian).astype(np.float64)
        return cost.sum(axis=1).astype(np.float64), gradient, normal

    def _fitness(self, state: _State) -> tuple[float, float]:
        """Share of the evidence on the head that agrees, and the agreeing area."""
        off, _, share, _ = self._residuals(state)
        count = len(self.evidence.points)
        surface, area = off[0, :count], share[0] * PATCH_M2
        agreed = area[:count][np.abs(surface) < 0.012].sum()
        against = area[:count][surface < -0.02].sum() + area[count:][off[0, count:] < -0.012].sum()
        return float(agreed / max(agreed + against, 1e-9)), float(agreed)
