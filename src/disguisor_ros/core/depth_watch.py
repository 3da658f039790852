"""Whether the depth images of a camera show people where the cameras see them."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.covariance import largest_sigma
from disguisor_ros.core.types import DepthView, Person3D

#: Shoulders and hips: broad, and known well. Their views must have seen them for certain.
_TRUNK = (5, 6, 11, 12)
_SEEN_SCORE = 0.5
_KNOWN_M = 0.08

#: Depth shows the surface of a body, or what is held before it: so far from a joint, and this
#: share of the distance, it is right. Of simulated joints 0.76 to 0.96 are; none with a wrong
#: unit, 0.4 with other intrinsics, 0.42 to 0.58 with the colour camera's frame.
_BODY_M = 0.15
_OF_DISTANCE = 0.05
_RIGHT = 0.65

#: Judged by so many joints, of about the last so many.
_ENOUGH = 20.0
_MEMORY = 400.0

#: Half a side of the square of pixels that are read, and how many of them must have measured.
_PIXELS = 2
_MEASURED = 8


class DepthWatch:
    """Holds depth images against people whom several cameras see, in which depth has no part.

    Depth in another unit, or with the calibration of another camera, shows occluders where there
    are none, before faces.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._tried: dict[str, float] = {}
        self._right: dict[str, float] = {}

    def look(
        self,
        keypoints: dict[str, np.ndarray],
        persons: list[Person3D],
        depth: dict[str, DepthView],
    ) -> None:
        """Note the depth at the trunks of people that a camera of the same name sees."""
        for camera, view in depth.items():
            seen = [
                (p, keypoints[camera][p.detections[camera], _TRUNK, 2])
                for p in persons
                if p.status == "multiview" and camera in p.detections
            ]
            joints = [
                p.joints[joint]
                for p, scores in seen
                for joint, score in zip(_TRUNK, scores, strict=True)
                if score >= _SEEN_SCORE and largest_sigma(p.covariance[joint]) < _KNOWN_M
            ]
            right = [right for joint in joints if (right := _shown(view, joint)) is not None]
            keep = 1 - min(len(right) / _MEMORY, 1.0)
            self._tried[camera] = keep * self._tried.get(camera, 0.0) + len(right)
            self._right[camera] = keep * self._right.get(camera, 0.0) + sum(right)

    def share(self, camera: str) -> float:
        """Share of joints that the depth of a camera shows where they are; 1 until enough tell."""
        tried = self._tried.get(camera, 0.0)
        return self._right[camera] / tried if tried >= _ENOUGH else 1.0

    def wrong(self, camera: str) -> bool:
        """Whether the depth of a camera is not to be used."""
        return self.share(camera) < _RIGHT


def _shown(view: DepthView, joint: np.ndarray) -> bool | None:
    """Whether depth has somebody at a joint (3,), metres; None where it measured nothing."""
    pixel, distance = view.camera.project(joint)
    if not view.camera.inside(pixel):
        return None
    column, row = np.maximum(np.rint(pixel).astype(int) - _PIXELS, 0)
    size = 2 * _PIXELS + 1
    measured = view.image[row : row + size, column : column + size].astype(float) * view.unit_m
    measured = measured[measured > 0]
    if len(measured) < _MEASURED:
        return None
    off = abs(np.median(measured) - distance)
    return bool(off < _BODY_M + _OF_DISTANCE * distance)


def misfit(share: float) -> str:
    """What to tell the user of depth that shows such a share of people where they are."""
    return (
        f"shows only {100 * share:.0f} % of people where the cameras see them, and is not used:"
        " is it in millimetres (16UC1) or metres (32FC1), and its camera_info, frame_id and"
        " /tf_static its own?"
    )
