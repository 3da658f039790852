"""People in 3D from the 2D keypoints of calibrated views, tracked over time."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.assignment import assign
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.detections import Detections, gather_detections
from disguisor_ros.core.floor import FloorEstimator
from disguisor_ros.core.multiview import Group, Scene
from disguisor_ros.core.tracking import (
    Prediction,
    Track,
    body_distance,
    learn_bones,
    learn_motion,
    predict,
)
from disguisor_ros.core.triangulation import Triangulated
from disguisor_ros.core.types import DepthView, Person3D

#: A lost person is looked for this far around, metres, and that much further for each second:
#: less when one view alone has found somebody, who may be a stray detection.
_REACH_M = 0.4
_SPEED = 1.0
_SPEED_OF_ONE_VIEW = 0.5

#: Bodies closer to each other are one.
_SAME_BODY_M = 0.3

#: A person is predicted this long while a camera that last saw him gives nothing, seconds.
_BLIND_S = 10.0

#: One look counts for no longer than this, seconds: instants may be far apart.
_LOOK_S = 0.4

#: People are predicted as long as they were seen before, and so much longer, seconds: who was
#: seen for a moment may have been nobody.
_BRIEF_S = 0.5


class PoseEstimator:
    """Tracks everyone in the room; call it once an instant.

    Parameters
    ----------
    floor_z_m : float, optional
        Height of the floor in the world. Learnt from the people that several views see when it is
        not given.
    predict_s : float
        How long a person is predicted whom the cameras that saw him do not see any more, seconds.
    forget_s : float
        How long a track can be taken up again, seconds.
    """

    def __init__(
        self, floor_z_m: float | None = None, predict_s: float = 3.0, forget_s: float = 3.0
    ):
        if predict_s < 0 or forget_s < predict_s:
            raise ValueError(
                f"predict_s must be in 0..forget_s, got {predict_s} and forget_s {forget_s}"
            )
        self.floor_z_m, self.predict_s, self.forget_s = floor_z_m, predict_s, forget_s
        self.reset()

    def reset(self) -> None:
        """Forget everything; identities start anew."""
        self.tracks: list[Track] = []
        self._floor = FloorEstimator(self.floor_z_m)
        self._stamp_ns: int | None = None

    def __call__(
        self,
        keypoints_by_camera: dict[str, np.ndarray],
        cameras: dict[str, Camera],
        stamp_ns: int,
        depth: dict[str, DepthView] | None = None,
    ) -> list[Person3D]:
        """Everyone at one instant.

        Parameters
        ----------
        keypoints_by_camera : dict of str to ndarray, shape (P, 17, 3)
            x, y (pixels), score (0 = missing), COCO-17.
        cameras : dict of str to Camera
            At least those of ``keypoints_by_camera``.
        stamp_ns : int
            A stamp that lies before the last one resets the tracks.
        depth : dict of str to DepthView, optional
            Read only at the torso of people that one view sees.

        Raises
        ------
        ValueError
            If keypoints are not COCO-17, a camera is not known, or cameras are not in metres.
        """
        detections = gather_detections(keypoints_by_camera, cameras)
        elapsed_s = self._advance(stamp_ns)
        expected = predict(self.tracks, stamp_ns)
        views = [cameras[name] for name in detections.names]
        groups, result = Scene(detections, views, expected, self._floor, depth or {}).people()
        apart = body_distance(expected.joints[:, None], result.joints)
        self._recognise(groups, expected, apart)
        self._prefer_elders(groups, apart)
        self._learn(groups, result, expected, elapsed_s)
        persons = [self._seen(group, result, k, detections) for k, group in enumerate(groups)]
        self._count_looks(set(keypoints_by_camera), elapsed_s)
        return persons + self._unseen(persons, expected, apart)

    def _advance(self, stamp_ns: int) -> float:
        """Go on to an instant and forget who was not seen for long; seconds since the last one."""
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        if self._stamp_ns is None:
            self._next_id, self._stamp_ns = _first_id(stamp_ns), stamp_ns
        elapsed_s = (stamp_ns - self._stamp_ns) * 1e-9
        self._stamp_ns = stamp_ns
        self.tracks = [t for t in self.tracks if self._remembered(t, self.forget_s)]
        return elapsed_s

    def _remembered(self, track: Track, patience_s: float) -> bool:
        """Whether somebody may still be there, who was looked for in vain.

        Time in which the cameras that saw him gave nothing says nothing, up to a limit.
        """
        missed_s = track.missed_s(self._stamp_ns)
        return track.vain_s <= patience_s and missed_s <= max(patience_s, _BLIND_S)

    def _recognise(
        self, groups: list[Group], expected: Prediction, apart: np.ndarray
    ) -> None:
        """Give people without a track that of one who was lost near by.

        First, nobody leaps: who was found too far from where his track expects him is somebody
        else, and the track goes on as a prediction. ``apart``, shape (T, P), is how far tracks
        expect their people from those who were found, metres.
        """
        if not groups or not self.tracks:
            return
        alone = [int(len(group.detections) < 2) for group in groups]
        near = apart < _reach_m(self.tracks, expected, self._stamp_ns)[:, alone]
        for k, group in enumerate(groups):
            if group.track is not None and not near[group.track, k]:
                group.track = None
        fresh = [k for k, group in enumerate(groups) if group.track is None]
        if not fresh:
            return
        taken = {group.track for group in groups}
        lost = [t for t in range(len(self.tracks)) if t not in taken]
        cost = np.where(near, apart, np.inf).T[fresh][:, lost]
        for row, column in zip(*assign(cost), strict=True):
            groups[fresh[row]].track = lost[column]

    def _prefer_elders(self, groups: list[Group], apart: np.ndarray) -> None:
        """Who is seen where an older track expects its person is that one.

        A detection that was left over for an instant must not go on as somebody else.
        """
        taken = {group.track for group in groups}
        for t, track in enumerate(self.tracks):
            if t in taken:
                continue
            for k, group in enumerate(groups):
                younger = group.track is not None and self.tracks[group.track].hits < track.hits
                if younger and apart[t, k] < _SAME_BODY_M:
                    group.track = t
                    break

    def _learn(
        self,
        groups: list[Group],
        result: Triangulated,
        expected: Prediction,
        elapsed_s: float,
    ) -> None:
        """Learn bones and motion of the people who are tracked, before their tracks go on."""
        tracked = [k for k, group in enumerate(groups) if group.track is not None]
        several = [k for k in tracked if len(groups[k].detections) > 1]
        learn_bones(
            [self.tracks[groups[k].track] for k in several],
            result.bones[several],
            result.bone_variance[several],
            self._stamp_ns,
        )
        if elapsed_s == 0:
            return
        measured = [k for k in tracked if groups[k].anchored]
        owners = [groups[k].track for k in measured]
        learn_motion(
            [self.tracks[t] for t in owners],
            expected.joints[owners],
            expected.reach[owners],
            result.joints[measured],
            result.covariance[measured],
            np.array([groups[k].drift for k in measured]),
            self._stamp_ns,
        )

    def _seen(
        self, group: Group, result: Triangulated, k: int, detections: Detections
    ) -> Person3D:
        """Update or bear the track of a person who is seen."""
        if group.track is not None:
            track = self.tracks[group.track]
            track.update(
                result.joints[k], result.covariance[k], self._stamp_ns, group.anchored, group.drift
            )
        else:
            track = Track(
                self._next_id,
                result.joints[k],
                result.covariance[k],
                self._stamp_ns,
                drift=group.drift,
                body=result.joints[k] if group.anchored else None,
                body_stamp_ns=self._stamp_ns,
            )
            self._next_id += 1
            self.tracks.append(track)
        track.age += 1
        track.cameras = {detections.names[view] for view in group.detections}
        return Person3D(
            track_id=track.track_id,
            joints=result.joints[k],
            covariance=result.covariance[k] + _outer(group.drift),
            confidence=result.confidence[k],
            detections={
                detections.names[view]: int(detections.index[d])
                for view, d in sorted(group.detections.items())
            },
            status="multiview" if len(group.detections) > 1 else "single_view",
            age=track.age,
        )

    def _count_looks(self, looked: set[str], elapsed_s: float) -> None:
        """Add the time since the last instant to how long people were seen, or missed in vain."""
        for track in self.tracks:
            if track.missed_s(self._stamp_ns) == 0:
                track.seen_s += min(elapsed_s, _LOOK_S) * (track.hits > 1)
            elif track.cameras <= looked:
                track.vain_s += min(elapsed_s, _LOOK_S)

    def _unseen(
        self, seen: list[Person3D], expected: Prediction, apart: np.ndarray
    ) -> list[Person3D]:
        """People who are not seen at this instant but were just now.

        Tracks that lie where somebody else is seen are dropped: they were that person. But not
        those whom several views have seen: a child who is carried lies there, too.
        """
        ids = {person.track_id for person in seen}
        taken = (apart < _SAME_BODY_M).any(axis=1)
        persons, dropped = [], set()
        for t, track in enumerate(self.tracks[: len(taken)]):  # new tracks come last
            if track.track_id in ids:
                continue
            established = track.bone_weight.any()  # by several views, twice
            if taken[t] and not established:
                dropped.add(track.track_id)
                continue
            track.age += 1
            patience_s = self.predict_s
            if not established:
                patience_s = min(patience_s, track.seen_s + _BRIEF_S)
            known = track.hits > 2 or track.anchored
            if not (known and self._remembered(track, patience_s)):
                continue
            persons.append(
                Person3D(
                    track_id=track.track_id,
                    joints=expected.joints[t],
                    covariance=track.covariance
                    + _outer(track.drift)
                    + expected.body_covariance[t],
                    confidence=np.zeros(17),
                    status="predicted",
                    age=track.age,
                )
            )
        self.tracks = [track for track in self.tracks if track.track_id not in dropped]
        return persons


def _first_id(stamp_ns: int) -> int:
    """A number that no estimator gave before, from the first stamp.

    The stages behind a pose3d that was started anew remember people by their numbers: called by
    the number of another, somebody was given the other's head.
    """
    return stamp_ns // 100_000_000 % 2_000_000 * 1000 + 1


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :, None] * vectors[:, None, :]


def _reach_m(tracks: list[Track], expected: Prediction, stamp_ns: int) -> np.ndarray:
    """How far from where T tracks expect their people these may be found, shape (T, 2), metres.

    By several views, and by one alone: a stray detection in one view must not take away the track
    of somebody who is merely not detected, and with it the cover of his face. Along the ray of the
    one view that saw him last he may be farther off.
    """
    drift = np.linalg.norm(expected.drift, axis=-1).mean(axis=-1)
    missed_s = np.array([track.missed_s(stamp_ns) for track in tracks])
    several = np.minimum(_REACH_M + 2.0 * drift + _SPEED * missed_s, 1.5)
    single = np.minimum(_REACH_M + drift + _SPEED_OF_ONE_VIEW * missed_s, 0.7)
    anchored = [track.anchored for track in tracks]
    return np.array([several, np.where(anchored, single, several)]).T
