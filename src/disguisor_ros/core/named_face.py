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
    places : ndarray, shape (V, 3), metres, head frame
        Vertices of the template.
    vertices : ndarray, shape (N,), int
        Those of the face region.
    edges : ndarray, shape (E, 2), int
        Pairs of vertices that an edge of the face's mesh connects.
    """

    places: np.ndarray
    vertices: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, template: HeadTemplate) -> NamedFace:
        """Take the face region of a template."""
        faces = template.faces[template.on_face]
        edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)), axis=0)
        return cls(template.vertices.astype(np.float64), np.unique(faces), edges)

    def within(self, eye: np.ndarray) -> np.ndarray:
        """How far within the named face the vertices lie, shape (V,), metres; negative outside.

        Parameters
        ----------
        eye : ndarray, shape (3,), metres, head frame
            Place of the camera.
        """
        within = np.full(len(self.places), -0.01)
        face = self.places[self.vertices]
        within[self.vertices] = np.minimum(face[:, 2] - CHIN_M, below_cap(face, eye))
        return within

    def corners(self, points: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Corners of the face, cut off where the mesh leaves it, shape (C, n).

        Parameters
        ----------
        points : ndarray, shape (V, n)
            Of the vertices.
        within : ndarray, shape (V,)
            See :meth:`within`.
        """
        a, b = self.edges.T
        cut = (within[a] > 0) != (within[b] > 0)
        a, b = a[cut], b[cut]
        share = (within[a] / (within[a] - within[b]))[:, None]
        return np.concatenate([points[within > 0], points[a] + share * (points[b] - points[a])])


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
    toward /= np.sqrt(np.einsum("na,na->n", toward, toward))[:, None]
    start, along = (points - _CAP_MIDDLE_M) / _CAP_RADII_M, toward / _CAP_RADII_M
    a, b = np.einsum("na,na->n", along, along), np.einsum("na,na->n", start, along)
    root = b**2 - a * (np.einsum("na,na->n", start, start) - 1.0)
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
