"""How far off the calibration of a camera is, by its own images."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import block_diagonal, bounded, largest_sigma
from disguisor_ros.core.sightings import Sighting
from disguisor_ros.core.types import Head

#: When faces lie farther aside than this, metres, somebody should look at the calibration.
_SUSPECT_M = 0.015

#: Sightings of a person that are kept, and for how long, seconds.
_SIGHTINGS = 60
_SECONDS = 60.0

#: Only heads that are known so well tell, metres.
_WELL_KNOWN_M = 0.025

#: So far aside is a person's face in rooms that are calibrated well, by the ways of people and
#: detectors, and so far a single sighting of it, along each axis, metres.
_USUAL_M = 0.012
_SINGLE_M = 0.028

#: So many sightings are half believed: a face is covered the wider from the first one.
_HALF = 20

#: The user is told from so many on: in 13 of 17 simulated rooms that are calibrated well a camera
#: had the first faces aside, by chance; none had after 56 sightings.
_TELLING = 100


class CalibrationWatch:
    """Compares where 3D and the keypoints of one camera have the same faces.

    A single sighting may be off by its keypoints. When the faces of several people keep being
    off, the camera is not where its calibration has it, and any face may lie as far aside.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._seen: dict[int, deque[tuple[int, np.ndarray]]] = {}
        self.covariance = np.zeros((2, 2))

    @property
    def off_m(self) -> float:
        """How far faces lie aside, more than usual: a standard deviation, metres.

        Zero until enough was seen to tell somebody.
        """
        telling = sum(len(seen) for seen in self._seen.values()) >= _TELLING
        return largest_sigma(self.covariance) if telling else 0.0

    def look(self, heads: list[Head], sightings: list[Sighting], stamp_ns: int) -> None:
        """Note the faces of an image, one sighting for each head.

        Afterwards :attr:`covariance` (2, 2), square metres, tells how far faces lie aside along x
        and y of the image, at their distance.
        """
        for head, sighting in zip(heads, sightings, strict=True):
            if np.isfinite(sighting.off_m).all() and head.sigma_m < _WELL_KNOWN_M:
                seen = self._seen.setdefault(head.track_id, deque(maxlen=_SIGHTINGS))
                seen.append((stamp_ns, sighting.off_m))
        self._seen = {
            i: seen for i, seen in self._seen.items()
            if abs(stamp_ns - seen[-1][0]) <= _SECONDS * 1e9
        }  # fmt: skip
        if not self._seen:
            return
        count = np.array([len(seen) for seen in self._seen.values()])
        middle = np.array([np.median([m for _, m in s], axis=0) for s in self._seen.values()])
        aside = np.einsum("n,ni,nj->ij", count, middle, middle) / count.sum()
        usual = _USUAL_M**2 + _SINGLE_M**2 * len(count) / count.sum()
        believed = count.sum() / (count.sum() + _HALF)
        self.covariance = believed * bounded(aside - usual * np.eye(2))

    def doubted(self, camera: Camera, heads: list[Head]) -> list[Head]:
        """The heads, as much less certain in the camera's view as faces lie aside.

        Along the view as well: where other cameras have a head farther off than this one's depth
        shows its face, the face must not pass for something that hides it.
        """
        if not self.covariance.any():
            return heads
        across = camera.tf_camera_world[:2, :3]
        across = across.T @ self.covariance @ across
        along = largest_sigma(self.covariance) ** 2
        out = []
        for head in heads:
            if head.covariance.shape == (6, 6):
                ray = head.tf_world_head[:3, 3] - camera.center
                more = across + along / max(ray @ ray, 1e-9) * np.outer(ray, ray)
                covariance = head.covariance + block_diagonal(more, np.zeros((3, 3)))
                head = replace(head, covariance=covariance)
            out.append(head)
        return out


def suspicion(off_m: float) -> str:
    """What to tell the user of a camera whose faces lie so far aside, metres; empty if nothing."""
    if off_m <= _SUSPECT_M:
        return ""
    return (
        f"its keypoints lie {100 * off_m:.0f} cm beside the faces in 3D, which are covered the"
        " wider: is its calibration (camera_info, /tf_static) right?"
    )
