"""Heads put on the surface that depth cameras measured.

The measured points are moved onto the zero level of the template's distance field by robust
Gauss-Newton, as in signed-distance tracking (Schmidt, Newcombe, Fox: DART, RSS 2014), with a
one-sided term that keeps the head out of space that the cameras have seen through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.depth_evidence import Evidence, gather
from disguisor_ros.core.distance_field import DistanceField
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.pose_filter import PoseFilter
from disguisor_ros.core.rotations import angle_between, exp_so3, left_jacobian_inverse, log_so3
from disguisor_ros.core.types import Body, DepthView, Head

#: How far a head may be from where its body puts it, metres and degrees.
MAX_SHIFT_M = 0.15
MAX_ROTATION_DEG = 35.0

#: Share of the visible head that the depth must agree with, and least area seen, square metres.
MIN_FITNESS = 0.6
MIN_AREA_M2 = 0.0025

#: Widths of the robust kernel from the first to the last step, metres.
KERNEL_M = (0.05, 0.05, 0.04, 0.04, 0.03, 0.03, 0.02, 0.02, 0.015, 0.015, 0.012, 0.012)

#: Patch of surface whose error is one independent draw, square metres: head shapes differ.
PATCH_M2 = 0.025**2

#: Starts of the search: offsets on a lattice, metres, and turns about the vertical, degrees.
LATTICE_M = (-0.08, -0.04, 0.0, 0.04, 0.08)
LATTICE_YAW_DEG = (-25.0, 0.0, 25.0)

#: Standard deviations of log size and of the thickness of cap or hair: mean and sigma, metres.
SCALE_SIGMA = 0.03
CAP_M = (0.008, 0.010)

#: Free rays: standard deviation of how deep they may cut the head, metres.
FREE_SIGMA_M = 0.010

#: No registered head is trusted beyond this, metres.
FLOOR_M = 0.006


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


class HeadRegistrar:
    """Registers each body's head to the depth near it.

    A registration is used when the depth agrees with it (fitness, area) and when it stays near
    the body's head (shift, rotation). Otherwise the body's own head is used. Both pass the
    temporal filter of the track.

    Parameters
    ----------
    template : HeadTemplate
    """

    def __init__(self, template: HeadTemplate):
        self.template = template
        self.field = DistanceField(template)
        self.reset()

    def reset(self) -> None:
        """Forget all tracks."""
        self._filters: dict[int, PoseFilter] = {}

    def __call__(
        self, bodies: list[Body], depth: dict[str, DepthView], stamp_ns: int
    ) -> list[Head]:
        """Heads of all bodies at an instant.

        Parameters
        ----------
        bodies : list of Body
        depth : dict of str to DepthView
            May be empty: the heads are then those of the bodies.
        stamp_ns : int

        Returns
        -------
        list of Head
            In the order of ``bodies``; ``method`` is ``registered`` where depth was used.
        """
        centers = np.array([b.head.tf_world_head[:3, 3] for b in bodies]).reshape(-1, 3)
        heads = []
        for i, body in enumerate(bodies):
            head = body.head
            evidence = gather(
                centers[i], self._radius(head), depth, np.delete(centers, i, axis=0)
            )
            found = self.register(head, evidence) if evidence is not None else None
            if found is not None and not self._plausible(head, found):
                found = None
            heads.append(self._filtered(head, found, stamp_ns))
        return heads

    def _radius(self, head: Head) -> float:
        return self.template.radius + 0.04 + min(2 * head.sigma_m, 0.10)

    def register(self, head: Head, evidence: Evidence) -> Registration | None:
        """Register one head to the evidence around it; no gates, no filter."""
        problem = _Problem(self.field, evidence, head, self.template)
        if not len(evidence.points):
            return None
        return problem.solve()

    def _plausible(self, head: Head, found: Registration) -> bool:
        shift = np.linalg.norm(found.translation - head.tf_world_head[:3, 3])
        turn = np.rad2deg(angle_between(head.tf_world_head[:3, :3], found.rotation))
        return (
            found.fitness >= MIN_FITNESS and found.area_m2 >= MIN_AREA_M2
            and shift <= MAX_SHIFT_M and turn <= MAX_ROTATION_DEG
        )

    def _filtered(self, head: Head, found: Registration | None, stamp_ns: int) -> Head:
        return head if found is None else self._head(head, found)

    def _head(self, head: Head, found: Registration) -> Head:
        tf_world_head = np.eye(4)
        tf_world_head[:3, :3], tf_world_head[:3, 3] = found.rotation, found.translation
        sigma = float(np.sqrt(np.trace(found.covariance[:3, :3]) / 3 + FLOOR_M**2))
        return Head(
            head.track_id, tf_world_head, self.template.place(tf_world_head, found.scale),
            sigma, "registered", max(head.confidence, found.fitness),
        )  # fmt: skip


@dataclass
class _State:
    """K candidate poses."""

    rotation: np.ndarray
    translation: np.ndarray
    log_scale: np.ndarray
    cap: np.ndarray


class _Problem:
    """Least squares of one head on its evidence."""

    def __init__(self, field, evidence: Evidence, head: Head, template: HeadTemplate):
        self.field, self.evidence = field, evidence
        self.rotation = head.tf_world_head[:3, :3]
        self.center = head.tf_world_head[:3, 3]
        spread = head.vertices.max(axis=0) - head.vertices.min(axis=0)
        placed = template.vertices @ self.rotation.T.astype(np.float32)
        self.scale = float(
            np.linalg.norm(spread) / np.linalg.norm(placed.max(axis=0) - placed.min(axis=0))
        )
        angle = np.clip(head.sigma_m / 0.08, np.deg2rad(8), np.deg2rad(25))
        move = max(head.sigma_m, 0.02)
        self.prior = np.array([move] * 3 + [angle] * 3 + [SCALE_SIGMA, CAP_M[1]]) ** -2.0

    def solve(self) -> Registration:
        state = self._starts()
        for kernel in KERNEL_M:
            cost, gradient, normal = self.linearize(state, kernel)
            step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
            size = np.maximum(np.linalg.norm(step[:, :3], axis=1) / 0.04, 1)
            size = np.maximum(size, np.linalg.norm(step[:, 3:6], axis=1) / 0.3)
            state = self._retract(state, step / size[:, None])
        cost, _, normal = self.linearize(state, KERNEL_M[-1])
        best = int(np.argmin(cost))
        fitness, area = self._fitness(state, best)
        return Registration(
            state.rotation[best], state.translation[best],
            float(self.scale * np.exp(state.log_scale[best])),
            np.linalg.inv(normal[best])[:6, :6], fitness, area,
        )  # fmt: skip

    def _starts(self) -> _State:
        """The prediction, and the best places on a lattice around it for each of some yaws."""
        evidence = self.evidence
        keep = slice(None, None, max(1, len(evidence.points) // 200))
        points, areas = evidence.points[keep], evidence.areas[keep]
        lattice = np.stack(np.meshgrid(*[LATTICE_M] * 3, indexing="ij"), -1).reshape(-1, 3)
        rotations, shifts = [self.rotation], [np.zeros(3)]
        for yaw in np.deg2rad(LATTICE_YAW_DEG):
            turned = exp_so3(np.array([0, 0, yaw])) @ self.rotation
            local = (points - self.center) @ (turned / self.scale)
            offsets = lattice @ (turned / self.scale)
            placed = (local[None] - offsets[:, None]).astype(np.float32)
            distance, _, offset, weight, scalp = self.field(placed)
            off = distance - offset - scalp * np.float32(CAP_M[0])
            loss = np.where(weight > 0, np.clip(np.abs(off), 0, 0.04) ** 2, 0.04**2)
            cost = (loss @ areas) / (0.01**2 * PATCH_M2)
            cost += (lattice**2).sum(axis=1) * self.prior[0] + yaw**2 * self.prior[3]
            rotations.append(turned)
            shifts.append(lattice[np.argmin(cost)])
        count = len(rotations)
        return _State(
            np.array(rotations), self.center + np.array(shifts), np.zeros(count),
            np.full(count, CAP_M[0]),
        )  # fmt: skip

    @staticmethod
    def _retract(state: _State, step: np.ndarray) -> _State:
        return _State(
            exp_so3(step[:, 3:6]) @ state.rotation, state.translation + step[:, :3],
            np.clip(state.log_scale + step[:, 6], -0.1, 0.1),
            np.clip(state.cap + step[:, 7], 0.0, 0.05),
        )  # fmt: skip

    def linearize(self, state: _State, kernel: float) -> tuple:
        """Cost (K,), gradient (K, 8) and Gauss-Newton matrix (K, 8, 8)."""
        cost, gradient, normal = self._surface_terms(state, kernel)
        self._add_free_rays(state, kernel, cost, gradient, normal)
        turn = log_so3(state.rotation @ self.rotation.T)
        off = np.concatenate(
            [state.translation - self.center, turn, state.log_scale[:, None],
             state.cap[:, None] - CAP_M[0]], axis=1)  # fmt: skip
        slope = np.tile(np.eye(8), (len(off), 1, 1))
        slope[:, 3:6, 3:6] = left_jacobian_inverse(turn)
        weighted = self.prior[:, None] * slope
        cost += (off**2 * self.prior).sum(axis=1)
        gradient += np.einsum("kin,ki->kn", weighted, off)
        normal += np.swapaxes(slope, 1, 2) @ weighted
        return cost, gradient, normal

    def _lookup(self, state: _State, points: np.ndarray):
        """Field at points (K, N, 3) of the world; arms and gradients in the world."""
        scale = (self.scale * np.exp(state.log_scale)).astype(np.float32)
        arms = points - state.translation[:, None].astype(np.float32)
        local = arms @ (state.rotation.astype(np.float32) / scale[:, None, None])
        distance, slope, offset, weight, scalp = self.field(local)
        scale = scale[:, None]
        radial = distance - np.einsum("kni,kni->kn", slope, local)
        normals = slope @ np.swapaxes(state.rotation, 1, 2).astype(np.float32)
        return scale * distance, normals, arms, scale * radial, offset, weight, scalp

    def _surface_terms(self, state: _State, kernel: float) -> tuple:
        evidence = self.evidence
        distance, normals, arms, radial, offset, weight, scalp = self._lookup(
            state, evidence.points
        )
        off = distance - offset - scalp * state.cap[:, None].astype(np.float32)
        facing = np.einsum("kni,ni->kn", normals, evidence.views)
        visible = np.clip(0.5 - 2 * facing, 0, 1)
        share = visible * evidence.areas / np.float32(PATCH_M2)
        terms = self._accumulate(off, normals, arms, radial, -scalp, share, weight, kernel)
        # A point far off is worth nothing, as one that is not on the head; one near is a gain.
        terms[0][:] -= (share * weight**2).sum(axis=1) * kernel**2
        return terms

    def _add_free_rays(self, state: _State, kernel, cost, gradient, normal) -> None:
        evidence = self.evidence
        if not len(evidence.reach):
            return
        to_center = state.translation[:, None].astype(np.float32) - evidence.origins
        along = np.einsum("kni,ni->kn", to_center, evidence.directions)
        along = np.minimum(along, evidence.reach - np.float32(0.02))
        nearest = evidence.origins + along[..., None] * evidence.directions
        distance, normals, arms, radial, _, weight, scalp = self._lookup(state, nearest)
        off = np.minimum(distance + np.float32(0.003), 0)
        share = (off < 0) * (weight > 0) * evidence.ray_areas / np.float32(PATCH_M2)
        weight = np.full_like(off, 1 / FREE_SIGMA_M)
        terms = self._accumulate(off, normals, arms, radial, 0 * scalp, share, weight, 0.03)
        cost += terms[0]
        gradient += terms[1]
        normal += terms[2]

    @staticmethod
    def _accumulate(off, normals, arms, radial, by_cap, share, weight, kernel) -> tuple:
        """Robust (Geman-McClure) normal equations; cost is bounded by the kernel."""
        robust = 1 / (1 + (off / np.float32(kernel)) ** 2) ** 2
        strength = share * weight**2 * robust
        cost = share * weight**2 * off**2 * np.sqrt(robust)
        jacobian = np.concatenate(
            [-normals, -np.cross(arms, normals), radial[..., None], by_cap[..., None]], axis=-1
        )
        weighted = jacobian * strength[..., None]
        gradient = np.einsum("kni,kn->ki", weighted, off).astype(np.float64)
        normal = (np.swapaxes(weighted, 1, 2) @ jacobian).astype(np.float64)
        return cost.sum(axis=1).astype(np.float64), gradient, normal

    def _fitness(self, state: _State, best: int) -> tuple[float, float]:
        """Share of the evidence on the head that agrees, and the agreeing area."""
        one = _State(*(getattr(state, name)[best : best + 1] for name in
                       ("rotation", "translation", "log_scale", "cap")))  # fmt: skip
        evidence = self.evidence
        distance, normals, _, _, offset, weight, scalp = self._lookup(one, evidence.points)
        off = (distance - offset - scalp * one.cap[:, None])[0]
        facing = np.einsum("ni,ni->n", normals[0], evidence.views) < 0
        agree = (np.abs(off) < 0.012) & (weight[0] > 0) & facing
        inside = (off < -0.02) & (weight[0] > 0)
        agreed = float(evidence.areas[agree].sum())
        against = float(evidence.areas[inside].sum())
        if len(evidence.reach):
            to_center = one.translation.astype(np.float32) - evidence.origins
            along = np.einsum("ni,ni->n", to_center, evidence.directions)
            nearest = evidence.origins + along[:, None] * evidence.directions
            deep, _, _, _, _, known, _ = self._lookup(one, nearest[None])
            against += float(evidence.ray_areas[(deep[0] < -0.015) & (known[0] > 0)].sum())
        return agreed / max(agreed + against, 1e-9), agreed
