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
    settled_owners,
    similarity,
    track_affinity,
)
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.placement import TORSO, place, torso_distance
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
_STRANGER = 3.0

#: Joints are sought from a prediction that is sharper than this, else from the rays, metres.
_SHARP_M = 0.12

#: A torso in a depth image, standard deviation, metres.
_DEPTH_SIGMA_M = 0.06

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
    result : Triangulated or None
        Joints of this person alone, once they were found for these detections.
    """

    detections: dict[int, int] = field(default_factory=dict)
    track: int | None = None
    mirrored: set[int] = field(default_factory=set)
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
    floor_z_m : float, optional
    depth : dict of str to DepthView
    """

    def __init__(
        self,
        detections: Detections,
        cameras: list[Camera],
        expected: Prior,
        floor_z_m: float | None,
        depth: dict[str, DepthView],
    ):
        self.detections, self.cameras, self.expected = detections, cameras, expected
        self.floor_z_m, self.depth = floor_z_m, depth

    def people(self) -> tuple[list[Group], Triangulated]:
        """Groups with at least one detection, and their joints."""
        groups = [group for group in self._associate() if group.detections]
        together = [g for g in groups if len(g.detections) > 1 or g.track is not None]
        loose = [d for g in groups if g not in together for d in g.detections.values()]
        loose += self._disowned(together)
        found = [group for group in together if group.detections]
        loose = self._absorbed(found, loose)
        singles = [
            Group({int(self.detections.view[d]): d}) for d in loose if self._shows_a_person(d)
        ]
        everyone = found + singles
        self._solve(everyone)
        return everyone, stack([group.result for group in everyone], len(self.cameras))

    def _associate(self) -> list[Group]:
        detections = self.detections
        count, tracks = len(detections), len(self.expected.joints)
        drawn = track_affinity(detections, self.expected.joints, self.expected.sigma_m)
        owner = settled_owners(drawn, detections.view)
        straight, mirrored = affinities(detections, self.floor_z_m, owner)
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
                turned = mirrored_members(detections, members, self.floor_z_m)
                group.mirrored = {v for v, t in zip(group.detections, turned, strict=True) if t}
        return groups

    def _disowned(self, groups: list[Group]) -> list[int]:
        """Take detections that do not fit out of their groups."""
        loose = []
        self._solve(groups)
        for group in groups:
            misfit = _misfit(group.result.residual)
            worst = [v for v in group.detections if misfit[v] > _STRANGER]
            if len(group.detections) == 2 and group.track is None and worst:
                worst = list(group.detections)
            for view in worst:
                loose.append(group.detections.pop(view))
                group.result = None
        return loose

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
        result = solve(observations, joints, prior, self.floor_z_m)
        for k, group in enumerate(groups):
            group.result = result.of(k)

    def _first_guess(self, group: Group, expected: np.ndarray) -> np.ndarray:
        if np.isfinite(expected).all(-1).sum() > len(TORSO):
            return expected
        view, d = next(iter(group.detections.items()))
        joints = place(
            self.detections.centers[view],
            self.detections.rays[d],
            self.detections.score[d],
            self.floor_z_m,
        )
        return self._to_depth(view, d, joints)

    def _to_depth(self, view: int, d: int, joints: np.ndarray) -> np.ndarray:
        """Joints moved along their rays to where the depth image shows the torso."""
        depth = self.depth.get(self.detections.names[view])
        torso = TORSO[(self.detections.score[d, TORSO] > 0) & np.isfinite(joints[TORSO, 0])]
        if depth is None or not len(torso):
            return joints
        center, rays = self.detections.centers[view], self.detections.rays[d]
        measured = torso_distance(center, rays[torso], depth)
        factor = measured / np.median(np.linalg.norm(joints[torso] - center, axis=-1))
        # Else it is something in front of or behind the person.
        return center + (joints - center) * factor if 0.5 < factor < 2.0 else joints

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
            if group.track is not None:
                joints[k] = self.expected.joints[group.track]
                sigma_m[k] = self.expected.sigma_m[group.track]
            if len(group.detections) == 1 and self.depth:
                self._expect_at_depth(group, joints[k], sigma_m[k])
        return Prior(joints, sigma_m)

    def _expect_at_depth(self, group: Group, joints: np.ndarray, sigma_m: np.ndarray) -> None:
        """Expect the torso of someone whom one view sees where its depth image shows it."""
        view, d = next(iter(group.detections.items()))
        if self.detections.names[view] not in self.depth:
            return
        placed = place(
            self.detections.centers[view],
            self.detections.rays[d],
            self.detections.score[d],
            self.floor_z_m,
        )
        moved = self._to_depth(view, d, placed)
        if moved is not placed:
            seen = TORSO[np.isfinite(moved[TORSO, 0])]
            joints[seen], sigma_m[seen] = moved[seen], _DEPTH_SIGMA_M


def _misfit(residual: np.ndarray) -> np.ndarray:
    """Mean residual of each view of a person, each joint capped; (V, 17) to (V,)."""
    seen = np.isfinite(residual)
    return np.where(seen, np.minimum(residual, 6.0), 0.0).sum(1) / np.maximum(seen.sum(1), 1)
