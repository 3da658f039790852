"""Record what the graph publishes while a bag is replayed."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from disguisor_ros.bridge.bags import LATCHED, BagWriter, header_of
from disguisor_ros.errors import UserError
from disguisor_ros.run.recording import Recording

_RESULTS = {
    "/disguisor/frame_set": "disguisor_msgs/msg/FrameSet",
    "/disguisor/persons3d": "disguisor_msgs/msg/Persons3D",
    "/disguisor/bodies": "disguisor_msgs/msg/Bodies",
    "/disguisor/heads": "disguisor_msgs/msg/Heads",
    "/disguisor/markers": "visualization_msgs/msg/MarkerArray",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
_LATCHED = {
    "/disguisor/skeleton": "disguisor_msgs/msg/Skeleton",
    "/disguisor/head_topology": "disguisor_msgs/msg/MeshTopology",
    "/disguisor/body_topology": "disguisor_msgs/msg/MeshTopology",
}
_IMAGES = {
    "raw": ("image_raw", "sensor_msgs/msg/Image"),
    "compressed": ("image_raw/compressed", "sensor_msgs/msg/CompressedImage"),
}
_BESIDE_IMAGES = {
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "regions": "disguisor_msgs/msg/FaceRegions",
}


class Recorder:
    """Subscribes the graph's results and writes them at the times of the input.

    So the output plays at the speed of the room. Of the rehearsal nothing is written but what is
    latched and /diagnostics.

    Parameters
    ----------
    recording : Recording
    writer : BagWriter
    markers : bool
        Whether to record the meshes for RViz.
    transport : str
        ``raw`` or ``compressed``: which of the anonymized images to record.

    Attributes
    ----------
    parts : set of str
        What a whole anonymized frame consists of, by the names of the topics.
    now_ns : int
        Bag time of what is played.
    bag_ns : dict of int to int
        Stamp of an image -> its bag time.
    rehearsing : bool
    rehearsed_ns : int
        Newest stamp of the rehearsal.
    error : UserError or None
        Why nothing can be written any more.
    """

    def __init__(self, recording: Recording, writer: BagWriter, markers: bool, transport: str):
        self._writer = writer
        results = dict([_IMAGES[transport]]) | _BESIDE_IMAGES
        self.parts = set(results)
        self._types = dict(_RESULTS)
        if not markers:
            del self._types["/disguisor/markers"]
        for camera in recording.cameras:
            for part, typename in results.items():
                self._types[f"/{camera}/anonymized/{part}"] = typename
            if f"/{camera}/keypoints2d" not in recording.topics:
                self._types[f"/{camera}/keypoints2d"] = "disguisor_msgs/msg/Keypoints2D"
        self.now_ns = recording.start_ns
        self.bag_ns: dict[int, int] = {}
        self.rehearsing, self.rehearsed_ns = True, -1
        self.error: UserError | None = None

    def subscribe(
        self,
        node,
        on_diagnostics: Callable[[bytes], None],
        on_part: Callable[[str, str, bytes], None],
    ) -> None:
        """Subscribe everything.

        Parameters
        ----------
        node : rclpy.node.Node
        on_diagnostics : callable
            Called with each message in CDR.
        on_part : callable
            Called with camera, name and message of each part of an anonymized frame.
        """
        from rclpy.qos import DurabilityPolicy, QoSProfile

        def write(topic, typename, raw):
            if topic in _LATCHED:
                self.write(topic, typename, raw)
            elif topic == "/diagnostics":
                on_diagnostics(raw)
                self.write(topic, typename, raw)
            elif topic == "/disguisor/markers":
                if not self.rehearsing:
                    self.write(topic, typename, raw)
            else:
                stamp = header_of(raw)[0]
                if stamp > self.rehearsed_ns:
                    self.write(topic, typename, raw, stamp)
                camera, _, part = topic[1:].partition("/anonymized/")
                if part:
                    on_part(camera, part, raw)

        result = QoSProfile(depth=50)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, typename in {**self._types, **_LATCHED}.items():
            node.create_subscription(
                message_class(typename),
                topic,
                lambda raw, t=topic, k=typename: write(t, k, raw),
                latched if topic in _LATCHED else result,
                raw=True,
            )

    def write(self, topic: str, typename: str, raw: bytes, stamp: int | None = None) -> None:
        """Write a message, given in CDR; when that fails :attr:`error` says why."""
        try:
            latched = topic in _LATCHED or topic == "/tf_static"
            self._writer.write(
                topic,
                typename,
                self.bag_ns.get(stamp, self.now_ns),
                raw,
                [LATCHED] if latched else (),
            )
        except UserError as error:  # this is the thread that listens
            self.error = error

    def write_latency(self, camera: str, stamp: int, frame_id: str, elapsed_s: float) -> None:
        """Write how long an image took."""
        from builtin_interfaces.msg import Duration
        from rclpy.serialization import serialize_message

        from disguisor_msgs.msg import Latency

        message = Latency(camera=camera)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        message.header.frame_id = frame_id
        sec, nanosec = divmod(int(1e9 * elapsed_s), 1_000_000_000)
        message.latency = Duration(sec=sec, nanosec=nanosec)
        raw = serialize_message(message)
        self.write("/disguisor/latency", "disguisor_msgs/msg/Latency", raw, stamp)


def message_class(typename: str):
    """Class of a message type, such as ``sensor_msgs/msg/Image``."""
    package, _, name = typename.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)
