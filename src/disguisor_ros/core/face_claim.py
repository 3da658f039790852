"""Whether a region shows a face, and the box that a person would draw around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from disguisor_ros.core.covariance import place_confidence
from disguisor_ros.core.head_template import HeadTemplate

#: Regions below this confidence are precautions: pixels are replaced, no face is claimed.
FACE_CONFIDENCE = 0.5

#: A face that is turned this far away from the camera shows half of itself, degrees.
PROFILE_DEG = 95.0

#: What people call the face ends above the underside of the chin and below the edge of a cap:
#: heights in the head frame, metres.
NAMED_Z_M = (-0.09, 0.065)

#: Masks and glasses stand out of it, metres: by this much at the front, less towards the ears.
RELIEF_M = 0.016
_FRONT_M = 0.1

#: The more a head is turned away, degrees, the higher the score of nose or eyes must be for a
#: face that people would call one: detectors imagine what they cannot see.
_TURNED_DEG = (60.0, 145.0, 170.0)
_TURNED_SCORE = (0.1, 0.18, 0.6)

#: People see no face in one turned away when the part that is seen is narrower than this, metres.
_SLIVER_M = 0.05

#: Where depth shows the head, it is a face from about a tenth of its whole outline on.
_SHARE = (0.08, 0.14)

#: Detectors of whole persons miss heads nearer than this, metres, and nothing comes between ...
NEAR_M = 2.0

#: ... when their position is known at least as well as this, metres.
SURE_SIGMA_M = 0.04

#: Share of what a camera would see of a face alone that must be unhidden to be one for sure.
_ENOUGH_SHOWN = 0.15


@dataclass
class Seen:
    """What speaks for a face in one region.

    Parameters
    ----------
    own : float
        Confidence of the head itself, 0 to 1.
    face_score : float
        Highest score of nose and eyes of the detection that shows it; 0 without one.
    detected : bool
        Whether any detection shows the head.
    turn_deg : float
        Angle between the direction of the face and that to the camera.
    distance_m, sigma_m : float
        From the camera; standard deviation of the place, per axis.
    aside_m : float
        The same across the view, in its worst direction.
    measured : float
        Share of the depth measured on the visible face that agrees with it, 0 to 1.
    shown : float
        Visible share of what the camera would see of the face were it alone, 0 to 1.
    share : float
        Visible share of the outline of the whole face, its far side included, 0 to 1.
    narrow_m : float
        Shorter side of the visible part, metres at the head.
    """

    own: float
    face_score: float
    detected: bool
    turn_deg: float
    distance_m: float
    sigma_m: float
    aside_m: float
    measured: float
    shown: float
    share: float
    narrow_m: float


def confidence(seen: Seen) -> float:
    """Probability, 0 to 1, that a region shows a face.

    The head's own confidence, as far as this camera itself saw a face there: nose and eyes in
    2D; or depth on its surface with enough of the face on this side; or 2D missed a head that is
    near and well known from the other cameras. In an image that shows a head itself it does not
    matter how far away that is.
    """
    needed = np.interp(seen.turn_deg, _TURNED_DEG, _TURNED_SCORE)
    by_keypoints = 1 / (1 + np.exp((needed - seen.face_score) / 0.05))
    near = seen.distance_m < NEAR_M and seen.sigma_m < SURE_SIGMA_M
    missed = 0.75 if near and seen.turn_deg < PROFILE_DEG and not seen.detected else 0.0
    by_eye = max(by_keypoints, missed) * min(1.0, seen.shown / _ENOUGH_SHOWN)
    if seen.turn_deg > PROFILE_DEG:
        by_eye *= np.clip(2 * seen.narrow_m / _SLIVER_M - 1.5, 0, 1)
    by_depth = seen.measured * np.interp(seen.share, _SHARE, (0.0, 1.0))
    own = np.clip(seen.own, 0, 1) if np.isfinite(seen.own) else 0.0
    if seen.detected:
        own = max(own, place_confidence(seen.aside_m**2))
    return float(own * max(by_eye, by_depth))


@dataclass(frozen=True)
class NamedFace:
    """What people call the face of a template: its triangles, cut off at two heights.

    Parameters
    ----------
    places : ndarray, shape (F, 3, 2), float32, metres
        How far forward and how high in the head the corners of all triangles lie.
    start, end : ndarray, shape (C,), int
        Vertices that a corner of the face lies between; both the same where it is one.
    share : ndarray, shape (C, 1)
        How far it lies from ``start`` to ``end``, 0 to 1.
    relief_m : ndarray, shape (C, 1), metres
        How far masks and glasses stand out over it.
    """

    places: np.ndarray
    start: np.ndarray
    end: np.ndarray
    share: np.ndarray
    relief_m: np.ndarray

    @classmethod
    def of(cls, template: HeadTemplate) -> NamedFace:
        """Cut the face of a template, along the edges that cross the heights."""
        forward, height = template.vertices[:, 0], template.vertices[:, 2]
        faces = template.faces[template.face[template.faces].all(axis=1)]
        inside = np.unique(faces)
        low, high = NAMED_Z_M
        inside = inside[(height[inside] > low) & (height[inside] < high)]
        edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)), axis=0)
        start, end, share = [inside], [inside], [np.zeros(len(inside))]
        for limit in NAMED_Z_M:
            a, b = edges[(height[edges] < limit).sum(axis=1) == 1].T
            start, end = [*start, a], [*end, b]
            share.append((limit - height[a]) / (height[b] - height[a]))
        start, end, share = (np.concatenate(parts) for parts in (start, end, share))
        out = relief_m(forward[start] + share * (forward[end] - forward[start]))
        places = np.stack([forward, height], axis=-1)[template.faces].astype(np.float32)
        return cls(places, start, end, share[:, None], out[:, None])

    def corners(self, vertices: np.ndarray) -> np.ndarray:
        """Corners (C, 3) of the face of a head with vertices (V, 3)."""
        start = vertices[self.start]
        return start + self.share * (vertices[self.end] - start)


named_face = lru_cache(maxsize=4)(NamedFace.of)


def relief_m(forward_m: np.ndarray) -> np.ndarray:
    """How far masks and glasses stand out over points so far forward in the head, metres."""
    return RELIEF_M * np.clip(forward_m / _FRONT_M, 0, 1)


def named_box(
    seen: np.ndarray, corners: np.ndarray, size: np.ndarray, step: float = 1.0
) -> np.ndarray | None:
    """Box of the visible part of a face as a person would draw it, or None out of the image.

    Samples tell what is visible, but their box moves by whole pixels while the face moves by
    less; the mesh's corners are exact, but lie apart where something cuts the face off. So each
    edge is that of the corners, as far as they lie within a step of the outermost sample.

    Parameters
    ----------
    seen : ndarray, shape (P, 2), pixels
        Samples of the image that show the face, with what stands out.
    corners : ndarray, shape (C, 2), pixels
        Visible corners of its mesh, likewise.
    size : ndarray, shape (2,)
        Width and height of the image.
    step : float
        Distance of the samples from each other, pixels.

    Returns
    -------
    ndarray, shape (4,)
        x, y, width, height, cut at the image, whose pixels reach half of one beyond their middles.
    """
    seen = seen[((seen > -1) & (seen < size)).all(axis=1)]
    if len(seen) == 0:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    if len(corners):
        low = np.clip(corners.min(axis=0), low - step, low)
        high = np.clip(corners.max(axis=0), high, high + step)
    else:
        low, high = low - step / 2, high + step / 2
    low = np.clip(low + 0.5, 0, size - 1)
    high = np.clip(high + 0.5, low + 1, size)
    return np.concatenate([low, high - low])
