"""Bodies from keypoints: a batched Levenberg-Marquardt fit of segments, warm from the track."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from disguisor_ros.core.body_models import (
    KEYPOINT_SEGMENTS,
    PARENTS,
    SEGMENTS,
    BodyModel,
)
from disguisor_ros.core.cameras import Camera, rigid
from disguisor_ros.core.covariance import bounded
from disguisor_ros.core.head_pose import CORRELATED_KEYPOINTS, HeadSolver, HeadState
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.least_squares import levenberg_marquardt
from disguisor_ros.core.observations import Observations, observe
from disguisor_ros.core.rotations import (
    exp_so3,
    hat,
    left_jacobian_inverse,
    log_so3,
)
from disguisor_ros.core.types import Body, Head, Person3D

#: Segments that the body solver turns: all but the head, which has a solver of its own.
BODY = np.array([i for i, name in enumerate(SEGMENTS) if name != "head"])

#: Keypoints that the body solver sees: shoulders to ankles.
LIMBS = np.arange(5, 17)

#: What lengths a track may differ in, and by how much (standard deviation of the logarithm).
LENGTHS = {"overall": 0.08, "shoulder_width": 0.07, "torso": 0.06, "hip_width": 0.10,
           "upper_arm": 0.06, "forearm": 0.06, "thigh": 0.06, "shank": 0.06}  # fmt: skip

#: Numbers of a body's place and rotations, which lengths come after in each state.
_POSE = 3 + 3 * len(BODY)

#: Share of the body's size, as a logarithm, that the head follows.
HEAD_SHARE = 0.7

#: Standard deviation of each segment's rotation on its parent about x, y, z of the body frame,
#: degrees; the pelvis has :data:`UPRIGHT_SIGMA` instead.
POSE_SIGMA_DEG = {
    "pelvis": (1e6, 1e6, 1e6), "chest": (10, 18, 14), "upper_arm": (45, 55, 50),
    "forearm": (14, 60, 45), "thigh": (16, 32, 22), "shank": (8, 45, 12),
}  # fmt: skip

#: Standard deviation of the sine of the pelvis' tilt, and how many of them bend the robust cost:
#: people stand, patients lie.
UPRIGHT_SIGMA = 0.3
UPRIGHT_ROBUST = 1.5

#: Range of flexion about y against the body at ease, degrees (elbows bend forward: negative).
FLEXION_DEG = {"forearm": (-140.0, 20.0), "shank": (-8.0, 140.0)}

#: Standard deviation of a joint limit, degrees.
LIMIT_SIGMA_DEG = 4.0

#: Instants whose errors count as one: detectors err alike from frame to frame.
CORRELATED_INSTANTS = 10

#: How far off a head is taken to be at most at the first sight of somebody by one view, metres, by
#: the mean score of the joints that are seen; twice as far at each further sight. Detections of
#: nobody score low and do not last: the image that shows one is covered where it shows it, but
#: not half of all others.
FIRST_SIGHT_M = (0.05, 0.15)
FIRST_SIGHT_SCORE = (0.35, 0.50)

#: After so many sights that bound is beyond all rooms.
_MOST_SIGHTS = 10

#: Levenberg-Marquardt steps at most.
_ITERATIONS = 10

#: A track that was not seen for so long starts anew.
FORGET_S = 2.0


@dataclass
class _Track:
    """What is known of a person from the instants before, and in how many he was seen.

    The tracker may have known him before the fitter did, which was started anew or got nothing
    while the room was only watched: then the instants since his birth count.
    """

    stamp_ns: int
    translation: np.ndarray
    rotations: np.ndarray
    lengths: np.ndarray
    precision: np.ndarray
    head: HeadState | None = None
    joints: np.ndarray | None = None
    sights: int = 0


@dataclass
class _Solution:
    """State of the batch of bodies."""

    translation: np.ndarray
    rotations: np.ndarray
    lengths: np.ndarray
    normal: np.ndarray | None = None


class BodyFitter:
    """Fits a body to each person, all persons in one batch.

    Parameters
    ----------
    model : BodyModel
    template : HeadTemplate, optional
        Head that is placed on the body; loaded when not given.
    """

    def __init__(self, model: BodyModel, template: HeadTemplate | None = None):
        self.model = model
        self.template = template if template is not None else HeadTemplate.load()
        self.skeleton = _Skeleton(model)
        self.neck_base = model.pivots[2] - (model.keypoints[3] + model.keypoints[4]) / 2
        self.head_solver = HeadSolver(self.template, self.neck_base)
        self.reset()

    def reset(self) -> None:
        """Forget all tracks."""
        self._tracks: dict[int, _Track] = {}

    def __call__(
        self,
        persons: list[Person3D],
        keypoints_by_camera: dict[str, np.ndarray],
        cameras: dict[str, Camera],
        stamp_ns: int,
    ) -> list[Body]:
        """Fit all persons of an instant.

        Parameters
        ----------
        persons : list of Person3D
        keypoints_by_camera : dict of str to ndarray, shape (P, 17, 3)
            x, y in pixels of the raw image and score; indexed by ``Person3D.detections``.
        cameras : dict of str to Camera
        stamp_ns : int
            Instants must not go back in time; a jump back forgets all tracks.

        Returns
        -------
        list of Body
            One for each person that has a position, in the same order.
        """
        persons = [p for p in persons if np.isfinite(p.joints).all(axis=1).any()]
        if any(stamp_ns < track.stamp_ns for track in self._tracks.values()):
            self.reset()
        horizon = stamp_ns - int(FORGET_S * 1e9)
        self._tracks = {i: t for i, t in self._tracks.items() if t.stamp_ns >= horizon}
        if not persons:
            return []
        seen = observe(persons, keypoints_by_camera, cameras)
        tracks = [self._tracks.get(p.track_id) or self._birth(p, stamp_ns) for p in persons]
        solution = self._solve(seen, tracks)
        states = self._place_heads(persons, seen, solution, tracks, stamp_ns)
        self._remember(persons, solution, tracks, states, stamp_ns)
        return self._bodies(persons, solution, states)

    def _birth(self, person: Person3D, stamp_ns: int) -> _Track:
        """Body at ease on the person's joints, turned as shoulders and hips are."""
        joints = person.joints
        rotation = _torso_frame(joints)
        offset = joints - self.model.keypoints @ rotation.T
        translation = np.nanmedian(offset, axis=0)
        return _Track(
            stamp_ns, translation, np.tile(rotation, (len(BODY), 1, 1)),
            np.zeros(len(LENGTHS)), np.diag(1 / np.array(list(LENGTHS.values())) ** 2),
            sights=person.age - 1,
        )  # fmt: skip

    def _solve(self, seen: Observations, tracks: list[_Track]) -> _Solution:
        """Levenberg-Marquardt over all persons at once."""
        start = tuple(
            np.stack([getattr(t, name) for t in tracks])
            for name in ("translation", "rotations", "lengths")
        )
        prior = start[2], np.stack([t.precision for t in tracks])
        state, _, normal = levenberg_marquardt(
            lambda *state: self.skeleton.linearize(_Solution(*state), seen, prior),
            self.skeleton.retract, start, _ITERATIONS,
        )  # fmt: skip
        return _Solution(*state, normal)

    def _place_heads(self, persons, seen, solution, tracks, stamp_ns) -> list[HeadState]:
        """Heads from their own keypoints, with the torso and the last instant as priors."""
        chest = solution.rotations[:, 1]
        neck, slope = (a[:, 0] for a in
                       self.skeleton.differentiate(solution, self.skeleton.neck_path))
        spread = CORRELATED_KEYPOINTS * slope @ np.linalg.inv(solution.normal) @ np.swapaxes(
            slope, 1, 2
        )
        scale = np.exp(HEAD_SHARE * solution.lengths[:, 0])
        previous = [t.head for t in tracks]
        states = self.head_solver(
            persons, seen, neck, spread, chest, scale, previous, stamp_ns
        )
        for i, (person, before) in enumerate(zip(persons, previous)):
            if before is not None and not person.detections:
                # Nobody looked: the head stays on the body as it was, ever less certain.
                moved = person.joints - tracks[i].joints
                moved = moved[np.isfinite(moved).all(axis=1)]
                shift = np.median(moved, axis=0) if len(moved) else np.zeros(3)
                states[i] = before.carried(shift, _shared_covariance(person), stamp_ns)
            elif person.status != "multiview":
                states[i] = states[i].loosened(_shared_covariance(person))
                if person.detections:
                    most_m = 2.0 ** min(tracks[i].sights, _MOST_SIGHTS) * _first_sight_m(person)
                    states[i] = replace(states[i], place=bounded(states[i].place, most=most_m))
        return states

    def _remember(self, persons, solution, tracks, states, stamp_ns) -> None:
        for i, (person, track) in enumerate(zip(persons, tracks)):
            precision = track.precision
            if person.detections:
                normal = solution.normal[i]
                pose, cross = normal[:_POSE, :_POSE], normal[:_POSE, _POSE:]
                settled = np.linalg.solve(pose + 1e-6 * np.eye(_POSE), cross)
                news = normal[_POSE:, _POSE:] - precision - cross.T @ settled
                values, vectors = np.linalg.eigh((news + news.T) / 2)
                news = (vectors * np.maximum(values, 0)) @ vectors.T
                precision = precision + news / CORRELATED_INSTANTS
            head, joints = states[i], person.joints
            if states[i].method == "predicted" and track.head is not None:
                head, joints = track.head, track.joints  # as they were when last seen
            self._tracks[person.track_id] = _Track(
                stamp_ns, solution.translation[i], solution.rotations[i],
                solution.lengths[i], precision, head, joints,
                track.sights + (len(person.detections) > 0),
            )  # fmt: skip

    def _bodies(self, persons, solution, states) -> list[Body]:
        skeleton = self.skeleton
        rotations = np.insert(solution.rotations, 2, [s.rotation for s in states], axis=1)
        pivots = skeleton.place(solution, skeleton.pivot_paths)
        # The head goes where its own solver put it; the neck stretches to it.
        for i, state in enumerate(states):
            pivots[i, 2] = state.translation + state.scale * state.rotation @ self.neck_base
        scales = skeleton.segment_scales(solution.lengths)
        scales = np.insert(scales, 2, np.array([s.scale for s in states])[:, None], axis=1)
        vertices = self.model.skin(rotations, pivots, scales)
        joints = skeleton.place(solution, skeleton.keypoint_paths)
        bodies = []
        for i, (person, state) in enumerate(zip(persons, states)):
            tf_world_head = rigid(state.rotation, state.translation)
            head = Head(
                person.track_id, tf_world_head, self.template.place(tf_world_head, state.scale),
                state.told, state.method, state.confidence,
            )  # fmt: skip
            landmarks = self.head_solver.landmarks(state)
            bodies.append(
                Body(person.track_id, vertices[i], np.vstack([landmarks, joints[i]]), head)
            )
        return bodies


class _Skeleton:
    """Chains of segments: places of points, residuals and their exact derivatives.

    Each segment has its own rotation in the world; a point is the sum of the segments' offsets
    along its chain, so its derivative by a segment's rotation is a cross product.
    """

    def __init__(self, model: BodyModel):
        self.keypoint_paths = np.stack(
            [self._path(model, KEYPOINT_SEGMENTS[k], model.keypoints[k]) for k in LIMBS]
        )
        self.pivot_paths = np.stack(
            [self._path(model, max(PARENTS[s], 0), model.pivots[s]) for s in range(len(SEGMENTS))]
        )
        self.neck_path = self.pivot_paths[2:3]
        self.stretch = self._stretch()
        self.parents = [
            -1 if PARENTS[s] < 0 else int(np.flatnonzero(BODY == PARENTS[s])[0]) for s in BODY
        ]
        names = [SEGMENTS[s].removeprefix("left_").removeprefix("right_") for s in BODY]
        self.pose_weight = 1 / np.deg2rad([POSE_SIGMA_DEG[name] for name in names])
        limits = [FLEXION_DEG.get(name, (-1e6, 1e6)) for name in names]
        self.limits = np.deg2rad(limits)

    @staticmethod
    def _path(model: BodyModel, segment: int, point: np.ndarray) -> np.ndarray:
        """Offsets of the body segments whose sum leads from the pelvis to a point, (10, 3)."""
        offsets = np.zeros((len(SEGMENTS), 3))
        while segment >= 0:
            offsets[segment] = point - model.pivots[segment]
            point = model.pivots[segment]
            segment = PARENTS[segment]
        return offsets[BODY]

    @staticmethod
    def _stretch() -> np.ndarray:
        """How each length (8) scales x, y, z of each body segment, shape (10, 3, 8)."""
        index = {name: i for i, name in enumerate(LENGTHS)}
        stretch = np.zeros((len(BODY), 3, len(LENGTHS)))
        stretch[..., index["overall"]] = 1.0
        for row, segment in enumerate(BODY):
            name = SEGMENTS[segment].removeprefix("left_").removeprefix("right_")
            if name == "chest":
                stretch[row, 1, index["shoulder_width"]] = 1.0
                stretch[row, 2, index["torso"]] = 1.0
            elif name == "pelvis":
                stretch[row, 1, index["hip_width"]] = 1.0
                stretch[row, 2, index["torso"]] = 1.0
            else:
                stretch[row, :, index[name]] = 1.0
        return stretch

    def segment_scales(self, lengths: np.ndarray) -> np.ndarray:
        """Stretch of the body segments, shape (B, 10, 3)."""
        return np.exp(np.einsum("sic,bc->bsi", self.stretch, lengths))

    def place(self, solution: _Solution, paths: np.ndarray) -> np.ndarray:
        """Points of K paths in the world, shape (B, K, 3), metres."""
        linear = solution.rotations * self.segment_scales(solution.lengths)[..., None, :]
        return solution.translation[:, None] + np.einsum("bsij,ksj->bki", linear, paths)

    def differentiate(self, solution: _Solution, paths: np.ndarray) -> tuple:
        """Points of K paths (B, K, 3) and their derivatives by the state (B, K, 3, n)."""
        batch, count = len(solution.rotations), len(paths)
        scaled = paths * self.segment_scales(solution.lengths)[:, None]
        arms = np.einsum("bsij,bksj->bksi", solution.rotations, scaled)
        jacobian = np.zeros((batch, count, 3, _POSE + len(LENGTHS)))
        jacobian[..., :3] = np.eye(3)
        jacobian[..., 3:_POSE] = np.moveaxis(-hat(arms), 2, 3).reshape(batch, count, 3, -1)
        jacobian[..., _POSE:] = np.einsum(
            "bsij,bksj,sjc->bkic", solution.rotations, scaled, self.stretch, optimize=True
        )
        return solution.translation[:, None] + arms.sum(axis=2), jacobian

    @staticmethod
    def retract(translation, rotations, lengths, step: np.ndarray) -> tuple:
        """Move the state by a step of the solver, shape (B, 3 + 30 + 8)."""
        turn = exp_so3(step[:, 3:_POSE].reshape(len(step), len(BODY), 3))
        return translation + step[:, :3], turn @ rotations, lengths + step[:, _POSE:]

    def linearize(self, solution: _Solution, seen: Observations, prior) -> tuple:
        """Cost (B,), gradient (B, n) and Gauss-Newton matrix (B, n, n) of all residuals."""
        points, jacobian = self.differentiate(solution, self.keypoint_paths)
        cost, pull, weight = seen.point_terms(points, LIMBS)
        weighted = weight @ jacobian
        gradient = np.einsum("bkin,bki->bn", jacobian, pull)
        flat = jacobian.reshape(len(points), -1, jacobian.shape[-1])
        normal = np.swapaxes(flat, 1, 2) @ weighted.reshape(flat.shape)
        self._add_pose_prior(solution, cost, gradient, normal)
        mean, precision = prior
        off = solution.lengths - mean
        pushed = np.einsum("bij,bj->bi", precision, off)
        cost += np.einsum("bi,bi->b", off, pushed)
        gradient[:, _POSE:] += pushed
        normal[:, _POSE:, _POSE:] += precision
        return cost, gradient, normal

    @staticmethod
    def _add_upright_prior(pelvis, cost, gradient, normal) -> None:
        """Add the robust prior of an upright pelvis; the heading is free."""
        down = np.swapaxes(pelvis, -1, -2)
        tilt = down[:, :2, 2] / UPRIGHT_SIGMA
        squared = (tilt**2).sum(axis=1) / UPRIGHT_ROBUST**2
        robust = 1 / (1 + squared)
        rows = (down @ hat(np.array([0.0, 0.0, 1.0])))[:, :2] / UPRIGHT_SIGMA
        cost += UPRIGHT_ROBUST**2 * np.log1p(squared)
        gradient[:, 3:6] += robust[:, None] * np.einsum("bij,bi->bj", rows, tilt)
        normal[:, 3:6, 3:6] += robust[:, None, None] * (np.swapaxes(rows, 1, 2) @ rows)

    def _add_pose_prior(self, solution, cost, gradient, normal) -> None:
        """Add the priors of the segments' rotations on their parents, and joint limits."""
        rotations = solution.rotations
        self._add_upright_prior(rotations[:, 0], cost, gradient, normal)
        base = rotations[:, self.parents].copy()
        base[:, 0] = rotations[:, 0]
        back = np.swapaxes(base, -1, -2)
        relative = log_so3(back @ rotations)
        slope = left_jacobian_inverse(relative) @ back
        bent = relative[..., 1]
        over = np.clip(bent - self.limits[:, 1], 0, None) + np.clip(
            bent - self.limits[:, 0], None, 0
        )
        limit = np.where(over != 0, 1 / np.deg2rad(LIMIT_SIGMA_DEG), 0.0)
        residual = np.concatenate([relative * self.pose_weight, (over * limit)[..., None]], -1)
        rows = np.concatenate(
            [self.pose_weight[..., None] * slope, limit[..., None, None] * slope[..., 1:2, :]], -2
        )
        cost += np.einsum("bsi,bsi->b", residual, residual)
        pull = np.einsum("bsij,bsi->bsj", rows, residual)
        weight = np.swapaxes(rows, -1, -2) @ rows
        for s, parent in enumerate(self.parents):
            own = slice(3 + 3 * s, 6 + 3 * s)
            gradient[:, own] += pull[:, s]
            normal[:, own, own] += weight[:, s]
            if parent >= 0:
                other = slice(3 + 3 * parent, 6 + 3 * parent)
                gradient[:, other] -= pull[:, s]
                normal[:, other, other] += weight[:, s]
                normal[:, own, other] -= weight[:, s]
                normal[:, other, own] -= weight[:, s]


def _shared_covariance(person: Person3D) -> np.ndarray:
    """Covariance (3, 3) that all joints of a person share, square metres.

    That of a distance that was guessed, or of a motion that nobody saw: it does not average out
    over joints, as their own errors do.
    """
    known = np.isfinite(person.covariance).all(axis=(1, 2))
    if not known.any():
        return np.zeros((3, 3))
    covariance = person.covariance[known]
    return covariance[np.linalg.eigvalsh(covariance)[:, -1].argmin()]


def _first_sight_m(person: Person3D) -> float:
    """Bound of a head's standard deviation at a first sight: see :data:`FIRST_SIGHT_M`."""
    seen = person.confidence[person.confidence > 0]
    return float(np.interp(seen.mean() if len(seen) else 0.0, FIRST_SIGHT_SCORE, FIRST_SIGHT_M))


def _torso_frame(joints: np.ndarray) -> np.ndarray:
    """World <- body rotation that shoulders and hips show, upright where they do not."""
    shoulders, hips = joints[5:7], joints[11:13]
    up = shoulders.mean(axis=0) - hips.mean(axis=0)
    left = shoulders[0] - shoulders[1]
    if not np.isfinite(left).all():
        left = hips[0] - hips[1]
    if not np.isfinite(up).all() or np.linalg.norm(up) < 0.1:
        up = np.array([0.0, 0.0, 1.0])
    up = up / np.linalg.norm(up)
    if not np.isfinite(left).all():
        left = np.array([0.0, 1.0, 0.0])
    left = left - (left @ up) * up
    if np.linalg.norm(left) < 0.02:
        left = np.cross(up, [1.0, 0.0, 0.1])
    left = left / np.linalg.norm(left)
    return np.stack([np.cross(left, up), left, up], axis=1)
