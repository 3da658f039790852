"""What the stages said just before a face leaked: too much to keep of a whole campaign."""

from __future__ import annotations

import shutil
import time
from collections import deque
from pathlib import Path

from rclpy.serialization import deserialize_message, serialize_message

from disguisor_msgs.msg import Bodies, FaceRegions, FrameSet, Heads, Keypoints2D, Persons3D
from disguisor_ros.bridge.bags import BagWriter

#: So much is kept of what was said before a leak (as long as faults are named with it), and after
#: it (a renderer tells of its regions when the image is out), nanoseconds.
BEFORE_NS = 8_000_000_000
AFTER_NS = 1_000_000_000


def recorded(cameras: list[str]) -> dict[str, type]:
    """Topics that tell why a face was found or not, and their types."""
    out = {
        "/disguisor/frame_set": FrameSet,
        "/disguisor/persons3d": Persons3D,
        "/disguisor/bodies": Bodies,
        "/disguisor/heads": Heads,
    }
    for camera in cameras:
        out[f"/{camera}/keypoints2d"] = Keypoints2D
        out[f"/{camera}/anonymized/regions"] = FaceRegions
    return out


class FaultRecord:
    """The messages of the last seconds, as CDR bytes; those around a leak stay.

    Parameters
    ----------
    types : dict of str to type
        Topics that are kept, and their types.
    """

    def __init__(self, types: dict[str, type]):
        self.types = types
        self.kept: list[tuple[int, str, bytes]] = []
        self._recent: deque[tuple[int, str, bytes]] = deque()
        self._keep_until_ns = 0

    def add(self, topic: str, raw: bytes, now_ns: int | None = None) -> None:
        """Take a message; of topics that are not kept nothing happens."""
        now_ns = now_ns or time.time_ns()
        if topic not in self.types:
            return
        if now_ns < self._keep_until_ns:
            self.kept.append((now_ns, topic, raw))
            return
        self._recent.append((now_ns, topic, raw))
        while self._recent[0][0] < now_ns - BEFORE_NS:
            self._recent.popleft()

    def keep(self, now_ns: int | None = None) -> None:
        """A face has leaked: what was said around now stays."""
        self._keep_until_ns = (now_ns or time.time_ns()) + AFTER_NS
        self.kept += self._recent
        self._recent.clear()

    def write(self, bag: Path) -> None:
        """Write what was kept, without meshes, to a rosbag2 in place of an earlier one.

        Nothing is written when nothing was kept.
        """
        shutil.rmtree(bag, ignore_errors=True)
        if not self.kept:
            return
        with BagWriter(bag) as writer:
            for now_ns, topic, raw in self.kept:
                kind = self.types[topic]
                name = f"disguisor_msgs/msg/{kind.__name__}"
                writer.write(topic, name, now_ns, _lean(raw, kind))


def _lean(raw: bytes, kind: type) -> bytes:
    """A message without the meshes that it may hold."""
    if kind not in (Bodies, Heads):
        return raw
    message = deserialize_message(raw, kind)
    for body in getattr(message, "bodies", []):
        body.vertices = body.head.vertices = []
    for head in getattr(message, "heads", []):
        head.vertices = []
    return serialize_message(message)
