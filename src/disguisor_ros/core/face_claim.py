"""Whether a region shows a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.covariance import place_confidence

#: Regions below this confidence are precautions: pixels are replaced, no face is claimed.
FACE_CONFIDENCE = 0.5

#: A face that is turned this far away from the camera shows half of itself, degrees.
PROFILE_DEG = 95.0

#: The more a head is turned away, degrees, the higher the score of nose or eyes must be for a
#: face that people would call one: detectors imagine what they cannot see.
_TURNED_DEG = (60.0, 145.0, 170.0)
_TURNED_SCORE = (0.1, 0.15, 0.4)

#: People see no face in one turned away when the part that is seen is narrower than this, metres.
_SLIVER_M = 0.04

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
