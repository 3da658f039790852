"""Feed a bag to the running graph and record what it publishes."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections import defaultdict

import numpy as np

from disguisor_ros.bridge.bags import (
    LATCHED,
    BagWriter,
    header_of,
    open_bag,
    raw_messages,
    typestore,
)
from disguisor_ros.bridge.diagnostics import DOUBT, stage_values
from disguisor_ros.core.calibration_watch import suspicion
from disguisor_ros.errors import MISCONFIGURED, UserError
from disguisor_ros.graph import Graph
from disguisor_ros.progress import progress_bar
from disguisor_ros.recordings import Recording, check_keypoints, told
from disguisor_ros.rehearsal import rehearsal
from disguisor_ros.shared_memory import hide_shared_memory

#: Images of one camera that may be under way at once with ``--rate max``.
WINDOW = 2
#: ... and that may wait for their keypoints, or for other cameras; a renderer keeps 30.
AHEAD = 20
#: The graph must be up after this long, seconds.
START_S = 120.0
#: A frame that has not come out after this long is lost, seconds.
LOST_S = 30.0
#: When nothing has come out for so long and no stage has a frame waiting, nothing will, seconds.
IDLE_S = 5.0

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


class StageDied(Exception):
    """A process of the graph has ended by itself."""


class Replay:
    """Feeds a bag to the graph and records what the graph publishes.

    Parameters
    ----------
    recording : Recording
    writer : BagWriter
    graph : Graph
    markers : bool
        Whether to record the meshes for RViz.
    transport : str
        ``raw`` or ``compressed``: which of the anonymized images to record.
    """

    def __init__(
        self,
        recording: Recording,
        writer: BagWriter,
        graph: Graph,
        markers: bool,
        transport: str = "raw",
    ):
        # ROS is imported when a graph is started, not when the command prints its help.
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        self.recording, self.writer, self.graph = recording, writer, graph
        self._camera_results = dict([_IMAGES[transport]]) | _BESIDE_IMAGES
        self.fed = dict.fromkeys(recording.cameras, 0)
        self.got = dict.fromkeys(recording.cameras, 0)
        self.latencies_ms: list[float] = []
        self.peak_memory = 0
        self._bag_ns: dict[int, int] = {}
        self._sent: dict[tuple[str, int], float] = {}
        self._inputs: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._newest = {topic: 0 for c in recording.cameras for topic in recording.inputs(c)}
        self._parts: dict[tuple[str, int], set[str]] = {}
        self._now_ns = recording.start_ns
        self._connected: dict[str, bool] = {}
        self._listens_to: dict[str, set[str]] = {}
        self._stage_ms: dict[str, float] = {}
        self._off_cm: dict[str, float] = {}
        self._doubts: dict[str, str] = {}
        self._disagreement = ""
        self._problems: dict[str, str] = {}
        self._waiting: dict[str, int] = {}
        self._seconds = 0.0
        self._rehearsing, self._rehearsed_ns = True, -1
        self._changed = threading.Condition()
        enclave = ["--ros-args", "--enclave", "/disguisor/player"]  # see docs/privacy.md, SROS2
        rclpy.init(args=enclave, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("disguisor_run")
        hide_shared_memory()
        self._publishers = {}
        self._advertise()
        self._subscribe(markers)
        # Not the events executor: it does not let other threads publish while it spins.
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._write_error: UserError | None = None
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Stop listening."""
        import rclpy

        if self._thread.is_alive():
            self.peak_memory = max(self.peak_memory, self.graph.memory_bytes())
            self._executor.shutdown()
            self._thread.join(5.0)
            rclpy.try_shutdown()

    def wait_for_graph(self) -> None:
        """Block until every stage is active and hears all its topics."""
        with progress_bar() as progress:
            task = progress.add_task("starting the graph", total=len(self.graph.stages))
            deadline, again = time.monotonic() + START_S, False
            while time.monotonic() < deadline:
                self._check_alive()
                self._check_alone()
                with self._changed:
                    ready = sum(self._connected.values())
                    progress.update(task, completed=ready)
                    if ready == len(self.graph.stages):
                        if again and self._heard():
                            return
                        if not again:  # and nobody else is here, who would keep these poses
                            self._static.publish(self._transforms)
                        # Who sees a writer need not be seen by it yet: hear from each once more.
                        again = True
                        self._connected.clear()
                    self._changed.wait(0.2)
        waiting = [n for n in self.graph.stages if not self._connected.get(n)]
        raise UserError(f"the graph did not start within {START_S:.0f} s: {', '.join(waiting)}")

    def _check_alone(self) -> None:
        """Refuse a domain in which another graph works: each would hear the other's images."""
        if self._node.count_publishers("/disguisor/frame_set") > 1:
            raise UserError(
                f"a graph works in ROS domain {os.environ['ROS_DOMAIN_ID']} already; name another"
                " domain with --domain-id"
            )

    def feed(self, rate: float | None) -> None:
        """Publish the bag's messages, and wait for what comes of them.

        ``rate`` None is as fast as the graph keeps up. What comes before is the rehearsal: its
        results are not recorded.
        """
        with open_bag(self.recording.path) as reader, progress_bar() as progress:
            connections = [c for c in reader.connections if c.topic in self.recording.topics]
            task = progress.add_task("anonymizing", total=sum(self.recording.frames.values()))

            def show() -> None:
                progress.update(task, completed=sum(self.got.values()))

            self._play(reader, rehearsal(reader, connections, self.recording), rate, show)
            self._rehearsing, self._started = False, time.monotonic()
            self._play(reader, raw_messages(reader, connections), rate, show)
            self._drain(show)

    def _play(self, reader, messages, rate: float | None, show) -> None:
        """Publish messages; calls ``show`` after each."""
        color = {self.recording.color_topic(c): c for c in self.recording.cameras}
        inputs = {t: c for c in self.recording.cameras for t in self.recording.inputs(c)}
        started, first_ns, checked = time.monotonic(), None, 0.0
        for connection, bag_ns, raw in messages:
            if time.monotonic() > checked + 0.5:
                checked = time.monotonic()
                self._check_alive()
                self.peak_memory = max(self.peak_memory, self.graph.memory_bytes())
            topic = connection.topic
            first_ns = bag_ns if first_ns is None else first_ns
            if rate is not None:
                due = started + (bag_ns - first_ns) / 1e9 / rate
                time.sleep(max(0.0, due - time.monotonic()))
            elif topic in inputs:
                self._wait_for_room(inputs[topic])
            if topic.endswith("/keypoints2d"):
                check_keypoints(reader.deserialize(raw, connection.msgtype), topic)
            stamp, _ = told(topic, header_of, raw)
            if topic in inputs:
                with self._changed:
                    self._inputs[inputs[topic], stamp].add(topic)
                self._newest[topic] = max(stamp, self._newest[topic])
            if topic in color:
                self._note_sent(color[topic], stamp, bag_ns)
            if self._rehearsing:
                self._rehearsed_ns = max(stamp, self._rehearsed_ns)
            self._now_ns = max(bag_ns, self.recording.start_ns)
            self._publishers[topic].publish(bytes(raw))
            show()

    def _note_sent(self, camera: str, stamp: int, bag_ns: int) -> None:
        with self._changed:
            self._sent[camera, stamp] = time.monotonic()
            if not self._rehearsing:
                self._bag_ns[stamp] = bag_ns
                self.fed[camera] += 1

    def _drain(self, show) -> None:
        """Wait for the frames that are still under way; what does not come is lost."""
        last, since = -1, time.monotonic()
        while True:
            show()
            with self._changed:
                got = sum(self.got.values())
                if not self._sent:
                    break
                if got != last:
                    last, since = got, time.monotonic()
                quiet_s = time.monotonic() - since
                if quiet_s > LOST_S or (quiet_s > IDLE_S and not any(self._waiting.values())):
                    break
                self._changed.wait(0.2)
            self._check_alive()
        self._check_alive()

    @property
    def lost(self) -> int:
        """How many frames went in and did not come out."""
        return sum(self.fed.values()) - sum(self.got.values())

    def summary(self) -> str:
        """One line about what came out."""
        line = f"{sum(self.got.values())} of {sum(self.fed.values())} frames anonymized"
        if self.lost:
            line += f", {self.lost} withheld"
        if self.latencies_ms:
            line += f", median latency {np.median(self.latencies_ms):.0f} ms"
        return line + f", graph memory {self.peak_memory / 1e9:.1f} GB"

    def warnings(self) -> list[str]:
        """What the user should look at: cameras that lost images or are not as calibrated."""
        out = []
        for camera in self.recording.cameras:
            if lost := self.fed[camera] - self.got[camera]:
                problem = self._problems.get(camera)
                why = f"; the renderer's last problem: {problem}" if problem else ""
                out.append(f"{camera}: {lost} images withheld{why}")
        doubts = [(c, suspicion(off / 100)) for c, off in sorted(self._off_cm.items())]
        doubts += sorted(self._doubts.items())
        return out + [f"{camera}: {line}" for camera, line in doubts if line]

    def figures(self) -> dict:
        """Figures of the run, for scripts."""
        sets = max(self.got.values())
        return {
            "frames_in": sum(self.fed.values()),
            "frames_out": sum(self.got.values()),
            "seconds": self._seconds,
            "fps": sets / self._seconds if self._seconds else 0.0,
            "latency_ms": float(np.median(self.latencies_ms)) if self.latencies_ms else None,
            "latency_ms_p95": (
                float(np.percentile(self.latencies_ms, 95)) if self.latencies_ms else None
            ),
            "stage_ms": self._stage_ms,
            "calibration_off_cm": self._off_cm,
            "memory_gb": self.peak_memory / 1e9,
        }

    def _wait_for_room(self, camera: str) -> None:
        """Wait until few images of a camera are under way.

        Images that lack keypoints, or whose instant other cameras have not reached, wait for what
        comes next in the bag: to hold that back for their sake would be to wait for ever.
        """
        since, inputs = time.monotonic(), self.recording.inputs(camera)
        while True:
            with self._changed:
                fed = [key for key in self._sent if key[0] == camera]
                whole = [key for key in fed if self._inputs[key] >= inputs]
                reached_ns = min(self._newest.values()) + self.recording.slop_ns
                under_way = [key for key in whole if key[1] <= reached_ns]
                if len(under_way) < WINDOW and len(whole) < AHEAD:
                    if len(fed) - len(whole) > AHEAD:
                        self._forget(next(key for key in fed if key not in whole))
                    return
                self._changed.wait(0.2)
                quiet_s = time.monotonic() - since
                waiting = self._waiting.get(f"{camera}/face_renderer", 0)
                if quiet_s > LOST_S or (quiet_s > IDLE_S and not waiting):
                    # The oldest is not coming any more: the rest goes on.
                    self._forget(whole[0])
                    return
            self._check_alive()

    def _forget(self, key: tuple[str, int]) -> None:
        """Wait no longer for an image, given as its camera and stamp."""
        for kept in (self._sent, self._parts, self._inputs):
            kept.pop(key, None)

    def _heard(self) -> bool:
        """Whether what is published from now on reaches every stage that listens to it."""
        return all(
            publisher.get_subscription_count()
            >= sum(topic in topics for topics in self._listens_to.values())
            for topic, publisher in self._publishers.items()
        )

    def _check_alive(self) -> None:
        if self._write_error:
            raise self._write_error
        if self._disagreement:
            raise UserError(f"{self.recording.path}: {self._disagreement}")
        for name in self.graph.dead():
            if self.graph.processes[name].returncode == MISCONFIGURED:
                raise UserError(f"{name}: {self.graph.why(name)}")
            raise StageDied(f"stage {name} died: {self.graph.why(name)}")

    def _advertise(self) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from rclpy.serialization import deserialize_message
        from tf2_msgs.msg import TFMessage

        queue = QoSProfile(depth=30)
        for topic, typename in self.recording.topics.items():
            self._publishers[topic] = self._node.create_publisher(_type(typename), topic, queue)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = self._node.create_publisher(TFMessage, "/tf_static", latched)
        self._transforms = TFMessage()
        for raw in self.recording.transforms:
            self._transforms.transforms += deserialize_message(raw, TFMessage).transforms
        self._write("/tf_static", "tf2_msgs/msg/TFMessage", _serialized(self._transforms))

    def _subscribe(self, markers: bool) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile

        results = dict(_RESULTS)
        if not markers:
            del results["/disguisor/markers"]
        for camera in self.recording.cameras:
            for kind, typename in self._camera_results.items():
                results[f"/{camera}/anonymized/{kind}"] = typename
            if f"/{camera}/keypoints2d" not in self.recording.topics:
                results[f"/{camera}/keypoints2d"] = "disguisor_msgs/msg/Keypoints2D"
        for topic, typename in {**results, **_LATCHED}.items():
            latched = topic in _LATCHED
            qos = QoSProfile(
                depth=1 if latched else 50,
                durability=DurabilityPolicy.TRANSIENT_LOCAL
                if latched
                else DurabilityPolicy.VOLATILE,
            )
            self._node.create_subscription(
                _type(typename),
                topic,
                lambda raw, t=topic, k=typename: self._on_result(t, k, raw),
                qos,
                raw=True,
            )

    def _on_result(self, topic: str, typename: str, raw: bytes) -> None:
        if topic == "/diagnostics":
            self._on_diagnostics(raw)
        if topic in _LATCHED or topic == "/diagnostics":
            self._write(topic, typename, raw)
            return
        if topic == "/disguisor/markers":
            if not self._rehearsing:
                self._write(topic, typename, raw)
            return
        stamp = header_of(raw)[0]
        if stamp > self._rehearsed_ns:
            self._write(topic, typename, raw, stamp)
        camera, _, kind = topic[1:].partition("/anonymized/")
        if kind:
            self._on_part(camera, kind, raw)

    def _on_part(self, camera: str, kind: str, raw: bytes) -> None:
        """Note a part of a frame; it is done when image, regions and camera_info are there."""
        stamp, frame_id = header_of(raw)
        with self._changed:
            sent = self._sent.get((camera, stamp))
            if sent is None:
                return
            parts = self._parts.setdefault((camera, stamp), set())
            parts.add(kind)
            if len(parts) < len(self._camera_results):
                return
            # A renderer goes by the order of the images: what went in before was withheld.
            for key in [key for key in self._sent if key[0] == camera]:
                self._forget(key)
                if key[1] == stamp:
                    break
            self._changed.notify_all()
            if stamp <= self._rehearsed_ns:
                return
            self.got[camera] += 1
            self._seconds = time.monotonic() - self._started
            elapsed = time.monotonic() - sent
            self.latencies_ms.append(1e3 * elapsed)
        self._write_latency(camera, stamp, frame_id, int(1e9 * elapsed))

    def _write_latency(self, camera: str, stamp: int, frame_id: str, elapsed_ns: int) -> None:
        from builtin_interfaces.msg import Duration

        from disguisor_msgs.msg import Latency

        message = Latency(camera=camera)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        message.header.frame_id = frame_id
        message.latency = Duration(
            sec=elapsed_ns // 1_000_000_000, nanosec=elapsed_ns % 1_000_000_000
        )
        self._write(
            "/disguisor/latency", "disguisor_msgs/msg/Latency", _serialized(message), stamp
        )

    def _on_diagnostics(self, raw: bytes) -> None:
        message = typestore().deserialize_cdr(raw, "diagnostic_msgs/msg/DiagnosticArray")
        with self._changed:
            for name, values in stage_values(message).items():
                self._connected[name] = values.get("connected") == "True"
                self._listens_to[name] = set(values.get("listens_to", "").split(","))
                self._waiting[name] = int(values.get("frames_waiting", 0))
                self._stage_ms[name] = float(values.get("duration_ms_median", 0.0))
                self._disagreement = self._disagreement or values.get("disagreement", "")
                if "disagreement" in values:
                    self._doubts = {
                        key.removeprefix(DOUBT): line
                        for key, line in values.items()
                        if key.startswith(DOUBT)
                    }
                if "calibration_off_cm" in values:
                    camera = name.removesuffix("/face_renderer")
                    self._off_cm[camera] = float(values["calibration_off_cm"])
                    if problem := values.get("last_problem"):
                        self._problems[camera] = problem
            self._changed.notify_all()

    def _write(self, topic: str, typename: str, raw: bytes, stamp: int | None = None) -> None:
        # Bag time is that of the input, so that the output plays at the speed of the room.
        with self._changed:
            bag_ns = self._bag_ns.get(stamp, self._now_ns)
        try:
            latched = topic in _LATCHED or topic == "/tf_static"
            self.writer.write(topic, typename, bag_ns, raw, [LATCHED] if latched else ())
        except UserError as error:  # told by _check_alive: this is the thread that listens
            self._write_error = error


def _type(typename: str):
    package, _, name = typename.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _serialized(message) -> bytes:
    from rclpy.serialization import serialize_message

    return serialize_message(message)
