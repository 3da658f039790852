"""What a bag must hold to be anonymized: found out and checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from disguisor_ros.bridge.bags import open_bag, raw_messages
from disguisor_ros.bridge.calibration import CameraRig
from disguisor_ros.bridge.images import (
    color_array,
    compressed_color_array,
    depth_array,
)
from disguisor_ros.errors import UserError

_TYPES = {
    "color/image_raw": "sensor_msgs/msg/Image",
    "color/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "color/camera_info": "sensor_msgs/msg/CameraInfo",
    "depth/image_raw": "sensor_msgs/msg/Image",
    "depth/camera_info": "sensor_msgs/msg/CameraInfo",
    "keypoints2d": "disguisor_msgs/msg/Keypoints2D",
}


@dataclass
class Recording:
    """The contents of a bag that concern the graph.

    Parameters
    ----------
    path : Path
    topics : dict of str to str
        Topic -> message type, of the topics that are replayed.
    cameras : list of str
    transport : str
        ``raw`` or ``compressed``: how colour was recorded.
    frames : dict of str to int
        Camera -> number of colour images.
    start_ns, end_ns : int
        Bag time.
    transforms : list of bytes
        Messages of /tf_static.
    """

    path: Path
    topics: dict[str, str]
    cameras: list[str]
    transport: str
    frames: dict[str, int] = field(default_factory=dict)
    start_ns: int = 0
    end_ns: int = 0
    transforms: list[bytes] = field(default_factory=list)

    @property
    def period_s(self) -> float:
        """Mean time between two colour images of one camera, seconds."""
        count = max(self.frames.values())
        return (self.end_ns - self.start_ns) / 1e9 / max(count - 1, 1)

    def color_topic(self, camera: str) -> str:
        """Topic of the colour images of a camera."""
        suffix = "/compressed" if self.transport == "compressed" else ""
        return f"/{camera}/color/image_raw{suffix}"


def inspect(
    path: str | Path, cameras: list[str] | None = None, keypoints: bool = True
) -> Recording:
    """Look at a bag's topics and first messages.

    Parameters
    ----------
    path : path
    cameras : list of str, optional
        The cameras to use; all that the bag has when not given.
    keypoints : bool
        Whether 2D keypoints are taken from the bag; if not, they need not be there.

    Raises
    ------
    UserError
        Naming the topic or file that is missing or wrong.
    """
    with open_bag(path) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        counts = {t: info.msgcount for t, info in reader.topics.items()}
        found, transport = _cameras(types, path)
        for camera in cameras or []:
            if camera not in found:
                raise UserError(f"camera {camera!r} is not in {path}; it has {', '.join(found)}")
        recording = Recording(Path(path), {}, sorted(cameras or found), transport)
        recording.start_ns, recording.end_ns = reader.start_time, reader.end_time
        for camera in recording.cameras:
            _check_topics(recording, camera, types, counts, keypoints)
        _check_contents(recording, reader, types)
    return recording


def check_keypoints(message, topic: str) -> None:
    """Refuse keypoints that no detector may give; the topic is named."""
    for person in message.persons:
        if not np.isfinite(person.keypoints).all():
            stamp = message.header.stamp
            raise UserError(
                f"{topic}: keypoints with NaN or infinite numbers at stamp"
                f" {stamp.sec}.{stamp.nanosec:09d}; mark missing ones by score 0"
            )


def _cameras(types: dict[str, str], path) -> tuple[list[str], str]:
    for transport, suffix in (
        ("raw", "/color/image_raw"),
        ("compressed", "/color/image_raw/compressed"),
    ):
        found = sorted(t[1 : -len(suffix)] for t in types if t.endswith(suffix))
        if found:
            return found, transport
    raise UserError(
        f"{path}: no colour images; topics must be named /<camera>/color/image_raw"
        " (remap them when you record, or see the README)"
    )


def _check_topics(recording: Recording, camera: str, types, counts, keypoints: bool) -> None:
    color = recording.color_topic(camera)
    needed = {color: color.removeprefix(f"/{camera}/")}
    kinds = ("color/camera_info", "keypoints2d") if keypoints else ("color/camera_info",)
    needed |= {f"/{camera}/{kind}": kind for kind in kinds}
    wanted = {f"/{camera}/{kind}": kind for kind in ("depth/image_raw", "depth/camera_info")}
    for topic, kind in {**needed, **wanted}.items():
        if topic not in types:
            if topic in needed:
                hint = {
                    "color/camera_info": "the camera has no calibration",
                    "keypoints2d": "record them, or let `disguisor run --pose2d` find them",
                }.get(kind, "the camera has no colour images")
                raise UserError(f"{topic}: not in {recording.path} ({hint})")
            continue
        if types[topic] != _TYPES[kind]:
            raise UserError(f"{topic}: is {types[topic]}, must be {_TYPES[kind]}")
        recording.topics[topic] = types[topic]
    if f"/{camera}/depth/image_raw" in types and f"/{camera}/depth/camera_info" not in types:
        raise UserError(
            f"/{camera}/depth/camera_info: not in {recording.path}, but depth images are"
        )
    recording.frames[camera] = counts[color]
    if counts[color] == 0:
        raise UserError(f"{color}: has no messages")


def _check_contents(recording: Recording, reader, types) -> None:
    first = {}
    static = [c for c in reader.connections if c.topic == "/tf_static"]
    if not static:
        raise UserError(f"/tf_static: not in {recording.path} (the cameras have no transforms)")
    rig = CameraRig()
    for _, _, raw in raw_messages(reader, static):
        recording.transforms.append(bytes(raw))
        told("/tf_static", rig.add_transforms, reader.deserialize(raw, types["/tf_static"]))
    for connection, _, raw in raw_messages(
        reader, [c for c in reader.connections if c.topic in recording.topics]
    ):
        if connection.topic not in first:
            first[connection.topic] = reader.deserialize(raw, connection.msgtype)
            if len(first) == len(recording.topics):
                break
    for camera in recording.cameras:
        _check_camera(recording, camera, first, rig)


def _check_camera(recording: Recording, camera: str, first: dict, rig: CameraRig) -> None:
    color, info = recording.color_topic(camera), f"/{camera}/color/camera_info"
    for kind in ("color", "depth"):
        message = first.get(f"/{camera}/{kind}/camera_info")
        if message is not None:
            rig.add_info((camera, kind), message)
    if info not in first:
        raise UserError(f"{info}: has no messages, the camera has no calibration")
    calibrated = told(None, rig.camera, (camera, "color"))
    if color in first:
        read = (
            color_array if recording.transport == "raw" else lambda m: compressed_color_array(m)[0]
        )
        image = told(color, read, first[color])
        _check_size(color, image, calibrated)
    depth = f"/{camera}/depth/image_raw"
    if depth in first:
        image, _ = told(depth, depth_array, first[depth])
        sensor = told(None, rig.camera, (camera, "depth"))
        _check_size(depth, image, sensor)
        same_frame = (
            rig.info((camera, "depth")).header.frame_id
            == rig.info((camera, "color")).header.frame_id
        )
        if (
            same_frame
            and np.allclose(sensor.matrix, calibrated.matrix)
            and ((sensor.width, sensor.height) != (calibrated.width, calibrated.height))
        ):
            raise UserError(
                f"{depth}: is on the colour camera's grid but {sensor.width}x{sensor.height},"
                f" colour is {calibrated.width}x{calibrated.height}"
            )
    if f"/{camera}/keypoints2d" in first:
        check_keypoints(first[f"/{camera}/keypoints2d"], f"/{camera}/keypoints2d")


def _check_size(topic: str, image: np.ndarray, camera) -> None:
    if image.shape[:2] != (camera.height, camera.width):
        info = topic.split("/image_raw")[0] + "/camera_info"
        raise UserError(
            f"{topic}: images are {image.shape[1]}x{image.shape[0]}, but {info} says"
            f" {camera.width}x{camera.height}"
        )


def told(topic: str | None, function, *args):
    """Call a function; a ValueError becomes a line for the user that names the topic."""
    try:
        return function(*args)
    except ValueError as error:
        raise UserError(f"{topic}: {error}" if topic else str(error)) from error
