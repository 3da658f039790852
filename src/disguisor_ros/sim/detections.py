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

#: Median error of a visible and a hidden joint, as a share of the person's size in the image
#: (diagonal of the box around the joints), and the chance of a gross error.
LOCALIZATION = {"visible": 0.012, "hidden": 0.035, "gross": 0.03, "gross_size": 0.12}

#: Beta parameters of scores of visible joints, of hidden body joints and of hidden face joints.
SCORES = {"visible": (14.0, 4.8), "hidden": (2.2, 3.2), "hidden_face": (0.35, 5.0)}

#: Chance that a person is found: logistic in the share of visible joints.
FOUND = {"slope": 14.0, "middle": 0.22}

#: Chances per found person: a second detection of it, left and right swapped; per image: a ghost.
DUPLICATE, SWAP, GHOST = 0.03, 0.03, 0.04

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
        spread = np.where(person.seen, LOCALIZATION["visible"], LOCALIZATION["hidden"]) * size
        spread = np.maximum(spread, 1.0)[:, None]
        # The median of a Rayleigh distribution is 1.177 sigma.
        error = spread / 1.177 * (0.75 * bias + 0.66 * rng.standard_normal((17, 2)))
        gross = (rng.random(17) < LOCALIZATION["gross"])[:, None]
        error += gross * LOCALIZATION["gross_size"] * size * rng.standard_normal((17, 2))
        out = np.zeros((17, 3))
        out[:, :2] = np.nan_to_num(person.pixels) + error
        out[:, 2] = self._scores(person)
        if rng.random() < SWAP:
            for a, b in _PAIRS[rng.random(len(_PAIRS)) < 0.5]:
                out[[a, b]] = out[[b, a]]
        outside = (out[:, 0] < 0) | (out[:, 1] < 0) | (out[:, 0] > width - 1) | (out[:, 1] > height - 1)
        out[outside | ~person.inside, 2] *= 0.05
        out[:, 0] = np.clip(out[:, 0], 0, width - 1)
        out[:, 1] = np.clip(out[:, 1], 0, height - 1)
        out[out[:, 2] < 0.005] = 0
        return out

    def _scores(self, person):
        rng = self.rng
        score = rng.beta(*SCORES["hidden"], 17)
        score[:5] = rng.beta(*SCORES["hidden_face"], 5)
        return np.where(person.seen, rng.beta(*SCORES["visible"], 17), score)

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
