"""Heads put on the surface that depth cameras measured.

The measured points are moved onto the zero level of the template's distance field by robust
Gauss-Newton, as in signed-distance tracking (Schmidt, Newcombe, Fox: DART, RSS 2014), with a
one-sided term that keeps the head out of space that the cameras have seen through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from disguisor_ros.core.covariance import bounded, largest_sigma
from disguisor_ros.core.depth_evidence import Evidence, gather
from disguisor_ros.core.distance_field import CAP_M, DistanceField
from disguisor_ros.core.head_pose import WALK_DEG
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

#: Least standard deviation of a head where the depth shows something else, metres.
CONTRADICTED_SIGMA_M = 0.06

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

#: Covariance that all registrations have: shape of the head, sensor, calibration.
REGISTERED_NOISE = np.diag([0.004**2] * 3 + [np.deg2rad(2.5) ** 2] * 3)

#: Prediction: least standard deviation, metres; rotation is as far off as that at this arm,
#: metres, within these bounds, degrees.
PRIOR_FLOOR_M = 0.02
PRIOR_ARM_M = 0.08
PRIOR_DEG = (8.0, 25.0)

#: Distance of the face from the middle of the head, metres.
FACE_ARM_M = 0.08

#: A track that was not seen for so long starts anew.
FORGET_S = 1.0

#: A head without keypoints is looked for where depth leads one to expect it for so long after
#: depth last showed it, seconds; how well that is known, metres.
STILL_S = 3.0
STILL_SIGMA_M = 0.015

#: A head that is known no better than this before depth is read, metres, may be where depth
#: leads one to expect it instead.
VAGUE_M = 0.06


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


@dataclass
class _Still:
    """Where depth last showed a head that had been confirmed by keypoints.

    Parameters
    ----------
    head : Head
    stamp_ns : int
        When that was.
    seen_ns : int
        When keypoints of its own last agreed.
    """

    head: Head
    stamp_ns: int
    seen_ns: int

    def turned(self, stamp_ns: int) -> float:
        """Variance of the rotation since the head was seen, square radians.

        Depth holds a head in its place, but can hardly tell how it is turned.
        """
        return np.deg2rad(WALK_DEG) ** 2 * (stamp_ns - self.seen_ns) * 1e-9


class HeadRegistrar:
    """Registers each body's head to the depth near it.

    A registration is used when the depth agrees with it (fitness, area) and when it stays near
    the body's head (shift, rotation). When a head's own keypoints are missing, or depth disagrees
    with them, it is followed from where both last agreed: nobody is lost whom depth still shows
    because a detector missed him. Otherwise the body's own head is used, with less trust
    where the depth shows something else. All pass the temporal filter of the track.

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
        self._still: dict[int, _Still] = {}

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
        if any(stamp_ns < track.stamp_ns for track in self._filters.values()):
            self.reset()
        horizon = stamp_ns - int(FORGET_S * 1e9)
        self._filters = {i: f for i, f in self._filters.items() if f.stamp_ns >= horizon}
        recent = stamp_ns - int(STILL_S * 1e9)
        self._still = {i: s for i, s in self._still.items() if s.stamp_ns >= recent}
        centers = np.array([b.head.tf_world_head[:3, 3] for b in bodies]).reshape(-1, 3)
        heads = []
        for i, body in enumerate(bodies):
            others = np.delete(centers, i, axis=0)
            head, found = self._found(body.head, others, depth, stamp_ns)
            heads.append(self._filtered(head, found, stamp_ns))
            followed = found is not None and head is not body.head
            if followed or (found is not None and head.method == "keypoints"):
                seen_ns = self._still[head.track_id].seen_ns if followed else stamp_ns
                self._still[head.track_id] = _Still(heads[-1], stamp_ns, seen_ns)
        return heads

    def _found(
        self, head: Head, others: np.ndarray, depth: dict[str, DepthView], stamp_ns: int
    ) -> tuple[Head, Registration | None]:
        """Head to go by and, where depth agrees with it, its registration."""
        found = None
        # Nothing anchors a head that no camera saw: registered again and again it would walk
        # along whatever surface is near.
        if head.method != "predicted":
            track = self._filters.get(head.track_id)
            expected = track.predicted(stamp_ns) if track is not None else None
            found = self._read(head, others, depth, expected)
        sure = found is not None and plausible(head, found)
        still = self._still.get(head.track_id)
        before = self._followed(still, head, stamp_ns) if still is not None else None
        own = sure and head.method == "keypoints"
        vague = head.sigma_m >= VAGUE_M
        if before is not None and (vague or not own):
            again = self._read(before, others, depth)
            better = again is not None and not (own and found.fitness > again.fitness)
            if better and plausible(before, again) and (vague or plausible(head, again)):
                again.covariance[3:, 3:] += still.turned(stamp_ns) * np.eye(3)
                return before, again
        if found is not None and not sure:
            if found.area_m2 >= MIN_AREA_M2:
                head = replace(head, covariance=bounded(head.covariance, CONTRADICTED_SIGMA_M))
            found = None
        return head, found

    def _followed(self, still: _Still, head: Head, stamp_ns: int) -> Head:
        """Where a head should be by now that the depth showed a moment ago.

        How it is turned even one view's keypoints know better.
        """
        track = self._filters.get(still.head.track_id)
        tf_world_head = still.head.tf_world_head.copy()
        if track is not None and track.stamp_ns == still.stamp_ns:
            tf_world_head[:3, :3], tf_world_head[:3, 3] = track.predicted(stamp_ns)
        if head.method == "keypoints":
            tf_world_head[:3, :3] = head.tf_world_head[:3, :3]
        scale = head_scale(still.head, self.template)
        vertices = self.template.place(tf_world_head, scale)
        return replace(
            still.head, tf_world_head=tf_world_head, vertices=vertices,
            covariance=STILL_SIGMA_M**2 * np.eye(3),
        )  # fmt: skip

    def _read(self, head: Head, others, depth, expected=None) -> Registration | None:
        """Gather the depth around a head and register it to that."""
        evidence = gather(head.tf_world_head[:3, 3], self.radius(head), depth, others)
        return self.register(head, evidence, expected) if evidence is not None else None

    def radius(self, head: Head) -> float:
        """How far around a predicted head the depth is read, metres."""
        return self.template.radius + 0.04 + min(2 * head.sigma_m, 0.10)

    def register(
        self, head: Head, evidence: Evidence,
        expected: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Registration | None:  # fmt: skip
        """Register one head to the evidence around it; no gates, no filter.

        Parameters
        ----------
        head : Head
            Prediction; its ``covariance`` is the strength of the prior.
        evidence : Evidence
        expected : tuple of rotation (3, 3) and translation (3,), optional
            Another pose to start from, for example from the instants before.

        Returns
        -------
        Registration or None
            None when nothing was measured near the head.
        """
        if not len(evidence.points):
            return None
        return _Problem(self.field, evidence, head, self.template, expected).solve()

    def _filtered(self, head: Head, found: Registration | None, stamp_ns: int) -> Head:
        """Head after the temporal filter, from the registration or else from the body."""
        if found is not None:
            rotation, translation, scale = found.rotation, found.translation, found.scale
            covariance = found.covariance + REGISTERED_NOISE
            method, confidence = "registered", max(head.confidence, found.fitness)
        else:
            rotation, translation = head.tf_world_head[:3, :3], head.tf_world_head[:3, 3]
            scale = head_scale(head, self.template)
            covariance = prior_covariance(head.covariance)
            method, confidence = head.method, head.confidence
        track = self._filters.get(head.track_id)
        if track is None:
            track = PoseFilter(rotation, translation, covariance, stamp_ns)
            self._filters[head.track_id] = track
        else:
            track.update(rotation, translation, covariance, stamp_ns)
        tf_world_head = np.eye(4)
        tf_world_head[:3, :3], tf_world_head[:3, 3] = track.rotation, track.translation
        place, turn = track.covariance[:3, :3], track.covariance[3:, 3:]
        swung = FACE_ARM_M**2 * np.trace(turn) * 2 / 9
        return Head(
            head.track_id, tf_world_head, self.template.place(tf_world_head, scale),
            place + swung * np.eye(3), method, confidence,
        )  # fmt: skip


def plausible(head: Head, found: Registration) -> bool:
    """Whether a registration may replace the body's head: the gates."""
    shift = np.linalg.norm(found.translation - head.tf_world_head[:3, 3])
    turn = np.rad2deg(angle_between(head.tf_world_head[:3, :3], found.rotation))
    return bool(
        found.fitness >= MIN_FITNESS and found.area_m2 >= MIN_AREA_M2
        and shift <= min(MAX_SHIFT_M, 0.04 + 4 * head.sigma_m) and turn <= MAX_ROTATION_DEG
    )


def prior_covariance(place: np.ndarray) -> np.ndarray:
    """Covariance (6, 6) of a head of whose place this is known, (3, 3), before registration."""
    place = bounded(place, PRIOR_FLOOR_M)
    turn = np.clip(largest_sigma(place) / PRIOR_ARM_M, *np.deg2rad(PRIOR_DEG))
    covariance = turn**2 * np.eye(6)
    covariance[:3, :3] = place
    return covariance


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


class _Problem:
    """Least squares of one head on its evidence."""

    def __init__(self, field, evidence: Evidence, head: Head, template, expected):
        self.field, self.evidence, self.expected = field, evidence, expected
        self.rotation = head.tf_world_head[:3, :3]
        self.center = head.tf_world_head[:3, 3]
        self.scale = head_scale(head, template)
        self.prior = np.diag([0.0] * 6 + [SCALE_SIGMA**-2, CAP_M[1] ** -2])
        self.prior[:6, :6] = np.linalg.inv(prior_covariance(head.covariance))

    def solve(self) -> Registration:
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
