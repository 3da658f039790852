"""Ray casting of head meshes over a small window of an image, and their shading."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.cameras import Camera, grid
from disguisor_ros.core.open3d_loader import load_open3d

#: A quadratic may be so far off the lens over a window, grid cells: half of a depth pixel.
_FIT_CELLS = 0.5

#: Share of a surface's brightness that does not depend on its direction.
_AMBIENT = 0.6

#: Meshes that differ by less than this after a similarity are the same shape, metres.
_SAME_SHAPE_M = 1e-3

#: Every how many vertices shapes are compared at.
_SAMPLING = 8

#: Scenes that are kept.
_SCENES = 8


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels, sampled on a regular grid. It may reach out of the image.

    Parameters
    ----------
    x, y : int
        Top left pixel.
    columns, rows : int
        Size of the grid.
    step : int
        Pixels per grid cell; a sample lies at the centre of its cell.
    """

    x: int
    y: int
    columns: int
    rows: int
    step: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.rows, self.columns

    def to_cells(self, pixels: np.ndarray) -> np.ndarray:
        """Grid coordinates (column, row) of pixels, shape (..., 2); cell centres are integers."""
        return (pixels - (self.x - 0.5, self.y - 0.5)) / self.step - 0.5

    def to_pixels(self, cells: np.ndarray) -> np.ndarray:
        """Pixels of grid coordinates (column, row), shape (..., 2)."""
        return (cells + 0.5) * self.step + (self.x - 0.5, self.y - 0.5)

    def normalized(self, camera: Camera) -> np.ndarray:
        """Undistorted x/z and y/z of the samples, shape (rows, columns, 2), float32."""
        first = self.to_pixels(np.zeros(2))
        x = first[0] + self.step * np.arange(self.columns)
        y = first[1] + self.step * np.arange(self.rows)
        return camera.undistort_grid(x, y).astype(np.float32)

    def cells_of(self, camera: Camera, normalized: np.ndarray) -> np.ndarray:
        """Grid coordinates (column, row) of rays x/z, y/z, shape (N, 2), in or near the window.

        The lens is fitted by a quadratic over the window: many times faster than the lens itself,
        which is asked where a window is so wide, or the lens so bent, that none fits.
        """
        x = np.linspace(-0.5, self.columns - 0.5, 4)
        y = np.linspace(-0.5, self.rows - 0.5, 4)
        cells = grid(x, y).reshape(-1, 2)
        corner = (self.x + 0.5 * self.step - 0.5, self.y + 0.5 * self.step - 0.5)
        rays = camera.undistort(cells * self.step + corner)
        center = rays.mean(axis=0)
        around = _quadratic(rays - center)
        fit = np.linalg.lstsq(around, cells, rcond=None)[0]
        if np.abs(around @ fit - cells).max() > _FIT_CELLS:
            points = np.concatenate([normalized, np.ones((len(normalized), 1))], axis=1)
            return self.to_cells(camera.project_camera(points)[0])
        return _quadratic(normalized - center) @ fit


def _quadratic(points: np.ndarray) -> np.ndarray:
    """Monomials up to the second degree of points (N, 2), shape (N, 6)."""
    x, y = points[:, 0], points[:, 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


@dataclass
class Hits:
    """What the rays of a window meet first; all arrays have the window's shape (rows, columns).

    Parameters
    ----------
    depth_m : ndarray, float32
        Distance along the optical axis; inf where a ray meets nothing.
    triangle : ndarray, int32
        Row of the mesh's faces; -1 where a ray meets nothing.
    weights : ndarray, shape (rows, columns, 3), float32
        Barycentric coordinates in that triangle.
    """

    depth_m: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray

    def interpolate(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Per-vertex values (V, C) at the hits, shape (rows, columns, C), float32; 0 elsewhere."""
        out = np.zeros((*self.triangle.shape, values.shape[-1]), np.float32)
        hit = self.triangle >= 0
        corners = values[faces[self.triangle[hit]]]
        out[hit] = np.einsum("nk,nkc->nc", self.weights[hit], corners)
        return out


class EmbreeBackend:
    """Ray casting on the CPU with Open3D's Embree scene.

    Building a scene costs several times as much as casting its rays, and a person's head is one
    shape that moves: so the scenes of the last shapes are kept and the rays are moved instead.
    """

    def __init__(self):
        self._o3d = load_open3d()
        self._scenes: list[tuple] = []

    def __call__(
        self, camera: Camera, vertices: np.ndarray, faces: np.ndarray, window: Window
    ) -> Hits:
        """Cast the rays of a window against a mesh.

        Parameters
        ----------
        camera : Camera
        vertices : ndarray, shape (V, 3), finite, metres, camera frame
        faces : ndarray, shape (F, 3), int
        window : Window
        """
        scene, (linear, offset) = self._scene_of(vertices, faces)
        inverse = np.linalg.inv(linear)
        # The ray parameter is the distance along the optical axis: directions have z = 1.
        to_rays = np.zeros((3, 6), np.float32)
        to_rays[:, 3:] = inverse.T
        to_rays[2, :3] = -inverse @ offset
        rays = window.normalized(camera).reshape(-1, 2) @ to_rays[:2] + to_rays[2]
        rays = self._o3d.core.Tensor(rays.reshape(*window.shape, 6))
        answer = scene.cast_rays(rays, nthreads=1)
        depth_m = answer["t_hit"].numpy()
        triangle = answer["primitive_ids"].numpy().astype(np.int32)
        triangle[~np.isfinite(depth_m)] = -1
        weights = np.empty((*window.shape, 3), np.float32)
        weights[..., 1:] = answer["primitive_uvs"].numpy()
        weights[..., 0] = 1.0 - weights[..., 1] - weights[..., 2]
        return Hits(depth_m, triangle, weights)

    def _scene_of(self, vertices: np.ndarray, faces: np.ndarray):
        """Scene of this shape, and the similarity from it to the vertices."""
        some = vertices[::_SAMPLING].astype(np.float64)
        for k, (scene, shape, topology) in enumerate(self._scenes):
            same = topology is faces and shape.shape == some.shape
            similarity = _similarity(shape, some) if same else None
            if similarity is not None:
                self._scenes.insert(0, self._scenes.pop(k))
                return scene, similarity
        tensor = self._o3d.core.Tensor
        scene = self._o3d.t.geometry.RaycastingScene(nthreads=1)
        scene.add_triangles(
            tensor(np.ascontiguousarray(vertices, dtype=np.float32)),
            tensor(np.ascontiguousarray(faces, dtype=np.uint32)),
        )
        self._scenes = [(scene, some, faces), *self._scenes[: _SCENES - 1]]
        return scene, (np.eye(3), np.zeros(3))


def _similarity(shape: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Scaled rotation and offset that move a shape onto vertices, or None when none does.

    Least squares over the points (Umeyama 1991), accepted when no vertex is off by more than
    :data:`_SAME_SHAPE_M`.
    """
    center, target = shape.mean(axis=0), vertices.mean(axis=0, dtype=np.float64)
    source = shape - center
    u, singular, vt = np.linalg.svd((vertices - target).T @ source)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    linear = (u * flip) @ vt * (singular @ flip / np.maximum((source**2).sum(), 1e-12))
    offset = target - linear @ center
    error = np.abs(shape @ linear.T + offset - vertices).max()
    return (linear, offset) if error < _SAME_SHAPE_M and singular[-1] > 0 else None


class Pytorch3dBackend:
    """Rasterization with PyTorch3D, on the GPU where there is one.

    Vertices are projected through the lens and moved into each window, so that any distortion
    model works; edges of triangles stay straight in the image. On the CPU PyTorch3D tries every
    triangle at every pixel: a hundred times slower than :class:`EmbreeBackend`.
    """

    def __init__(self):
        import torch
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes

        self._torch, self._rasterize, self._structure = torch, rasterize_meshes, Meshes
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def __call__(
        self, camera: Camera, vertices: np.ndarray, faces: np.ndarray, window: Window
    ) -> Hits:
        """Rasterize a mesh into a window; see :meth:`EmbreeBackend.__call__`."""
        torch = self._torch
        pixels, depth_m = camera.project_camera(vertices.astype(np.float64))
        seen = np.flatnonzero(np.isfinite(pixels).all(axis=1)[faces].all(axis=1))
        shape = (int(window.rows), int(window.columns))  # PyTorch3D refuses NumPy's integers
        if not len(seen):
            nothing = np.full(shape, -1, np.int32)
            return Hits(
                np.full(shape, np.inf, np.float32), nothing, np.zeros((*shape, 3), np.float32)
            )
        # PyTorch3D: +x left, +y up, the shorter side of the image spans -1..1.
        size = np.array([window.columns, window.rows])
        place = (size - 1 - 2 * window.to_cells(np.nan_to_num(pixels))) / size.min()
        points = torch.from_numpy(np.column_stack([place, depth_m]).astype(np.float32))
        triangles = torch.from_numpy(faces[seen].astype(np.int64))
        mesh = self._structure([points.to(self._device)], [triangles.to(self._device)])
        fragments = self._rasterize(mesh, shape, faces_per_pixel=1, perspective_correct=True)
        triangle, depth_m, weights = (out[0, :, :, 0].cpu().numpy() for out in fragments[:3])
        hit = triangle >= 0
        return Hits(
            np.where(hit, depth_m, np.inf).astype(np.float32),
            np.where(hit, seen[triangle], -1).astype(np.int32),
            weights.astype(np.float32),
        )


BACKENDS = {"open3d": EmbreeBackend, "pytorch3d": Pytorch3dBackend}


def make_backend(name: str) -> EmbreeBackend | Pytorch3dBackend:
    """Backend by name: ``open3d``, ``pytorch3d``, or ``auto``.

    ``auto`` is PyTorch3D where it imports and there is a GPU, else Open3D, which is the faster
    one on the CPU.

    Raises
    ------
    ValueError
        If the name is unknown or its library is not installed.
    """
    if name == "auto":
        name = "pytorch3d" if _pytorch3d_on_gpu() else "open3d"
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {name!r}")
    try:
        return BACKENDS[name]()
    except ImportError as error:
        raise ValueError(f"backend {name!r} cannot be imported: {error}") from error


def _pytorch3d_on_gpu() -> bool:
    """Whether PyTorch3D imports (one built for another PyTorch does not) and has a GPU."""
    if importlib.util.find_spec("pytorch3d") is None:
        return False
    try:
        import torch
        from pytorch3d import _C  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def diffuse(normals: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Brightness of surfaces under one large lamp and as much light from all sides.

    Wrapped Lambert: falls smoothly to the ambient share on the far side, without a hard edge.

    Parameters
    ----------
    normals : ndarray, shape (..., 3), unit
    light : ndarray, shape (3,), unit
        Direction towards the lamp, same frame.

    Returns
    -------
    ndarray, shape (...), float32
        1 where the surface faces the lamp.
    """
    lambert = 0.5 + 0.5 * (normals @ light)
    return (_AMBIENT + (1 - _AMBIENT) * lambert).astype(np.float32)
