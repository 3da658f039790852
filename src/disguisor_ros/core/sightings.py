"""Which 2D detection of an image shows which 3D head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

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
    """

    pixel: np.ndarray
    radius_px: float
    detection: int = -1
    face_score: float = 0.0


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
    cost = np.full((len(heads), len(keypoints)), np.inf)
    weight = np.where(keypoints[:, _HEAD, 2] >= MIN_SCORE, keypoints[:, _HEAD, 2], 0.0)
    for i, head in enumerate(heads):
        tf_world_head = np.asarray(head.tf_world_head, dtype=np.float64)
        if tf_world_head.shape != (4, 4) or not np.isfinite(tf_world_head).all():
            sightings.append(Sighting(np.full(2, np.nan), 0.0))
            continue
        points = np.vstack([template.keypoints, np.zeros(3)])
        pixels, depth_m = camera.project(points @ tf_world_head[:3, :3].T + tf_world_head[:3, 3])
        if not np.isfinite(pixels).all():
            sightings.append(Sighting(np.full(2, np.nan), 0.0))
            continue
        scale = camera.matrix[0, 0] / depth_m[-1]
        sightings.append(Sighting(pixels[-1], template.radius * scale))
        if len(keypoints):
            off = np.linalg.norm(keypoints[:, _HEAD, :2] - pixels[:-1], axis=2) / scale
            mean_m = (off * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)
            sigma_m = min(head.sigma_m, 0.1) if np.isfinite(head.sigma_m) else 0.1
            near = (weight.sum(axis=1) > 0) & (mean_m < _NEAR_M + 2 * sigma_m)
            # Of two heads on one spot the surer one is shown.
            cost[i] = np.where(near, mean_m + 2 * sigma_m, np.inf)
    if np.isfinite(cost).any():
        for i, j in zip(*linear_sum_assignment(np.minimum(cost, 1e3)), strict=True):
            if np.isfinite(cost[i, j]):
                sightings[i].detection = int(j)
                sightings[i].face_score = float(keypoints[j, :3, 2].max())
    return sightings
