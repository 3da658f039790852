"""A small made-up room for the tests of pose3d: cameras in a ring, people who stand."""

import numpy as np
from scipy.spatial.transform import Rotation

from disguisor_ros.core.cameras import rigid
from disguisor_ros.core.skeleton import STANDING_M
from disguisor_ros.eval.pose3d import ring_of_cameras as camera_ring

__all__ = ["camera_ring", "knocked", "lying", "person", "seen"]


def person(x, y, yaw=0.0, size=1.0):
    """Joints of someone who stands at (x, y) and looks along ``yaw``, shape (17, 3), metres."""
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return size * STANDING_M @ rotation.T + [x, y, 0]


def lying(yaw):
    """Joints of somebody on the back on a table, shape (17, 3), metres."""
    x, y, z = person(0, 0).T
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([0.9 - z, y, x + 0.95], axis=1) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def knocked(camera, rotvec):
    """The camera turned about its own centre by a rotation vector of the world, radians."""
    rotation = Rotation.from_rotvec(rotvec).as_matrix()
    return camera.moved(rigid(rotation, camera.center - rotation @ camera.center))


def seen(bodies, rig, noise_px=0.0, score=0.8, rng=None):
    """Keypoints of all cameras; a body that projects nowhere is left out."""
    rng = rng or np.random.default_rng(0)
    keypoints = {}
    for name, camera in rig.items():
        pixels = camera.project(np.array(bodies).reshape(-1, 17, 3))[0]
        inside = camera.inside(np.nan_to_num(pixels, nan=-1e3))
        pixels = np.nan_to_num(pixels) + rng.normal(size=pixels.shape) * noise_px
        found = np.concatenate([pixels, score * inside[..., None]], axis=-1)
        keypoints[name] = found[inside.sum(axis=1) >= 5]
    return keypoints
