"""2D keypoints as a detector would give them, drawn from what is really visible.

The constants below were fitted to real DEKR detections; docs/simulation.md says how.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.cameras import Camera

#: A joint counts as hidden by its own body, or by others, when the visible surface lies this
#: much before it, metres: skin lies before the joints of the trunk, hardly before the face's.
_SELF_DEPTH_M = np.array([0.05] * 5 + [0.20] * 2 + [0.13] * 4 + [0.22] * 2 + [0.15] * 4)
_OTHER_DEPTH_M = np.array([0.06] * 5 + [0.20] * 2 + [0.13] * 4 + [0.22] * 2 + [0.15] * 4)

#: Mean score of visible and of hidden joints, by COCO-17 joint, and how narrow their beta
#: distributions are (sum of the two parameters).
VISIBLE_SCORE = np.array(
    [0.76, 0.72, 0.74, 0.67, 0.73, 0.74, 0.75, 0.74, 0.74, 0.78, 0.79,
     0.67, 0.68, 0.69, 0.69, 0.73, 0.73]
)  # fmt: skip
VISIBLE_NARROW = 28.0
HIDDEN_SCORE = np.array([0.04] * 3 + [0.08] * 2 + [0.50] * 2 + [0.38] * 2 + [0.32] * 2
                        + [0.48] * 2 + [0.53] * 2 + [0.46] * 2)  # fmt: skip
HIDDEN_NARROW = np.array([1.5] * 5 + [9] * 2 + [4] * 2 + [1.6] * 2 + [9] * 2 + [5] * 2 + [2.5] * 2)

#: Median localisation error by score, as a share of the person's size in the image (diagonal of
#: the box around the joints), and the spread of its logarithm (errors have long tails).
ERROR_AT_SCORE = (0.1, 0.3, 0.5, 0.65, 0.75, 0.85)
ERROR = (0.092, 0.073, 0.030, 0.0265, 0.017, 0.0107)
ERROR_TAIL = (0.75, 0.85, 0.6, 0.5, 0.55, 0.45)

#: Chance that a person is found: logistic in the share of visible joints.
FOUND = {"slope": 14.0, "middle": 0.27}

#: Chances per found person: a second detection of it, left and right swapped; per image: a ghost.
DUPLICATE, SWAP, GHOST = 0.003, 0.002, 0.02

_PAIRS = np.array([(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)])


@dataclass
class Visible:
    """What a view shows of one person.

    Parameters
    ----------
    person : int
    pixels : ndarray, shape (17, 2)
        True places of the joints in the image; NaN behind the camera.
    inside, seen : ndarray, shape (17,), bool
        In the image; and not hidden by anything.
    """

    person: int
    pixels: np.ndarray
    inside: np.ndarray
    seen: np.ndarray


def visible_joints(person: int, joints: np.ndarray, camera: Camera, range_m, owner) -> Visible:
    """Which joints of a person a view shows.

    Parameters
    ----------
    person : int
    joints : ndarray, shape (17, 3), metres, world
    camera : Camera
    range_m : ndarray, shape (height, width)
        Distance along the ray to what each pixel shows.
    owner : ndarray, shape (height, width)
        Person that each pixel shows, 0 for the room.
    """
    pixels, depth = camera.project(joints)
    inside = camera.inside(np.nan_to_num(pixels, nan=-1e6)) & (depth > 0.1)
    u, v = np.nan_to_num(np.where(inside[:, None], pixels, 0)).round().astype(int).T
    distance = np.linalg.norm(joints - camera.center, axis=1)
    gap = distance - range_m[v, u]
    own = owner[v, u] == person
    hidden = np.where(own, gap > _SELF_DEPTH_M, gap > _OTHER_DEPTH_M)
    return Visible(person, pixels, inside, inside & ~hidden)


class Detector:
    """Draws detections; one per camera, so that errors stay with a person for a while.

    Parameters
    ----------
    rng : numpy Generator
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self._bias: dict[int, np.ndarray] = {}

    def __call__(self, people: list[Visible], width: int, height: int) -> np.ndarray:
        """Detections in one image, shape (P, 17, 3): x, y, score (0 for a missing joint)."""
        found = []
        for person in people:
            found += self._person(person, width, height)
        if found and self.rng.random() < GHOST:
            found.append(self._ghost(found, width, height))
        if not found:
            return np.zeros((0, 17, 3), dtype=np.float32)
        order = np.argsort([-f[:, 2].mean() for f in found], kind="stable")
        return np.stack([found[k] for k in order]).astype(np.float32)

    def _person(self, person: Visible, width, height) -> list[np.ndarray]:
        rng = self.rng
        share = person.seen.mean()
        chance = 1 / (1 + np.exp(-FOUND["slope"] * (share - FOUND["middle"])))
        bias = self._drift(person.person)
        if rng.random() > chance or person.inside.sum() < 3:
            return []
        size = np.linalg.norm(np.ptp(person.pixels[person.inside], axis=0))
        count = 2 if rng.random() < DUPLICATE else 1
        return [self._draw(person, size, bias, width, height) for _ in range(count)]

    def _draw(self, person, size, bias, width, height):
        rng = self.rng
        scores = self._scores(person)
        spread = np.interp(scores, ERROR_AT_SCORE, ERROR) * size
        spread *= np.exp(np.interp(scores, ERROR_AT_SCORE, ERROR_TAIL) * rng.standard_normal(17))
        # The median of a Rayleigh distribution is 1.177 sigma.
        error = np.maximum(spread, 1.0)[:, None] / 1.177
        error = error * (0.75 * bias + 0.66 * rng.standard_normal((17, 2)))
        out = np.zeros((17, 3))
        out[:, :2] = np.nan_to_num(person.pixels) + error
        out[:, 2] = scores
        if rng.random() < SWAP:
            for a, b in _PAIRS[rng.random(len(_PAIRS)) < 0.5]:
                out[[a, b]] = out[[b, a]]
        outside = (
            (out[:, 0] < 0) | (out[:, 1] < 0) | (out[:, 0] > width - 1) | (out[:, 1] > height - 1)
        )
        out[outside | ~person.inside, 2] *= 0.05
        out[:, 0] = np.clip(out[:, 0], 0, width - 1)
        out[:, 1] = np.clip(out[:, 1], 0, height - 1)
        out[out[:, 2] < 0.005] = 0
        return out

    def _scores(self, person):
        mean = np.where(person.seen, VISIBLE_SCORE, HIDDEN_SCORE)
        narrow = np.where(person.seen, VISIBLE_NARROW, HIDDEN_NARROW)
        return self.rng.beta(mean * narrow, (1 - mean) * narrow)

    def _drift(self, person) -> np.ndarray:
        """Error of a detector that stays alike from frame to frame, unit variance, (17, 2)."""
        fresh = self.rng.standard_normal((17, 2))
        old = self._bias.get(person, fresh)
        self._bias[person] = 0.8 * old + 0.6 * fresh
        return self._bias[person]

    def _ghost(self, found, width, height):
        rng = self.rng
        ghost = found[int(rng.integers(len(found)))].copy()
        ghost[:, :2] += rng.uniform(-0.4, 0.4, 2) * [width, height]
        ghost[:, :2] += rng.normal(0, 15, (17, 2))
        ghost[:, 0] = np.clip(ghost[:, 0], 0, width - 1)
        ghost[:, 1] = np.clip(ghost[:, 1], 0, height - 1)
        ghost[:, 2] = rng.beta(2, 5, 17)
        return ghost
