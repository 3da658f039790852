"""Everyone at one instant: groups of detections, and the joints that they make together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from disguisor_ros.core.association import (
    affinities,
    cluster,
    mirrored_members,
    track_affinity,
)
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import inverses
from disguisor_ros.core.detections import Detections, extent_area, similarity
from disguisor_ros.core.floor import FloorEstimator
from disguisor_ros.core.placement import Settled, settle
from disguisor_ros.core.refinement import Held, Prior, carried, posture_costs, solve
from disguisor_ros.core.skeleton import (
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_VARIANCE_M2,
    MIRROR,
)
from disguisor_ros.core.tracking import Prediction, per_axis
from disguisor_ros.core.triangulation import (
    Rays,
    Triangulated,
    complete,
    consensus_points,
    renewed,
    stack,
    unswap,
)
from disguisor_ros.core.types import HEAD_JOINTS, DepthView

#: Mean residual of a detection, in standard deviations, from which it is another person's, or,
#: alone, nobody's.
_STRANGER = 2.0

#: Joints are sought from a prediction that is sharper than this, else from the rays, metres.
_SHARP_M = 0.12

#: Covariance of joints that may be anywhere.
_NOWHERE = np.diag([np.inf] * 3)

#: Nobody's head is farther from the shoulders than this, metres: such a detection shows nobody,
#: and placed just before the camera it would cover all of the image.
_NECK_M = 0.6

#: A detection this similar to a known person in its view is that person.
_SAME_OKS = 0.5

#: Two views that see a trunk turned by more than this since the last time, as a cosine, may have
#: confused left and right: so much less must speak against it exchanged, in squared standard
#: deviations. No joint or bone counts for more than so many of them.
_TURNED = 0.7
_CLEARLY = 10.0
_FAR = 4.0


@dataclass
class Group:
    """Detections that are one person.

    Parameters
    ----------
    detections : dict of int to int
        View -> detection.
    track : int or None
        Index of the track that predicted the person.
    mirrored : set of int
        Views that have confused left and right.
    anchored : bool
        Whether the distance was measured, by two views or by depth.
    drift : ndarray, shape (17, 3), metres
        One standard deviation of a shift of all joints together, along the rays of the only view.
    result : Triangulated or None
        Joints of this person alone, once they were found for these detections.
    """

    detections: dict[int, int] = field(default_factory=dict)
    track: int | None = None
    mirrored: set[int] = field(default_factory=set)
    anchored: bool = False
    drift: np.ndarray = field(default_factory=lambda: np.zeros((17, 3)))
    result: Triangulated | None = None


class Scene:
    """One instant: what was detected and what was expected.

    Parameters
    ----------
    detections : Detections
    cameras : list of Camera
        Of the views.
    expected : Prediction
        Of T tracks.
    floor : FloorEstimator
        Learns from those that several views see.
    depth : dict of str to DepthView
    """

    def __init__(
        self,
        detections: Detections,
        cameras: list[Camera],
        expected: Prediction,
        floor: FloorEstimator,
        depth: dict[str, DepthView],
    ):
        self.detections, self.cameras, self.expected = detections, cameras, expected
        self.floor, self.depth = floor, depth

    def people(self) -> tuple[list[Group], Triangulated]:
        """Groups with at least one detection, and their joints."""
        found, singles = self._grouped()
        floor_unknown = self.floor.z_m is None
        self._learn_floor(found)
        if floor_unknown and self.floor.z_m is not None:
            found, singles = self._grouped()  # now without bodies made up in the air
        self._solve(found + singles)
        everyone = found + [group for group in singles if _human(group.result)]
        return everyone, stack([group.result for group in everyone], len(self.cameras))

    def _grouped(self) -> tuple[list[Group], list[Group]]:
        """People who are tracked or whom several views see, and others whom one view shows."""
        groups = [group for group in self._associate() if group.detections]
        alone = [g for g in groups if len(g.detections) == 1 and g.track is None]
        together = [g for g in groups if len(g.detections) > 1 or g.track is not None]
        # Most of those will be left: with the others they cost less than by themselves.
        self._solve(together + [group for group in alone if self._shows_a_person(group)])
        self._unmirror(together)
        alone += self._disowned(together)
        found = [group for group in together if group.detections]
        return found, [g for g in self._absorbed(found, alone) if self._shows_a_person(g)]

    def _learn_floor(self, groups: list[Group]) -> None:
        seen = [g.result for g in groups if g.result is not None and len(g.detections) > 1]
        joints = np.array([result.joints for result in seen])
        self.floor.add(joints, np.array([result.confidence for result in seen]))

    def _associate(self) -> list[Group]:
        detections, expected = self.detections, self.expected
        count, tracks = len(detections), len(expected.joints)
        drawn = track_affinity(detections, expected.joints, expected.reach, expected.drift)
        straight, mirrored = affinities(detections, self.floor.z_m, drawn)
        affinity = np.zeros((count + tracks, count + tracks))
        affinity[:count, :count] = np.maximum(straight, mirrored)
        affinity[:count, count:] = drawn
        affinity[count:, :count] = drawn.T
        view = np.concatenate([detections.view, np.full(tracks, len(detections.names))])
        label = cluster(view, affinity, seeds=count + np.arange(tracks))
        groups = [Group() for _ in range(label.max(initial=-1) + 1)]
        for node, person in enumerate(label):
            if node < count:
                groups[person].detections[int(view[node])] = node
            else:
                groups[person].track = node - count
        together = label[:count, None] == label[:count]
        confused = (together & (mirrored > straight)).any(axis=1)
        for person in set(label[:count][confused]):
            group = groups[person]
            members = np.array(list(group.detections.values()))
            turned = mirrored_members(detections, members, self.floor.z_m)
            group.mirrored = {v for v, t in zip(group.detections, turned, strict=True) if t}
        return groups

    def _unmirror(self, groups: list[Group]) -> None:
        """Find out which of two views that see somebody has confused left and right, if one has.

        With a third view it would be alone. Two may agree on shoulders that have changed places,
        in the plane of the rays: a body that has turned, and a head that is held to it. Bones,
        posture and the track tell.
        """
        pairs = [g for g in groups if len(g.detections) == 2]
        pairs = [g for g in pairs if g.track is None or self._turned(g)]
        others = [
            [
                Group(group.detections, group.track, mirrored)
                for mirrored in (set(), *({view} for view in group.detections))
                if mirrored != group.mirrored
            ]
            for group in pairs
        ]
        self._solve([one for each in others for one in each])
        for group, each in zip(pairs, others, strict=True):
            costs = [self._cost(one) for one in each]
            best = each[int(np.argmin(costs))]
            # Which of the two has confused somebody new is a guess so far: any proof will do.
            guessed = group.track is None and group.mirrored and best.mirrored
            if min(costs) < self._cost(group) - (0.0 if guessed else _CLEARLY):
                group.mirrored, group.result = best.mirrored, best.result

    def _turned(self, group: Group) -> bool:
        """Whether a tracked person's trunk is turned far from where it was."""
        before, now = (
            joints[5] - joints[6] + joints[11] - joints[12]
            for joints in (self.expected.joints[group.track], group.result.joints)
        )
        return before @ now < _TURNED * np.linalg.norm(before) * np.linalg.norm(now)

    def _cost(self, group: Group) -> float:
        """What speaks against the joints of a person, in squared standard deviations."""
        joints, length, variance = group.result.joints, BONE_LENGTH_M, BONE_VARIANCE_M2
        costs = [group.result.residual.ravel() ** 2, posture_costs(joints[None])[0]]
        if group.track is not None:
            expected = self.expected.of(group.track)
            length, variance = expected.bones, expected.bone_variance
            off = joints - expected.joints
            costs.append(np.einsum("ja,jab,jb->j", off, inverses(expected.reach), off))
        bones = np.linalg.norm(joints[BONE_A] - joints[BONE_B], axis=1)
        costs.append((bones - length) ** 2 / variance)
        return float(np.nansum(np.minimum(np.concatenate(costs), _FAR**2)))

    def _disowned(self, groups: list[Group]) -> list[Group]:
        """Take detections that do not fit out of their groups, the worst first."""
        loose, doubtful = [], groups
        while doubtful:
            self._solve(doubtful)
            misfit = _misfit(np.array([group.result.residual for group in doubtful]))
            doubtful = [
                group
                for group, each in zip(doubtful, misfit, strict=True)
                if self._worst_leaves(group, each, loose)
            ]
        return loose

    def _worst_leaves(self, group: Group, misfit: np.ndarray, loose: list[Group]) -> bool:
        """Move the worst misfit of a group to ``loose``; whether the rest needs another look."""
        worst = int(misfit.argmax())
        if misfit[worst] <= _STRANGER:
            return False
        group.result = None
        if len(group.detections) == 2 and group.track is None:
            # Nobody knows which of the two is right.
            loose.extend(Group({view: d}) for view, d in group.detections.items())
            group.detections = {}
        else:
            loose.append(Group({worst: group.detections.pop(worst)}))
        return bool(group.detections)

    def _absorbed(self, groups: list[Group], loose: list[Group]) -> list[Group]:
        """Give loose detections to the people that they coincide with; those that are left."""
        if not groups or not loose:
            return loose
        self._solve(groups)
        joints = np.array([group.result.joints for group in groups])
        left = []
        score = self.detections.score
        for one in sorted(loose, key=lambda g: -score[list(g.detections.values())].sum()):
            ((view, d),) = one.detections.items()
            pixels, _ = self.cameras[view].project(joints)
            seen = np.where(np.isfinite(pixels).all(-1), score[d], 0.0)
            area = extent_area(self.detections.pixels[d], score[d])
            alike = similarity(
                np.nan_to_num(pixels), self.detections.pixels[d], seen, np.full(len(groups), area)
            )
            best = int(alike.argmax())
            if alike[best] < _SAME_OKS:
                left.append(one)
            elif view not in groups[best].detections:
                groups[best].detections[view] = d
                groups[best].result = None
        return left

    def _shows_a_person(self, group: Group) -> bool:
        """Whether the one detection of a group is more than some joints."""
        (d,) = group.detections.values()
        score = self.detections.score[d]
        head = score[list(HEAD_JOINTS)]
        return bool((head > 0).sum() >= 2 or (score > 0.3).sum() >= 5)

    def _solve(self, groups: list[Group]) -> None:
        """Find the joints of groups that have none yet."""
        groups = [group for group in groups if group.result is None]
        if not groups:
            return
        settled = {
            k: self._settle(group) for k, group in enumerate(groups) if len(group.detections) == 1
        }
        observations = self._observations(groups)
        prior = carried(observations, self._prior(groups, settled))
        joints = prior.joints.copy()
        sharp = per_axis(prior.covariance).mean(axis=1) < _SHARP_M**2
        sharp &= ~prior.drift.any(axis=(1, 2))
        vague = [k for k in np.nonzero(~sharp)[0] if k not in settled]
        if vague:
            found = consensus_points(observations.take(vague))
            joints[vague] = _carried(prior.joints[vague], found)
        for k in vague:
            if np.isfinite(joints[k]).all(-1).sum() < 2:
                joints[k] = self._settle(groups[k]).joints
        for k, one in settled.items():
            joints[k] = one.joints
        joints, costs = renewed(observations, joints)
        observations = unswap(observations, joints, costs)
        joints = complete(joints, observations)
        result = solve(observations, joints, prior, self.floor.z_m, self._held(groups, settled))
        for k, group in enumerate(groups):
            group.result = result.of(k)
            group.anchored, group.drift = True, np.zeros((17, 3))
            if k in settled:
                (view,) = group.detections
                offset = group.result.joints - self.detections.centers[view]
                group.anchored = settled[k].measured
                group.drift = settled[k].sigma_m / settled[k].distance_m * offset

    def _settle(self, group: Group) -> Settled:
        """How far somebody is from the first view that sees him."""
        view, d = next(iter(group.detections.items()))
        order = MIRROR if view in group.mirrored else slice(None)
        return settle(
            self.detections.centers[view],
            self.detections.rays[d, order],
            self.detections.score[d, order],
            self.floor.z_m,
            None if group.track is None else self.expected.of(group.track),
            self.depth.get(self.detections.names[view]),
        )

    def _held(self, groups: list[Group], settled: dict[int, Settled]) -> Held | None:
        if not settled:
            return None
        pull = np.array([one.pull for one in settled.values()])
        at = [next(iter(groups[k].detections)) for k in settled]
        origin = (pull.sum(axis=1) * self.detections.centers[at]).sum(-1)
        distance_m = np.array([one.distance_m for one in settled.values()])
        sigma_m = np.array([one.held_m for one in settled.values()])
        return Held(np.array(list(settled)), pull, distance_m + origin, sigma_m)

    def _observations(self, groups: list[Group]) -> Rays:
        detections, views = self.detections, len(self.detections.names)
        rays = np.zeros((len(groups), views, 17, 3))
        score = np.zeros((len(groups), views, 17))
        seen = [(k, *item) for k, group in enumerate(groups) for item in group.detections.items()]
        person, view, d = np.array(seen).T
        rays[person, view], score[person, view] = detections.rays[d], detections.score[d]
        for k, group in enumerate(groups):
            for view in group.mirrored:
                rays[k, view], score[k, view] = rays[k, view, MIRROR], score[k, view, MIRROR]
        return Rays(detections.centers, rays, score)

    def _prior(self, groups: list[Group], settled: dict[int, Settled]) -> Prior:
        joints = np.full((len(groups), 17, 3), np.nan)
        covariance = np.zeros((len(groups), 17, 3, 3)) + _NOWHERE
        drift = np.zeros((len(groups), 17, 3))
        bones = np.zeros((len(groups), 1)) + BONE_LENGTH_M
        bone_variance = np.zeros((len(groups), 1)) + BONE_VARIANCE_M2
        there, tracked = self.expected, [k for k, g in enumerate(groups) if g.track is not None]
        t = [groups[k].track for k in tracked]
        joints[tracked], covariance[tracked] = there.joints[t], there.covariance[t]
        bones[tracked], bone_variance[tracked] = there.bones[t], there.bone_variance[t]
        drift[tracked] = there.drift[t]
        for k, one in settled.items():
            joints[k], drift[k] = one.expected, 0.0
            covariance[k] = one.variance[:, None, None] * np.eye(3)
        return Prior(joints, covariance, drift, bones, bone_variance)


def _human(result: Triangulated) -> bool:
    """Whether what one view shows can be a body there: of its size, the head on its shoulders."""
    return bool(_misfit(result.residual[None]).max() <= _STRANGER) and _whole(result.joints)


def _whole(joints: np.ndarray) -> bool:
    """Whether joints (17, 3) have their head on their shoulders, as far as both are known."""
    known = np.isfinite(joints[:, 0])
    head, shoulders = joints[:5][known[:5]], joints[5:7][known[5:7]]
    if not len(head) or not len(shoulders):
        return True
    return bool(np.linalg.norm(head.mean(axis=0) - shoulders.mean(axis=0)) < _NECK_M)


def _carried(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Joints (P, 17, 3) that were found; the others as expected, moved as these were."""
    known = np.isfinite(found + expected).all(axis=-1, keepdims=True)
    total = np.where(known, found - expected, 0.0).sum(axis=1, keepdims=True)
    moved = total / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(np.isfinite(found), found, expected + moved)


def _misfit(residual: np.ndarray) -> np.ndarray:
    """Mean residual of each view of P persons, each joint capped; (P, V, 17) to (P, V)."""
    seen = np.isfinite(residual)
    return np.where(seen, np.minimum(residual, 6.0), 0.0).sum(2) / np.maximum(seen.sum(2), 1)
