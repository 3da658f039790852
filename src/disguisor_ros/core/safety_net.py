"""Faces that no 3D head covers, covered from this camera's own 2D keypoints and held over time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.face_claim import FACE_CONFIDENCE
from disguisor_ros.core.face_cover import Cover, outline_of
from disguisor_ros.core.sightings import FACE_SCORE, MIN_SCORE, Sighting
from disguisor_ros.core.types import Head, Region

#: A cover is held this long after its face was last covered, seconds.
HOLD_S = 0.5

#: ... this many times as large as that of a face that is seen in 2D: a part of it may have been
#: hidden ...
_HELD_GROWTH = 1.2

#: ... while its edge moves outwards this fast, metres per second.
HOLD_GROWTH_M_S = 0.15

#: Detectors place nose and eyes to within about this, metres: so near to a cover they count as
#: covered.
_KEYPOINT_M = 0.03

#: A detection that is so many times as large as the head that it lies on is of somebody nearer.
_LARGER = 2.0

#: Pairs of COCO-17 joints and their usual distance on an adult, metres: whatever the view, none
#: looks longer than it is, so the longest tells the scale of the image at the person.
_BONES = (
    (5, 6, 0.36), (5, 11, 0.50), (6, 12, 0.50), (5, 7, 0.29), (6, 8, 0.29), (7, 9, 0.26),
    (8, 10, 0.26), (11, 13, 0.42), (12, 14, 0.42), (3, 4, 0.155), (0, 3, 0.135), (0, 4, 0.135),
)  # fmt: skip

#: ... but no bone looks longer than this many times the middle one of a body. In 7,000 detections
#: of DEKR and OpenPose the longest is at most 2.1 times as long; in those that are more, several
#: joints are mistaken, and the cover of a face that is none would be as large as the image.
_LONGEST = 2.5

#: Pairs within a face, likewise, where a detector's errors weigh more: for faces of which nothing
#: else is seen, under a cap and above drapes.
_FACE_BONES = ((1, 2, 0.063), (0, 1, 0.047), (0, 2, 0.047))

#: A face of which no two such joints are seen, as at the image's edge, may be as near, metres.
_NEAR_M = 1.0

#: Half height and half width of the face, and of what is covered for it, metres.
_FACE_M = np.array([0.097, 0.070])
_COVER_M = np.array([0.125, 0.105])

#: Height of the face's centre over the middle of the shoulders, metres.
_OVER_SHOULDERS_M = 0.25


@dataclass
class _Ellipse:
    """A face as seen from 2D: centre, upward direction and pixels per metre."""

    center: np.ndarray
    up: np.ndarray
    scale: float
    growth: float
    track_id: int
    confidence: float
    stamp_ns: int

    def cover(self, camera: Camera, method: str, grow_m: float = 0.0) -> Cover | None:
        """The pixels of the ellipse, or None when it lies out of the image."""
        half = (_COVER_M * self.growth + grow_m) * self.scale
        reach = int(np.ceil(half.max())) + 1
        low = np.maximum(np.floor(self.center) - reach, 0).astype(int)
        high = np.minimum(np.ceil(self.center) + reach + 1, (camera.width, camera.height))
        width, height = high.astype(int) - low
        if width <= 0 or height <= 0:
            return None
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        off = np.stack([x, y], axis=-1) + low - self.center
        along, across = off @ self.up, off @ (-self.up[1], self.up[0])
        mask = (along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1
        if not mask.any():
            return None
        box = self._box(camera)
        region = Region(box, outline_of(mask, *low), self.track_id, method, float(self.confidence))
        return Cover(*map(int, low), mask, mask, region)

    def within(self, mask: np.ndarray) -> bool:
        """Whether a mask has all of the face's outline that lies in the image."""
        angle = np.arange(8) * (np.pi / 4)
        along, across = (self.scale * _FACE_M)[:, None] * (np.cos(angle), np.sin(angle))
        side = np.array([-self.up[1], self.up[0]])
        points = self.center + along[:, None] * self.up + across[:, None] * side
        column, row = np.rint(points).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
        return bool(mask[row[inside], column[inside]].all())

    def _box(self, camera: Camera) -> np.ndarray:
        """Box of the face's own size around the centre, cut at the image."""
        half = _FACE_M * self.scale
        # Extent of an ellipse with axes along and across ``up``.
        extent = np.hypot(half[0] * self.up, half[1] * self.up[::-1])
        low = np.clip(self.center - extent, 0, (camera.width - 1, camera.height - 1))
        high = np.clip(self.center + extent, low + 1, (camera.width, camera.height))
        return np.concatenate([low, high - low])


class SafetyNet:
    """Covers, in one camera, every face that 3D did not place.

    A detection most of whose nose and eyes lie under a cover needs nothing, unless one of them is
    seen where depth has something before the head and the image was left as it is: depth also
    sees what is transparent, a plastic sheet or a window. Nor may the cover be somebody else's,
    who stands before, behind or beside, and leave some of this face open. A detection without
    evidence of a face (nose or eyes) where a 3D head stands needs nothing either: that head is
    turned away. Everything else is covered with an ellipse, the larger the less is known.
    Faces without a successor are held for :data:`HOLD_S` by the images' stamps.
    """

    def __init__(self):
        self._last: list[_Ellipse] = []
        self._stamp_ns: int | None = None

    def reset(self) -> None:
        """Forget earlier images."""
        self._last, self._stamp_ns = [], None

    def __call__(
        self,
        camera: Camera,
        keypoints: np.ndarray,
        heads: list[Head],
        sightings: list[Sighting],
        covers: list[Cover],
        stamp_ns: int,
    ) -> list[Cover]:
        """Covers that must be added to those of the 3D heads.

        Parameters
        ----------
        camera : Camera
        keypoints : ndarray, shape (P, 17, 3), pixels and score
            Detections in this image, from
            :func:`~disguisor_ros.core.sightings.clean_keypoints`.
        heads : list of Head
            Of all persons.
        sightings : list of Sighting
            What 2D says of each head.
        covers : list of Cover
            What :func:`disguisor_ros.core.face_cover.cover_heads` made of them.
        stamp_ns : int
            Of the image. A jump back, or forward by more than a second, forgets what was held.
        """
        if self._stamp_ns is not None and not 0 <= stamp_ns - self._stamp_ns <= 1_000_000_000:
            self.reset()
        self._stamp_ns = stamp_ns
        covered = np.zeros((camera.height, camera.width), dtype=bool)
        replaced = covered.copy()
        for cover in covers:
            covered[cover.slices] |= cover.reach
            replaced[cover.slices] |= cover.replaced
        current = [_of_cover(cover, stamp_ns) for cover in covers]
        added = []
        drawn = {cover.region.track_id for cover in covers}
        own = {
            s.detection: camera.px_per_m(camera.to_camera(h.tf_world_head[:3, 3]))
            for h, s in zip(heads, sightings, strict=True)
            if s.detection >= 0 and h.track_id in drawn
        }
        for k in np.argsort(-keypoints[:, :5, 2].sum(axis=1), kind="stable"):
            ellipse = _uncovered_face(
                camera, keypoints[k], own.get(k, 0.0), covered, replaced, sightings, stamp_ns
            )
            cover = ellipse and ellipse.cover(camera, "keypoints")
            if cover is not None:
                covered[cover.slices] |= cover.reach
                replaced[cover.slices] |= cover.replaced
                current.append(ellipse)
                added.append(cover)
        held = self._held(camera, heads, covered, stamp_ns)
        worth = [ellipse for ellipse in current if ellipse.confidence >= FACE_CONFIDENCE]
        self._last = worth + [ellipse for ellipse, _ in held]
        return added + [cover for _, cover in held]

    def _held(self, camera, heads, covered, stamp_ns) -> list[tuple[_Ellipse, Cover]]:
        """Ellipses of earlier images that nothing has taken over, with their covers."""
        tracked = {head.track_id for head in heads if np.isfinite(head.tf_world_head).all()}
        out = []
        for ellipse in self._last:
            age_s = (stamp_ns - ellipse.stamp_ns) * 1e-9
            x, y = np.rint(ellipse.center).astype(int)
            inside = 0 <= x < camera.width and 0 <= y < camera.height
            if age_s > HOLD_S or ellipse.track_id in tracked or (inside and covered[y, x]):
                continue
            fading = replace(ellipse, confidence=ellipse.confidence * (1 - age_s / HOLD_S))
            cover = fading.cover(camera, "held", HOLD_GROWTH_M_S * age_s)
            if cover is not None:
                out.append((ellipse, cover))
        return out


def _uncovered_face(
    camera, detection, own_scale, covered, replaced, sightings, stamp_ns
) -> _Ellipse | None:
    """Ellipse for a detection that no cover answers for, or None.

    ``own_scale`` is the scale, pixels per metre, of the head that it shows and that has a cover;
    0 without.
    """
    face = detection[:3]
    evident = face[:, 2] >= FACE_SCORE
    ellipse = _ellipse(camera, detection, stamp_ns)
    if ellipse is None:
        return None
    if evident.any():
        pixels, near_px = face[evident, :2], _KEYPOINT_M * ellipse.scale
        under = _nearly_covered(covered, pixels, near_px)
        if face[evident, 2] @ (under - 0.5) > 0:
            seen = under & ~_nearly_covered(replaced, pixels, near_px)
            own = ellipse.scale < _LARGER * own_scale
            if not seen.any() and (own or ellipse.within(covered)):
                return None
            # Depth has something before the head and the image has not, or the cover is another's:
            # nobody knows what is right.
            return replace(ellipse, confidence=min(ellipse.confidence, 0.9 * FACE_CONFIDENCE))
    elif _nearly_covered(covered, ellipse.center[None], 0.0).all():
        return None
    # Nose or eye alone may be imagined on a head that is turned away; shoulders tell roughly
    # where the head is.
    if ellipse.confidence >= FACE_SCORE:
        return ellipse
    radii = 1.0 if (detection[:5, 2] >= MIN_SCORE).any() else 2.5
    turned_away = any(
        np.linalg.norm(ellipse.center - s.pixel) < radii * s.radius_px for s in sightings
    )
    return None if turned_away else ellipse


def _nearly_covered(covered: np.ndarray, pixels: np.ndarray, radius_px: float) -> np.ndarray:
    """Whether pixels (N, 2), or some on a circle around them, are covered, shape (N,), bool.

    Pixels out of the image take the nearest one's value.
    """
    angle = np.arange(8) * (np.pi / 4)
    circle = radius_px * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    around = pixels[:, None] + np.concatenate([np.zeros((1, 2)), circle])
    column, row = np.rint(around).astype(int).transpose(2, 0, 1)
    height, width = covered.shape
    return covered[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].any(axis=1)


def _ellipse(camera: Camera, detection: np.ndarray, stamp_ns: int) -> _Ellipse | None:
    """Where and how large the face of a detection (17, 3) is, or None when nothing tells."""
    xy, score = detection[:, :2], detection[:, 2]
    use = score >= MIN_SCORE
    scale = _scale(xy, use)
    if scale is None and (score[:3] >= FACE_SCORE).any():
        scale = camera.matrix[0, 0] / _NEAR_M
    if scale is None:
        return None
    shoulders = xy[5:7][use[5:7]]
    up = np.array([0.0, -1.0])
    if use[:3].any():
        front = np.average(xy[:3][use[:3]], axis=0, weights=score[:3][use[:3]])
        ears = xy[3:5][use[3:5]]
        # Nose and eyes lie at the front of the face, the ears at its back edge.
        center = front if len(ears) == 0 else 0.65 * front + 0.35 * ears.mean(axis=0)
    elif use[3:5].any():
        center = xy[3:5][use[3:5]].mean(axis=0)
    elif len(shoulders):
        center = _above(camera, shoulders.mean(axis=0), scale)
    else:
        return None
    if len(shoulders) == 2:
        lift = center - shoulders.mean(axis=0)
        if np.linalg.norm(lift) > 0.1 * scale:
            up = lift / np.linalg.norm(lift)
    known = score[:5].mean()
    confidence = float(np.clip(np.mean([score[0], score[1:3].max()]), 0, 1))
    growth = 1.0 + 0.35 * (1 - np.clip(known, 0, 1))
    return _Ellipse(center, up, scale, growth, -1, confidence, stamp_ns)


def _above(camera: Camera, pixel: np.ndarray, scale: float) -> np.ndarray:
    """Where a face over shoulders is, shape (2,), pixels: a camera may hang upside down."""
    point = camera.center + camera.rays(pixel) * camera.matrix[0, 0] / scale
    above, _ = camera.project(point + [0.0, 0.0, _OVER_SHOULDERS_M])
    return above if np.isfinite(above).all() else pixel


def _scale(xy: np.ndarray, use: np.ndarray) -> float | None:
    """Pixels per metre at a person: the longest bone, should joints be mistaken."""
    bones = _lengths(_BONES, xy, use) or _lengths(_FACE_BONES, xy, use)
    if not bones:
        return None
    without = [[scale for scale, *ends in bones if joint not in ends] for joint in range(17)]
    scale = min(max(rest) for rest in without if len(rest) > 1 or len(rest) == len(bones))
    if len(bones) > 2:
        scale = min(scale, _LONGEST * np.median([length for length, *_ in bones]))
    return float(scale) if scale > 1 else None


def _lengths(bones, xy: np.ndarray, use: np.ndarray) -> list[tuple[float, int, int]]:
    """Pixels per metre of the usual length of each bone that is seen, with its joints."""
    return [
        (np.linalg.norm(xy[i] - xy[j]) / metres, i, j)
        for i, j, metres in bones
        if use[i] and use[j]
    ]


def _of_cover(cover: Cover, stamp_ns: int) -> _Ellipse:
    """A drawn face as an ellipse, to be held when its head is lost.

    Around the face that was claimed: all that was covered for the sake of caution, drawn out
    along the direction in which a head may be off, would be circumscribed by half the image.
    """
    x, y, width, height = cover.region.box
    center = np.array([x + width / 2, y + height / 2])
    scale = max(height / 2 / _FACE_M[0], width / 2 / _FACE_M[1])
    region = cover.region
    return _Ellipse(
        center, np.array([0.0, -1.0]), scale, _HELD_GROWTH, region.track_id, region.confidence,
        stamp_ns,
    )  # fmt: skip
