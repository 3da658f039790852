"""Detections of all views as flat arrays, without duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.cameras import Camera

#: Keypoints with a lower score count as missing.
MIN_SCORE = 0.05

#: No keypoint is that far from an image, pixels.
_OUTSIDE_PX = 1e6

#: Detections with fewer keypoints show nothing.
_MIN_JOINTS = 3

#: Cameras of one room are nearer to each other than this, metres, or in another unit.
_APART_M = 100.0

#: Two detections of one view with a higher similarity are the same person.
_DUPLICATE_OKS = 0.75

#: OKS constants of COCO (2 sigma squared is the variance of the annotations over the area).
COCO_SIGMA = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
) / 1000.0  # fmt: skip


@dataclass
class Detections:
    """Detections of all views as flat arrays; N detections, V views.

    Parameters
    ----------
    names : list of str
        Cameras of the views.
    centers : ndarray, shape (V, 3), metres, world
    view, index : ndarray, shape (N,), int
        View of a detection and its place in that camera's keypoints.
    pixels : ndarray, shape (N, 17, 2)
    score : ndarray, shape (N, 17)
        0 where a keypoint is missing.
    rays : ndarray, shape (N, 17, 3), world
        Unit directions; zero where a keypoint is missing.
    """

    names: list[str]
    centers: np.ndarray
    view: np.ndarray
    index: np.ndarray
    pixels: np.ndarray
    score: np.ndarray
    rays: np.ndarray

    def __len__(self) -> int:
        return len(self.view)


def gather_detections(
    keypoints_by_camera: dict[str, np.ndarray], cameras: dict[str, Camera]
) -> Detections:
    """Flatten the keypoints of all cameras, without duplicates within a view.

    Raises
    ------
    ValueError
        If keypoints are not (P, 17, 3), a camera is not known, or cameras are not in metres.
    """
    names = list(keypoints_by_camera)
    for name in names:
        if name not in cameras:
            raise ValueError(f"keypoints_by_camera: no calibration for camera {name!r}")
    found = [_checked(name, keypoints_by_camera[name]) for name in names]
    centers = np.array([cameras[name].center for name in names]).reshape(-1, 3)
    apart_m = np.ptp(centers, axis=0).max() if names else 0.0
    if apart_m > _APART_M:
        raise ValueError(f"cameras are {apart_m:.0f} m apart: their transforms are not in metres")
    count = [len(keypoints) for keypoints in found]
    view = np.repeat(np.arange(len(names)), count)
    index = np.concatenate([np.arange(n) for n in [*count, 0]])
    keypoints = np.concatenate([*found, np.zeros((0, 17, 3))])
    pixels, score = keypoints[..., :2], keypoints[..., 2]
    inside = np.abs(pixels) < _OUTSIDE_PX
    good = inside[..., 0] & inside[..., 1] & np.isfinite(score) & (score >= MIN_SCORE)
    pixels = np.where(good[..., None], pixels, 0.0)
    score = np.where(good, np.minimum(score, 1.0), 0.0)
    kept = _distinct(view, pixels, score)
    view, index, pixels, score = view[kept], index[kept], pixels[kept], score[kept]
    first = np.searchsorted(view, np.arange(len(names) + 1))
    rays = np.zeros((len(view), 17, 3))
    for k, name in enumerate(names):
        mine = slice(first[k], first[k + 1])
        if first[k + 1] > first[k]:
            rays[mine] = cameras[name].rays(pixels[mine])
    # Far outside the image the polynomial of a lens has no inverse.
    score *= np.isfinite(rays).all(axis=-1)
    rays = np.where((score > 0)[..., None], rays, 0.0)
    return Detections(names, centers, view, index, pixels, score, rays)


def _checked(name: str, keypoints: np.ndarray) -> np.ndarray:
    """Keypoints of a camera as floats; ValueError unless their shape is (P, 17, 3)."""
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.size == 0:
        return np.zeros((0, 17, 3))
    if keypoints.ndim != 3 or keypoints.shape[1:] != (17, 3):
        raise ValueError(
            f"keypoints of camera {name!r} must have the shape (persons, 17, 3) in COCO-17 order,"
            f" got {keypoints.shape}"
        )
    return keypoints


def similarity(pixels_a, pixels_b, weight, area) -> np.ndarray:
    """Object keypoint similarity (COCO), weighted over joints.

    Parameters
    ----------
    pixels_a, pixels_b : ndarray, shape (..., 17, 2)
    weight : ndarray, shape (..., 17)
    area : ndarray, shape (...)
        Square pixels of the persons.

    Returns
    -------
    ndarray, shape (...), 0 to 1; 0 where no joint has a weight.
    """
    offset = pixels_a - pixels_b
    distance2 = np.einsum("...a,...a->...", offset, offset)
    exponent = distance2 / (8.0 * COCO_SIGMA**2 * np.maximum(area, 1.0)[..., None])
    agreement = np.exp(-np.where(weight > 0, exponent, 0.0)) * weight
    return agreement.sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1e-9)


def extent_area(pixels: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Area of the box around the keypoints that were found, square pixels, shape (N,) or ()."""
    # The joints first: along a short last axis least and most take twice as long.
    found, pixels = (score > 0).T[..., None], pixels.swapaxes(0, -2).copy()
    low = np.where(found, pixels, np.inf).min(axis=0)
    high = np.where(found, pixels, -np.inf).max(axis=0)
    sides = np.where(np.isfinite(high - low), high - low, 0.0)
    # A thin box (a person from the side) still belongs to a body about a third as wide as tall.
    return np.maximum(sides[..., 0] * sides[..., 1], sides.max(axis=-1) ** 2 / 3.0)


def _distinct(view: np.ndarray, pixels: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Indices of detections that show something and are no duplicate of a better one."""
    kept = (score > 0).sum(axis=1) >= _MIN_JOINTS
    order = np.arange(len(view))
    rivals = (view[:, None] == view) & (order[:, None] < order)
    first, second = np.nonzero(rivals & kept & kept[:, None])
    if len(first):
        area = extent_area(pixels, score)
        alike = similarity(
            pixels[first],
            pixels[second],
            np.minimum(score[first], score[second]),
            np.minimum(area[first], area[second]),
        )
        same = alike > _DUPLICATE_OKS
        total = score.sum(axis=1)
        pairs = np.stack([first[same], second[same]], axis=1)
        # The best first: only a duplicate of one that stays has to go.
        for i, j in pairs[np.argsort(-total[pairs].max(axis=1), kind="stable")]:
            if kept[i] and kept[j]:
                kept[j if total[i] >= total[j] else i] = False
    return np.nonzero(kept)[0]
