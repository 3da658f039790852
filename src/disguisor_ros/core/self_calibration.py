"""Cameras that were knocked are turned back: the people whom several cameras see tell how far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from disguisor_ros.core.cameras import Camera, rigid
from disguisor_ros.core.types import Person3D

#: Keypoints with a lower score tell nothing.
_MIN_SCORE = 0.3

#: Standard deviation of a keypoint with a score of 1, metres across the view.
_NOISE_M = 0.018

#: ... and of what a detector has wrong of a person for good: however long somebody is seen, he
#: tells no more. Held-out cameras of or_holistic have the same person 1 to 4 cm aside.
_BIAS_M = 0.025

#: A joint so far aside, metres, counts half: it may be of another limb, or of somebody else.
_LIMB_M = 0.15

#: So well the other cameras alone know a joint in the direction that none of them shows, metres.
_UNSEEN_M = 0.5

#: People this far aside of a camera that is calibrated well are usual, metres ...
_USUAL_M = 0.008

#: ... on top of so many standard deviations of what detectors have wrong.
_SIGMAS = 2.0

#: A turn just beyond the usual is undone in part, twice the usual nearly as a whole.
_POWER = 6

#: Most cameras are turned by less than this, a few by far more (Cauchy), radians.
_PRIOR_RAD = 0.004

#: What was seen so long ago counts for a third, seconds; what is seen sooner after the last look
#: than this tells nothing new.
_MEMORY_S, _EVERY_S = 60.0, 0.3


@dataclass
class _Sights:
    """What one camera saw of one person: normal equations of its turn, in which time fades.

    Parameters
    ----------
    normal : ndarray, shape (3, 3)
    right : ndarray, shape (3,)
    weight : float
        Of all offsets together, 1 over square metres.
    """

    normal: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    right: np.ndarray = field(default_factory=lambda: np.zeros(3))
    weight: float = 0.0

    def fade(self, kept: float) -> None:
        """Let what was seen so far count by a factor ``kept``."""
        self.normal, self.right = kept * self.normal, kept * self.right
        self.weight *= kept

    def add(self, normal: np.ndarray, right: np.ndarray, weight: float) -> None:
        """Add what was seen at an instant."""
        self.normal, self.right = self.normal + normal, self.right + right
        self.weight += weight


class SelfCalibration:
    """Turns cameras about their own centres until they see people where the others do.

    A camera on a boom is touched, and everything that it shows lies aside from then on. Each
    person whom several cameras see tells where this one looks. What detectors have wrong of a
    person does not average out over time, only over people: so a camera is believed to be turned
    from 2 cm on where eight people say so, from 4 cm where two do. Cameras that are calibrated
    well stay exactly as they are.

    All cameras may be off: they are made to agree, not to fit the room. Call :meth:`moves` before
    an instant and :meth:`look` after it.
    """

    def __init__(self):
        self._calibrated: dict[str, np.ndarray] = {}
        self._sights: dict[str, dict[int, _Sights]] = {}
        self._turns: dict[str, np.ndarray] = {}
        self._stamp_ns: int | None = None

    def moves(self, cameras: dict[str, Camera]) -> dict[str, np.ndarray]:
        """How to move cameras from where their calibration has them.

        Parameters
        ----------
        cameras : dict of str to Camera
            As calibrated. One whose pose is another than before starts anew.

        Returns
        -------
        dict of str to ndarray, shape (4, 4)
            Rigid transforms of the world, metres, for :meth:`Camera.moved`, of the cameras that
            are turned. Others are left out.
        """
        out = {}
        for name, camera in cameras.items():
            if not np.array_equal(self._calibrated.get(name), camera.tf_camera_world):
                self._calibrated[name] = camera.tf_camera_world
                self._sights[name], self._turns[name] = {}, np.zeros(3)
            if self._turns[name].any():
                rotation = Rotation.from_rotvec(self._turns[name]).as_matrix()
                out[name] = rigid(rotation, camera.center - rotation @ camera.center)
        return out

    def turn_deg(self, name: str) -> float:
        """How far a camera is turned back, degrees."""
        return float(np.degrees(np.linalg.norm(self._turns.get(name, 0.0))))

    def look(
        self,
        persons: list[Person3D],
        keypoints: dict[str, np.ndarray],
        cameras: dict[str, Camera],
        stamp_ns: int,
    ) -> None:
        """Learn from the people of an instant.

        Parameters
        ----------
        persons : list of Person3D
            As the moved cameras see them.
        keypoints : dict of str to ndarray, shape (P, 17, 3)
            2D detections: x, y, score.
        cameras : dict of str to Camera
            As they were moved; at least those of ``keypoints``.
        stamp_ns : int
            Of the instant.
        """
        if self._stamp_ns is not None:
            elapsed_s = (stamp_ns - self._stamp_ns) * 1e-9
            if 0 <= elapsed_s < _EVERY_S:
                return
            kept = np.exp(-max(elapsed_s, 0.0) / _MEMORY_S)
            for sights in self._sights.values():
                for sight in sights.values():
                    sight.fade(kept)
        self._stamp_ns = stamp_ns
        several = [p for p in persons if p.status == "multiview"]
        views = [cameras[name] for name in keypoints]
        for name, *asides in zip(keypoints, *_asides(several, keypoints, views), strict=True):
            sights = self._sights[name]
            for person, normal, right, weight in zip(several, *asides, strict=True):
                if weight:
                    # Of the camera as it was calibrated: what is undone already counts, too.
                    right = right + normal @ self._turns[name]
                    sights.setdefault(person.track_id, _Sights()).add(normal, right, weight)
            self._sights[name] = {i: s for i, s in sights.items() if s.weight * _BIAS_M**2 > 0.01}
            self._turns[name] = _turn(list(self._sights[name].values()))


def turned(turn_deg: float) -> str:
    """What to tell the user of a camera that is turned back so far, degrees; empty if none."""
    if not turn_deg:
        return ""
    return (
        f"it looks {turn_deg:.1f} degrees aside of where its calibration (/tf_static) has it; that"
        " is undone as far as people tell: calibrate it anew"
    )


def _asides(
    persons: list[Person3D], keypoints: dict[str, np.ndarray], cameras: list[Camera]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far aside of the keypoints of V cameras the others have P people.

    Each joint is triangulated anew without the camera that is asked, by least squares from the
    rays of the others. Along a ray that alone shows it, it is where the person's joint is. All
    joints of a person are taken for one point: what is off within a body is no turn.

    Returns
    -------
    normal : ndarray, shape (V, P, 3, 3)
    right : ndarray, shape (V, P, 3)
        Normal equations of the turns of the cameras, world, radians.
    weight : ndarray, shape (V, P), 1 over square metres
        Zero of people whom the camera does not see.
    """
    rays = np.zeros((len(cameras), len(persons), 17, 3))
    score = np.zeros(rays.shape[:3])
    for camera, mine, scores in zip(cameras, rays, score, strict=True):
        for k, person in enumerate(persons):
            if camera.name in person.detections:
                found = keypoints[camera.name][person.detections[camera.name]]
                mine[k], scores[k] = camera.rays(found[:, :2]), np.minimum(found[:, 2], 1.0)
    joints = np.array([p.joints for p in persons]).reshape(-1, 17, 3)
    known = (score >= _MIN_SCORE) & np.isfinite(rays).all(-1) & np.isfinite(joints).all(-1)
    rays = np.where(known[..., None], rays, 0.0)
    joints = np.nan_to_num(joints)
    precision = np.where(known, score, 0.0) / _NOISE_M**2
    centers = np.array([camera.center for camera in cameras]).reshape(-1, 1, 1, 3)
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    pulls = precision[..., None, None] * across
    toward = np.einsum("vpjab,vpjb->vpja", pulls, centers - joints)
    covariance = np.linalg.inv(pulls.sum(axis=0) - pulls + np.eye(3) / _UNSEEN_M**2)
    away_m = joints - centers
    away_m += np.einsum("vpjab,vpjb->vpja", covariance, toward.sum(axis=0) - toward)
    off_m = np.einsum("vpjab,vpjb->vpja", across, away_m)
    noise = across @ covariance @ across
    noise += np.eye(3) / np.maximum(precision, 1.0)[..., None, None]
    sure = known / (1 + (off_m**2).sum(axis=-1) / _LIMB_M**2)  # Cauchy
    trust = across @ np.linalg.inv(noise) @ across * sure[..., None, None]
    # Of the joints one point.
    share = np.trace(trust, axis1=-2, axis2=-1) / 2
    weight = share.sum(axis=-1)
    share /= np.maximum(weight, 1e-12)[..., None]
    ray = np.einsum("vpj,vpja->vpa", share, rays)
    ray /= np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), 1e-12)
    ray *= (share * np.linalg.norm(away_m, axis=-1)).sum(axis=-1)[..., None]
    # A turn moves it by turn x ray = -cross @ turn.
    cross = np.cross(ray[..., None, :], np.eye(3)).swapaxes(-1, -2)
    normal = cross.swapaxes(-1, -2) @ trust.sum(axis=2) @ cross
    pulled = np.einsum("vpjab,vpjb->vpa", trust, off_m)
    return normal, -np.einsum("vpba,vpb->vpa", cross, pulled), weight


def _turn(sights: list[_Sights]) -> np.ndarray:
    """The turn of a camera to undo, shape (3,), radians about the axes of the world."""
    if not sights:
        return np.zeros(3)
    weight = np.array([s.weight for s in sights])
    share = 1 / (1 + weight * _BIAS_M**2)
    normal = np.einsum("n,nab->ab", share, [s.normal for s in sights])
    right = share @ [s.right for s in sights]
    turn = np.zeros(3)
    for _ in range(5):
        prior = 2 / (_PRIOR_RAD**2 + turn @ turn)
        turn = np.linalg.solve(normal + prior * np.eye(3), right)
    people = share @ weight * _BIAS_M**2  # somebody seen for long counts as one
    usual_m = np.hypot(_USUAL_M, _SIGMAS * _BIAS_M / np.sqrt(people))
    aside_m = np.sqrt(turn @ normal @ turn / (share @ weight))
    if aside_m <= usual_m:
        return np.zeros(3)
    return turn * (1 - (usual_m / aside_m) ** _POWER)
