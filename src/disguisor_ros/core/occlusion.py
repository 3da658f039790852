"""What a depth camera measured in front of, and on, a surface that another camera sees."""

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


def measure(
    depth: DepthView, camera: Camera, window: Window, surface_m: np.ndarray, margin_m: float
) -> tuple[np.ndarray, float]:
    """Compare depth with a surface, as the camera of the window sees both.

    Depth samples are moved from the frame of the depth camera into the camera's window one by
    one, so that an occluder is cut out where the camera sees it and not where the depth camera
    does.

    Parameters
    ----------
    depth : DepthView
    camera : Camera
        Camera of the window.
    window : Window
    surface_m : ndarray, shape (rows, columns), metres
        Distance of the surface along the camera's optical axis; inf where there is none.
    margin_m : float
        How far in front, or behind, a sample must lie not to belong to the surface, metres.

    Returns
    -------
    hidden : ndarray, shape (rows, columns), bool
        Where something is measured clearly in front; False where nothing was measured.
    agreement : float
        Share of the samples, those in front left out, that lie on the surface; 0 without any.
    """
    hidden = np.zeros(window.shape, dtype=np.uint8)
    finite = np.isfinite(surface_m)
    crop = None
    if finite.any():
        crop = _footprint(depth, camera, window, float(surface_m[finite].max()))
    if crop is None:
        return hidden.astype(bool), 0.0
    along_m, column, row, measured = _samples(depth, camera, window, crop)
    ahead_m = surface_m[row, column] - along_m
    on_face = np.isfinite(ahead_m)
    on_surface = np.count_nonzero(on_face & (np.abs(ahead_m) <= margin_m))
    agreement = on_surface / max(np.count_nonzero(on_face & (ahead_m <= margin_m)), 1)

    front = on_face & (ahead_m > margin_m)
    image = np.zeros(measured.shape, dtype=np.uint8)
    image[measured] = front
    front &= cv2.boxFilter(image, cv2.CV_16U, (3, 3), normalize=False,
                           borderType=cv2.BORDER_CONSTANT)[measured] >= _SUPPORT  # fmt: skip
    if not front.any():
        return hidden.astype(bool), agreement
    hidden[row[front], column[front]] = 1
    # A depth pixel is seldom as fine as a colour pixel: give each its own footprint.
    ratio = camera.matrix[0, 0] / depth.camera.matrix[0, 0] / window.step
    side = int(np.ceil(ratio - 1e-3)) | 1  # an even kernel would shift
    hidden = cv2.morphologyEx(hidden, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    # The edge itself belongs half to the face: when unsure cover.
    hidden = cv2.erode(hidden, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return hidden.astype(bool), agreement


def _samples(
    depth: DepthView, camera: Camera, window: Window, crop: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Depth samples (N,) of a crop as the camera sees them.

    Returns distance in metres, column and row in the window, and which pixels (rows, columns) of
    the crop they come from.
    """
    z_m = depth.image[
        crop.y : crop.y + crop.rows, crop.x : crop.x + crop.columns
    ] * np.float32(depth.unit_m)
    with np.errstate(invalid="ignore"):
        valid = (z_m > 0) & np.isfinite(z_m)
    tf_camera_depth = camera.tf_camera_world @ depth.camera.tf_world_camera
    points = np.ones((np.count_nonzero(valid), 3))
    points[:, :2] = crop.normalized(depth.camera)[valid]
    points *= z_m[valid][:, None]
    points = points @ tf_camera_depth[:3, :3].T + tf_camera_depth[:3, 3]
    pixels, along_m = camera.project_camera(points)
    with np.errstate(invalid="ignore"):
        cells = np.rint(window.to_cells(pixels))
        inside = ((cells >= 0) & (cells < (window.columns, window.rows))).all(axis=1)
    column, row = cells[inside].astype(int).T
    valid[valid] = inside
    return along_m[inside], column, row, valid


def _footprint(
    depth: DepthView, camera: Camera, window: Window, farthest_m: float
) -> Window | None:
    """Part of the depth image that can show anything between the camera and a window."""
    if farthest_m <= _NEAREST_M:
        return None
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
