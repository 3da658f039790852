"""What people call a face, and the box that they would draw around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from disguisor_ros.core.head_template import HeadTemplate

#: What people call the face ends above the underside of the chin, at this height in the head
#: frame, metres ...
CHIN_M = -0.095

#: ... and at the edge of a surgical cap, which lies at this height over the brow and falls towards
#: the ears (slope). The cap stands out by 2 cm: what it hides from above nobody calls a face.
#: Middle and half axes of its ellipsoid, metres, head frame.
CAP_EDGE_M, _CAP_SLOPE, _BROW_M = 0.075, 0.2, 0.09
_CAP_MIDDLE_M = np.array([0.0, 0.0, 0.05])
_CAP_RADII_M = np.array([0.120, 0.095, 0.105])

#: Masks and glasses stand out of it, metres: by this much at the front, less towards the ears.
RELIEF_M = 0.016
_FRONT_M = 0.1


@dataclass(frozen=True)
class NamedFace:
    """What people call the face of a template, but for what a cap hides.

    Parameters
    ----------
    triangles : ndarray, shape (F, 3, 3), float32, metres, head frame
        Corners of all triangles of the template.
    vertices : ndarray, shape (N,), int
        Those of the face region.
    places : ndarray, shape (N, 3), metres, head frame
        Where these are.
    edges : ndarray, shape (E, 2), int
        Of the face's mesh, as rows of ``vertices``.
    """

    triangles: np.ndarray
    vertices: np.ndarray
    places: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, template: HeadTemplate) -> NamedFace:
        """Take the face region of a template."""
        vertices, faces = np.unique(template.faces[template.on_face], return_inverse=True)
        faces = faces.reshape(-1, 3)
        edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)), axis=0)
        places = template.vertices[vertices].astype(np.float64)
        return cls(template.vertices[template.faces], vertices, places, edges)

    def corners(self, vertices: np.ndarray, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners of the face of a head, cut off at chin and cap.

        Parameters
        ----------
        vertices : ndarray, shape (V, 3)
            Of the head.
        eye : ndarray, shape (3,), metres, head frame
            Place of the camera.

        Returns
        -------
        corners : ndarray, shape (C, 3)
        forward_m : ndarray, shape (C,), metres
            How far forward in the head they lie.
        """
        value = np.minimum(self.places[:, 2] - CHIN_M, below_cap(self.places, eye))
        a, b = self.edges[(value[self.edges] > 0).sum(axis=1) == 1].T
        share = (value[a] / (value[a] - value[b]))[:, None]
        points = np.concatenate([vertices[self.vertices], self.places[:, :1]], axis=1)
        cut = points[a] + share * (points[b] - points[a])
        points = np.concatenate([points[value > 0], cut])
        return points[:, :3], points[:, 3]


named_face = lru_cache(maxsize=4)(NamedFace.of)


def relief_m(forward_m: np.ndarray) -> np.ndarray:
    """How far masks and glasses stand out over points so far forward in the head, metres."""
    return RELIEF_M * np.clip(forward_m / _FRONT_M, 0, 1)


def below_cap(points: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """How far below the edge of a surgical cap a camera sees points of a head.

    The cap is the part of an ellipsoid above a slanting edge; what it hides is seen through it,
    where the ray from the point to the camera is highest.

    Parameters
    ----------
    points : ndarray, shape (N, 3), metres, head frame
    eye : ndarray, shape (3,), metres, head frame
        Place of the camera.

    Returns
    -------
    ndarray, shape (N,), metres
        Negative for what is hidden, or lies under the cap; a centimetre where no cap is near.
    """
    toward = eye - points
    toward = toward / np.linalg.norm(toward, axis=1, keepdims=True)
    start, along = (points - _CAP_MIDDLE_M) / _CAP_RADII_M, toward / _CAP_RADII_M
    a, b = (along**2).sum(axis=1), (start * along).sum(axis=1)
    root = b**2 - a * ((start**2).sum(axis=1) - 1.0)
    half = np.sqrt(np.maximum(root, 0.0))
    enter, leave = np.maximum((-b - half) / a, 0.0), (-b + half) / a
    rising = toward @ [-_CAP_SLOPE, 0.0, 1.0]
    highest = points + np.where(rising > 0, leave, enter)[:, None] * toward
    below = CAP_EDGE_M + _CAP_SLOPE * (highest[:, 0] - _BROW_M) - highest[:, 2]
    return np.where((root > 0) & (leave > 0), below, 0.01)


def named_box(
    seen: np.ndarray, corners: np.ndarray, size: np.ndarray, step: float = 1.0
) -> np.ndarray | None:
    """Box of the visible part of a face as a person would draw it, or None out of the image.

    Samples tell what is visible, but their box moves by whole pixels while the face moves by
    less; the mesh's corners are exact, but lie apart where something cuts the face off. So each
    edge is that of the corners, as far as they lie within a step of the outermost sample.

    Parameters
    ----------
    seen : ndarray, shape (P, 2), pixels
        Samples of the image that show the face, with what stands out.
    corners : ndarray, shape (C, 2), pixels
        Visible corners of its mesh, likewise.
    size : ndarray, shape (2,)
        Width and height of the image.
    step : float
        Distance of the samples from each other, pixels.

    Returns
    -------
    ndarray, shape (4,)
        x, y, width, height, cut at the image, whose pixels reach half of one beyond their middles.
    """
    seen = seen[((seen > -1) & (seen < size)).all(axis=1)]
    if len(seen) == 0:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    if len(corners):
        low = np.clip(corners.min(axis=0), low - step, low)
        high = np.clip(corners.max(axis=0), high, high + step)
    else:
        low, high = low - step / 2, high + step / 2
    low = np.clip(low + 0.5, 0, size - 1)
    high = np.clip(high + 0.5, low + 1, size)
    return np.concatenate([low, high - low])
