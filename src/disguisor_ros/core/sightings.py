"""Which 2D detection of an image shows which 3D head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from disguisor_ros.core.assignment import assign
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.types import HEAD_JOINTS, Head

#: Keypoints below this score are not used at all.
MIN_SCORE = 0.1

#: Nose or eyes from this score on are evidence of a face that the camera sees.
FACE_SCORE = 0.3

#: A detection shows a head when its keypoints lie this close to the head's own, metres at the
#: head, on top of what the head's uncertainty allows.
_NEAR_M = 0.12

#: Nose and eyes of one image say where the head lies in it as surely as 3D does when their scores
#: add up to this ...
_SHIFT_SCORE = 3.0

#: ... and more surely when all of them disagree by more than this, metres, in the same way: then
#: the calibration is off.
_SHIFT_M = 0.03
_SPREAD = 4.0

#: Heads on a measured surface that are known better than this, metres, are believed the more.
_SURE_M = 0.03

#: How long shifts take to follow, and after which time without its head one is forgotten, seconds.
_STEADY_S = 0.3
_FORGET_S = 1.0

_HEAD = list(HEAD_JOINTS)


@dataclass
class Sighting:
    """What the 2D detector says of a head in one image.

    Parameters
    ----------
    pixel : ndarray, shape (2,)
        The head's origin in the image; NaN behind the camera.
    radius_px : float
        Of the head in the image.
    detection : int
        Row of the keypoints that shows the head; -1 when none does.
    face_score : float
        Highest score of that detection's nose and eyes, 0 to 1.
    off_m : ndarray, shape (2,)
        How far that detection's nose, eyes and ears lie beside where 3D has them, metres at the
        head; NaN without a detection.
    shift_px : ndarray, shape (2,)
        Where that detection's nose and eyes have the face, from where 3D has it, partway: what
        may be a face too.
    likely_px : ndarray, shape (2,)
        The same, as far as one would bet on it: nearly nothing where depth shows the head.
    """

    pixel: np.ndarray
    radius_px: float
    detection: int = -1
    face_score: float = 0.0
    off_m: np.ndarray = field(default_factory=lambda: np.full(2, np.nan))
    shift_px: np.ndarray = field(default_factory=lambda: np.zeros(2))
    likely_px: np.ndarray = field(default_factory=lambda: np.zeros(2))


class Steadier:
    """Keeps the likely shifts of heads in one camera's images from trembling with keypoints.

    What a calibration or a head in 3D has wrong stays wrong for a while, what a detector has
    wrong changes from image to image: so shifts follow those of single images slowly. Only boxes
    depend on them; what is covered follows at once (``shift_px``).
    """

    def __init__(self):
        self._kept: dict[int, tuple[int, np.ndarray]] = {}  # stamp and shift in head radii

    def reset(self) -> None:
        """Forget earlier images."""
        self._kept = {}

    def __call__(self, heads: list[Head], sightings: list[Sighting], stamp_ns: int) -> None:
        """Steady ``likely_px`` of the sightings of an image, in place.

        Parameters
        ----------
        heads : list of Head
        sightings : list of Sighting
            One for each head.
        stamp_ns : int
            Of the image. Heads that were not there for :data:`_FORGET_S` start anew.
        """
        kept = {}
        for head, sighting in zip(heads, sightings, strict=True):
            if sighting.radius_px <= 0:
                continue
            shift = sighting.likely_px / sighting.radius_px
            before_ns, before = self._kept.get(head.track_id, (stamp_ns, shift))
            seconds = (stamp_ns - before_ns) * 1e-9
            if 0 <= seconds < _FORGET_S:
                shift = before + (1 - np.exp(-seconds / _STEADY_S)) * (shift - before)
            kept[head.track_id] = stamp_ns, shift
            sighting.likely_px = shift * sighting.radius_px
        lost = {i: k for i, k in self._kept.items() if 0 <= stamp_ns - k[0] < _FORGET_S * 1e9}
        self._kept = lost | kept


def clean_keypoints(keypoints: np.ndarray) -> np.ndarray:
    """Detections (P, 17, 3) with score 0 for keypoints that are not finite or absurdly far."""
    keypoints = np.array(keypoints, dtype=np.float64).reshape(-1, 17, 3)
    broken = ~np.isfinite(keypoints).all(axis=2) | (np.abs(keypoints[..., :2]) > 1e5).any(axis=2)
    keypoints[broken] = 0.0
    return keypoints


def sight_heads(
    camera: Camera, heads: list[Head], keypoints: np.ndarray, template: HeadTemplate
) -> list[Sighting]:
    """Match the heads in front of a camera to the detections in its image, one to one.

    Parameters
    ----------
    camera : Camera
    heads : list of Head
        Heads whose pose is not finite are never matched.
    keypoints : ndarray, shape (P, 17, 3), pixels and score
        As from :func:`clean_keypoints`.
    template : HeadTemplate

    Returns
    -------
    list of Sighting
        One for each head.
    """
    sightings = []
    projected = {}
    cost = np.full((len(heads), len(keypoints)), np.inf)
    weight = np.where(keypoints[:, _HEAD, 2] >= MIN_SCORE, keypoints[:, _HEAD, 2], 0.0)
    for i, head in enumerate(heads):
        tf_world_head = np.asarray(head.tf_world_head, dtype=np.float64)
        if tf_world_head.shape != (4, 4) or not np.isfinite(tf_world_head).all():
            sightings.append(Sighting(np.full(2, np.nan), 0.0))
            continue
        points = np.vstack([template.keypoints * _scale(head, template), np.zeros(3)])
        pixels, _ = camera.project(points @ tf_world_head[:3, :3].T + tf_world_head[:3, 3])
        if not np.isfinite(pixels).all():
            sightings.append(Sighting(np.full(2, np.nan), 0.0))
            continue
        projected[i] = pixels[:-1]
        scale = camera.px_per_m(camera.to_camera(tf_world_head[:3, 3]))
        sightings.append(Sighting(pixels[-1], template.radius * scale))
        if len(keypoints):
            off = np.linalg.norm(keypoints[:, _HEAD, :2] - pixels[:-1], axis=2) / scale
            mean_m = (off * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)
            sigma_m = float(np.fmin(head.sigma_m, 0.1))  # 0.1 where it is not a number
            near = (weight.sum(axis=1) > 0) & (mean_m < _NEAR_M + 2 * sigma_m)
            # Of two heads on one spot the surer one is shown.
            cost[i] = np.where(near, mean_m + 2 * sigma_m, np.inf)
    for i, j in zip(*assign(cost), strict=True):
        sightings[i].detection = int(j)
        sightings[i].face_score = float(keypoints[j, :3, 2].max())
        scale = sightings[i].radius_px / template.radius
        off = (keypoints[j, _HEAD, :2] - projected[i]) / scale
        sightings[i].off_m = weight[j] @ off / weight[j].sum()
        off, trust = off[:3], weight[j, :3]
        sightings[i].shift_px = scale * _shift_m(off, trust)
        sightings[i].likely_px = scale * _shift_m(off, trust, _sureness(heads[i]))
    return sightings


def _sureness(head: Head) -> float:
    """How many times more a head is believed than one that only keypoints placed."""
    sigma_m = head.sigma_m
    if head.method != "registered" or not np.isfinite(sigma_m):
        return 1.0
    return float((_SURE_M / np.clip(sigma_m, _SURE_M / 5, _SURE_M)) ** 2)


def _shift_m(off_m: np.ndarray, weight: np.ndarray, sureness: float = 1.0) -> np.ndarray:
    """Mean offset of keypoints (K, 2) from where 3D has them, drawn towards zero when small."""
    if not weight.any():
        return np.zeros(2)
    mean_m = weight @ off_m / weight.sum()
    spread = weight @ ((off_m - mean_m) ** 2).sum(axis=1) / weight.sum()
    doubt = sureness * _SHIFT_SCORE / (1 + (mean_m @ mean_m) / (_SHIFT_M**2 + _SPREAD * spread))
    return mean_m * weight.sum() / (weight.sum() + doubt)


def _scale(head: Head, template: HeadTemplate) -> float:
    """Size of a head over the template's, from some of its vertices; 1 when they are malformed."""
    vertices = np.asarray(head.vertices, dtype=np.float64)
    if vertices.shape != template.vertices.shape or not np.isfinite(vertices).all():
        return 1.0
    size = np.linalg.norm(vertices[::16] - head.tf_world_head[:3, 3], axis=1).sum()
    usual = np.linalg.norm(template.vertices[::16], axis=1).sum()
    return float(np.clip(size / usual, 0.5, 2.0))
