"""Sensor models: what a colour camera and a time-of-flight camera make of the scene."""

from __future__ import annotations

import cv2
import numpy as np

#: Range limits of the depth camera (Azure Kinect NFOV unbinned), metres.
NEAR_M, FAR_M = 0.5, 5.46

_NOISE_TILES = 8


def tone(color: np.ndarray, exposure: float) -> np.ndarray:
    """Camera response: linear light to display values 0 to 255, float32 (filmic, sRGB)."""
    x = np.maximum(color, 0) * np.float32(exposure)
    x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return 255 * np.clip(x, 0, 1) ** np.float32(1 / 2.2)


class ColorSensor:
    """Exposure and noise of one colour camera.

    Parameters
    ----------
    empty : ndarray, shape (height, width, 3), float32
        Linear light of the empty room.
    rng : numpy Generator
    brightness : float
        Factor on the automatic exposure.
    """

    def __init__(self, empty: np.ndarray, rng: np.random.Generator, brightness: float = 1.0):
        typical = float(np.exp(np.log(empty.mean(axis=2) + 1e-3).mean()))
        self.exposure = brightness * 0.16 / typical
        self.balance = (1 + rng.normal(0, 0.02, 3)).astype(np.float32)
        self._empty = tone(empty * self.balance, self.exposure)
        shape = (empty.shape[0] + 64, empty.shape[1] + 64, 3)
        self._grain = [_grain(rng, shape) for _ in range(2)]

    def expose(self, index, color, moving, flow, rng: np.random.Generator) -> np.ndarray:
        """Picture of the empty room with some pixels replaced.

        Parameters
        ----------
        index, color : ndarray, shape (N,) and (N, 3)
            Flat indices of the pixels and their linear light.
        moving, flow : ndarray, shape (M,) and (M, 2)
            Flat indices of pixels and their way during the exposure, pixels.
        rng : numpy Generator

        Returns
        -------
        ndarray, shape (height, width, 3), uint8, RGB
        """
        picture = self._empty.copy()
        picture.reshape(-1, 3)[index] = tone(color * self.balance, self.exposure)
        _blur_motion(picture, moving, flow)
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5)
        height, width = picture.shape[:2]
        y, x = rng.integers(0, 64, 2)
        picture += self._grain[int(rng.integers(2))][y : y + height, x : x + width]
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _blur_motion(picture, moving, flow) -> None:
    """Smear ``picture`` in place along the way of its pixels during the exposure."""
    fast = np.linalg.norm(flow, axis=1) > 0.7  # pixels
    if not fast.any():
        return
    height, width = picture.shape[:2]
    y, x = np.divmod(moving[fast], width)
    reach = int(np.clip(np.abs(flow[fast]).max(), 1, 12)) + 1
    y0, y1 = max(y.min() - reach, 0), min(y.max() + reach + 1, height)
    x0, x1 = max(x.min() - reach, 0), min(x.max() + reach + 1, width)
    way = np.zeros((y1 - y0, x1 - x0, 2), dtype=np.float32)
    known = np.zeros(way.shape[:2], dtype=np.float32)
    way[y - y0, x - x0] = flow[fast]
    known[y - y0, x - x0] = 1
    # What moves also smears over its surroundings.
    kernel = (2 * reach + 1, 2 * reach + 1)
    share = cv2.blur(known, kernel)
    spread = cv2.blur(way, kernel) / np.maximum(share, 1e-6)[..., None]
    way = np.where(known[..., None] > 0, way, spread)
    v, u = np.nonzero(share > 1e-6)
    way = way[v, u]
    total = np.zeros((len(v), 3), dtype=np.float32)
    for step in (-0.5, -0.25, 0.0, 0.25, 0.5):
        map_x = (u + x0 + step * way[:, 0]).astype(np.float32)
        map_y = (v + y0 + step * way[:, 1]).astype(np.float32)
        rows = max(-(-len(v) // 16384), 1)
        pad = rows * 16384 - len(v)
        map_x = np.pad(map_x, (0, pad)).reshape(rows, 16384)
        map_y = np.pad(map_y, (0, pad)).reshape(rows, 16384)
        part = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += part.reshape(-1, 3)[: len(v)]
    picture[v + y0, u + x0] = total / 5


def _grain(rng, shape):
    fine = rng.standard_normal(shape, dtype=np.float32)
    return 1.6 * fine + 1.6 * cv2.GaussianBlur(fine, (0, 0), 0.8)


class DepthSensor:
    """A time-of-flight camera like Azure Kinect in NFOV unbinned mode.

    Parameters
    ----------
    rng : numpy Generator
    shape : tuple of int
        Height and width.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]):
        bigger = (shape[0] + 32, shape[1] + 32)
        self._noise = [rng.standard_normal(bigger, dtype=np.float32) for _ in range(_NOISE_TILES)]
        self._chance = [rng.random(bigger, dtype=np.float32) for _ in range(_NOISE_TILES)]
        height, width = shape
        y, x = np.mgrid[:height, :width]
        # The lit field of view is a hexagon: the corners of the image stay dark.
        corner = np.abs(x - width / 2) / (width / 2) + 0.85 * np.abs(y - height / 2) / (height / 2)
        self._outside = corner > 1.5

    def measure(self, depth_m, signal, rng: np.random.Generator) -> np.ndarray:
        """Depth image, shape (height, width), uint16 millimetres, 0 where nothing returned.

        Parameters
        ----------
        depth_m : ndarray, shape (height, width)
            True distance along the axis.
        signal : ndarray, shape (height, width)
            Share of the light that comes back: reflectance times cosine, 0 to 1.
        rng : numpy Generator
        """
        height, width = depth_m.shape
        y, x = rng.integers(0, 32, 2)
        window = (slice(y, y + height), slice(x, x + width))
        noise = self._noise[int(rng.integers(_NOISE_TILES))][window]
        chance = self._chance[int(rng.integers(_NOISE_TILES))][window]
        # A pixel integrates over its neighbours: at edges it reports a mix (flying pixels).
        mixed = cv2.blur(depth_m, (3, 3))
        edge = np.abs(mixed - depth_m) > 0.04
        blend = np.where(edge & (chance < 0.55), chance / 0.55, 0)
        measured = depth_m + blend * (mixed - depth_m)
        strength = np.clip(signal, 0.02, 1) / np.maximum(measured, 0.3) ** 2
        sigma = 0.0010 + 0.00045 / np.sqrt(np.clip(strength, 1e-3, None))
        measured = measured + sigma * noise
        lost = (strength < 0.0035 * (0.5 + chance)) | (edge & (chance > 0.75))
        lost |= (measured < NEAR_M) | (measured > FAR_M) | self._outside
        out = np.clip(measured * 1000 + 0.5, 0, 65535).astype(np.uint16)
        out[lost] = 0
        return out
