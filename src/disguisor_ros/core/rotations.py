"""Rotation vectors, quaternions and matrices in batches, with the derivatives solvers need.

SciPy has most of it; to import that takes a third of a stage's start-up, and a stage that died
is away for as long.
"""

from __future__ import annotations

import numpy as np


def hat(vector: np.ndarray) -> np.ndarray:
    """Cross product matrices of vectors, shape (..., 3) to (..., 3, 3)."""
    out = np.zeros((*vector.shape, 3))
    out[..., 0, 1], out[..., 0, 2] = -vector[..., 2], vector[..., 1]
    out[..., 1, 0], out[..., 1, 2] = vector[..., 2], -vector[..., 0]
    out[..., 2, 0], out[..., 2, 1] = -vector[..., 1], vector[..., 0]
    return out


def exp_so3(rotvec: np.ndarray) -> np.ndarray:
    """Rotation matrices of rotation vectors in radians, shape (..., 3) to (..., 3, 3)."""
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    safe = np.where(angle < 1e-8, 1.0, angle)
    cross = hat(rotvec)
    sine = np.where(angle < 1e-8, 1.0, np.sin(safe) / safe)
    cosine = np.where(angle < 1e-8, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + sine * cross + cosine * (cross @ cross)


def log_so3(rotation: np.ndarray) -> np.ndarray:
    """Rotation vectors in radians, angle at most pi, shape (..., 3, 3) to (..., 3)."""
    skew = np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        axis=-1,
    )
    trace = rotation[..., 0, 0] + rotation[..., 1, 1] + rotation[..., 2, 2]
    sine = np.linalg.norm(skew, axis=-1) / 2
    angle = np.arctan2(sine, (trace - 1) / 2)
    factor = np.where(sine < 1e-7, 0.5, angle / np.maximum(2 * sine, 1e-12))
    out = factor[..., None] * skew
    flip = (sine < 1e-4) & (trace < 0)
    if np.any(flip):
        # Near pi the axis is the column of R + 1 with the largest diagonal.
        symmetric = (rotation[flip] + np.swapaxes(rotation[flip], -1, -2)) / 2 + np.eye(3)
        column = np.argmax(np.einsum("nii->ni", symmetric), axis=1)
        axis = symmetric[np.arange(len(column)), :, column]
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        sign = np.where(np.einsum("ni,ni->n", axis, skew[flip]) < 0, -1.0, 1.0)
        out[flip] = (sign * angle[flip])[:, None] * axis
    return out


def left_jacobian_inverse(rotvec: np.ndarray) -> np.ndarray:
    """Derivative of log(exp(d) exp(rotvec)) by d at d = 0, shape (..., 3) to (..., 3, 3).

    Sola, Deray, Atchuthan: A micro Lie theory for state estimation in robotics, eq. 146.
    """
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    # The derivative is singular at two pi only; rotation vectors here stay within pi.
    safe = np.clip(angle, 1e-4, np.pi)
    factor = 1 / safe**2 - (1 + np.cos(safe)) / (2 * safe * np.maximum(np.sin(safe), 1e-9))
    factor = np.where(angle < 1e-4, 1 / 12, factor)
    cross = hat(rotvec)
    return np.eye(3) - cross / 2 + factor * (cross @ cross)


def rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Smallest rotation that turns direction ``source`` to ``target``, shape (3, 3)."""
    source = source / np.linalg.norm(source)
    target = target / np.linalg.norm(target)
    axis = np.cross(source, target)
    sine, cosine = np.linalg.norm(axis), source @ target
    if sine < 1e-7 and cosine < 0:  # half a turn, about any axis across
        axis = np.cross(source, np.eye(3)[np.abs(source).argmin()])
        return exp_so3(np.pi * axis / np.linalg.norm(axis))
    return exp_so3(axis / max(sine, 1e-12) * np.arctan2(sine, cosine))


def yaw_matrix(yaw: np.ndarray) -> np.ndarray:
    """Rotations about z by angles in radians, shape (...) to (..., 3, 3)."""
    yaw = np.asarray(yaw, dtype=np.float64)
    return exp_so3(np.stack([np.zeros_like(yaw), np.zeros_like(yaw), yaw], axis=-1))


def from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices of quaternions x, y, z, w of any norm, shape (..., 4) to (..., 3, 3)."""
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    cross = hat(quaternion[..., :3])
    return np.eye(3) + 2 * quaternion[..., 3, None, None] * cross + 2 * cross @ cross


def to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions x, y, z, w of rotation matrices, shape (..., 3, 3) to (..., 4)."""
    rotvec = log_so3(rotation)
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    return np.concatenate(
        [np.sinc(angle / (2 * np.pi)) * rotvec / 2, np.cos(angle / 2)], axis=-1
    )


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle in radians of the rotation from ``a`` to ``b``, shapes (..., 3, 3) to (...)."""
    return np.linalg.norm(log_so3(np.swapaxes(a, -1, -2) @ b), axis=-1)
