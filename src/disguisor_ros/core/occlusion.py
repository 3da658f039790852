"""What a depth camera measured in front of, and on, a surface that another camera sees."""

from __future__ import annotations

import cv2
import numpy as np

from disguisor_ros.core.cameras import Camera, grid
from disguisor_ros.core.rendering import Window
from disguisor_ros.core.types import DepthView

#: Occluders nearer to the camera than this are not looked for, metres (sensors start later).
_NEAREST_M = 0.3

#: Nothing farther from the camera than this is looked at, metres.
_FARTHEST_M = 20.0

#: Depth pixels of 3x3 that must agree that something is in front: a line two pixels wide has six.
_SUPPORT = 4

#: ... and they agree when they differ by less than this, metres: pixels at the edge of an
#: occluder report a mix of it and of what lies behind, each a different one, and often where the
#: face is seen.
_SAME_M = 0.05

#: Points of a surface at which depth is looked up.
_LOOK_UPS = 150


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
    hidden = np.zeros(window.shape, dtype=np.uint8)
    farthest_m = float(np.max(surface_m, where=np.isfinite(surface_m), initial=0)) - margin_m
    crop = _footprint(depth, camera, window, farthest_m)
    if crop is None:
        return hidden.astype(bool)
    rays, along_m, near = _samples(depth, camera, crop, farthest_m)
    if len(along_m) < _SUPPORT:
        return hidden.astype(bool)
    column, row = np.rint(window.cells_of(camera, rays)).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < window.columns) & (row < window.rows)
    column, row = column * inside, row * inside
    ahead_m = surface_m[row, column] - along_m
    front = inside & (ahead_m > margin_m) & np.isfinite(ahead_m)
    image = np.full(near.shape, np.inf, np.float32)
    image[near] = np.where(front, along_m, np.inf)
    front &= _support(image)[near] >= _SUPPORT
    hidden[row[front], column[front]] = 1
    hidden = _closed(hidden, depth, camera, window)
    # The edge itself belongs half to the face: when unsure cover.
    hidden[~np.isfinite(surface_m)] = 1
    hidden = cv2.erode(hidden, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return hidden.astype(bool) & np.isfinite(surface_m)


def ruled_out(
    depth: DepthView,
    camera: Camera,
    window: Window,
    center: np.ndarray,
    along_m: float,
    height_m: float,
    safety_m: float,
) -> np.ndarray:
    """Where depth shows something that cannot be a head that is somewhere around a place.

    Parameters
    ----------
    depth, camera, window
        As for :func:`in_front`.
    center : ndarray, shape (3,), metres, world
        Middle of where the head is sought.
    along_m, height_m : float
        What is measured so much nearer or farther from the camera, or so much higher or lower,
        is no part of the head, metres.
    safety_m : float
        Nor is it believed within this distance of what may be a part of it, metres.

    Returns
    -------
    ndarray, shape (rows, columns), bool
        False where nothing was measured.
    """
    out = np.zeros(window.shape, dtype=np.uint8)
    crop = _footprint(depth, camera, window, _FARTHEST_M)
    if crop is None:
        return out.astype(bool)
    rays, distance_m, known = _samples(depth, camera, crop, _FARTHEST_M)
    points = np.concatenate([rays, np.ones((len(rays), 1), np.float32)], axis=1)
    height = (points @ camera.tf_world_camera[2, :3].astype(np.float32)) * distance_m
    height += np.float32(camera.center[2] - center[2])
    ahead_m = float(camera.to_camera(center)[2])
    possible = np.zeros(known.shape, np.uint8)
    possible[known] = (np.abs(distance_m - ahead_m) < along_m) & (np.abs(height) < height_m)
    side = 2 * int(np.ceil(safety_m * depth.camera.matrix[0, 0] / max(ahead_m, 0.3))) + 1
    near = cv2.dilate(possible, np.ones((side, side), np.uint8))
    column, row = np.rint(window.cells_of(camera, rays)).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < window.columns) & (row < window.rows)
    other, head = inside & (near[known] == 0), inside & (possible[known] == 1)
    out[row[other], column[other]] = 1
    # From beside the depth camera sees past the head to what is behind it for this one.
    before = np.zeros_like(out)
    before[row[head], column[head]] = 1
    side = 2 * int(np.ceil(safety_m * camera.matrix[0, 0] / max(ahead_m, 0.3) / window.step)) + 1
    before = cv2.dilate(before, np.ones((side, side), np.uint8))
    return (_closed(out, depth, camera, window) > before).astype(bool)


def _closed(mask: np.ndarray, depth: DepthView, camera: Camera, window: Window) -> np.ndarray:
    """Fill a window between samples: a depth pixel is seldom as fine as a colour pixel."""
    ratio = camera.matrix[0, 0] / depth.camera.matrix[0, 0] / window.step
    side = int(np.ceil(ratio - 1e-3)) | 1  # an even kernel would shift
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))


def _support(image_m: np.ndarray) -> np.ndarray:
    """How many pixels of the 3x3 around each, itself included, are alike; inf is like nothing."""
    rows, columns = image_m.shape
    count = np.ones(image_m.shape, np.uint8)
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        here = np.s_[: rows - down, max(-right, 0) : columns - max(right, 0)]
        there = np.s_[down:, max(right, 0) : columns - max(-right, 0)]
        with np.errstate(invalid="ignore"):
            alike = np.abs(image_m[here] - image_m[there]) < _SAME_M
        count[here] += alike
        count[there] += alike
    return count


def agreement(
    depth: DepthView, camera: Camera, window: Window, surface_m: np.ndarray, margin_m: float
) -> float:
    """Share of the depth measured at a surface, or behind it, that lies on it; 0 without any.

    Some points of the surface are looked up in the depth image; what is in front does not count.

    Parameters
    ----------
    depth, camera, window, surface_m
        As for :func:`in_front`.
    margin_m : float
        How far from the surface a sample may lie, metres.
    """
    row, column = np.nonzero(np.isfinite(surface_m))
    some = slice(None, None, max(1, len(row) // _LOOK_UPS))
    row, column = row[some], column[some]
    points = np.ones((len(row), 3))
    points[:, :2] = camera.undistort(window.to_pixels(np.stack([column, row], axis=-1)))
    points *= surface_m[row, column][:, None]
    world = points @ camera.tf_world_camera[:3, :3].T + camera.center
    pixels, expected_m = depth.camera.project(world)
    pixels, expected_m = pixels[expected_m > _NEAREST_M], expected_m[expected_m > _NEAREST_M]
    cells = np.rint(pixels)
    inside = ((cells >= 0) & (cells < depth.image.shape[::-1])).all(axis=1)
    column, row = cells[inside].astype(int).T
    measured_m = depth.image[row, column] * depth.unit_m
    with np.errstate(invalid="ignore"):
        behind_m = measured_m - expected_m[inside]
        counted = (measured_m > 0) & (behind_m >= -margin_m)
        on_surface = counted & (behind_m <= margin_m)
    return np.count_nonzero(on_surface) / max(np.count_nonzero(counted), 1)


def _samples(
    depth: DepthView, camera: Camera, crop: Window, farthest_m: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth samples of a crop that lie nearer to the camera than ``farthest_m``.

    Returns rays x/z, y/z (N, 2) and distance in metres (N,) in the camera's frame, and which
    pixels (rows, columns) of the crop they come from.
    """
    z_m = depth.image[
        crop.y : crop.y + crop.rows, crop.x : crop.x + crop.columns
    ] * np.float32(depth.unit_m)
    tf_camera_depth = camera.tf_camera_world @ depth.camera.tf_world_camera
    (r_x, r_y, r_z), offset = tf_camera_depth[:3, :3].astype(np.float32), tf_camera_depth[:3, 3]
    rays = crop.normalized(depth.camera)
    x, y = rays[..., 0], rays[..., 1]
    with np.errstate(invalid="ignore"):
        along_m = z_m * (x * r_z[0] + y * r_z[1] + r_z[2]) + np.float32(offset[2])
        near = (z_m > 0) & (along_m > 0.05) & (along_m < farthest_m)
    x, y, z_m, along_m = x[near], y[near], z_m[near], along_m[near]
    rays = np.empty((len(x), 2), np.float32)
    for k, row in enumerate((r_x, r_y)):
        rays[:, k] = z_m * (x * row[0] + y * row[1] + row[2]) + np.float32(offset[k])
    return rays / along_m[:, None], along_m, near


def _footprint(
    depth: DepthView, camera: Camera, window: Window, farthest_m: float
) -> Window | None:
    """Part of the depth image that can show anything between the camera and a window."""
    if farthest_m <= _NEAREST_M:
        return None
    last_x = window.x + window.columns * window.step
    last_y = window.y + window.rows * window.step
    corners = grid(np.array([window.x, last_x]), np.array([window.y, last_y]))
    rays = camera.undistort(corners.reshape(-1, 2))
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
