"""Cameras from camera_info and /tf_static."""

from __future__ import annotations

import time

import numpy as np
from scipy.spatial.transform import Rotation

from disguisor_ros.core.cameras import Camera, invert_rigid

#: Cameras that hang on a wall do not change: a calibration that does is not believed before it has
#: stayed the same for this long, seconds.
SETTLE_S = 3.0

#: Further than this from the world's origin is a wrong unit, metres (millimetres read as metres).
MAX_DISTANCE_M = 100.0


class CameraRig:
    """Collects camera_info and static transforms until the cameras are known.

    A camera is known by its key, for example ``("cn01", "color")``.

    Parameters
    ----------
    world_frame : str
        Frame that all poses are given in.
    """

    def __init__(self, world_frame: str = "world"):
        self.world_frame = world_frame
        self._parents: dict[str, tuple[str, np.ndarray]] = {}
        self._infos = {}
        self._changed_s: dict[str | tuple[str, str], float] = {}
        self._cameras: dict[tuple[str, str], Camera] = {}

    def add_transforms(self, message) -> None:
        """Take over a tf2_msgs/TFMessage of static transforms.

        Raises
        ------
        ValueError
            If a rotation is zero or a number is not finite; the others are taken over.
        """
        problems = []
        for stamped in message.transforms:
            child = stamped.child_frame_id.lstrip("/")
            parent = stamped.header.frame_id.lstrip("/")
            try:
                tf_parent_child = _matrix(stamped.transform)
            except ValueError as error:
                problems.append(f"/tf_static: {parent} -> {child}: {error}")
                continue
            old = self._parents.get(child)
            if old is None or old[0] != parent or not np.array_equal(old[1], tf_parent_child):
                self._parents[child] = (parent, tf_parent_child)
                self._cameras.clear()
                if old is not None:
                    self._changed_s[child] = time.monotonic()
        if problems:
            raise ValueError("; ".join(problems))

    def add_info(self, key: tuple[str, str], info) -> None:
        """Take over the sensor_msgs/CameraInfo of a camera."""
        old = self._infos.get(key)
        if old is None or not _same_info(old, info):
            self._infos[key] = info
            self._cameras.pop(key, None)
            if old is not None:
                self._changed_s[key] = time.monotonic()

    def camera(self, key: tuple[str, str]) -> Camera:
        """The camera of a key.

        Raises
        ------
        ValueError
            Naming the camera and what is missing or wrong.
        """
        if key not in self._cameras:
            self._cameras[key] = self._build(key)
        return self._cameras[key]

    def info(self, key: tuple[str, str]):
        """The newest CameraInfo of a key that differed from the one before, or None."""
        return self._infos.get(key)

    def _build(self, key: tuple[str, str]) -> Camera:
        name = f"/{key[0]}/{key[1]}"
        info = self._infos.get(key)
        if info is None:
            raise ValueError(
                f"{name}/camera_info: nothing received, the camera has no calibration"
            )
        self._check_settled(key, f"{name}/camera_info")
        tf_world_camera = self._lookup(info.header.frame_id.lstrip("/"), name)
        distance_m = np.linalg.norm(tf_world_camera[:3, 3])
        if distance_m > MAX_DISTANCE_M:
            raise ValueError(
                f"/tf_static: {info.header.frame_id} is {distance_m:.0f} m from the world;"
                " are the transforms in millimetres?"
            )
        try:
            return Camera(
                name=key[0],
                width=int(info.width),
                height=int(info.height),
                matrix=np.array(info.k, dtype=np.float64).reshape(3, 3),
                tf_camera_world=invert_rigid(tf_world_camera),
                distortion=np.array(info.d, dtype=np.float64),
                model=info.distortion_model or "plumb_bob",
            )
        except ValueError as error:
            raise ValueError(f"{name}/camera_info: {error}") from error

    def _check_settled(self, what, name: str) -> None:
        if time.monotonic() - self._changed_s.get(what, -np.inf) < SETTLE_S:
            raise ValueError(
                f"{name} has just changed; it is used when it has stayed the same for"
                f" {SETTLE_S:.0f} s"
            )

    def _lookup(self, frame: str, name: str) -> np.ndarray:
        tf_ancestor_camera = np.eye(4)
        current, seen = frame, set()
        while current != self.world_frame:
            if current not in self._parents or current in seen:
                raise ValueError(
                    f"/tf_static: no transform from {self.world_frame!r} to {frame!r} ({name})"
                )
            seen.add(current)
            self._check_settled(current, f"/tf_static: {current}")
            current, tf_parent_child = self._parents[current]
            tf_ancestor_camera = tf_parent_child @ tf_ancestor_camera
        return tf_ancestor_camera


def _same_info(a, b) -> bool:
    return (
        a.width == b.width
        and a.height == b.height
        and a.header.frame_id == b.header.frame_id
        and a.distortion_model == b.distortion_model
        and np.array_equal(a.k, b.k)
        and np.array_equal(a.d, b.d)
    )


def _matrix(transform) -> np.ndarray:
    t, q = transform.translation, transform.rotation
    numbers = np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w])
    if not np.isfinite(numbers).all():
        raise ValueError("the transform has numbers that are not finite")
    if abs(np.linalg.norm(numbers[3:]) - 1) > 0.01:
        raise ValueError(f"the quaternion's norm is {np.linalg.norm(numbers[3:]):.3f}, not 1")
    out = np.eye(4)
    out[:3, :3] = Rotation.from_quat(numbers[3:]).as_matrix()
    out[:3, 3] = numbers[:3]
    return out
