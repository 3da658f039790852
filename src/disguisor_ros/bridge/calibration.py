"""Cameras from camera_info and /tf_static."""

from __future__ import annotations

import time

import numpy as np

from disguisor_ros.bridge.messages import read_transform
from disguisor_ros.core.cameras import Camera, invert_rigid

#: Frame of all poses, where the configuration names no other.
WORLD_FRAME = "world"

#: Cameras that hang on a wall do not change: a calibration that does is not believed before it has
#: stayed the same for this long, seconds, or is again what it was.
SETTLE_S = 3.0

#: Further than this from the world's origin is a wrong unit, metres (millimetres read as metres).
MAX_DISTANCE_M = 100.0

#: Intrinsics whose principal point is off the image's middle in both directions, by more than
#: this share of half its size, are of an image of another size. Of 40 real cameras the worst is
#: off by 0.02 across and 0.17 down.
_OFF_MIDDLE = 0.2

#: A camera that looks up more steeply than this (sine of 45 degrees) looks at nobody.
_STEEP = 0.7


class CameraRig:
    """Collects camera_info and static transforms until the cameras are known.

    A camera is known by its key, for example ``("cn01", "color")``.

    Parameters
    ----------
    world_frame : str
        Frame that all poses are given in.
    """

    def __init__(self, world_frame: str = WORLD_FRAME):
        self.world_frame = world_frame
        self._parents: dict[str, _Believed] = {}
        self._said: dict[str, dict[bytes, tuple]] = {}
        self._infos: dict[tuple[str, str], _Believed] = {}
        self._cameras: dict[tuple[str, str], Camera] = {}

    def add_transforms(self, message, publisher: bytes = b"") -> None:
        """Take over a tf2_msgs/TFMessage of static transforms, which a publisher gives.

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
                tf_parent_child = read_transform(stamped.transform)
            except ValueError as error:
                problems.append(f"/tf_static: {parent} -> {child}: {error}")
                continue
            said = (parent, tf_parent_child), (parent, tf_parent_child.tobytes())
            self._said.setdefault(child, {})[publisher] = said
            if _changed(self._parents, child, *said):
                self._cameras.clear()
        if problems:
            raise ValueError("; ".join(problems))

    def believe(self, publishers: set[bytes]) -> None:
        """Forget what other publishers of /tf_static said, where one of these says something."""
        for child, said in self._said.items():
            left = {publisher: said[publisher] for publisher in publishers & said.keys()}
            if left and len(left) < len(said):
                self._said[child] = left
                _changed(self._parents, child, *next(iter(left.values())))
                self._cameras.clear()

    def add_info(self, key: tuple[str, str], info) -> None:
        """Take over the sensor_msgs/CameraInfo of a camera."""
        if _changed(self._infos, key, info, _identity(info)):
            self._cameras.pop(key, None)

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
        return self._infos[key].value if key in self._infos else None

    def check_frame(self, key: tuple[str, str], frame_id: str) -> None:
        """Refuse what another camera took: its frame is not that of the key's calibration.

        Raises
        ------
        ValueError
            Naming both frames. An empty ``frame_id`` tells nothing.
        """
        info = self.info(key)
        if frame_id and info and frame_id.lstrip("/") != info.header.frame_id.lstrip("/"):
            raise ValueError(
                f"it is of {frame_id!r}, but /{key[0]}/{key[1]}/camera_info of"
                f" {info.header.frame_id!r}"
            )

    def _build(self, key: tuple[str, str]) -> Camera:
        name = f"/{key[0]}/{key[1]}"
        if key not in self._infos:
            raise ValueError(
                f"{name}/camera_info: nothing received, the camera has no calibration"
            )
        info = self._infos[key].settled(f"{name}/camera_info")
        _check_whole(info, name)
        tf_world_camera = self._lookup(info.header.frame_id.lstrip("/"), name)
        distance_m = np.linalg.norm(tf_world_camera[:3, 3])
        if distance_m > MAX_DISTANCE_M:
            raise ValueError(
                f"/tf_static: {info.header.frame_id} is {distance_m:.0f} m from the world;"
                " are the transforms in millimetres?"
            )
        if tf_world_camera[2, 2] > _STEEP:
            raise ValueError(
                f"/tf_static: {info.header.frame_id} looks at the ceiling: world z must point up,"
                " and the frame be the optical one (z forward, y down; REP-103)"
            )
        try:
            camera = Camera(
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
        _check_resolution(camera, name)
        return camera

    def _lookup(self, frame: str, name: str) -> np.ndarray:
        tf_ancestor_camera = np.eye(4)
        current, seen = frame, set()
        while current != self.world_frame:
            if current not in self._parents or current in seen:
                raise ValueError(
                    f"/tf_static: no transform from {self.world_frame!r} to {frame!r} ({name})"
                )
            seen.add(current)
            if len({identity for _, identity in self._said[current].values()}) > 1:
                raise ValueError(
                    f"/tf_static: there are two different poses of {current}; stop one of the"
                    " publishers, or keep one pose in the bag"
                )
            current, tf_parent_child = self._parents[current].settled(f"/tf_static: {current}")
            tf_ancestor_camera = tf_parent_child @ tf_ancestor_camera
        return tf_ancestor_camera


class _Believed:
    """A part of a calibration; what it became is believed when that lasts."""

    def __init__(self, value, identity):
        self.value, self.identity = value, identity
        self._trusted, self._since_s = identity, -np.inf

    def change(self, value, identity) -> None:
        """Become something else."""
        self.value, self.identity, self._since_s = value, identity, time.monotonic()

    def settled(self, name: str):
        """The value; raises ValueError while it is new."""
        if self.identity != self._trusted:
            if time.monotonic() - self._since_s < SETTLE_S:
                raise ValueError(
                    f"{name} has just changed; it is used when it has stayed the same for"
                    f" {SETTLE_S:.0f} s"
                )
            self._trusted = self.identity
        return self.value


def _changed(known: dict, key, value, identity) -> bool:
    """Note a value under a key; whether it is not what was there."""
    if key not in known:
        known[key] = _Believed(value, identity)
    elif known[key].identity != identity:
        known[key].change(value, identity)
    else:
        return False
    return True


def _identity(info) -> tuple:
    """What two CameraInfos of one calibration have in common."""
    return (
        info.width, info.height, info.header.frame_id, info.distortion_model,
        np.asarray(info.k).tobytes(), np.asarray(info.d).tobytes(),
        info.binning_x, info.binning_y,
        info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height,
    )  # fmt: skip


def _check_whole(info, name: str) -> None:
    """Refuse a calibration that is of another image than the one that is published."""
    roi = info.roi
    cut = roi.x_offset or roi.y_offset or roi.width not in (0, info.width)
    if cut or roi.height not in (0, info.height) or max(info.binning_x, info.binning_y) > 1:
        raise ValueError(
            f"{name}/camera_info: binning and regions of interest are not supported; publish the"
            " intrinsics (k, width, height) of the image as it is"
        )


def _check_resolution(camera: Camera, name: str) -> None:
    """Refuse intrinsics that were not scaled, or shifted, with the image."""
    size = np.array([camera.width, camera.height])
    meant = 2 * camera.matrix[:2, 2] + 1
    off = meant / size - 1
    if (off < -_OFF_MIDDLE).all() or (off > _OFF_MIDDLE).all():
        raise ValueError(
            f"{name}/camera_info: k is of images of about {meant[0]:.0f}x{meant[1]:.0f}, not of"
            f" {camera.width}x{camera.height}; publish that of the image as it is"
        )
