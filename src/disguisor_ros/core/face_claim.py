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

#: What people call the face ends above the underside of the chin, at this height in the head
#: frame, metres ...
CHIN_M = -0.1

#: ... and at the edge of a surgical cap, which lies at this height over the brow and falls towards
#: the ears (slope). The cap stands out by 2 cm: what it hides from above nobody calls a face.
#: Middle and half axes of its ellipsoid, metres, head frame.
CAP_EDGE_M, _CAP_SLOPE, _BROW_M = 0.075, 0.2, 0.09
_CAP_MIDDLE_M = np.array([0.0, 0.0, 0.05])
_CAP_RADII_M = np.array([0.120, 0.095, 0.105])

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


@lru_cache(maxsize=4)
def middles(template: HeadTemplate) -> np.ndarray:
    """Middles of a template's triangles, shape (F, 3), metres, head frame."""
    return template.vertices[template.faces].mean(axis=1)


def under_cap(points: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Which points of a head a surgical cap would hide, or lie under it.

    The cap is the part of an ellipsoid above a slanting edge; a point is hidden when the ray from
    it to the eye passes through.

    Parameters
    ----------
    points : ndarray, shape (N, 3), metres, head frame
    eye : ndarray, shape (3,), metres, head frame
        Place of the camera.

    Returns
    -------
    ndarray, shape (N,), bool
    """
    toward = eye - points
    toward = toward / np.linalg.norm(toward, axis=1, keepdims=True)
    start, along = (points - _CAP_MIDDLE_M) / _CAP_RADII_M, toward / _CAP_RADII_M
    a, b = (along**2).sum(axis=1), (start * along).sum(axis=1)
    root = b**2 - a * ((start**2).sum(axis=1) - 1.0)
    half = np.sqrt(np.maximum(root, 0.0))
    enter, leave = np.maximum((-b - half) / a, 0.0), (-b + half) / a
    above = np.array([-_CAP_SLOPE, 0.0, 1.0])
    edge_m = CAP_EDGE_M - _CAP_SLOPE * _BROW_M
    rising = toward @ above
    highest = points @ above + rising * np.where(rising > 0, leave, enter)
    return (root > 0) & (leave > 0) & (highest > edge_m)


@lru_cache(maxsize=4)
def relief(template: HeadTemplate) -> np.ndarray:
    """How far masks and glasses stand out over each triangle, metres; NaN where no face is."""
    center = middles(template)
    named = template.on_face & (center[:, 2] > CHIN_M)
    return np.where(named, RELIEF_M * np.clip(center[:, 0] / _FRONT_M, 0, 1), np.nan)


def named_box(
    relief_m: np.ndarray, corner: np.ndarray, forward_px: np.ndarray, size: np.ndarray
) -> np.ndarray | None:
    """Box of the visible part of a face as a person would draw it, or None out of the image.

    Parameters
    ----------
    relief_m : ndarray, shape (h, w)
        :func:`relief` of the visible face's pixels in a window; NaN elsewhere.
    corner : ndarray, shape (2,)
        Pixel of the window's top left.
    forward_px : ndarray, shape (2,)
        Pixels across the image for a metre out of the face.
    size : ndarray, shape (2,)
        Width and height of the image.

    Returns
    -------
    ndarray, shape (4,)
        x, y, width, height, cut at the image.
    """
    row, column = np.nonzero(np.isfinite(relief_m))
    pixels = np.stack([column, row], axis=-1) + corner
    pixels += relief_m[row, column][:, None] * forward_px
    pixels = pixels[((pixels > -1) & (pixels < size)).all(axis=1)]
    if len(pixels) == 0:
        return None
    low = np.clip(pixels.min(axis=0), 0, size - 1)
    high = np.clip(pixels.max(axis=0) + 1, low + 1, size)
    return np.concatenate([low, high - low])
