"""How far off the calibration of a camera is, by its own images."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.sightings import Sighting
from disguisor_ros.core.types import Head

#: When faces lie farther aside than this, metres, somebody should look at the calibration.
SUSPECT_M = 0.02

#: Faces that are watched, the last ones of one camera, and for how long, seconds.
_FACES = 300
_SECONDS = 60.0

#: Only heads that are known so well tell, metres.
_WELL_KNOWN_M = 0.025

#: So far off is the middle of many faces in rooms that are calibrated well, by the ways of people
#: and detectors, and so far a single one, metres.
_USUAL_M = 0.008
_SINGLE_M = 0.03

#: What is off differs from place to place in the room by so much of the median.
_ELSEWHERE = 0.5


class CalibrationWatch:
    """Compares where 3D and the keypoints of one camera have the same faces.

    A single face may be off by its keypoints; when the faces of a minute are off in the same
    way, the camera is not where its calibration has it, and any face may lie that much aside.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._seen: deque[tuple[int, np.ndarray]] = deque(maxlen=_FACES)

    def look(self, heads: list[Head], sightings: list[Sighting], stamp_ns: int) -> None:
        """Note the faces of an image, one sighting for each head."""
        while self._seen and abs(stamp_ns - self._seen[0][0]) > _SECONDS * 1e9:
            self._seen.popleft()
        for head, sighting in zip(heads, sightings, strict=True):
            if np.isfinite(sighting.off_m).all() and head.sigma_m < _WELL_KNOWN_M:
                self._seen.append((stamp_ns, sighting.off_m))

    @property
    def off_m(self) -> np.ndarray:
        """How far faces lie beside where 3D has them, along x and y of the image, metres (2,).

        At the distance of the faces; zero where that is no more than usual, or not known.
        """
        if not self._seen:
            return np.zeros(2)
        middle = np.median([off for _, off in self._seen], axis=0)
        usual = _USUAL_M**2 + _SINGLE_M**2 / len(self._seen)
        return middle * np.sqrt(max(1 - usual / max(middle @ middle, 1e-12), 0.0))

    def doubted(self, camera: Camera, heads: list[Head]) -> list[Head]:
        """The heads, as much less certain across the camera's view as they may lie aside."""
        off = self.off_m
        if not off.any():
            return heads
        across = camera.tf_camera_world[:2, :3]
        doubt = np.outer(off, off) + _ELSEWHERE**2 * (off @ off) * np.eye(2)
        more = across.T @ doubt @ across
        return [
            replace(h, covariance=h.covariance + more) if h.covariance.shape == (3, 3) else h
            for h in heads
        ]
