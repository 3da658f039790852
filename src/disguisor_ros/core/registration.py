"""Heads put on the surface that depth cameras measured, or left where their bodies have them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from disguisor_ros.core.alignment import Alignment, Registration, head_scale, prior_covariance
from disguisor_ros.core.cameras import rigid
from disguisor_ros.core.covariance import (
    MARGIN_SIGMAS,
    block_diagonal,
    bounded,
    grown_along,
    pose_covariance,
)
from disguisor_ros.core.depth_evidence import Evidence, gather
from disguisor_ros.core.distance_field import DistanceField
from disguisor_ros.core.head_pose import TURN_DEG, WALK_DEG
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.pose_filter import PoseFilter
from disguisor_ros.core.rotations import angle_between
from disguisor_ros.core.types import Body, DepthView, Head

#: How far a head may be from where its body puts it, metres and degrees.
MAX_SHIFT_M = 0.15
MAX_ROTATION_DEG = 35.0

#: Share of the visible head that the depth must agree with, and least area seen, square metres.
MIN_FITNESS = 0.6
MIN_AREA_M2 = 0.0025

#: ... and how far where less than this was measured of it, square metres: a rod, a lamp's rim or
#: a collar agree with some patch of a head from which nothing comes back.
FEW_M2 = 0.03
MAX_SHIFT_FEW_M = 0.05

#: A head that may be farther off than this, metres, is not registered without an earlier one that
#: leads there: depth is read around it only, and it would be laid on whatever is near.
MOST_SIGMA_M = 0.15

#: Least standard deviation of a head where the depth shows something else, metres.
CONTRADICTED_SIGMA_M = 0.06

#: Covariance that all registrations have: shape of the head, sensor, calibration ...
REGISTERED_NOISE = np.diag([0.0035**2] * 3 + [np.deg2rad(2.2) ** 2] * 3)

#: ... of heads of which so much was measured, square metres. The standard deviation grows as that
#: area over the one that was measured, up to so many times: a pillow, a cap, half a face.
WELL_SEEN_M2 = 0.115
MOST_NOISE = 5.7

#: ... and with such a share of the surface that speaks against it (seen in simulated rooms: errors
#: of the turn are as large as claimed at 1 - 0.025, three times as large below 1 - 0.07).
MISFIT = 0.03

#: How many standard deviations of such measurements a calm head may be off before it follows.
MOST_SLACK = 3.0

#: The cover of people who are not seen grows; not of who was seen at fewer instants than this:
#: most such are stray detections.
ENOUGH_LOOKS = 3

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
class _Still:
    """Where depth last showed a head that had been confirmed by keypoints.

    Parameters
    ----------
    head : Head
    stamp_ns : int
        When that was.
    turned : float
        Variance of its rotation then, square radians, beside what the depth told.
    """

    head: Head
    stamp_ns: int
    turned: float

    def turned_by(self, head: Head, stamp_ns: int) -> float:
        """The same by now, when the body has it as ``head``.

        Depth holds a head in its place, but can hardly tell how it is turned. Keypoints can; but
        they may be an ear alone, of a body that is not where it is taken to be: that a head has
        turned far is doubted.
        """
        if head.method != "keypoints":
            return self.turned + np.deg2rad(WALK_DEG) ** 2 * (stamp_ns - self.stamp_ns) * 1e-9
        turn = angle_between(self.head.tf_world_head[:3, :3], head.tf_world_head[:3, :3])
        return turn**2 if np.rad2deg(turn) > MAX_ROTATION_DEG else 0.0


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
        self._looks: dict[int, int] = {}  # at how many instants each was seen
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
        self._looks = {i: self._looks[i] for i in self._filters}
        recent = stamp_ns - int(STILL_S * 1e9)
        self._still = {i: s for i, s in self._still.items() if s.stamp_ns >= recent}
        centers = np.array([b.head.tf_world_head[:3, 3] for b in bodies]).reshape(-1, 3)
        heads = []
        for i, body in enumerate(bodies):
            others = np.delete(centers, i, axis=0)
            head, found = self._found(body.head, others, depth, stamp_ns)
            heads.append(self._filtered(head, found, stamp_ns))
            seen, followed = body.head.method == "keypoints", head is not body.head
            if found is not None and (seen or followed):
                still = self._still.get(head.track_id)
                turned = still.turned_by(body.head, stamp_ns) if followed else 0.0
                self._still[head.track_id] = _Still(heads[-1], stamp_ns, turned)
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
        seen = head.method == "keypoints"
        vague = head.sigma_m >= VAGUE_M
        if before is not None and (vague or not (sure and seen)):
            again = self._read(before, others, depth)
            rival = found.fitness if found is not None and seen else 0.0
            better = again is not None and again.fitness >= rival
            if better and plausible(before, again) and (vague or plausible(head, again)):
                again.covariance[3:, 3:] += still.turned_by(head, stamp_ns) * np.eye(3)
                return before, again
        if found is not None and not sure:
            if found.area_m2 >= MIN_AREA_M2:
                place = bounded(head.covariance[:3, :3], CONTRADICTED_SIGMA_M)
                covariance = block_diagonal(place, head.covariance[3:, 3:])
                head = replace(head, covariance=covariance)
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
        # As large as the body has it: from one registration to the next it would grow on and on.
        scale = head_scale(head, self.template)
        vertices = self.template.place(tf_world_head, scale)
        return replace(
            still.head, tf_world_head=tf_world_head, vertices=vertices,
            covariance=pose_covariance(STILL_SIGMA_M**2 * np.eye(3), TURN_DEG),
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
        return Alignment(self.field, evidence, head, self.template, expected).solve()

    def _filtered(self, head: Head, found: Registration | None, stamp_ns: int) -> Head:
        """Head after the temporal filter, from the registration or else from the body."""
        # The turn is told as it was measured: keypoints and depth have it wrong alike from image
        # to image, and many tell no more than one.
        if found is not None:
            rotation, translation, scale = found.rotation, found.translation, found.scale
            few = np.clip(WELL_SEEN_M2 / max(found.area_m2, 1e-6), 1.0, MOST_NOISE)
            noise = few * np.hypot(1.0, (1.0 - found.fitness) / MISFIT)
            covariance = found.covariance + noise**2 * REGISTERED_NOISE
            turn, slack = covariance[3:, 3:], min(few**2, MOST_SLACK)
            method, confidence = "registered", max(head.confidence, found.fitness)
        else:
            rotation, translation = head.tf_world_head[:3, :3], head.tf_world_head[:3, 3]
            scale = head_scale(head, self.template)
            covariance, turn, slack = prior_covariance(head), head.covariance[3:, 3:], 1.0
            method, confidence = head.method, head.confidence
        track = self._filters.get(head.track_id)
        if track is None:
            track = PoseFilter(rotation, translation, covariance, stamp_ns)
            self._filters[head.track_id], self._looks[head.track_id] = track, 0
        else:
            track.update(rotation, translation, covariance, stamp_ns, slack)
        tf_world_head = rigid(track.steady_rotation, track.steady_translation)
        place = track.covariance[:3, :3]
        self._looks[head.track_id] += method != "predicted"
        if method == "predicted" and self._looks[head.track_id] >= ENOUGH_LOOKS:
            # Nobody looked: a prediction that is made again and again is no better known.
            place = head.covariance[:3, :3]
        # All that the filter's own pose would have covered is covered from the calm one too.
        off, turned = track.calmed
        place = grown_along(place, off / MARGIN_SIGMAS)
        turn = grown_along(turn, turned / MARGIN_SIGMAS)
        return Head(
            head.track_id, tf_world_head, self.template.place(tf_world_head, scale),
            block_diagonal(place, turn), method, confidence,
        )  # fmt: skip


def plausible(head: Head, found: Registration) -> bool:
    """Whether a registration may replace the body's head: the gates."""
    shift = np.linalg.norm(found.translation - head.tf_world_head[:3, 3])
    turn = np.rad2deg(angle_between(head.tf_world_head[:3, :3], found.rotation))
    most_m = MAX_SHIFT_M if found.area_m2 >= FEW_M2 else MAX_SHIFT_FEW_M
    return bool(
        found.fitness >= MIN_FITNESS and found.area_m2 >= MIN_AREA_M2
        and head.sigma_m <= MOST_SIGMA_M
        and shift <= min(most_m, 0.04 + 4 * head.sigma_m) and turn <= MAX_ROTATION_DEG
    )
