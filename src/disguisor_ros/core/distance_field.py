"""Signed distance to the head template on a grid: registration without neighbour search."""

from __future__ import annotations

import hashlib

import numpy as np

from disguisor_ros.core.head_template import HeadTemplate, cached_arrays
from disguisor_ros.core.open3d_loader import load_open3d

#: Part of the file name of the cached table; raised when the table changes.
VERSION = 1

#: Edge of a voxel, metres.
STEP_M = 0.005

#: How far around the head the field reaches, metres.
REACH_M = 0.10

#: Surface below this height in the head frame is neck: it says nothing about the head, metres.
NECK_TOP_M = -0.12

#: Expected distance of the measured surface from the skin and how much it varies, metres.
SKIN = (0.000, 0.005)
LOWER_FACE = (0.003, 0.006)
SCALP = (0.000, 0.007)
EAR = (0.004, 0.012)

#: The same standard deviation where caps and hair end, and at the neck (collars), metres.
EDGE_SIGMA_M = 0.014
NECK_SIGMA_M = 0.020

#: Thickness of cap or hair over the scalp: mean and standard deviation, metres.
CAP_M = (0.014, 0.008)

#: Voxels to a cell of the coarse table, and the bound of its distances, metres.
COARSE = 2
BOUND_M = 0.04


class DistanceField:
    """Distance to the skin, its gradient and what to expect there, at points of the head frame.

    Values are looked up at the nearest voxel and continued by the gradient, which is exact on
    flat surfaces; between voxels of 5 mm the error is below half a millimetre on a head.

    Parameters
    ----------
    template : HeadTemplate
    """

    def __init__(self, template: HeadTemplate):
        digest = hashlib.sha256(template.vertices.tobytes()).hexdigest()[:12]
        arrays = cached_arrays(f"distance_field_v{VERSION}_{digest}", lambda: _tabulate(template))
        self.low, self.shape, self.table = arrays["low"], arrays["shape"], arrays["table"]
        self.last = (self.shape - 1).astype(np.int32)
        self.coarse = arrays["coarse"].ravel()
        self.coarse_last = np.array(arrays["coarse"].shape, dtype=np.int32) - 1

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, ...]:
        """Look points up.

        Parameters
        ----------
        points : ndarray, shape (..., 3), float32, metres, head frame

        Returns
        -------
        distance : ndarray, shape (...)
            Metres, negative inside; far from the head it is not meaningful.
        gradient : ndarray, shape (..., 3)
        offset : ndarray, shape (...)
            Expected distance of a measured surface, metres.
        weight : ndarray, shape (...)
            Inverse standard deviation of that, 1/m; zero off the head.
        scalp : ndarray, shape (...)
            1 where a cap or hair can lie on the skin.
        """
        cell = (points - self.low) * np.float32(1 / STEP_M)
        index = np.rint(cell).astype(np.int32)
        np.maximum(index, 0, out=index)
        np.minimum(index, self.last, out=index)
        row = self.table[_flat(index, self.shape)]
        cell -= index
        distance = row[..., 0] + np.einsum("...i,...i->...", row[..., 1:4], cell) * np.float32(
            STEP_M
        )
        return distance, row[..., 1:4], row[..., 4], row[..., 5], row[..., 6]

    def excess(self, points: np.ndarray) -> np.ndarray:
        """Squared distance from where a surface is expected, bounded; coarse and fast.

        Parameters
        ----------
        points : ndarray, shape (..., 3), float32, metres, head frame

        Returns
        -------
        ndarray, shape (...), square metres
        """
        index = np.rint((points - self.low) * np.float32(1 / (COARSE * STEP_M))).astype(np.int32)
        np.maximum(index, 0, out=index)
        np.minimum(index, self.coarse_last, out=index)
        return self.coarse[_flat(index, self.coarse_last + 1)]


def _tabulate(template: HeadTemplate) -> dict[str, np.ndarray]:
    """The grid's low corner and shape, its table (N, 7) and the coarse one (X, Y, Z)."""
    o3d = load_open3d()  # heavy, and needed only the first time
    vertices = template.vertices
    low = np.minimum(vertices.min(axis=0), 0) - REACH_M
    shape = np.ceil((vertices.max(axis=0) + REACH_M - low) / STEP_M).astype(int)
    axes = [low[i] + STEP_M * np.arange(shape[i]) for i in range(3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(vertices), o3d.core.Tensor(template.faces.astype(np.uint32))
    )
    closest = scene.compute_closest_points(o3d.core.Tensor(grid))
    nearest = template.faces[closest["primitive_ids"].numpy().astype(np.int64), 0]
    distance = np.linalg.norm(grid - closest["points"].numpy(), axis=-1)
    # Only what lies in the box around the head can be inside.
    first, last = (np.rint((v - low) / STEP_M).astype(int)
                   for v in (vertices.min(axis=0), vertices.max(axis=0)))  # fmt: skip
    box = tuple(slice(a, b + 1) for a, b in zip(first, last))
    distance[box] *= np.where(_inside(scene, np.ascontiguousarray(grid[box])), -1, 1)
    gradient = np.stack(np.gradient(distance, STEP_M), axis=-1)
    offset, sigma, scalp = _expectations(template)
    # Points off the grid are clipped to its rim, where nothing is known.
    known = grid[..., 2] > NECK_TOP_M
    for axis in range(3):
        np.moveaxis(known, axis, 0)[[0, -1]] = False
    table = np.concatenate(
        [
            distance[..., None], gradient, offset[nearest][..., None],
            (known / sigma[nearest])[..., None], scalp[nearest][..., None],
        ],
        axis=-1,
    )  # fmt: skip
    off = np.abs(distance - offset[nearest] - scalp[nearest] * CAP_M[0])
    bounded = np.where(known, np.minimum(off, BOUND_M), BOUND_M) ** 2
    return {
        "low": low.astype(np.float32), "shape": shape,
        "table": table.reshape(-1, 7).astype(np.float32),
        "coarse": bounded[::COARSE, ::COARSE, ::COARSE].astype(np.float32),
    }  # fmt: skip


def _flat(index: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Index into a raveled grid."""
    x, y, z = np.moveaxis(index, -1, 0)
    return (x * np.int32(shape[1]) + y) * np.int32(shape[2]) + z


def _inside(scene, grid: np.ndarray) -> np.ndarray:
    """Inside by majority over rays up and sideways: the neck is open below."""
    o3d = load_open3d()
    votes = np.zeros(grid.shape[:-1], dtype=int)
    directions = ((0.0, 0.0, 1.0), (0.8, 0.6, 0.1), (-0.6, 0.8, 0.15), (0.05, -1.0, 0.1),
                  (-1.0, -0.1, 0.3))  # fmt: skip
    for direction in directions:
        rays = np.concatenate([grid, np.broadcast_to(np.float32(direction), grid.shape)], axis=-1)
        votes += scene.count_intersections(o3d.core.Tensor(rays)).numpy() % 2
    return 2 * votes > len(directions)


def _expectations(template: HeadTemplate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offset (V,), standard deviation (V,) and scalp share (V,) of measured surface over skin."""
    count = len(template.vertices)
    offset, sigma = np.full(count, SKIN[0]), np.full(count, SKIN[1])
    x, y, z = template.vertices.T
    # Caps and hair end on a slant from the forehead to the nape, some higher, some lower.
    over_edge = z - 0.006 - 0.46 * x
    scalp = np.clip(over_edge / 0.03 + 0.5, 0, 1)
    sigma[over_edge > 0] = SCALP[1]
    sigma[np.abs(over_edge) < 0.02] = EDGE_SIGMA_M
    sigma[(z < -0.06) & (x < 0.03)] = NECK_SIGMA_M
    offset[template.mask], sigma[template.mask] = LOWER_FACE
    ear = (np.abs(y) > 0.072) & (np.abs(x) < 0.04) & (np.abs(z) < 0.045)
    offset[ear], sigma[ear] = EAR
    return offset, sigma, scalp
