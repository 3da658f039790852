"""Everyone at one instant: groups of detections, and the joints that they make together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from disguisor_ros.core.association import (
    Detections,
    affinities,
    cluster,
    extent_area,
    mirrored_members,
    similarity,
    track_affinity,
)
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.floor import FloorEstimator
from disguisor_ros.core.placement import along_rays, place, to_depth
from disguisor_ros.core.skeleton import MIRROR
from disguisor_ros.core.triangulation import (
    Observations,
    Prior,
    Triangulated,
    complete,
    consensus_points,
    solve,
    stack,
    unswap,
)
from disguisor_ros.core.types import HEAD_JOINTS, DepthView

#: Mean residual of a detection, in standard deviations, from which it is another person's.
_STRANGER = 2.0

#: Joints are sought from a prediction that is sharper than this, else from the rays, metres.
_SHARP_M = 0.12

#: Head and trunk in a depth image, standard deviation, metres; limbs leave the trunk's plane.
_DEPTH_JOINTS = np.array([0, 1, 2, 3, 4, 5, 6, 11, 12])
_DEPTH_SIGMA_M = np.array([0.1] * 5 + [0.06] * 4)

#: A detection this similar to a known person in its view is that person.
_SAME_OKS = 0.5


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
    result : Triangulated or None
        Joints of this person alone, once they were found for these detections.
    """

    detections: dict[int, int] = field(default_factory=dict)
    track: int | None = None
    mirrored: set[int] = field(default_factory=set)
    anchored: bool = False
    result: Triangulated | None = None


class Scene:
    """One instant: what was detected and what was expected.

    Parameters
    ----------
    detections : Detections
    cameras : list of Camera
        Of the views.
    expected : Prior
        Predictions of T tracks.
    anchored : list of bool
        Of the T tracks: whether their distance was ever measured, by two views or by depth.
    floor : FloorEstimator
        Learns from those that several views see.
    depth : dict of str to DepthView
    """

    def __init__(
        self,
        detections: Detections,
        cameras: list[Camera],
        expected: Prior,
        anchored: list[bool],
        floor: FloorEstimator,
        depth: dict[str, DepthView],
    ):
        self.detections, self.cameras, self.expected = detections, cameras, expected
        self.anchored, self.floor, self.depth = anchored, floor, depth

    def people(self) -> tuple[list[Group], Triangulated]:
        """Groups with at least one detection, and their joints."""
        groups = [group for group in self._associate() if group.detections]
        together = [g for g in groups if len(g.detections) > 1 or g.track is not None]
        loose = [d for g in groups if g not in together for d in g.detections.values()]
        loose += self._disowned(together)
        found = [group for group in together if group.detections]
        loose = self._absorbed(found, loose)
        self._learn_floor(found)
        singles = [
            Group({int(self.detections.view[d]): d}) for d in loose if self._shows_a_person(d)
        ]
        everyone = found + singles
        self._solve(everyone)
        return everyone, stack([group.result for group in everyone], len(self.cameras))

    def _learn_floor(self, groups: list[Group]) -> None:
        for group in groups:
            if group.result is not None and len(group.detections) > 1:
                self.floor.add(group.result.joints, group.result.weight.max(axis=0))

    def _associate(self) -> list[Group]:
        detections = self.detections
        count, tracks = len(detections), len(self.expected.joints)
        drawn = track_affinity(detections, self.expected.joints, self.expected.sigma_m)
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
        for group in groups:
            members = np.array(list(group.detections.values()), dtype=int)
            if (mirrored > straight)[np.ix_(members, members)].any():
                turned = mirrored_members(detections, members, self.floor.z_m)
                group.mirrored = {v for v, t in zip(group.detections, turned, strict=True) if t}
        return groups

    def _disowned(self, groups: list[Group]) -> list[int]:
        """Take detections that do not fit out of their groups, the worst first."""
        loose, doubtful = [], groups
        while doubtful:
            self._solve(doubtful)
            doubtful = [group for group in doubtful if self._worst_leaves(group, loose)]
        return loose

    def _worst_leaves(self, group: Group, loose: list[int]) -> bool:
        """Move the worst misfit of a group to ``loose``; whether the rest needs another look."""
        misfit = _misfit(group.result.residual)
        worst = max(group.detections, key=lambda view: misfit[view])
        if misfit[worst] <= _STRANGER:
            return False
        group.result = None
        if len(group.detections) == 2 and group.track is None:
            loose.extend(group.detections.values())  # nobody knows which of the two is right
            group.detections = {}
        else:
            loose.append(group.detections.pop(worst))
        return bool(group.detections)

    def _absorbed(self, groups: list[Group], loose: list[int]) -> list[int]:
        """Give loose detections to the people that they coincide with; those that are left."""
        if not groups or not loose:
            return loose
        self._solve(groups)
        joints = np.array([group.result.joints for group in groups])
        left = []
        for d in sorted(loose, key=lambda d: -self.detections.score[d].sum()):
            view = int(self.detections.view[d])
            pixels, _ = self.cameras[view].project(joints)
            score = np.where(np.isfinite(pixels).all(-1), self.detections.score[d], 0.0)
            area = extent_area(self.detections.pixels[d], self.detections.score[d])
            alike = similarity(
                np.nan_to_num(pixels), self.detections.pixels[d], score, np.full(len(groups), area)
            )
            best = int(alike.argmax())
            if alike[best] < _SAME_OKS:
                left.append(d)
            elif view not in groups[best].detections:
                groups[best].detections[view] = d
                groups[best].result = None
        return left

    def _shows_a_person(self, detection: int) -> bool:
        score = self.detections.score[detection]
        head = score[list(HEAD_JOINTS)]
        return bool((head > 0).sum() >= 2 or (score > 0.3).sum() >= 5)

    def _solve(self, groups: list[Group]) -> None:
        """Find the joints of groups that have none yet."""
        groups = [group for group in groups if group.result is None]
        if not groups:
            return
        observations = self._observations(groups)
        prior = self._prior(groups)
        joints = prior.joints.copy()
        vague = np.nonzero(~(prior.sigma_m.mean(axis=1) < _SHARP_M))[0]
        if len(vague):
            joints[vague] = consensus_points(observations.take(vague))
        for k in vague:
            if np.isfinite(joints[k]).all(-1).sum() < 2:
                joints[k] = self._first_guess(groups[k], prior.joints[k])
        observations = unswap(observations, joints)
        joints = complete(joints, observations)
        result = solve(observations, joints, prior, self.floor.z_m)
        for k, group in enumerate(groups):
            group.result = result.of(k)

    def _first_guess(self, group: Group, expected: np.ndarray) -> np.ndarray:
        if np.isfinite(expected).any():
            return expected
        view, d = next(iter(group.detections.items()))
        return self._placed(view, d, expected)[0]

    def _placed(self, view: int, d: int, expected: np.ndarray) -> tuple[np.ndarray, bool]:
        """Joints of someone whom one view sees, and whether depth told the distance.

        ``expected`` (17, 3) is where the track has the joints, NaN where it does not know: who
        was measured to lie is not sought in an upright plane.
        """
        center, score = self.detections.centers[view], self.detections.score[d]
        rays = self.detections.rays[d]
        if np.isfinite(expected).all():
            joints = along_rays(center, rays, score, expected)
        else:
            joints = place(center, rays, score, self.floor.z_m)
        depth = self.depth.get(self.detections.names[view])
        moved = to_depth(joints, center, score, depth) if depth is not None else None
        return (joints, False) if moved is None else (moved, True)

    def _observations(self, groups: list[Group]) -> Observations:
        detections, views = self.detections, len(self.detections.names)
        rays = np.zeros((len(groups), views, 17, 3))
        score = np.zeros((len(groups), views, 17))
        for k, group in enumerate(groups):
            for view, d in group.detections.items():
                order = MIRROR if view in group.mirrored else slice(None)
                rays[k, view] = detections.rays[d, order]
                score[k, view] = detections.score[d, order]
        return Observations(detections.centers, rays, score)

    def _prior(self, groups: list[Group]) -> Prior:
        joints = np.full((len(groups), 17, 3), np.nan)
        sigma_m = np.full((len(groups), 17), np.inf)
        for k, group in enumerate(groups):
            single = len(group.detections) == 1
            # Where a single view has guessed the distance, it is guessed anew each time.
            if group.track is not None and (self.anchored[group.track] or not single):
                joints[k] = self.expected.joints[group.track]
                sigma_m[k] = self.expected.sigma_m[group.track]
            group.anchored = not single
            if single and self.depth:
                view, d = next(iter(group.detections.items()))
                placed, group.anchored = self._placed(view, d, joints[k])
                if group.anchored:
                    seen = np.isfinite(placed[_DEPTH_JOINTS, 0])
                    joints[k, _DEPTH_JOINTS[seen]] = placed[_DEPTH_JOINTS[seen]]
                    sigma_m[k, _DEPTH_JOINTS[seen]] = _DEPTH_SIGMA_M[seen]
        return Prior(joints, sigma_m)


def _misfit(residual: np.ndarray) -> np.ndarray:
    """Mean residual of each view of a person, each joint capped; (V, 17) to (V,)."""
    seen = np.isfinite(residual)
    return np.where(seen, np.minimum(residual, 6.0), 0.0).sum(1) / np.maximum(seen.sum(1), 1)
