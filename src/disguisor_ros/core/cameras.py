"""Calibrated cameras: projection, undistortion and viewing rays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np

#: Distortion models of sensor_msgs/CameraInfo and the numbers of coefficients that they take.
DISTORTION_MODELS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}

#: Pixels between the points at which the lens is undistorted; linear in between. Far from the axis
#: of a fisheye lens x/z is anything but linear.
_LATTICE_PX, _FISHEYE_LATTICE_PX = 8, 4


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with lens distortion at a fixed place in the world.

    Frames follow REP-103: ``world`` is z-up in metres; the camera frame is optical
    (x right, y down, z forward). Pixel (0, 0) is the centre of the top left pixel.

    Parameters
    ----------
    name : str
        Name of the camera, for example ``cn01``.
    width, height : int
        Size of the image, pixels.
    matrix : ndarray, shape (3, 3)
        Intrinsic matrix, pixels.
    tf_camera_world : ndarray, shape (4, 4)
        Rigid transform camera <- world, metres.
    distortion : ndarray, shape (n,)
        Coefficients in OpenCV's order (CameraInfo ``d``); empty or zero for none. An
        ``equidistant`` lens has four, and is a fisheye when they are zero, too.
    model : str
        One of :data:`DISTORTION_MODELS`.

    Raises
    ------
    ValueError
        If a shape, the distortion model or the transform cannot be right.
    """

    name: str
    width: int
    height: int
    matrix: np.ndarray
    tf_camera_world: np.ndarray
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    model: str = "plumb_bob"

    def __post_init__(self):
        for attribute, shape in (("matrix", (3, 3)), ("tf_camera_world", (4, 4))):
            value = np.asarray(getattr(self, attribute), dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(
                    f"camera {self.name}: {attribute} must be finite with shape {shape},"
                    f" got shape {value.shape}"
                )
            object.__setattr__(self, attribute, value)
        distortion = np.asarray(self.distortion, dtype=np.float64).ravel()
        object.__setattr__(self, "distortion", distortion)
        if self.width <= 0 or self.height <= 0:
            raise ValueError(
                f"camera {self.name}: size {self.width}x{self.height} is not positive"
            )
        if self.matrix[0, 0] <= 0 or self.matrix[1, 1] <= 0:
            raise ValueError(
                f"camera {self.name}: focal lengths must be positive (not calibrated?)"
            )
        if self.model not in DISTORTION_MODELS:
            raise ValueError(
                f"camera {self.name}: distortion model {self.model!r} is not one of"
                f" {', '.join(DISTORTION_MODELS)}"
            )
        allowed = DISTORTION_MODELS[self.model]
        if self.distorted and len(distortion) not in allowed:
            raise ValueError(
                f"camera {self.name}: {self.model} takes {allowed} distortion coefficients,"
                f" got {len(distortion)}"
            )
        if not np.isfinite(distortion).all():
            raise ValueError(f"camera {self.name}: distortion coefficients are not finite")
        rotation = self.tf_camera_world[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or (
            np.linalg.det(rotation) < 0
        ):
            raise ValueError(
                f"camera {self.name}: the rotation of tf_camera_world is not a rotation"
            )

    @cached_property
    def tf_world_camera(self) -> np.ndarray:
        """Rigid transform world <- camera, shape (4, 4), metres."""
        return invert_rigid(self.tf_camera_world)

    @property
    def center(self) -> np.ndarray:
        """Optical centre in the world, shape (3,), metres."""
        return self.tf_world_camera[:3, 3]

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self.matrix)

    @cached_property
    def distorted(self) -> bool:
        """Whether the lens distorts at all; an ideal fisheye does by its model alone."""
        return self.fisheye or bool(self.distortion.any())

    @property
    def fisheye(self) -> bool:
        """Whether the image may show what lies beside the camera, at up to 90 degrees."""
        return self.model == "equidistant"

    def px_per_m(self, point: np.ndarray) -> float:
        """Pixels for a metre across the view at a point (3,) of the camera frame before it."""
        aside = np.hypot(point[0], point[1])
        if self.fisheye and aside > 1e-6:
            return self.matrix[0, 0] * np.arctan2(aside, point[2]) / aside
        return self.matrix[0, 0] / point[2]

    def moved(self, move: np.ndarray | None) -> Camera:
        """The camera after a rigid transform of the world (4, 4), metres, has moved it.

        Itself with None.
        """
        if move is None:
            return self
        return replace(self, tf_camera_world=self.tf_camera_world @ invert_rigid(move))

    def to_camera(self, points_world: np.ndarray) -> np.ndarray:
        """Points of the world in the camera frame, shape (..., 3), metres."""
        return points_world @ self.tf_camera_world[:3, :3].T + self.tf_camera_world[:3, 3]

    def project(self, points_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points of the world into the image.

        Parameters
        ----------
        points_world : ndarray, shape (..., 3), metres

        Returns
        -------
        pixels : ndarray, shape (..., 2)
            NaN for points that are not in front of the camera.
        depth : ndarray, shape (...)
            Distance along the optical axis, metres.
        """
        return self.project_camera(self.to_camera(np.asarray(points_world, dtype=np.float64)))

    def project_camera(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points of the camera frame; see :meth:`project`."""
        depth = points[..., 2]
        front = depth > 1e-6
        normalized = points[..., :2] / np.where(front, depth, np.nan)[..., None]
        if self.distorted:
            normalized = self._distort(normalized)
        pixels = normalized @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        return pixels, depth

    def undistort(self, pixels: np.ndarray) -> np.ndarray:
        """Normalised image coordinates of pixels, x/z and y/z in the camera frame.

        Parameters
        ----------
        pixels : ndarray, shape (..., 2)

        Returns
        -------
        ndarray, shape (..., 2)
        """
        pixels = np.asarray(pixels, dtype=np.float64)
        if self.fisheye or not self.distorted:
            image = pixels @ self._inverse[:2, :2].T + self._inverse[:2, 2]
            if not self.fisheye:
                return image
            # OpenCV takes all beyond pi/2 focal lengths of the axis for lying there, wherever the
            # lens shows it.
            radius = np.linalg.norm(image, axis=-1, keepdims=True)
            return image * np.tan(np.interp(radius, *self._angles)) / np.maximum(radius, 1e-9)
        flat = np.ascontiguousarray(pixels.reshape(-1, 1, 2))
        if len(flat) == 0:
            return pixels.copy()
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-9)
        out = cv2.undistortPointsIter(flat, self.matrix, self.distortion, None, None, criteria)
        return out.reshape(pixels.shape)

    def undistort_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Normalised image coordinates of evenly spaced columns x and rows y of pixels.

        A lens is evaluated on a coarse lattice: over a head it is smooth to well under a pixel.

        Parameters
        ----------
        x, y : ndarray, shapes (columns,) and (rows,), pixels

        Returns
        -------
        ndarray, shape (rows, columns, 2)
        """
        if not self.distorted:
            return self.undistort(grid(x, y))
        spacing = _FISHEYE_LATTICE_PX if self.fisheye else _LATTICE_PX
        columns, across = _lattice(x, spacing)
        rows, down = _lattice(y, spacing)
        lattice = self.undistort(grid(columns, rows))
        out = np.empty((len(y), len(x), 2))
        for axis in range(2):
            out[..., axis] = down @ lattice[..., axis] @ across.T
        return out

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Unit directions in the world of the rays through pixels, shape (..., 3)."""
        normalized = self.undistort(pixels)
        directions = normalized @ self.tf_camera_world[:2, :3] + self.tf_camera_world[2, :3]
        return directions / np.sqrt((directions**2).sum(axis=-1, keepdims=True))

    def inside(self, pixels: np.ndarray) -> np.ndarray:
        """Whether pixels lie in the image, shape (...), bool."""
        x, y = pixels[..., 0], pixels[..., 1]
        return (x >= 0) & (y >= 0) & (x <= self.width - 1) & (y <= self.height - 1)

    def shows(self, keypoints: np.ndarray) -> np.ndarray:
        """Whether detections (P, 17, 3) may be of this camera's image, shape (P,), bool.

        Of one that lies wholly out of it, by a tenth, the image was larger or was turned.
        """
        size = np.array([self.width, self.height])
        xy, missing = keypoints[..., :2], keypoints[..., 2] <= 0
        inside = ((xy > -0.1 * size) & (xy < 1.1 * size)).all(axis=-1)
        return (inside & ~missing).any(axis=1) | missing.all(axis=1)

    def _distort(self, normalized: np.ndarray) -> np.ndarray:
        flat = normalized.reshape(-1, 2)
        good = np.isfinite(flat).all(axis=1)
        out = np.full_like(flat, np.nan)
        if good.any():
            points = flat[good]
            # Beyond its turning point the polynomial would put into the image what is out of view.
            radius = np.linalg.norm(points, axis=1, keepdims=True)
            points *= np.minimum(1.0, self._turning_point / np.maximum(radius, 1e-9))
            out[good] = self._distorted(points, self.distortion)
        return out.reshape(normalized.shape)

    @cached_property
    def _turning_point(self) -> float:
        """Normalised radius up to which what is farther from the axis is so in the image, too."""
        radius = np.tan(np.deg2rad(np.arange(0.0, 89.6, 0.1)))
        radial = self.distortion.copy()
        if not self.fisheye:
            radial[2:4] = radial[8:] = 0.0  # tangential, thin prism and tilt: small, not round
        image = self._distorted(np.stack([radius, np.zeros_like(radius)], axis=1), radial)[:, 0]
        back = np.flatnonzero(np.diff(image) <= 0)
        return float(radius[back[0]]) if len(back) else np.inf

    @cached_property
    def _angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances from a fisheye's axis in the image, focal lengths, and angles there, radians.

        Up to 89.5 degrees, or where what is farther from the axis is no longer so in the image.
        """
        angle = np.deg2rad(np.arange(0.0, 89.505, 0.01))
        radius = self._distorted(np.outer(np.tan(angle), [1.0, 0.0]), self.distortion)[:, 0]
        back = np.flatnonzero(np.diff(radius) <= 0)
        known = slice(back[0] + 1 if len(back) else None)
        return radius[known], angle[known]

    def _distorted(self, points: np.ndarray, distortion: np.ndarray) -> np.ndarray:
        if self.fisheye:
            pixels = cv2.fisheye.distortPoints(points[:, None], np.eye(3), distortion)
        else:
            rays = np.concatenate([points, np.ones((len(points), 1))], axis=1)
            pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), distortion)
        return pixels.reshape(-1, 2)


def grid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points (len(y), len(x), 2) at all pairs of coordinates."""
    points = np.empty((len(y), len(x), 2))
    points[..., 0], points[..., 1] = x, y[:, None]
    return points


def _lattice(places: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (n,) over evenly spaced places (K,), and weights (K, n) that interpolate linearly."""
    nodes = 2 + int(places[-1] - places[0]) // spacing
    at = np.arange(len(places)) * ((nodes - 1) / max(len(places) - 1, 1))
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(nodes)), 0)
    length = max(places[-1] - places[0], 1)
    return places[0] + np.arange(nodes) * (length / (nodes - 1)), weights


def look_at(center: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pose of a camera that looks at a target, its image upright.

    Parameters
    ----------
    center, target : ndarray, shape (3,), metres, world
        Neither right above the other.

    Returns
    -------
    ndarray, shape (4, 4)
        ``tf_camera_world``.
    """
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rigid(rotation, -rotation @ center)


def rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Rigid transform (4, 4) of a rotation (3, 3) and a translation (3,)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def invert_rigid(tf_a_b: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms, shape (..., 4, 4): ``tf_b_a`` from ``tf_a_b``."""
    rotation = np.swapaxes(tf_a_b[..., :3, :3], -1, -2)
    out = np.zeros_like(tf_a_b)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, tf_a_b[..., :3, 3])
    out[..., 3, 3] = 1.0
    return out
