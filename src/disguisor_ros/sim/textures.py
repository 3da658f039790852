"""Procedural textures, and their sampling for many pixels at once."""

from __future__ import annotations

import cv2
import numpy as np

_LEVELS = 4


class TextureSet:
    """Textures with their mip levels in one flat array, so that all pixels are sampled at once.

    Texture coordinates are metres on the surface; textures repeat. ``brightness`` holds the mean
    of each texture once frozen.
    """

    def __init__(self):
        self._pixels = []
        self._rows = []
        self._size = 0

    def add(self, image: np.ndarray, texels_per_m: float) -> int:
        """Take a linear-light RGB image, shape (h, w, 3), float; returns its number."""
        number = len(self._rows)
        levels = []
        image = image.astype(np.float32)
        for level in range(_LEVELS):
            h, w = image.shape[:2]
            levels.append((self._size, w, h, texels_per_m / 2**level))
            self._pixels.append(image.reshape(-1, 3))
            self._size += h * w
            if level + 1 < _LEVELS:
                image = cv2.resize(
                    image, (max(w // 2, 1), max(h // 2, 1)), interpolation=cv2.INTER_AREA
                )
        self._rows.append(levels)
        self._flat = None
        return number

    def freeze(self) -> None:
        """Join what was added; call before :meth:`sample`."""
        self._flat = np.concatenate(self._pixels)
        self._table = np.array(self._rows, dtype=np.float64)
        starts = [rows[-1] for rows in self._rows]
        self.brightness = np.array(
            [self._flat[int(o) : int(o + w * h)].mean() for o, w, h, _ in starts], dtype=np.float32
        )

    def sample(self, number: np.ndarray, uv_m: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        """Colours of pixels, bilinear in the mip level that fits.

        Parameters
        ----------
        number : ndarray, shape (N,), int
            Texture of each pixel.
        uv_m : ndarray, shape (N, 2), metres
        footprint_m : ndarray, shape (N,), metres
            Size of the pixel on the surface.

        Returns
        -------
        ndarray, shape (N, 3), float32, linear light
        """
        texels = footprint_m * self._table[number, 0, 3]
        level = np.clip(np.log2(np.maximum(texels, 1e-6)) + 0.3, 0, _LEVELS - 1).astype(np.int32)
        offset, w, h, scale = self._table[number, level].T
        x = uv_m[:, 0] * scale - 0.5
        y = uv_m[:, 1] * scale - 0.5
        x0, y0 = np.floor(x), np.floor(y)
        fx = (x - x0).astype(np.float32)[:, None]
        fy = (y - y0).astype(np.float32)[:, None]
        xa, xb = np.mod(x0, w), np.mod(x0 + 1, w)
        ya, yb = offset + np.mod(y0, h) * w, offset + np.mod(y0 + 1, h) * w
        flat = self._flat
        top = flat[(ya + xa).astype(np.int64)] * (1 - fx) + flat[(ya + xb).astype(np.int64)] * fx
        low = flat[(yb + xa).astype(np.int64)] * (1 - fx) + flat[(yb + xb).astype(np.int64)] * fx
        return top * (1 - fy) + low * fy


def linear(srgb) -> np.ndarray:
    """Linear light, 0 to 1, of sRGB values 0 to 255."""
    value = np.asarray(srgb, dtype=np.float32) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def noise(rng: np.random.Generator, shape: tuple[int, int], scales, stretch=(1.0, 1.0)):
    """Tileable smooth noise of mean 0 and standard deviation 1: sum over ``scales`` (texels)."""
    total = np.zeros(shape, dtype=np.float32)
    for scale in scales:
        white = rng.standard_normal(shape).astype(np.float32)
        pad = int(min(4 * scale * max(stretch), min(shape)))
        wrapped = cv2.copyMakeBorder(white, pad, pad, pad, pad, cv2.BORDER_WRAP)
        smooth = cv2.GaussianBlur(
            wrapped, (0, 0), sigmaX=scale * stretch[0], sigmaY=scale * stretch[1]
        )[pad:-pad, pad:-pad]
        total += smooth / max(float(smooth.std()), 1e-6)
    return total / np.sqrt(len(scales))


def cloth(rng: np.random.Generator, color, wrinkles: float = 0.12) -> np.ndarray:
    """Crumpled cloth, 256 x 256 texels, linear RGB."""
    folds = noise(rng, (256, 256), (5, 11, 24), stretch=(0.6, 1.5))
    folds = np.tanh(folds) * wrinkles
    weave = 0.02 * rng.standard_normal((256, 256)).astype(np.float32)
    return linear(color) * np.clip(1 + folds + weave, 0.2, 1.6)[..., None]


def speckle(rng: np.random.Generator, color, amount: float = 0.06) -> np.ndarray:
    """Vinyl or painted surface: flecks and faint clouds, 256 x 256 texels, linear RGB."""
    value = 1 + amount * rng.standard_normal((256, 256)).astype(np.float32)
    value += 0.5 * amount * noise(rng, (256, 256), (8, 30))
    return linear(color) * np.clip(value, 0.3, 1.7)[..., None]
