"""Whether the depth images of a camera show people where the cameras see them."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.types import DepthView, Person3D

#: Shoulders and hips: broad, and known well. The camera must have seen them for certain.
_TRUNK = [5, 6, 11, 12]
_SEEN_SCORE = 0.5
_KNOWN_M = 0.1

#: Depth shows the surface of a body, or what is held before it: so far from a joint, and this
#: share of the distance, it is right. Of simulated joints 0.76 to 0.96 are; none with a wrong
#: unit, 0.4 with other intrinsics, 0.42 to 0.58 with the colour camera's frame.
_BODY_M = 0.15
_OF_DISTANCE = 0.05
_RIGHT = 0.6

#: Judged by so many joints, of about the last so many.
_ENOUGH = 20.0
_MEMORY = 400.0

#: Half a side of the square of pixels that are read, and how many of them must have measured.
_PIXELS = 2
_MEASURED = 8


class DepthWatch:
    """Holds depth images against people whom several cameras see, in which depth has no part.

    Depth in another unit, or with the calibration of another camera, shows occluders where there
    are none, before faces. It stays so when the clock jumps.
    """

    def __init__(self):
        self._tried: dict[str, float] = {}
        self._right: dict[str, float] = {}

    def look(
        self,
        keypoints: dict[str, np.ndarray],
        persons: list[Person3D],
        depth: dict[str, DepthView],
    ) -> None:
        """Note the depth at the trunks of people that a camera of the same name sees."""
        several = [person for person in persons if person.status == "multiview"]
        for camera, view in depth.items():
            mine = [person for person in several if camera in person.detections]
            if not mine:
                continue
            rows = [person.detections[camera] for person in mine]
            seen = keypoints[camera][rows][:, _TRUNK, 2] >= _SEEN_SCORE
            covariance = np.array([person.covariance[_TRUNK] for person in mine])
            seen &= np.trace(covariance, axis1=2, axis2=3) < _KNOWN_M**2
            right = _shown(view, np.array([person.joints[_TRUNK] for person in mine])[seen])
            keep = 1 - min(len(right) / _MEMORY, 1.0)
            self._tried[camera] = keep * self._tried.get(camera, 0.0) + len(right)
            self._right[camera] = keep * self._right.get(camera, 0.0) + right.sum()

    def share(self, camera: str) -> float:
        """Share of joints that the depth of a camera shows where they are; 1 until enough tell."""
        tried = self._tried.get(camera, 0.0)
        return self._right[camera] / tried if tried >= _ENOUGH else 1.0

    def wrong(self, camera: str) -> bool:
        """Whether the depth of a camera is not to be used."""
        return self.share(camera) < _RIGHT


def _shown(view: DepthView, joints: np.ndarray) -> np.ndarray:
    """Whether depth has somebody at joints (N, 3), metres, of those where it measured."""
    pixels, distance = view.camera.project(joints)
    inside = view.camera.inside(pixels)
    around = np.arange(-_PIXELS, _PIXELS + 1)
    column, row = np.rint(pixels[inside]).astype(int).T[..., None] + around
    column = np.clip(column, 0, view.image.shape[1] - 1)[:, None]
    row = np.clip(row, 0, view.image.shape[0] - 1)[..., None]
    measured = view.image[row, column].reshape(len(row), -1) * float(view.unit_m)
    measured[~(measured > 0)] = np.inf
    measured.sort(axis=1)
    count = np.isfinite(measured).sum(axis=1)
    middle = measured[np.arange(len(count)), np.maximum(count - 1, 0) // 2]
    metres, enough = distance[inside], count >= _MEASURED
    return (np.abs(middle - metres) < _BODY_M + _OF_DISTANCE * metres)[enough]


def misfit(share: float) -> str:
    """What to tell the user of depth that shows such a share of people where they are."""
    return (
        f"shows only {100 * share:.0f} % of people where the cameras see them, and is not used:"
        " is it in millimetres (16UC1) or metres (32FC1), and its camera_info, frame_id and"
        " /tf_static its own?"
    )
