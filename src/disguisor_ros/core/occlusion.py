"""Which pixels of a window a depth camera measures clearly in front of a surface."""

from __future__ import annotations

import cv2
import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.rendering import Window
from disguisor_ros.core.types import DepthView

#: Occluders nearer to the camera than this are not looked for, metres (sensors start later).
_NEAREST_M = 0.3

#: Depth pixels of 3x3 that must agree that something is in front: a line two pixels wide has
#: six, a flying pixel beside an edge fewer than four.
_SUPPORT = 4


def in_front(
    depth: DepthView, camera: Camera, window: Window, surface_m: np.ndarray, margin_m: float
) -> np.ndarray:
    """Where something is measured clearly in front of a surface, as the camera sees it.

    Depth samples are moved from the frame of the depth camera into the camera's window one by
    one, so that an occluder is cut out where the camera sees it and not where the depth camera
    does. Where nothing was measured the answer is False.

    Parameters
    ----------
    depth : DepthView
    camera : Camera
        Camera of the window.
    window : Window
    surface_m : ndarray, shape (rows, columns), metres
        Distance of the surface along the camera's optical axis; inf where there is none.
    margin_m : float
        How far in front a sample must lie, metres.

    Returns
    -------
    ndarray, shape (rows, columns), bool
    """
    out = np.zeros(window.shape, dtype=np.uint8)
    finite = np.isfinite(surface_m)
    if not finite.any():
        return out.astype(bool)
    farthest_m = float(surface_m[finite].max()) - margin_m
    crop = _footprint(depth, camera, window, farthest_m) if farthest_m > _NEAREST_M else None
    if crop is None:
        return out.astype(bool)
    z_m = depth.image[
        crop.y : crop.y + crop.rows, crop.x : crop.x + crop.columns
    ] * np.float32(depth.unit_m)
    tf_camera_depth = camera.tf_camera_world @ depth.camera.tf_world_camera
    slack_m = np.linalg.norm(tf_camera_depth[:3, 3]) + 1.5 * farthest_m * np.linalg.norm(
        tf_camera_depth[2, :3] - (0, 0, 1)
    )
    with np.errstate(invalid="ignore"):
        near = (z_m > 0) & (z_m < farthest_m + slack_m)
    if np.count_nonzero(near) < _SUPPORT:
        return out.astype(bool)

    points = np.ones((np.count_nonzero(near), 3))
    points[:, :2] = crop.normalized(depth.camera)[near]
    points *= z_m[near][:, None]
    points = points @ tf_camera_depth[:3, :3].T + tf_camera_depth[:3, 3]
    pixels, along_m = camera.project_camera(points)
    cells = np.rint(window.to_cells(pixels))
    inside = ((cells >= 0) & (cells < (window.columns, window.rows))).all(axis=1)
    column, row = np.where(inside[:, None], cells, 0).astype(int).T
    front = inside & (along_m < surface_m[row, column] - margin_m)
    image = np.zeros(near.shape, dtype=np.uint8)
    image[near] = front
    front &= cv2.boxFilter(image, cv2.CV_16U, (3, 3), normalize=False,
                           borderType=cv2.BORDER_CONSTANT)[near] >= _SUPPORT  # fmt: skip
    out[row[front], column[front]] = 1
    # A depth pixel is seldom as fine as a colour pixel: give each its own footprint.
    ratio = camera.matrix[0, 0] / depth.camera.matrix[0, 0] / window.step
    side = int(np.ceil(ratio - 1e-3)) + 1
    kernel = np.ones((side, side), np.uint8)
    return cv2.morphologyEx(out, cv2.MORPH_CLOSE, kernel).astype(bool)


def _footprint(
    depth: DepthView, camera: Camera, window: Window, farthest_m: float
) -> Window | None:
    """Part of the depth image that can show anything between the camera and a window."""
    last_x = window.x + window.columns * window.step
    last_y = window.y + window.rows * window.step
    x, y = np.meshgrid(
        np.linspace(window.x, last_x, 3), np.linspace(window.y, last_y, 3), indexing="ij"
    )
    rays = camera.undistort(np.stack([x.ravel(), y.ravel()], axis=-1))
    rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    points = np.concatenate([rays * _NEAREST_M, rays * farthest_m])
    world = points @ camera.tf_world_camera[:3, :3].T + camera.center
    pixels, _ = depth.camera.project(world)
    if not np.isfinite(pixels).any():
        return None
    low = np.floor(np.nanmin(pixels, axis=0)) - 2
    high = np.ceil(np.nanmax(pixels, axis=0)) + 3
    x0, y0 = np.maximum(low, 0).astype(int)
    x1, y1 = np.minimum(high, depth.image.shape[::-1]).astype(int)
    if x1 <= x0 or y1 <= y0:
        return None
    return Window(int(x0), int(y0), int(x1 - x0), int(y1 - y0))
