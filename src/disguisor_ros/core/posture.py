"""Where a person is, and how turned, that only one view sees: a stiff body fitted to its rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.skeleton import ARM_MEAN_M, POSE_SIGMA_M, STANDING_M

#: Turns about the vertical and leans forward that are tried, radians.
_YAWS = np.arange(24) * np.pi / 12
_LEANS = np.array([-0.2, 0.0, 0.25, 0.5, 0.8])

#: ... and of somebody who was measured before, against how he was.
_TURNS = np.deg2rad([0.0, -20.0, 20.0, -45.0, 45.0, -80.0, 80.0])
_TURN_SIGMA = np.deg2rad(40.0)

#: How rarely people lean, radians; how they differ in size; how high they stand, metres.
_LEAN_SIGMA = 0.35
_SIZE_SIGMA = 0.07
_HEIGHT_SIGMA_M = 0.06

#: Residual in standard deviations from which a joint counts for less.
_ROBUST = 2.0

#: Joints nearer to a camera are not believed, metres.
_NEAREST_M = 0.5

#: What each joint knows by itself, as a share: bodies differ in more than single joints.
_OWN = 0.5

#: Error of the distance, as a share of it, with and without a known floor (seen against the same
#: people in other views, MVOR and or_holistic alike; no annotation).
_SHARE_FLOOR, _SHARE_SIZE = 0.06, 0.13

#: Mean robust cost of a joint from which the body is none that was tried.
_MISFIT = 1.2

_SIGMA_M = np.hypot(POSE_SIGMA_M, 0.03)
_SIGMA_M[[5, 6, 11, 12]] = 0.06
_SIGMA_M[[15, 16]] = 0.12


def _bodies() -> tuple[np.ndarray, np.ndarray]:
    """Postures that are tried, shape (H, 17, 3), and what they cost, shape (H,)."""
    body = STANDING_M.copy()
    body[[7, 9]] = body[5] + ARM_MEAN_M
    body[[8, 10]] = body[6] + ARM_MEAN_M * [1, -1, 1]
    hips = body[11:13].mean(axis=0)
    bodies, cost = [], []
    for lean in _LEANS:
        c, s = np.cos(lean), np.sin(lean)
        leaning = body.copy()
        leaning[:13] = (body[:13] - hips) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + hips
        for yaw in _YAWS:
            c, s = np.cos(yaw), np.sin(yaw)
            bodies.append(leaning @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]))
            cost.append((lean / _LEAN_SIGMA) ** 2)
    return np.array(bodies), np.array(cost)


_STANDING = _bodies()


def turned(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A body that was measured, about its middle, as it is and turned about the vertical.

    As :func:`place` takes them; the "floor" is where the middle was.
    """
    c, s = np.cos(_TURNS), np.sin(_TURNS)
    rotation = np.zeros((len(_TURNS), 3, 3))
    rotation[:, 0, 0] = rotation[:, 1, 1] = c
    rotation[:, 0, 1], rotation[:, 1, 0] = s, -s
    rotation[:, 2, 2] = 1.0
    return (joints - joints.mean(axis=0)) @ rotation, (_TURNS / _TURN_SIGMA) ** 2


@dataclass
class Placement:
    """A person whom one view sees.

    Parameters
    ----------
    joints : ndarray, shape (17, 3), metres, world
        On their rays; those that are not seen where the body has them.
    share : float
        Standard deviation of the distance, as a share of it.
    """

    joints: np.ndarray
    share: float


def place(
    center: np.ndarray,
    rays: np.ndarray,
    score: np.ndarray,
    floor_z_m: float | None,
    postures: tuple[np.ndarray, np.ndarray] = _STANDING,
) -> Placement:
    """Fit a stiff adult body in many postures to the rays; the likeliest posture wins.

    For each posture, position and size follow from least squares over the distances of joints from
    their rays, reweighted; a body far away looks small, so that errors in the image are weighed as
    what they are: angles.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, world
        Of the camera.
    rays : ndarray, shape (17, 3), world
    score : ndarray, shape (17,)
        0 where a joint is not seen; some are.
    floor_z_m : float, optional
        Height of the floor where it is known.
    postures : tuple of ndarray, shapes (H, 17, 3) and (H,)
        Bodies over a floor at height 0, and what each costs.
    """
    bodies, price = postures
    seen = np.nonzero(score > 0)[0]
    ray, weight = rays[seen], score[seen]
    body = bodies[:, seen]
    across = np.eye(3) - ray[:, :, None] * ray[:, None, :]
    body_across = (across @ body[..., None])[..., 0]
    center_across = across @ center
    size_own, size_pull = (body * body_across).sum(-1), body_across @ center[:, None]
    robust = np.ones(body.shape[:2])
    upright = np.full(len(body), 0.0 if floor_z_m is None else 1.0)
    floor = 0.0 if floor_z_m is None else floor_z_m
    for _ in range(3):
        w = robust * (weight / _SIGMA_M[seen] ** 2)
        normal, vector = np.empty((len(body), 4, 4)), np.empty((len(body), 4))
        normal[:, :3, :3] = (w @ across.reshape(-1, 9)).reshape(-1, 3, 3)
        normal[:, :3, 3] = normal[:, 3, :3] = (w[:, None] @ body_across)[:, 0]
        normal[:, 3, 3] = (w * size_own).sum(1) + _SIZE_SIGMA**-2
        normal[:, 2, 2] += upright / _HEIGHT_SIGMA_M**2
        normal += 1e-6 * np.eye(4)
        vector[:, :3] = w @ center_across
        vector[:, 2] += upright * floor / _HEIGHT_SIGMA_M**2
        vector[:, 3] = (w * size_pull[..., 0]).sum(1) + _SIZE_SIGMA**-2
        place_size = np.linalg.solve(normal, vector[..., None])[..., 0]
        offset = place_size[:, None, :3] + place_size[:, 3, None, None] * body - center
        depth = (offset * ray).sum(-1)
        aside2 = np.maximum((offset**2).sum(-1) - depth**2, 0.0)
        error2 = np.where(depth > _NEAREST_M, aside2 / _SIGMA_M[seen] ** 2, 25.0)
        robust = 1.0 / (1.0 + error2 / _ROBUST**2)
        height2 = ((place_size[:, 2] - floor) / _HEIGHT_SIGMA_M) ** 2
        if floor_z_m is not None:
            upright = 1.0 / (1.0 + height2 / _ROBUST**2)
    misfit = _ROBUST**2 * np.log1p(error2 / _ROBUST**2) @ weight
    distance = np.maximum(depth @ weight / weight.sum(), 0.05)
    cost = misfit - 4.0 * _OWN * weight.sum() * np.log(distance) + price
    cost += ((place_size[:, 3] - 1.0) / _SIZE_SIGMA) ** 2
    if floor_z_m is not None:
        cost += _ROBUST**2 * np.log1p(height2 / _ROBUST**2)
    best = int(cost.argmin())
    joints = place_size[best, :3] + place_size[best, 3] * bodies[best]
    joints[seen] = center + np.maximum(depth[best], _NEAREST_M)[:, None] * ray
    likely = np.exp(0.5 * (cost[best] - cost))
    spread2 = likely @ np.log(distance / distance[best]) ** 2 / likely.sum()
    share = _SHARE_SIZE if floor_z_m is None else _SHARE_FLOOR
    share = np.sqrt(share**2 + spread2) * np.hypot(1.0, misfit[best] / weight.sum() / _MISFIT)
    return Placement(joints, float(min(share, 0.5)))
