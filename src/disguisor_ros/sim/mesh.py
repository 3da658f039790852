"""Triangle meshes of the simulator: growing, smoothing, primitives."""

from __future__ import annotations

import numpy as np


def smooth(vertices: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """Laplacian smoothing of the vertices that ``faces`` use, shape (V, 3)."""
    a = faces[:, [0, 1, 2]].ravel()
    b = faces[:, [1, 2, 0]].ravel()
    a, b = np.concatenate([a, b]), np.concatenate([b, a])
    count = np.maximum(np.bincount(a, minlength=len(vertices)), 1)[:, None]
    used = np.bincount(a, minlength=len(vertices)) > 0
    out = vertices.copy()
    for _ in range(rounds):
        total = np.stack([np.bincount(a, out[b, i], len(vertices)) for i in range(3)], axis=1)
        out[used] = 0.5 * out[used] + 0.5 * (total / count)[used]
    return out


def cluster(vertices: np.ndarray, faces: np.ndarray, cell_m: float) -> np.ndarray:
    """Thin out triangles, (F, 3) -> (f, 3): vertices of one cell become one of them."""
    used = np.unique(faces)
    key = np.floor(vertices[used] / cell_m).astype(np.int64)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    lookup = np.zeros(len(vertices), dtype=np.int64)
    lookup[used] = used[first][inverse.ravel()]
    thin = lookup[faces]
    good = (thin[:, 0] != thin[:, 1]) & (thin[:, 1] != thin[:, 2]) & (thin[:, 2] != thin[:, 0])
    return thin[good].astype(np.int32)


def box(size, center=(0, 0, 0), yaw: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a box with its own vertices for every side (sharp edges)."""
    vertices, faces = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            quad = np.zeros((4, 3))
            quad[:, axis] = sign
            quad[:, u] = [-1, 1, 1, -1]
            quad[:, v] = [-1, -1, 1, 1]
            if sign < 0:
                quad = quad[::-1]
            faces += [[len(vertices) * 4 + i for i in t] for t in ((0, 1, 2), (0, 2, 3))]
            vertices.append(quad)
    vertices = np.concatenate(vertices) * np.asarray(size) / 2
    c, s = np.cos(yaw), np.sin(yaw)
    vertices = vertices @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    return vertices + np.asarray(center), np.array(faces, dtype=np.int32)


def tube(points, radius, sides: int = 8, closed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Round tube along a polyline (N, 3); ``radius`` is one number or one for each point."""
    points = np.asarray(points, dtype=np.float64)
    n = len(points)
    if closed:
        along = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    else:
        along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    least = np.argmin(np.abs(along).max(axis=0))
    u = np.cross(along, np.eye(3)[least])
    u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-12)
    v = np.cross(along, u)
    angle = np.arange(sides) / sides * 2 * np.pi
    ring = np.cos(angle)[None, :, None] * u[:, None] + np.sin(angle)[None, :, None] * v[:, None]
    radius = np.broadcast_to(radius, (n,))[:, None, None]
    vertices = (points[:, None] + radius * ring).reshape(-1, 3)
    faces = []
    for i in range(n if closed else n - 1):
        for k in range(sides):
            a, b = i * sides + k, i * sides + (k + 1) % sides
            c, d = (a + sides) % len(vertices), (b + sides) % len(vertices)
            faces += [[a, b, d], [a, d, c]]
    if not closed:
        for start, flip in ((0, True), ((n - 1) * sides, False)):
            fan = [[start, start + k, start + k + 1] for k in range(1, sides - 1)]
            faces += [t[::-1] for t in fan] if flip else fan
    return vertices, np.array(faces, dtype=np.int32)


def lathe(profile, sides: int = 24, center=(0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """Surface of revolution about z of a profile of (radius, z) points, from top to bottom."""
    profile = np.asarray(profile, dtype=np.float64)
    angle = np.arange(sides) / sides * 2 * np.pi
    r, z = profile[:, 0, None], profile[:, 1, None]
    vertices = np.stack(
        [r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z, (len(r), sides))], axis=-1
    ).reshape(-1, 3)
    faces = []
    for i in range(len(profile) - 1):
        for k in range(sides):
            a, b = i * sides + k, i * sides + (k + 1) % sides
            faces += [[a, a + sides, b + sides], [a, b + sides, b]]
    return vertices + np.asarray(center), np.array(faces, dtype=np.int32)


def grid(height: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Surface z = height (len(x), len(y)) over a rectangular grid, seen from above."""
    nx, ny = len(x), len(y)
    gx, gy = np.meshgrid(x, y, indexing="ij")
    vertices = np.stack([gx, gy, height], axis=-1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(nx - 1), np.arange(ny - 1), indexing="ij")
    a = (i * ny + j).ravel()
    faces = np.stack(
        [np.stack([a, a + ny, a + ny + 1], -1), np.stack([a, a + ny + 1, a + 1], -1)], axis=1
    )
    return vertices, faces.reshape(-1, 3).astype(np.int32)
