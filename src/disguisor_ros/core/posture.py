"""Where a person is, and how turned, that only one view sees: a stiff body fitted to its rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.rotations import yaw_matrix
from disguisor_ros.core.skeleton import ARM_MEAN_M, POSE_SIGMA_M, SIZE_SIGMA, STANDING_M

#: Turns about the vertical and leans forward that are tried, radians.
_YAWS = np.arange(24) * np.pi / 12
_LEANS = np.array([-0.2, 0.0, 0.25, 0.5, 0.8])

#: ... and of somebody who was measured before, against how he was.
_TURNS = np.deg2rad([0.0, -20.0, 20.0, -45.0, 45.0, -80.0, 80.0])
_TURN_SIGMA = np.deg2rad(40.0)

#: How rarely people lean, radians; how high they stand, metres.
_LEAN_SIGMA = 0.35
_HEIGHT_SIGMA_M = 0.06

#: Patients lie on the back: height of their shoulders, and of what is the middle of who stands,
#: metres. One person in seven.
_LYING_M, _MIDDLE_M = 0.95, 0.9
_LYING_COST = 4.0

#: Residual in standard deviations from which a joint counts for less.
_ROBUST = 2.0

#: Joints nearer to a camera are not believed, metres.
_NEAREST_M = 0.5

#: What each joint knows by itself, as a share: bodies differ in more than single joints.
_OWN = 0.5

#: Error of the distance, as a share of it, with and without a known floor (seen against the same
#: people in other views, MVOR and or_holistic alike; no annotation).
_SHARE_FLOOR, _SHARE_SIZE = 0.06, 0.13

#: The same of somebody who was measured just before, and how fast it grows, 1/s, times the number
#: of joints that are seen: people sit down and lean, which few joints do not show (seen against
#: other views, simulated rooms and or_holistic alike).
_SHARE_AGAIN, _SHARE_PER_S = 0.02, 0.2

#: So many postures are fitted to the end.
_KEPT = 24

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
    shapes, cost = [], []
    for lean in _LEANS:
        c, s = np.cos(lean), np.sin(lean)
        leaning = body.copy()
        leaning[:13] = (body[:13] - hips) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + hips
        shapes.append(leaning)
        cost.append((lean / _LEAN_SIGMA) ** 2)
    shapes.append(np.stack([_MIDDLE_M - body[:, 2], body[:, 1], body[:, 0] + _LYING_M], axis=-1))
    cost.append(_LYING_COST)
    bodies = np.array(shapes)[:, None] @ yaw_matrix(_YAWS).swapaxes(1, 2)
    return bodies.reshape(-1, 17, 3), np.repeat(cost, len(_YAWS))


_STANDING = _bodies()
_TURNED = yaw_matrix(_TURNS).swapaxes(1, 2)


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
    share: float = _SHARE_FLOOR,
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
    share : float
        Standard deviation of the distance, as a share of it, of a body that suits the rays.
    """
    below_m = None if floor_z_m is None else floor_z_m - center[2]
    fit = _Fit(rays, score, below_m, postures)
    fit.step()
    fit.keep(_KEPT)
    fit.step()
    fit.step()
    best = int(fit.cost.argmin())
    seen = fit.seen
    joints = center + fit.solution[best, :3] + fit.solution[best, 3] * fit.bodies[best]
    joints[seen] = center + np.maximum(fit.depth[best], _NEAREST_M)[:, None] * fit.ray
    likely = np.exp(0.5 * (fit.cost[best] - fit.cost))
    spread2 = likely @ np.log(fit.distance / fit.distance[best]) ** 2 / likely.sum()
    share = _SHARE_SIZE if floor_z_m is None else share
    share = np.sqrt(share**2 + spread2) * np.hypot(1.0, fit.misfit[best] / _MISFIT)
    return Placement(joints, float(min(share, 0.5)))


def place_again(
    center: np.ndarray, rays: np.ndarray, score: np.ndarray, joints: np.ndarray, age_s: float
) -> Placement:
    """Fit a person's own body, as it was when it was measured, or turned about the vertical.

    Parameters
    ----------
    center, rays, score
        As for :func:`place`.
    joints : ndarray, shape (17, 3), metres, world
        When they were measured.
    age_s : float
        How long ago that was.
    """
    postures = (joints - joints.mean(axis=0)) @ _TURNED, (_TURNS / _TURN_SIGMA) ** 2
    changed = _SHARE_PER_S / np.count_nonzero(score) * age_s
    share = min(np.hypot(_SHARE_AGAIN, changed), _SHARE_FLOOR)
    return place(center, rays, score, joints[:, 2].mean(), postures, share)


class _Fit:
    """Position and size of H stiff bodies, fitted to the J rays of one view.

    All is told from the camera: worlds may begin in the middle of the Earth.

    Attributes
    ----------
    seen : ndarray, shape (J,), int
        Joints that have a ray.
    solution : ndarray, shape (H, 4)
        Where the bodies' origin is from the camera, metres, and their size.
    depth : ndarray, shape (H, J), metres
        How far along its ray each joint is.
    distance, misfit, cost : ndarray, shape (H,)
        Mean depth, mean robust cost of a joint, and twice the negative logarithm of how likely the
        body is.
    slope : ndarray, shape (H, 4)
        How ``distance`` changes with the solution.
    outward : ndarray, shape (H,)
        What noise pulls a body towards the camera, where it is nearer to all rays: errors in the
        image are angles, and none of them changes when all is moved outward.
    """

    def __init__(self, rays, score, floor_z_m, postures):
        self.seen = np.nonzero(score > 0)[0]
        self.ray, self.weight = rays[self.seen], score[self.seen]
        self.has_floor, self.floor = floor_z_m is not None, floor_z_m or 0.0
        self.bodies, self.price = postures
        self.sigma2 = _SIGMA_M[self.seen] ** 2
        self.across = np.eye(3) - self.ray[:, :, None] * self.ray[:, None, :]
        # Axes before joints: along a short last axis all takes longer.
        self.by_axis = self.ray.T.copy()
        self.body = self.bodies.take(self.seen, axis=1).swapaxes(1, 2).copy()
        along = np.einsum("haj,aj->hj", self.body, self.by_axis)
        self.body_across = self.body - along[:, None] * self.by_axis
        self.size_own = np.einsum("haj,haj->hj", self.body, self.body_across)
        self.robust = np.ones(along.shape)
        self.upright = np.full(len(self.body), 1.0 * self.has_floor)
        share = self.weight / self.weight.sum()
        self.slope = np.empty((len(self.body), 4))
        self.slope[:, :3], self.slope[:, 3] = share @ self.ray, along @ share
        self.outward = np.zeros(len(self.body))

    def keep(self, count: int) -> None:
        """Go on with the likeliest bodies only."""
        if len(self.cost) <= count:
            return
        best = np.argpartition(self.cost, count)[:count]
        for name in (
            "bodies", "price", "body", "body_across", "size_own", "robust", "upright",
            "slope", "outward",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[best])

    def step(self) -> None:
        """Solve for position and size, then weigh anew."""
        weight = self.robust * (self.weight / self.sigma2)
        pull = (self.body_across @ weight[..., None])[..., 0]
        normal, vector = np.empty((len(weight), 4, 4)), np.zeros((len(weight), 4))
        normal[:, :3, :3] = (weight @ self.across.reshape(-1, 9)).reshape(-1, 3, 3)
        normal[:, :3, 3] = normal[:, 3, :3] = pull
        normal[:, 3, 3] = (weight * self.size_own).sum(1) + SIZE_SIGMA**-2
        normal[:, 2, 2] += self.upright / _HEIGHT_SIGMA_M**2
        normal += 1e-6 * np.eye(4)
        vector += self.outward[:, None] * self.slope
        vector[:, 2] += self.upright * self.floor / _HEIGHT_SIGMA_M**2
        vector[:, 3] += SIZE_SIGMA**-2
        self.solution = np.linalg.solve(normal, vector[..., None])[..., 0]
        self._weigh()

    def _weigh(self) -> None:
        position, size = self.solution[:, :3, None], self.solution[:, 3]
        offset = position + size[:, None, None] * self.body
        self.depth = np.einsum("haj,aj->hj", offset, self.by_axis)
        aside2 = np.maximum(np.einsum("haj,haj->hj", offset, offset) - self.depth**2, 0.0)
        error2 = np.where(self.depth > _NEAREST_M, aside2 / self.sigma2, 25.0)
        self.robust = 1.0 / (1.0 + error2 / _ROBUST**2)
        total = self.weight.sum()
        self.misfit = _ROBUST**2 * np.log1p(error2 / _ROBUST**2) @ self.weight / total
        self.distance = np.maximum(self.depth @ self.weight / total, 0.05)
        self.outward = (self.robust * error2) @ self.weight / self.distance
        self.cost = total * (self.misfit - 4.0 * _OWN * np.log(self.distance))
        self.cost += self.price + ((size - 1.0) / SIZE_SIGMA) ** 2
        if self.has_floor:
            height2 = ((self.solution[:, 2] - self.floor) / _HEIGHT_SIGMA_M) ** 2
            self.upright = 1.0 / (1.0 + height2 / _ROBUST**2)
            self.cost += _ROBUST**2 * np.log1p(height2 / _ROBUST**2)
