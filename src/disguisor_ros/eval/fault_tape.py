"""A simulated bag as an endless stream of messages, and the ways in which messages go wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image

from disguisor_msgs.msg import Keypoints2D
from disguisor_ros.bridge.bags import header_of, open_bag, raw_messages, with_stamp
from disguisor_ros.bridge.images import color_array
from disguisor_ros.run.recording import Recording
from disguisor_ros.sim.truth import Truth

#: Kinds of input messages: last parts of their topics, and their types.
KINDS = {
    "color/image_raw": Image,
    "color/camera_info": CameraInfo,
    "depth/image_raw": Image,
    "depth/camera_info": CameraInfo,
    "keypoints2d": Keypoints2D,
}


@dataclass
class Sample:
    """One message on its way into the graph."""

    camera: str
    kind: str
    raw: bytes

    @property
    def topic(self) -> str:
        """Topic of the message."""
        return f"/{self.camera}/{self.kind}"


@dataclass
class View:
    """The truth of one published image."""

    image: np.ndarray
    labels: np.ndarray
    faces: list[dict]


class Tape:
    """A recording that plays to and fro for ever, with stamps that go on.

    Instant k of the tape shows instant ``index(k)`` of the recording: forwards, then backwards,
    so that nobody leaps at the turn. A clock jump is a jump of k.
    """

    def __init__(self, recording: Recording, truth: Truth):
        self.truth = truth
        self.first_ns = truth.frames[0]["stamp_ns"]
        self.period_ns = round(1e9 / truth.data["fps"])
        self.count = len(truth.frames)
        self.instants: list[list[Sample]] = [[] for _ in range(self.count)]
        self._stamps: dict[tuple[str, int], int] = {}
        with open_bag(recording.path) as reader:
            wanted = [c for c in reader.connections if c.topic in recording.topics]
            for connection, _, raw in raw_messages(reader, wanted):
                _, camera, kind = connection.topic.split("/", 2)
                index = self.instant_of(header_of(raw)[0])
                if 0 <= index < self.count:
                    self.instants[index].append(Sample(camera, kind, bytes(raw)))
                    if kind == "color/image_raw":
                        self._stamps[camera, index] = header_of(raw)[0]
        self._views: dict[tuple[str, int], View] = {}

    def index(self, k: int) -> int:
        """Instant of the recording that instant k of the tape shows."""
        around = k % (2 * self.count - 2)
        return min(around, 2 * self.count - 2 - around)

    def instant_of(self, stamp_ns: int) -> int:
        """Instant k of a stamp."""
        return round((stamp_ns - self.first_ns) / self.period_ns)

    def play(self, k: int) -> list[Sample]:
        """Messages of instant k, stamped as such."""
        index = self.index(k)
        shift_ns = (k - index) * self.period_ns
        out = []
        for sample in self.instants[index]:
            raw = with_stamp(sample.raw, header_of(sample.raw)[0] + shift_ns)
            out.append(Sample(sample.camera, sample.kind, raw))
        return out

    def view(self, camera: str, stamp_ns: int) -> View | None:
        """The truth of a published image; None when no such image was ever played."""
        k = self.instant_of(stamp_ns)
        index = self.index(k)
        own_ns = self._stamps.get((camera, index))
        if own_ns is None or stamp_ns != own_ns + (k - index) * self.period_ns:
            return None
        if (camera, index) not in self._views:
            raw = next(
                s.raw
                for s in self.instants[index]
                if s.camera == camera and s.kind == "color/image_raw"
            )
            self._views[camera, index] = View(
                color_array(deserialize_message(raw, Image))[..., :3],
                self.truth.mask(camera, own_ns),
                self.truth.frames[index]["cameras"][camera]["faces"],
            )
        return self._views[camera, index]


# What can happen to a message: (sample, random) -> list of (delay in seconds, bytes).


def same(sample: Sample, rng: random.Random):
    """Nothing happens."""
    return [(0.0, sample.raw)]


def lost(sample: Sample, rng: random.Random):
    """It never arrives."""
    return []


def dropped(sample: Sample, rng: random.Random):
    """Every other one never arrives."""
    return [] if rng.random() < 0.5 else same(sample, rng)


def delayed(sample: Sample, rng: random.Random):
    """It arrives late, by up to more than the renderers wait."""
    return [(rng.choice((0.2, 0.7, 1.5, 3.0)), sample.raw)]


def duplicated(sample: Sample, rng: random.Random):
    """It arrives twice, or again when it is long done."""
    return [(0.0, sample.raw), (rng.choice((0.0, 0.05, 1.0)), sample.raw)]


def reordered(sample: Sample, rng: random.Random):
    """It arrives after those that follow."""
    return [(rng.choice((0.0, 0.3, 0.6)), sample.raw)]


def flipped(sample: Sample, rng: random.Random):
    """Bytes of it are others, or it is cut short."""
    raw = bytearray(sample.raw)
    if rng.random() < 0.25:
        return [(0.0, bytes(raw[: rng.randrange(4, len(raw))]))]
    end = min(len(raw), 200) if rng.random() < 0.5 else len(raw)
    for _ in range(rng.randint(1, 20)):
        raw[rng.randrange(12, end)] = rng.randrange(256)
    return [(0.0, bytes(raw))]


def malformed(sample: Sample, rng: random.Random):
    """It is whole, but says what cannot be."""
    message = deserialize_message(sample.raw, KINDS[sample.kind])
    _MALFORM[KINDS[sample.kind]](message, rng)
    return [(0.0, serialize_message(message))]


def zero_depth(sample: Sample, rng: random.Random):
    """A depth image without a single measurement."""
    message = deserialize_message(sample.raw, Image)
    message.data = bytes(len(message.data))
    return [(0.0, serialize_message(message))]


def nobody(sample: Sample, rng: random.Random):
    """Keypoints that find nobody."""
    message = deserialize_message(sample.raw, Keypoints2D)
    message.persons = []
    return [(0.0, serialize_message(message))]


def wrong_calibration(sample: Sample, rng: random.Random):
    """Intrinsics of some other camera."""
    message = deserialize_message(sample.raw, CameraInfo)
    scale = rng.choice((0.5, 0.8, 1.25, 2.0))
    message.k = message.k * np.array([scale, 1, 1, 1, scale, 1, 1, 1, 1])
    return [(0.0, serialize_message(message))]


def _malform_image(message, rng):
    name, value = rng.choice(
        [
            ("encoding", "bayer_rggb8"), ("encoding", "8UC3"), ("encoding", ""),
            ("width", message.width * 2), ("height", message.height * 2), ("width", 0),
            ("height", 2**31), ("step", 1), ("step", 2**32 - 1),
            ("data", message.data[: len(message.data) // 2]), ("data", b""),
        ]
    )  # fmt: skip
    setattr(message, name, value)


def _malform_info(message, rng):
    name, value = rng.choice(
        [
            ("width", 0), ("height", message.height + 8), ("k", np.zeros(9)),
            ("k", np.full(9, np.nan)), ("k", np.full(9, 1e308)), ("k", -np.array(message.k)),
            ("d", [float("inf")] * 5), ("d", [0.1] * 3), ("distortion_model", "no such model"),
        ]
    )  # fmt: skip
    setattr(message, name, value)


def _malform_keypoints(message, rng):
    person = message.persons[0] if message.persons else None
    choice = rng.randrange(5)
    if choice == 0 or person is None:
        message.skeleton = "openpose25"
    elif choice == 1:
        person.keypoints[rng.randrange(51)] = float("nan")
    elif choice == 2:
        person.keypoints = person.keypoints[:50]
    elif choice == 3:
        message.persons = [person] * 1000
    else:
        person.keypoints[rng.randrange(51)] = 1e30


_MALFORM = {Image: _malform_image, CameraInfo: _malform_info, Keypoints2D: _malform_keypoints}


def simulated(folder: Path) -> Path:
    """Write a short bag of a small room and its truth, unless it is there already."""
    from disguisor_ros.sim.recording import Settings, record

    bag = folder / "room"
    if not bag.exists():
        record(Settings("easy", 6.0, 5.0, 3, 640, 360, seed=6), bag)
    return bag
