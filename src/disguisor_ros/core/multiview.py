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
from disguisor_ros.core.placement import place, torso_distance
from disguisor_ros.core.skeleton import MIRROR
from disguisor_ros.core.triangulation import (
    Observations,
    Prior,
    Triangulated,
    complete,
    consensus_points,
    solve,
    unswap,
)
from disguisor_ros.core.types import HEAD_JOINTS, DepthView

#: Mean residual of a detection, in standard deviations, from which it is another person's.
_STRANGER = 3.0

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
    """

    detections: dict[int, int] = field(default_factory=dict)
    track: int | None = None
    mirrored: set[int] = field(default_factory=set)


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
        together = [group for group in groups if len(group.detections) > 1 or group.track is not None]
        found, loose = self._verified(together)
        loose += [d for g in groups if g not in together for d in g.detections.values()]
        found, loose = self._absorbed(found, loose)
        singles = [
            Group({int(self.detections.view[d]): d}) for d in loose if self._shows_a_person(d)
        ]
        everyone = found + singles
        return everyone, self._solve(everyone)

    def _associate(self) -> list[Group]:
        detections = self.detections
        count, tracks = len(detections), len(self.expected.joints)
        affinity = np.zeros((count + tracks, count + tracks))
        straight, mirrored = affinities(detections, self.floor_z_m)
        affinity[:count, :count] = np.maximum(straight, mirrored)
        if tracks:
            affinity[:count, count:] = track_affinity(
                detections, self.expected.joints, self.expected.sigma_m
            )
            affinity[count:, :count] = affinity[:count, count:].T
        view = np.concatenate([detections.view, np.full(tracks, len(detections.names))])
        label = cluster(view, affinity)
        groups = [Group() for _ in range(label.max(initial=-1) + 1)]
        for node, person in enumerate(label):
            if node < count:
                groups[person].detections[int(view[node])] = node
            else:
                groups[person].track = node - count
        for group in groups:
            if len(group.detections) > 1:
                members = np.ix_(*2 * [list(group.detections.values())])
                turned = mirrored_members(straight[members], mirrored[members])
                group.mirrored = {v for v, t in zip(group.detections, turned, strict=True) if t}
        return groups

    def _verified(self, groups: list[Group]) -> tuple[list[Group], list[int]]:
        """Groups without the detections that do not fit, and those detections."""
        loose = []
        if not groups:
            return [], loose
        result = self._solve(groups)
        for k, group in enumerate(groups):
            misfit = self._misfit(result, k)
            worst = {v: misfit[v] for v in group.detections if misfit[v] > _STRANGER}
            if len(group.detections) == 2 and group.track is None and worst:
                worst = dict.fromkeys(group.detections, 0.0)
            for view in worst:
                loose.append(group.detections.pop(view))
        return [group for group in groups if group.detections], loose

    def _misfit(self, result: Triangulated, person: int) -> np.ndarray:
        """Mean residual of each view, shape (V,), each joint capped."""
        residual = np.minimum(result.residual[person], 6.0)
        seen = np.isfinite(residual)
        return np.where(seen, residual, 0.0).sum(1) / np.maximum(seen.sum(1), 1)

    def _absorbed(self, groups: list[Group], loose: list[int]) -> tuple[list[Group], list[int]]:
        """Give loose detections to the people that they coincide with."""
        if not groups or not loose:
            return groups, loose
        joints = self._solve(groups).joints
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
        return groups, left

    def _shows_a_person(self, detection: int) -> bool:
        score = self.detections.score[detection]
        head = score[list(HEAD_JOINTS)]
        return bool((head > 0).sum() >= 2 or (score > 0.3).sum() >= 5)

    def _solve(self, groups: list[Group]) -> Triangulated:
        observations = self._observations(groups)
        prior = self._prior(groups)
        joints = consensus_points(observations)
        for k, group in enumerate(groups):
            if np.isfinite(joints[k]).all(-1).sum() < 2:
                joints[k] = self._first_guess(group, prior.joints[k])
        observations = unswap(observations, joints)
        joints = complete(joints, observations)
        return solve(observations, joints, prior, self.floor_z_m)

    def _first_guess(self, group: Group, expected: np.ndarray) -> np.ndarray:
        if np.isfinite(expected).any():
            return expected
        view, d = next(iter(group.detections.items()))
        center, rays = self.detections.centers[view], self.detections.rays[d]
        score = self.detections.score[d]
        joints = place(center, rays, score, self.floor_z_m)
        depth = self.depth.get(self.detections.names[view])
        distance = torso_distance(center, rays, score, depth) if depth is not None else None
        if distance is not None:
            torso = [j for j in (5, 6, 11, 12) if score[j] > 0]
            now = np.median(np.linalg.norm(joints[torso] - center, axis=-1))
            joints = center + (joints - center) * (distance / now)
        return joints

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
        sigma_m = np.ones((len(groups), 17))
        for k, group in enumerate(groups):
            if group.track is not None:
                joints[k] = self.expected.joints[group.track]
                sigma_m[k] = self.expected.sigma_m[group.track]
        return Prior(joints, sigma_m)
