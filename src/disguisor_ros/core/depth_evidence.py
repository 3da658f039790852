"""What depth cameras measured near one head: surface points and free rays."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.types import DepthView

#: Pixels next to a jump larger than this, metres, mix two surfaces and are dropped.
JUMP_M = 0.03

#: About so many pixels are kept of a view; 2.5 times as many are read, of a square around a head.
MAX_PIXELS = 900


@dataclass
class Evidence:
    """Depth pixels near a head.

    Parameters
    ----------
    points : ndarray, shape (N, 3), float32, metres, world
        Measured surface.
    views : ndarray, shape (N, 3), float32
        Unit directions from the camera to the points.
    areas : ndarray, shape (N,), float32, square metres
        Area across the ray that each pixel stands for.
    origins, directions : ndarray, shape (M, 3), float32
        Rays of pixels: optical centres and unit directions, world.
    reach : ndarray, shape (M,), float32, metres
        Along each ray nothing is in the way up to here.
    ray_areas : ndarray, shape (M,), float32
        Area of each ray's pixel at the head, square metres.
    """

    points: np.ndarray
    views: np.ndarray
    areas: np.ndarray
    origins: np.ndarray
    directions: np.ndarray
    reach: np.ndarray
    ray_areas: np.ndarray

    def thinned(self, count: int) -> Evidence:
        """About ``count`` points and half as many rays, evenly taken, for the same area."""
        every = max(1, len(self.points) // count)
        other = max(1, 2 * len(self.reach) // count)
        return Evidence(
            self.points[::every], self.views[::every], self.areas[::every] * np.float32(every),
            self.origins[::other], self.directions[::other], self.reach[::other],
            self.ray_areas[::other] * np.float32(other),
        )  # fmt: skip


def gather(
    center: np.ndarray,
    radius_m: float,
    depth: dict[str, DepthView],
    others: np.ndarray,
) -> Evidence | None:
    """Read the depth around a place from all cameras that see it.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, world
        Predicted middle of the head.
    radius_m : float
        How far around it to read, metres.
    depth : dict of str to DepthView
    others : ndarray, shape (K, 3), metres, world
        Middles of other heads; points nearer to one of those are not taken.

    Returns
    -------
    Evidence or None
        None when no camera measured anything there.
    """
    parts = []
    for name in sorted(depth):
        crop = _crop(depth[name], center, radius_m)
        if crop is not None:
            parts.append(_classify(crop, depth[name].camera, center, radius_m, others))
    if not parts or not sum(len(part[0]) for part in parts):
        return None
    return Evidence(*(np.concatenate(arrays).astype(np.float32) for arrays in zip(*parts)))


def _crop(view: DepthView, center, radius_m):
    """Depth in metres (NaN where unknown), pixel rows and columns of the neighbourhood."""
    camera = view.camera
    pixel, distance = camera.project(center)
    if not np.isfinite(pixel).all() or distance < radius_m + 0.1:
        return None
    half = radius_m / distance * camera.matrix[[0, 1], [0, 1]] * 1.1
    first = np.maximum(np.floor(pixel - half).astype(int), 0)
    last = np.minimum(np.ceil(pixel + half).astype(int) + 1, [camera.width, camera.height])
    if (last - first < 4).any():
        return None
    image = view.image[first[1] : last[1], first[0] : last[0]]
    depth_m = image.astype(np.float32) * np.float32(view.unit_m)
    depth_m[~(depth_m > 0)] = np.nan
    stride = max(1, int(np.ceil(np.sqrt(depth_m.size / MAX_PIXELS / 2.5))))
    edges = _jumps(depth_m)
    depth_m, edges = depth_m[::stride, ::stride], edges[::stride, ::stride]
    columns = np.arange(first[0], last[0], stride)
    rows = np.arange(first[1], last[1], stride)
    return depth_m, edges, camera.undistort_grid(columns, rows), stride


def _jumps(depth_m: np.ndarray) -> np.ndarray:
    """Whether a neighbour of a pixel lies much nearer or farther, shape of ``depth_m``."""
    filled = np.nan_to_num(depth_m, nan=0.0)
    kernel = np.ones((3, 3), np.uint8)
    high = cv2.dilate(filled, kernel)
    low = cv2.erode(np.where(filled > 0, filled, np.float32(1e3)), kernel)
    return high - low > JUMP_M


def _classify(crop, camera: Camera, center, radius_m, others):
    """Split pixels into surface near the head and rays that pass it."""
    depth_m, edges, normalized, stride = crop
    known = np.isfinite(depth_m)
    depth_m, edges = depth_m[known], edges[known]
    local = np.concatenate([normalized[known], np.ones((known.sum(), 1))], axis=-1)
    length = np.linalg.norm(local, axis=-1)
    directions = (local / length[:, None]) @ camera.tf_camera_world[:3, :3]
    reach = depth_m * length
    origin = camera.center
    points = origin + directions * reach[:, None]
    pixel_m2 = stride**2 / (camera.matrix[0, 0] * camera.matrix[1, 1])
    off = np.linalg.norm(points - center, axis=-1)
    near = (off < radius_m) & ~edges
    if len(others):
        to_others = np.linalg.norm(points[:, None] - others, axis=-1).min(axis=1)
        near &= off < to_others
    along = directions @ (center - origin)
    free = (reach > along) & ~edges
    count = int(free.sum())
    return (
        points[near], directions[near], pixel_m2 * depth_m[near] ** 2,
        np.broadcast_to(origin, (count, 3)), directions[free], reach[free],
        pixel_m2 * along[free] ** 2,
    )  # fmt: skip
