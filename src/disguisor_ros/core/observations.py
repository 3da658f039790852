"""What cameras and tracker say about keypoints, as weighted terms of a least-squares fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.types import Person3D

#: Standard deviation of where detectors put each COCO-17 keypoint on a person, metres
#: (after the per-keypoint constants of the COCO evaluation).
KEYPOINT_SIGMA_M = np.array(
    [0.014, 0.013, 0.013, 0.020, 0.020, 0.035, 0.035, 0.035, 0.035, 0.030, 0.030, 0.050, 0.050,
     0.042, 0.042, 0.042, 0.042]
)  # fmt: skip

#: Standard deviation of any keypoint in the image, pixels.
PIXEL_SIGMA = 2.0

#: Keypoints scored lower than this are not used.
MIN_SCORE = 0.05

#: Scores at and above this count as certain; what lower ones count for falls with this power of
#: them. By the errors seen it would be 2, but those of one detection go together.
FULL_SCORE = 0.8
SCORE_POWER = 1.5

#: Residuals, in standard deviations, at which robust weights fall to one half.
ROBUST_SIGMAS = 3.0

#: Left and right eye, left and right ear.
_PAIRS = ((1, 2), (3, 4))

#: The tracker's joints come from the same keypoints: each of the two sources counts half.
SHARE = 0.5

#: No tracked joint is trusted beyond this, metres.
JOINT_FLOOR_M = 0.015


@dataclass
class Observations:
    """Keypoints of B persons in C cameras.

    Parameters
    ----------
    joints : ndarray, shape (B, 17, 3), metres, world
    information : ndarray, shape (B, 17, 3, 3)
        Inverse covariance of the joints; zero where nothing is known.
    rays : ndarray, shape (B, C, 17, 2)
        Undistorted, normalised image coordinates.
    weight : ndarray, shape (B, C, 17)
        Score weight, 0 to 1; 0 where not detected.
    rotation, translation, focal : ndarray, shapes (C, 3, 3), (C, 3), (C,)
        Cameras <- world.
    """

    joints: np.ndarray
    information: np.ndarray
    rays: np.ndarray
    weight: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    focal: np.ndarray

    def select(self, rows: np.ndarray) -> Observations:
        """Observations of some persons, in the order of ``rows``."""
        return Observations(
            self.joints[rows], self.information[rows], self.rays[rows], self.weight[rows],
            self.rotation, self.translation, self.focal,
        )  # fmt: skip

    def point_terms(
        self, points: np.ndarray, keypoints: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Robust cost of points and its derivatives by the points.

        Parameters
        ----------
        points : ndarray, shape (B, K, 3), metres, world
        keypoints : ndarray, shape (K,)
            COCO-17 index of each point.

        Returns
        -------
        cost : ndarray, shape (B,)
        gradient : ndarray, shape (B, K, 3)
            Half the derivative of the cost.
        weight : ndarray, shape (B, K, 3, 3)
            Gauss-Newton approximation of half its second derivative.
        """
        off = points - self.joints[:, keypoints]
        information = SHARE * self.information[:, keypoints]
        pushed = np.einsum("bkij,bkj->bki", information, off)
        cost, robust = _robust(np.einsum("bki,bki->bk", off, pushed))
        gradient = robust[..., None] * pushed
        weight = robust[..., None, None] * information
        cost = cost.sum(axis=1)
        if len(self.focal):
            self._add_views(points, keypoints, cost, gradient, weight)
        return cost, gradient, weight

    def _add_views(self, points, keypoints, cost, gradient, weight) -> None:
        local = (
            np.einsum("cij,bkj->bcki", self.rotation, points) + self.translation[:, None]
        )
        depth = local[..., 2]
        front = depth > 0.2
        depth = np.where(front, depth, 1.0)
        image = local[..., :2] / depth[..., None]
        sigma = np.hypot(
            PIXEL_SIGMA / self.focal[None, :, None], KEYPOINT_SIGMA_M[keypoints] / depth
        )
        score = self.weight[:, :, keypoints] * front
        off = (image - self.rays[:, :, keypoints]) / sigma[..., None]
        off[score == 0] = 0.0
        views_cost, robust = _robust((off * off).sum(axis=-1))
        cost += SHARE * (score * views_cost).sum(axis=(1, 2))
        strength = SHARE * score * robust
        slope = self.rotation[None, :, None, :2] - image[..., None] * self.rotation[
            None, :, None, 2:3
        ]
        slope = slope / (depth * sigma)[..., None, None]
        gradient += np.einsum("bck,bckji,bckj->bki", strength, slope, off, optimize=True)
        weight += np.einsum("bck,bckji,bckjl->bkil", strength, slope, slope, optimize=True)


def _robust(squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cauchy cost and weight of squared residuals in standard deviations."""
    scale = ROBUST_SIGMAS**2
    return scale * np.log1p(squared / scale), 1 / (1 + squared / scale)


def observe(
    persons: list[Person3D],
    keypoints_by_camera: dict[str, np.ndarray],
    cameras: dict[str, Camera],
) -> Observations:
    """Gather the persons' joints and their detections in all cameras that saw one.

    Of a camera whose keypoints or calibration were lost on the way the tracker's joints still
    tell: its detections are passed over.

    Raises
    ------
    ValueError
        If a detection names an index that its camera's keypoints do not have.
    """
    names = {name for person in persons for name in person.detections}
    names = sorted(names & cameras.keys() & keypoints_by_camera.keys())
    rays = np.zeros((len(persons), len(names), 17, 2))
    weight = np.zeros((len(persons), len(names), 17))
    for column, name in enumerate(names):
        rows = [i for i, person in enumerate(persons) if name in person.detections]
        picked = [persons[i].detections[name] for i in rows]
        available = np.asarray(keypoints_by_camera[name], dtype=np.float64)
        if max(picked) >= len(available):
            raise ValueError(
                f"detections: camera {name!r} has {len(available)} persons, got {max(picked)}"
            )
        found = available[picked]
        score = np.where(np.isfinite(found).all(axis=-1), found[..., 2], 0.0)
        trust = np.clip(score / FULL_SCORE, 0.0, 1.0) ** SCORE_POWER
        score = np.where(score < MIN_SCORE, 0.0, trust)
        for pair in _PAIRS:
            # The much weaker one is hidden by the head, and imagined beside the other.
            both = score[:, pair]
            score[:, pair] *= (both / np.maximum(both.max(axis=1, keepdims=True), 1e-9)) ** 2
        seen = cameras[name].undistort(np.nan_to_num(found[..., :2]))
        # Far outside the image the polynomial of a lens has no inverse.
        known = np.isfinite(seen).all(axis=-1)
        weight[rows, column] = score * known
        rays[rows, column] = np.where(known[..., None], seen, 0.0)
    used = [cameras[name] for name in names]
    joints, information = _joints(persons)
    return Observations(
        joints, information, rays, weight,
        np.array([c.tf_camera_world[:3, :3] for c in used]).reshape(-1, 3, 3),
        np.array([c.tf_camera_world[:3, 3] for c in used]).reshape(-1, 3),
        np.array([np.sqrt(c.matrix[0, 0] * c.matrix[1, 1]) for c in used]),
    )  # fmt: skip


def _joints(persons: list[Person3D]) -> tuple[np.ndarray, np.ndarray]:
    """Joints (B, 17, 3) and their information (B, 17, 3, 3), zero where unknown."""
    joints = np.stack([person.joints for person in persons]).astype(np.float64)
    covariance = np.stack([person.covariance for person in persons]).astype(np.float64)
    known = np.isfinite(joints).all(axis=-1) & np.isfinite(covariance).all(axis=(-2, -1))
    joints = np.where(known[..., None], joints, 0.0)
    covariance = np.where(known[..., None, None], covariance, np.eye(3))
    information = np.linalg.inv(covariance + JOINT_FLOOR_M**2 * np.eye(3))
    return joints, information * known[..., None, None]
