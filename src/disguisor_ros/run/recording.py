"""What a bag must hold to be anonymized: found out and checked before anything is started."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from disguisor_ros.bridge.bags import header_of, open_bag, raw_messages
from disguisor_ros.bridge.calibration import WORLD_FRAME, CameraRig
from disguisor_ros.bridge.images import depth_array, read_color
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

    @property
    def slop_ns(self) -> int:
        """Stamps of one instant differ by no more, nanoseconds."""
        return int(1e9 * min(0.05, 0.45 * self.period_s))

    def color_topic(self, camera: str) -> str:
        """Topic of the colour images of a camera."""
        suffix = "/compressed" if self.transport == "compressed" else ""
        return f"/{camera}/color/image_raw{suffix}"

    def inputs(self, camera: str) -> set[str]:
        """Topics that an image of a camera cannot do without, each with a message of its stamp."""
        needed = {f"/{camera}/color/camera_info", f"/{camera}/keypoints2d"}
        return {self.color_topic(camera)} | (needed & self.topics.keys())


def inspect(
    path: str | Path,
    cameras: list[str] | None = None,
    keypoints: bool = True,
    world_frame: str = WORLD_FRAME,
) -> Recording:
    """Look at a bag's topics and first messages.

    Parameters
    ----------
    path : path
    cameras : list of str, optional
        The cameras to use; all that the bag has when not given.
    keypoints : bool
        Whether 2D keypoints are taken from the bag; if not, they need not be there.
    world_frame : str
        Frame that /tf_static must lead from to each camera.

    Raises
    ------
    UserError
        Naming the topic or file that is missing or wrong.
    """
    with open_bag(path) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        counts = {t: info.msgcount for t, info in reader.topics.items()}
        recording = Recording(Path(path), {}, *_cameras(types, path, cameras))
        recording.start_ns, recording.end_ns = reader.start_time, reader.end_time
        for camera in recording.cameras:
            _check_topics(recording, camera, types, counts, keypoints)
        _check_contents(recording, reader, types, CameraRig(world_frame))
    return recording


def check_keypoints(message, topic: str) -> None:
    """Refuse keypoints that the graph does not take; topic and stamp are named."""
    from disguisor_ros.bridge.messages import read_keypoints  # it brings ROS

    stamp = message.header.stamp
    _checked(f"{topic}, stamp {stamp.sec}.{stamp.nanosec:09d}", read_keypoints, message)


def stamp_of(topic: str, raw) -> int:
    """Stamp of a CDR message that begins with a header; one that ends in it is refused."""
    return _checked(topic, header_of, raw)[0]


def _cameras(types: dict[str, str], path, wanted: list[str] | None) -> tuple[list[str], str]:
    """The cameras to use, and how all of them were recorded."""
    suffixes = {"raw": "/color/image_raw", "compressed": "/color/image_raw/compressed"}
    found = {k: {t[1 : -len(s)] for t in types if t.endswith(s)} for k, s in suffixes.items()}
    every = sorted(found["raw"] | found["compressed"])
    if not every:
        images = sorted(t for t, k in types.items() if k in _TYPES.values() and "/Image" in k)
        raise UserError(
            f"{path}: no colour images named /<camera>/color/image_raw (or .../compressed); it has"
            f" {', '.join(images) or 'no images'} (the README tells how to rename topics)"
        )
    for camera in wanted or []:
        if camera not in every:
            raise UserError(f"camera {camera!r} is not in {path}; it has {', '.join(every)}")
    cameras = sorted(wanted or every)
    for transport, names in found.items():
        if names.issuperset(cameras):
            return cameras, transport
    raise UserError(
        f"{path}: colour is raw of {', '.join(sorted(found['raw'].intersection(cameras)))} and"
        f" compressed of the others; name those of one kind in a --cameras-file"
    )


def _check_topics(recording: Recording, camera: str, types, counts, keypoints: bool) -> None:
    color = recording.color_topic(camera)
    needed = {color: color.removeprefix(f"/{camera}/")}
    kinds = ("color/camera_info", "keypoints2d") if keypoints else ("color/camera_info",)
    needed |= {f"/{camera}/{kind}": kind for kind in kinds}
    wanted = {f"/{camera}/{kind}": kind for kind in ("depth/image_raw", "depth/camera_info")}
    if not counts.get(f"/{camera}/depth/image_raw"):  # what is announced is waited for
        wanted = {}
    images = recording.frames[camera] = counts[color]
    if not images:
        raise UserError(f"{color}: has no messages")
    for topic, kind in {**needed, **wanted}.items():
        if topic not in types:
            if topic in needed:
                hint = {
                    "color/camera_info": "the camera has no calibration",
                    "keypoints2d": "record them, or let `disguisor run --pose2d` find them",
                }[kind]
                raise UserError(f"{topic}: not in {recording.path} ({hint})")
            continue
        if types[topic] != _TYPES[kind]:
            raise UserError(f"{topic}: is {types[topic]}, must be {_TYPES[kind]}")
        recording.topics[topic] = types[topic]
        if topic in needed and 2 * counts[topic] < images:
            raise UserError(
                f"{topic}: has {counts[topic]} messages for {images} images; each image needs one"
                " with its own stamp"
            )
    if wanted and f"/{camera}/depth/camera_info" not in types:
        raise UserError(
            f"/{camera}/depth/camera_info: not in {recording.path}, but depth images are"
        )


def _check_contents(recording: Recording, reader, types, rig: CameraRig) -> None:
    first, found = {}, defaultdict(set)
    apart = {c: recording.inputs(c) for c in recording.cameras}  # until found at one stamp
    static = [c for c in reader.connections if c.topic == "/tf_static"]
    if not static:
        raise UserError(f"/tf_static: not in {recording.path} (the cameras have no transforms)")
    for _, _, raw in raw_messages(reader, static):
        recording.transforms.append(bytes(raw))
        message = reader.deserialize(raw, types["/tf_static"])
        # Who published it a bag does not say: each message counts as another's.
        _checked("/tf_static", rig.add_transforms, message, b"%d" % len(recording.transforms))
    for connection, _, raw in raw_messages(
        reader, [c for c in reader.connections if c.topic in recording.topics]
    ):
        topic = connection.topic
        if topic not in first:
            first[topic] = reader.deserialize(raw, connection.msgtype)
        for camera in [c for c, topics in apart.items() if topic in topics]:
            together = found[camera, stamp_of(topic, raw)]
            together.add(topic)
            if together == apart[camera]:
                del apart[camera]
        if len(first) == len(recording.topics) and not apart:
            break
    for camera, topics in apart.items():
        beside = " and ".join(sorted(topics - {recording.color_topic(camera)}))
        raise UserError(
            f"{recording.color_topic(camera)}: no image has the stamp of a message on {beside}"
        )
    for camera in recording.cameras:
        _check_camera(recording, camera, first, rig)


def _check_camera(recording: Recording, camera: str, first: dict, rig: CameraRig) -> None:
    color = recording.color_topic(camera)
    for kind in ("color", "depth"):
        message = first.get(f"/{camera}/{kind}/camera_info")
        if message is not None:
            rig.add_info((camera, kind), message)
    calibrated = _checked(None, rig.camera, (camera, "color"))
    for topic in recording.inputs(camera):
        _checked(topic, rig.check_frame, (camera, "color"), first[topic].header.frame_id)
    image, _ = _checked(color, read_color, first[color])
    _check_size(color, image, calibrated)
    depth = f"/{camera}/depth/image_raw"
    if depth in first:
        image, _ = _checked(depth, depth_array, first[depth])
        sensor = _checked(None, rig.camera, (camera, "depth"))
        _checked(depth, rig.check_frame, (camera, "depth"), first[depth].header.frame_id)
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


def _checked(topic: str | None, function, *args):
    """Call a function; a ValueError becomes a line for the user that names the topic."""
    try:
        return function(*args)
    except ValueError as error:
        raise UserError(f"{topic}: {error}" if topic else str(error)) from error
