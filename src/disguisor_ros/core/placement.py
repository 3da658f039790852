"""Where a person is that only one view sees: from depth, else from body size and the floor."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.skeleton import (
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_SIGMA_M,
    HEIGHT_SIGMA_M,
    STANDING_M,
)
from disguisor_ros.core.types import HEAD_JOINTS, DepthView

#: Distances that are tried, metres.
_DISTANCES_M = np.geomspace(0.5, 9.0, 64)

#: Joints that depth is read at, and how far behind the skin they lie, metres.
_MEASURED = np.array([0, 1, 2, 3, 4, 5, 6, 11, 12])
_SKIN_M = np.array([0.0, 0.02, 0.02, 0.02, 0.02, 0.07, 0.07, 0.09, 0.09])

#: Distances that differ by less than this share belong to one body.
_SAME_BODY = 0.05

#: A body that lies along the view is this much deep, as a share of the distance.
_DEEP_BODY = 0.2


def place(
    center: np.ndarray, rays: np.ndarray, score: np.ndarray, floor_z_m: float | None
) -> np.ndarray:
    """Joints on their rays, in the upright plane towards the camera that suits a body best.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, world
        Of the camera.
    rays : ndarray, shape (17, 3), world
    score : ndarray, shape (17,)
    floor_z_m : float, optional
        Height of the floor where it is known.

    Returns
    -------
    ndarray, shape (17, 3), metres, world
        NaN for joints that are not seen.
    """
    toward = (rays * score[:, None]).sum(axis=0)
    toward /= np.linalg.norm(toward)
    level = np.array([toward[0], toward[1], 0.0])
    # Seen from straight above an upright plane is a line; lean it towards the image plane there.
    normal = level + max(0.0, -toward[2] - 0.7) * np.array([0.0, 0.0, toward[2]])
    normal = normal / np.linalg.norm(normal) if np.linalg.norm(normal) > 0.1 else toward
    slope = np.maximum(rays @ normal, 0.15)
    points = center + (_DISTANCES_M[:, None] * (toward @ normal) / slope)[..., None] * rays
    cost = _size_cost(points, score)
    if floor_z_m is not None:
        off = (points[..., 2] - floor_z_m - STANDING_M[:, 2]) / (1.5 * HEIGHT_SIGMA_M)
        off = np.minimum(np.abs(off), 4.0) ** 2
        cost = cost + (off * score).sum(axis=1) / max(score.sum(), 1e-9)
    best = points[int(cost.argmin())]
    return np.where((score > 0)[:, None], best, np.nan)


def along_rays(
    center: np.ndarray, rays: np.ndarray, score: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Joints on their rays, as far away as they are expected, shape (17, 3), metres, world.

    Parameters
    ----------
    center, rays, score
        As for :func:`place`; NaN comes out for joints that are not seen.
    expected : ndarray, shape (17, 3), metres, world
    """
    distance = np.maximum(np.linalg.norm(expected - center, axis=-1, keepdims=True), 0.3)
    return np.where((score > 0)[:, None], center + distance * rays, np.nan)


def _size_cost(points: np.ndarray, score: np.ndarray) -> np.ndarray:
    """How little each of D placements looks like an adult's bones; foreshortening is cheap."""
    weight = np.sqrt(score[BONE_A] * score[BONE_B])
    length = np.linalg.norm(points[:, BONE_A] - points[:, BONE_B], axis=-1)
    excess = (length - BONE_LENGTH_M) / (1.5 * BONE_SIGMA_M)
    excess = np.where(excess < 0, 0.35 * excess, excess)
    return (np.minimum(np.abs(excess), 4.0) ** 2 * weight).sum(axis=1) / max(weight.sum(), 1e-9)


def to_depth(
    joints: np.ndarray, center: np.ndarray, score: np.ndarray, view: DepthView
) -> np.ndarray | None:
    """Move joints that one view sees along their rays, to where a depth image shows the body.

    What stands in front hides parts of a body, so the joints vote: the largest set of them that
    agree on the distance wins.

    Parameters
    ----------
    joints : ndarray, shape (17, 3), metres, world
        From :func:`place`.
    center : ndarray, shape (3,), metres, world
        Of the camera that saw the joints.
    score : ndarray, shape (17,)
    view : DepthView

    Returns
    -------
    ndarray, shape (17, 3), or None
        None where depth says nothing about this person.
    """
    known = (score[_MEASURED] > 0) & np.isfinite(joints[_MEASURED, 0])
    used = _MEASURED[known]
    if len(used) < 2:
        return None
    offset = joints[used] - center
    placed = np.linalg.norm(offset, axis=-1)
    surface = surface_distances(center, offset / placed[:, None], view)
    factor = (surface + _SKIN_M[known]) / placed
    factor[~((factor > 0.6) & (factor < 1.6))] = np.nan
    if np.isfinite(factor).sum() < max(2, len(used) / 3):
        return None
    alike = np.abs(factor[:, None] - factor[None]) < _SAME_BODY
    votes = alike.sum(axis=1) - np.nan_to_num(np.abs(factor - 1.0), nan=1.0)
    best = alike[int(votes.argmax())]
    if best.sum() < 2:
        return None
    common = np.median(factor[best])
    each = np.full(17, common)
    near = (np.abs(factor / common - 1.0) < _DEEP_BODY) & (used > max(HEAD_JOINTS))
    each[used[near]] = factor[near]
    return center + (joints - center) * each[:, None]


def surface_distances(center: np.ndarray, rays: np.ndarray, view: DepthView) -> np.ndarray:
    """Distances along rays to what a depth image shows, shape (J,), metres; NaN where nothing.

    The depth sensor may have its own place and lens: along each ray, the first point that lies
    just behind the measured surface is taken.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, world
    rays : ndarray, shape (J, 3), world
        Unit directions.
    view : DepthView
    """
    distances = np.arange(0.4, 8.0, 0.03)
    pixels, depth = view.camera.project(center + distances[:, None, None] * rays)
    height, width = view.image.shape[:2]
    column, row = np.moveaxis(np.rint(np.nan_to_num(pixels, nan=-1.0)).astype(int), -1, 0)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    measured = view.image[np.where(inside, row, 0), np.where(inside, column, 0)] * view.unit_m
    behind = depth - measured.astype(np.float64)
    hit = inside & np.isfinite(measured) & (measured > 0) & (behind >= 0) & (behind < 0.15)
    return np.where(hit.any(axis=0), distances[hit.argmax(axis=0)], np.nan)
