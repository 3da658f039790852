"""Painted heads: skin, brows, lips, lashes, stubble and hair, in cylinder coordinates.

All heads share one map from texture to surface because Anny's topology is shared: texture
coordinates are those of the template's head (:func:`head_uv`), so a face of any shape gets its
brow on its brow.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import open3d as o3d

from disguisor_ros.sim.textures import linear, noise

WIDTH, HEIGHT = 1024, 600

#: Radius that turns an angle about the head into metres of texture.
RADIUS = 0.09

TEXELS_PER_M = WIDTH / (2 * np.pi * RADIUS)

_AXIS_X = 0.02
_BOTTOM = -0.17

#: Skin tones, sRGB, light to dark.
SKINS = (
    (238, 203, 183),
    (226, 184, 160),
    (205, 160, 132),
    (176, 128, 98),
    (136, 92, 66),
    (98, 64, 47),
)

#: Hair colours, sRGB.
HAIRS = {
    "black": (30, 25, 23),
    "brown": (72, 48, 34),
    "fair": (168, 132, 84),
    "grey": (158, 154, 150),
    "red": (128, 64, 32),
}


@dataclass
class HeadMap:
    """Surface of the template's head behind each texel.

    Parameters
    ----------
    points : ndarray, shape (HEIGHT, WIDTH, 3), metres, head frame of the template
    lips, ears : ndarray, shape (HEIGHT, WIDTH), 0 to 1
    opening : ndarray, shape (HEIGHT, WIDTH), metres
        Distance outside the opening of the eyes, negative within.
    eyes : ndarray, shape (2, 3)
        Centres of the eyes, left and right.
    """

    points: np.ndarray
    lips: np.ndarray
    ears: np.ndarray
    opening: np.ndarray
    eyes: np.ndarray


def head_uv(points: np.ndarray) -> np.ndarray:
    """Texture coordinates (N, 2), metres, of points (N, 3) of the template's head frame."""
    angle = np.arctan2(points[:, 1], points[:, 0] - _AXIS_X)
    height = np.clip(points[:, 2] - _BOTTOM, 0.001, HEIGHT / TEXELS_PER_M - 0.001)
    return np.stack([angle * RADIUS, height], axis=1)


def map_head(points, skin, eye_triangles, lips, ears, eyes) -> HeadMap:
    """Look at the template's head from all sides; arguments per vertex or (F, 3) triangles."""
    triangles = np.concatenate([skin, eye_triangles])
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(points.astype(np.float32), triangles.astype(np.uint32))
    angle = (np.arange(WIDTH) + 0.5) / WIDTH * 2 * np.pi
    z = _BOTTOM + (np.arange(HEIGHT) + 0.5) / TEXELS_PER_M
    angle, z = np.meshgrid(angle, z)
    out = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    start = out + np.stack([np.full_like(z, _AXIS_X), np.zeros_like(z), z], axis=-1)
    hit = scene.cast_rays(
        o3d.core.Tensor(np.concatenate([start, -out], axis=-1).astype(np.float32))
    )
    index = hit["primitive_ids"].numpy()
    found = index != scene.INVALID_ID
    index = np.where(found, index, 0).astype(np.int64)
    uv = hit["primitive_uvs"].numpy()
    bary = np.stack([1 - uv.sum(axis=-1), uv[..., 0], uv[..., 1]], axis=-1)
    corners = triangles[index]
    surface = np.einsum("hwk,hwkc->hwc", bary, points[corners])
    surface = np.where(found[..., None], surface, start - 0.9 * out)
    in_eye = found & (index >= len(skin))
    outside = cv2.distanceTransform((~in_eye).astype(np.uint8), cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(in_eye.astype(np.uint8), cv2.DIST_L2, 5)
    return HeadMap(
        surface.astype(np.float32),
        np.einsum("hwk,hwk->hw", bary, lips[corners]).astype(np.float32),
        np.einsum("hwk,hwk->hw", bary, ears[corners]).astype(np.float32),
        (outside - inside).astype(np.float32) / TEXELS_PER_M,
        eyes,
    )


def paint_head(
    head: HeadMap,
    rng: np.random.Generator,
    skin: int,
    hair: str,
    *,
    age: float,
    beard: float,
    bald: bool,
    made_up: bool,
) -> np.ndarray:
    """Texture of a head, shape (HEIGHT, WIDTH, 3), linear RGB.

    Parameters
    ----------
    head : HeadMap
    rng : numpy Generator
    skin : int
        Index into :data:`SKINS`.
    hair : str
        Key of :data:`HAIRS`.
    age : float
        0 young to 1 old: lines, spots, shadows under the eyes.
    beard : float
        0 none, 0.5 stubble, 1 full.
    bald, made_up : bool
    """
    tone, hair_color = linear(SKINS[skin]), linear(HAIRS[hair])
    color = _skin(head, rng, tone, age)
    lip = np.clip(head.lips * 1.6 - 0.3, 0, 1)
    lip_tone = tone * np.array([0.80, 0.46, 0.46]) + np.array([0.03, 0.0, 0.0])
    if made_up:
        lip_tone = tone * np.array([0.8, 0.25, 0.28])
    color = _lay(color, lip_tone * (1 + 0.08 * _grain(rng)[..., None]), lip)
    color = _lay(color, tone * np.array([0.25, 0.12, 0.12]), _mouth(head))
    color = _eyes(color, head, tone, made_up)
    color = _brows(color, head, rng, hair_color * 0.8, made_up)
    if beard > 0:
        color = _lay(color, hair_color, _beard(head, rng, beard))
    if not bald:
        strands = 1 + 0.35 * noise(rng, (HEIGHT, WIDTH), (1.2, 3), stretch=(0.7, 5))
        color = _lay(color, hair_color * np.clip(strands, 0.3, 2)[..., None], _scalp(head, rng))
    return np.clip(color, 0.004, 1).astype(np.float32)


def paint_eye(rng: np.random.Generator, iris) -> np.ndarray:
    """Texture of an eye seen from the front, 26 mm square, 128 x 128, linear RGB."""
    grid = (np.arange(128) + 0.5) / 128 * 0.026 - 0.013
    y, z = np.meshgrid(grid, grid)
    radius, angle = np.hypot(y, z), np.arctan2(z, y)
    color = np.tile(linear((224, 218, 212)), (128, 128, 1))
    color *= (1 - 0.35 * np.clip(np.abs(y) / 0.012, 0, 1) ** 2)[..., None] * [1, 0.95, 0.94]
    rays = 1 + 0.25 * np.sin(angle * 23 + rng.uniform(0, 6)) * np.sin(angle * 11)
    color = _lay(color, linear(iris) * rays[..., None], _edge(0.0060 - radius, 0.0006))
    color = _lay(color, linear(iris) * 0.25, _edge(0.0007 - np.abs(radius - 0.0059), 0.0006))
    color = _lay(color, np.full(3, 0.004), _edge(0.0028 - radius, 0.0005))
    spark = _edge(0.0010 - np.hypot(y - 0.0018, z - 0.0022), 0.0006)
    return _lay(color, np.ones(3), spark).astype(np.float32)


def _edge(inside, soft):
    return np.clip(inside / soft + 0.5, 0, 1)


def _lay(color, top, weight):
    weight = np.asarray(weight)[..., None]
    return color * (1 - weight) + top * weight


def _grain(rng):
    return noise(rng, (HEIGHT, WIDTH), (1, 2.5))


def _skin(head, rng, tone, age):
    x, y, z = np.moveaxis(head.points, -1, 0)
    color = np.tile(tone, (HEIGHT, WIDTH, 1))
    blotch = noise(rng, (HEIGHT, WIDTH), (6, 18, 50))
    color *= (1 + 0.045 * blotch + (0.03 + 0.03 * age) * _grain(rng))[..., None]
    cheek = np.exp(-(((np.abs(y) - 0.042) / 0.018) ** 2 + ((z + 0.025) / 0.018) ** 2)) * (x > 0.03)
    tip = np.exp(-((y / 0.014) ** 2 + ((z + 0.018) / 0.014) ** 2)) * (x > 0.08)
    red = 0.7 * cheek + 0.8 * tip + 0.6 * head.ears
    color *= 1 - red[..., None] * np.array([0.0, 0.16, 0.18])
    eye_y = np.abs(np.abs(y) - abs(head.eyes[0, 1]))
    bag = np.exp(-((eye_y / 0.016) ** 2) - ((z - head.eyes[0, 2] + 0.014) / 0.006) ** 2)
    socket = np.exp(-((eye_y / 0.02) ** 2) - ((z - head.eyes[0, 2] - 0.004) / 0.013) ** 2)
    front = x > 0.05
    shade = front * ((0.12 + 0.2 * age) * bag + 0.28 * socket)
    fold_y = 0.022 + 0.45 * np.clip(-0.018 - z, 0, 0.05)
    fold = np.exp(-(((np.abs(y) - fold_y) / 0.003) ** 2)) * (z < -0.012) * (z > -0.05) * front
    brow_lines = np.exp(-((((z - 0.062) % 0.011 - 0.005) / 0.0011) ** 2)) * (np.abs(y) < 0.04)
    shade += (0.12 + 0.25 * age) * fold + 0.2 * age * brow_lines * front * (z > 0.05) * (z < 0.09)
    nostril = np.exp(
        -(((np.abs(y) - 0.0075) / 0.0042) ** 2) - ((z - _nose_base(head)) / 0.0032) ** 2
    )
    shade += 0.75 * nostril * (x > 0.07)
    return color * (1 - np.clip(shade, 0, 0.9))[..., None]


def _nose_base(head):
    x, y, z = np.moveaxis(head.points, -1, 0)
    tip = np.unravel_index(np.argmax(np.where(np.abs(y) < 0.01, x, -1)), x.shape)
    return z[tip] - 0.013


def _mouth(head):
    """Line between the lips."""
    x, y, z = np.moveaxis(head.points, -1, 0)
    lips = head.lips > 0.5
    if not lips.any():
        return np.zeros_like(z)
    rows = z[lips & (np.abs(y) < 0.012)]
    middle = 0.5 * (rows.min() + rows.max())
    return 0.85 * np.exp(-(((z - middle) / 0.0016) ** 2)) * (np.abs(y) < 0.022) * (x > 0.06)


def _eyes(color, head, tone, made_up):
    x, _, z = np.moveaxis(head.points, -1, 0)
    above = z > head.eyes[0, 2] - 0.001
    lash = _edge(0.0026 - head.opening, 0.0015) * above + 0.5 * _edge(0.0013 - head.opening, 0.001)
    crease = (
        np.exp(-(((head.opening - 0.0062) / 0.0012) ** 2)) * above * (z > head.eyes[0, 2] + 0.004)
    )
    color = _lay(color, tone * 0.35, 0.6 * crease * (x > 0.05))
    return _lay(
        color, np.full(3, 0.015), (1.0 if made_up else 0.85) * np.clip(lash, 0, 1) * (x > 0.05)
    )


def _brows(color, head, rng, hair_color, made_up):
    x, y, z = np.moveaxis(head.points, -1, 0)
    side = np.abs(y)
    lift = rng.uniform(-0.002, 0.003)
    thick = rng.uniform(0.0036, 0.0052) * (0.75 if made_up else 1.0)
    arch = head.eyes[0, 2] + np.interp(side, (0.008, 0.038, 0.056), (0.0215, 0.027, 0.0185)) + lift
    taper = np.interp(side, (0.008, 0.02, 0.04, 0.058), (0.8, 1.0, 0.9, 0.35))
    inside = np.minimum(thick * taper - np.abs(z - arch), 0.024 - np.abs(side - 0.033))
    hairs = np.clip(0.9 + 0.35 * noise(rng, (HEIGHT, WIDTH), (1.0,), stretch=(0.8, 2.0)), 0.4, 1)
    return _lay(color, hair_color, 0.92 * hairs * _edge(inside, 0.0028) * (x > 0.04))


def _beard(head, rng, amount):
    x, y, z = np.moveaxis(head.points, -1, 0)
    jaw = np.minimum(-0.035 + 0.5 * np.clip(np.abs(y) - 0.03, 0, 0.03) - z, x + 0.015)
    jaw = np.minimum(jaw, z + 0.125)
    moustache = np.minimum(0.008 - np.abs(z - _nose_base(head) + 0.010), 0.026 - np.abs(y))
    moustache = np.where(x > 0.06, moustache, -1)
    region = _edge(np.maximum(jaw, moustache), 0.02) * (1 - np.clip(head.lips * 2, 0, 1))
    hairs = np.clip(0.8 + 0.5 * noise(rng, (HEIGHT, WIDTH), (0.8,), stretch=(0.8, 2)), 0, 1)
    return region * hairs * (0.28 if amount < 0.75 else 0.92)


def _scalp(head, rng):
    x, y, z = np.moveaxis(head.points, -1, 0)
    ragged = 0.003 * noise(rng, (HEIGHT, WIDTH), (4, 12))
    hairline = z - (0.078 + 0.35 * (x - 0.08)) - 0.25 * np.clip(np.abs(y) - 0.05, 0, 1)
    temple = np.minimum(0.028 - x, z + 0.03)
    nape = np.minimum(-0.015 - x, z + 0.07)
    ears = np.where(head.ears > 0.3, -1.0, 1.0)
    region = np.maximum(np.maximum(hairline, temple), nape) + ragged
    return _edge(np.minimum(region, ears), 0.008)
