"""Images of a recording beside what an anonymizer made of them, one by one from two bags."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disguisor_ros.bridge.bags import header_of, open_bag, raw_messages
from disguisor_ros.bridge.diagnostics import stage_values
from disguisor_ros.bridge.images import read_color, to_rgb
from disguisor_ros.core.types import Region
from disguisor_ros.errors import UserError

_INPUT = re.compile(r"/(?P<camera>.+)/color/image_raw(/compressed)?$")
_OUTPUT = re.compile(r"/(?P<camera>.+)/anonymized/image_raw(/compressed)?$")
_REGIONS = re.compile(r"/(?P<camera>.+)/anonymized/regions$")
_LATENCY = "/disguisor/latency"
_DIAGNOSTICS = "/diagnostics"
_BAG_ID = "/disguisor/bag_id"


@dataclass
class Pair:
    """One input image, and what was published for it.

    Parameters
    ----------
    camera : str
    stamp_ns : int
        Of the input's header.
    before : ndarray, shape (H, W, 3), uint8, RGB
    after : ndarray like ``before``, or None when the frame was withheld
    regions : list of Region
        What the tool declares; empty when it declares nothing.
    """

    camera: str
    stamp_ns: int
    before: np.ndarray
    after: np.ndarray | None
    regions: list[Region]


class BagPair:
    """An input bag and an anonymized bag, matched by camera and header stamp.

    Iterating gives a :class:`Pair` for each input image, in the input's order; an image that was
    published twice comes twice.

    Parameters
    ----------
    input_bag, anonymized_bag : path
        The anonymized bag holds ``/<cam>/anonymized/image_raw`` (raw or compressed) and, where the
        tool declares what it replaced, ``/<cam>/anonymized/regions``.

    Attributes
    ----------
    stamps : dict of str to dict of int to str
        Camera -> stamp -> frame_id of every input image.
    published : dict of str to dict of int to list
        Camera -> stamp -> frame_id of every published image (one entry each).
    bag_id : str or None
        Of the input bag.
    stage_ms : dict of str to float
        Stage -> median time of its work on an instant, as it told at the end; empty where it was
        not recorded.
    jpeg : bool
        Whether anonymized images are JPEG, which changes pixels everywhere.

    Raises
    ------
    UserError
        If a bag cannot be read, or lacks the topics.
    """

    def __init__(self, input_bag: str | Path, anonymized_bag: str | Path):
        self.input_bag, self.anonymized_bag = Path(input_bag), Path(anonymized_bag)
        self.bag_id = None
        self.jpeg = False
        self.stamps: dict[str, dict[int, str]] = defaultdict(dict)
        self.published: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))
        self._regions: dict[tuple[str, int], list[Region]] = {}
        self._latencies_ms: dict[str, list[float]] = defaultdict(list)
        self.stage_ms: dict[str, float] = {}
        with open_bag(self.input_bag) as reader:
            self._index_input(reader)
        with open_bag(self.anonymized_bag) as reader:
            self._index_output(reader)

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras of the input, sorted."""
        return sorted(self.stamps)

    @property
    def declares(self) -> bool:
        """Whether the anonymized bag tells which regions were replaced."""
        return bool(self._regions)

    def latencies_ms(self) -> dict[str, np.ndarray]:
        """Milliseconds from input to output, by camera; empty where it was not recorded."""
        return {camera: np.array(self._latencies_ms[camera]) for camera in self.cameras}

    def frames(self) -> dict:
        """Count what became of the frames: published, withheld, doubled, made up."""
        entered = {(camera, stamp) for camera in self.stamps for stamp in self.stamps[camera]}
        left = {(camera, stamp) for camera in self.published for stamp in self.published[camera]}
        copies = sum(len(found) for stamps in self.published.values() for found in stamps.values())
        renamed = sum(
            frame_id != self.stamps[camera][stamp]
            for camera, stamp in left & entered
            for frame_id in self.published[camera][stamp]
        )
        return {
            "frames_in": len(entered),
            "frames_out": len(left & entered),
            "frames_withheld": len(entered - left),
            "frames_duplicated": copies - len(left),
            "frames_unknown": len(left - entered),
            "headers_preserved": bool(left) and not left - entered and not renamed,
        }

    def __len__(self) -> int:
        """Count the pairs."""
        return sum(
            max(1, len(self.published[camera].get(stamp, ())))
            for camera in self.stamps
            for stamp in self.stamps[camera]
        )

    def __iter__(self) -> Iterator[Pair]:
        """Go through the pairs in the order of the input."""
        with ExitStack() as stack:
            source = stack.enter_context(open_bag(self.input_bag))
            outputs = _Outputs(stack.enter_context(open_bag(self.anonymized_bag)))
            for camera, stamp_ns, topic, message in _images(source, _INPUT):
                before = pixels(message, topic)
                expected = len(self.published[camera].get(stamp_ns, ()))
                for topic_out, published in outputs.take(camera, stamp_ns, expected):
                    after = pixels(published, topic_out)
                    self.jpeg |= "jp" in getattr(published, "format", "")
                    if after.shape != before.shape:
                        raise UserError(
                            f"{self.anonymized_bag}: {topic_out} has images of"
                            f" {after.shape[1]}x{after.shape[0]}, the input has"
                            f" {before.shape[1]}x{before.shape[0]}; scores need equal sizes"
                        )
                    regions = self._regions.get((camera, stamp_ns), [])
                    yield Pair(camera, stamp_ns, before, after, regions)
                if not expected:
                    yield Pair(camera, stamp_ns, before, None, [])

    def _index_input(self, reader) -> None:
        topics = _topics(reader, _INPUT)
        if not topics:
            raise UserError(
                f"{self.input_bag}: no colour images (/<cam>/color/image_raw or .../compressed)"
            )
        wanted = [c for c in reader.connections if c.topic in {*topics, _BAG_ID}]
        for connection, _, rawdata in raw_messages(reader, wanted):
            if connection.topic == _BAG_ID:
                self.bag_id = reader.deserialize(rawdata, connection.msgtype).data
            else:
                stamp_ns, frame_id = header_of(rawdata)
                self.stamps[topics[connection.topic]][stamp_ns] = frame_id

    def _index_output(self, reader) -> None:
        images, regions = _topics(reader, _OUTPUT), _topics(reader, _REGIONS)
        if not images:
            raise UserError(
                f"{self.anonymized_bag}: no anonymized images (/<cam>/anonymized/image_raw); is it"
                " a bag that `disguisor run` wrote?"
            )
        small = {*regions, _LATENCY, _DIAGNOSTICS}
        wanted = [c for c in reader.connections if c.topic in {*images, *small}]
        for connection, _, rawdata in raw_messages(reader, wanted):
            if connection.topic == _DIAGNOSTICS:
                self.stage_ms |= stage_ms(reader.deserialize(rawdata, connection.msgtype))
                continue
            stamp_ns, frame_id = header_of(rawdata)
            if connection.topic in images:
                self.published[images[connection.topic]][stamp_ns].append(frame_id)
                continue
            message = reader.deserialize(rawdata, connection.msgtype)
            if connection.topic == _LATENCY:
                latency_ms = 1e3 * message.latency.sec + 1e-6 * message.latency.nanosec
                self._latencies_ms[message.camera].append(latency_ms)
            else:
                key = regions[connection.topic], stamp_ns
                self._regions[key] = [_to_region(region) for region in message.regions]


def stage_ms(diagnostics) -> dict[str, float]:
    """Median time of work by stage that a diagnostic_msgs/DiagnosticArray tells, ms."""
    told = stage_values(diagnostics)
    return {name: float(values.get("duration_ms_median", 0)) for name, values in told.items()}


class _Outputs:
    """Published images in the order of the bag, handed out by camera and stamp."""

    def __init__(self, reader):
        self._images = _images(reader, _OUTPUT)
        self._waiting = defaultdict(list)

    def take(self, camera: str, stamp_ns: int, count: int) -> list:
        while len(self._waiting[camera, stamp_ns]) < count:
            other, stamp, topic, message = next(self._images)
            self._waiting[other, stamp].append((topic, message))
        return self._waiting.pop((camera, stamp_ns))


def pixels(message, topic: str) -> np.ndarray:
    """Pixels of a sensor_msgs/Image or CompressedImage, shape (H, W, 3), uint8, RGB.

    Raises
    ------
    UserError
        If the encoding is not supported or the data do not fit.
    """
    try:
        return np.ascontiguousarray(to_rgb(*read_color(message)))
    except ValueError as error:
        raise UserError(f"{topic}: {error}") from error


def _to_region(region) -> Region:
    return Region(
        box=np.asarray(region.box, dtype=np.float64),
        polygon=np.asarray(region.polygon, dtype=np.float64).reshape(-1, 2),
        track_id=region.track_id,
        method=region.method,
        confidence=region.confidence,
    )


def _topics(reader, pattern: re.Pattern) -> dict[str, str]:
    """Topic -> camera; where a camera has raw and compressed images, the raw ones."""
    matches = [pattern.match(connection.topic) for connection in reader.connections]
    matches = sorted((m for m in matches if m), key=lambda m: -len(m[0]))
    by_camera = {m["camera"]: m[0] for m in matches}
    return {topic: camera for camera, topic in by_camera.items()}


def _images(reader, pattern: re.Pattern):
    topics = _topics(reader, pattern)
    wanted = [c for c in reader.connections if c.topic in topics]
    for connection, _, rawdata in raw_messages(reader, wanted):
        stamp_ns, _ = header_of(rawdata)
        message = reader.deserialize(rawdata, connection.msgtype)
        yield topics[connection.topic], stamp_ns, connection.topic, message
