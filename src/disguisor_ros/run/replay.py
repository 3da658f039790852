"""Feed a bag to the running graph, no faster than it keeps up, and see what comes of it."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict

import numpy as np

from disguisor_ros.bridge.bags import BagWriter, header_of, open_bag, raw_messages
from disguisor_ros.core.calibration_watch import suspicion
from disguisor_ros.errors import MISCONFIGURED, UserError
from disguisor_ros.graph import Graph
from disguisor_ros.progress import progress_bar
from disguisor_ros.run.recorder import Recorder, message_class
from disguisor_ros.run.recording import Recording, check_keypoints, stamp_of
from disguisor_ros.run.rehearsal import rehearsal
from disguisor_ros.run.reports import StageReports
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


class StageDied(Exception):
    """A process of the graph has ended by itself."""


class Replay:
    """Feeds a bag to the graph, and has what the graph publishes recorded.

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

        self.recording, self.graph = recording, graph
        self.reports = StageReports()
        self._recorder = Recorder(recording, writer, markers, transport)
        self.fed = dict.fromkeys(recording.cameras, 0)
        self.got = dict.fromkeys(recording.cameras, 0)
        self.latencies_ms: list[float] = []
        self.peak_memory = 0
        self._sent: dict[tuple[str, int], float] = {}
        self._inputs: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._newest = {topic: 0 for c in recording.cameras for topic in recording.inputs(c)}
        self._parts: dict[tuple[str, int], set[str]] = {}
        self._seconds = 0.0
        self._changed = threading.Condition()
        enclave = ["--ros-args", "--enclave", "/disguisor/player"]  # see docs/privacy.md, SROS2
        rclpy.init(args=enclave, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("disguisor_run")
        hide_shared_memory()
        self._publishers = {}
        self._advertise()
        self._recorder.subscribe(self._node, self._on_diagnostics, self._on_part)
        # Not the events executor: it does not let other threads publish while it spins.
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
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
        """Block until every stage is active and hears all its topics; UserError if that fails."""
        with progress_bar() as progress:
            task = progress.add_task("starting the graph", total=len(self.graph.stages))
            deadline, again = time.monotonic() + START_S, False
            while time.monotonic() < deadline:
                self._check_alive()
                self._check_alone()
                with self._changed:
                    ready = sum(self.reports.connected.values())
                    progress.update(task, completed=ready)
                    if ready == len(self.graph.stages):
                        if again and self._heard():
                            return
                        if not again:  # and nobody else is here, who would keep these poses
                            self._static.publish(self._transforms)
                        # Who sees a writer need not be seen by it yet: hear from each once more.
                        again = True
                        self.reports.connected.clear()
                    self._changed.wait(0.2)
        waiting = [n for n in self.graph.stages if not self.reports.connected.get(n)]
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
            self._recorder.rehearsing, self._started = False, time.monotonic()
            self._play(reader, raw_messages(reader, connections), rate, show)
            self._drain(show)

    def _play(self, reader, messages, rate: float | None, show) -> None:
        """Publish messages; calls ``show`` after each."""
        color = {self.recording.color_topic(c): c for c in self.recording.cameras}
        inputs = {t: c for c in self.recording.cameras for t in self.recording.inputs(c)}
        started, first_ns, looked_s = time.monotonic(), None, 0.0
        for connection, bag_ns, raw in messages:
            if time.monotonic() > looked_s + 0.5:
                looked_s = time.monotonic()
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
            stamp = stamp_of(topic, raw)
            if topic in inputs:
                with self._changed:
                    self._inputs[inputs[topic], stamp].add(topic)
                self._newest[topic] = max(stamp, self._newest[topic])
            if topic in color:
                self._note_sent(color[topic], stamp, bag_ns)
            if self._recorder.rehearsing:
                self._recorder.rehearsed_ns = max(stamp, self._recorder.rehearsed_ns)
            self._recorder.now_ns = max(bag_ns, self.recording.start_ns)
            self._publishers[topic].publish(bytes(raw))
            show()

    def _note_sent(self, camera: str, stamp: int, bag_ns: int) -> None:
        with self._changed:
            self._sent[camera, stamp] = time.monotonic()
            if not self._recorder.rehearsing:
                self._recorder.bag_ns[stamp] = bag_ns
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
                idle = quiet_s > IDLE_S and not any(self.reports.waiting.values())
                if idle or quiet_s > LOST_S:
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
                problem = self.reports.problems.get(camera)
                why = f"; the renderer's last problem: {problem}" if problem else ""
                out.append(f"{camera}: {lost} images withheld{why}")
        doubts = [(c, suspicion(off / 100)) for c, off in sorted(self.reports.off_cm.items())]
        doubts += sorted(self.reports.doubts.items())
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
            "stage_ms": self.reports.stage_ms,
            "calibration_off_cm": self.reports.off_cm,
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
                waiting = self.reports.waiting.get(f"{camera}/face_renderer", 0)
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
            publisher.get_subscription_count() >= self.reports.listeners(topic)
            for topic, publisher in self._publishers.items()
        )

    def _check_alive(self) -> None:
        if self._recorder.error:
            raise self._recorder.error
        if self.reports.disagreement:
            raise UserError(f"{self.recording.path}: {self.reports.disagreement}")
        for name in self.graph.dead():
            if self.graph.processes[name].returncode == MISCONFIGURED:
                raise UserError(f"{name}: {self.graph.why(name)}")
            raise StageDied(f"stage {name} died: {self.graph.why(name)}")

    def _advertise(self) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from rclpy.serialization import deserialize_message, serialize_message
        from tf2_msgs.msg import TFMessage

        queue = QoSProfile(depth=30)
        for topic, typename in self.recording.topics.items():
            kind = message_class(typename)
            self._publishers[topic] = self._node.create_publisher(kind, topic, queue)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = self._node.create_publisher(TFMessage, "/tf_static", latched)
        self._transforms = TFMessage()
        for raw in self.recording.transforms:
            self._transforms.transforms += deserialize_message(raw, TFMessage).transforms
        raw = serialize_message(self._transforms)
        self._recorder.write("/tf_static", "tf2_msgs/msg/TFMessage", raw)

    def _on_part(self, camera: str, part: str, raw: bytes) -> None:
        """Note a part of a frame; it is done when image, regions and camera_info are there."""
        stamp, frame_id = header_of(raw)
        with self._changed:
            sent = self._sent.get((camera, stamp))
            if sent is None:
                return
            parts = self._parts.setdefault((camera, stamp), set())
            parts.add(part)
            if parts < self._recorder.parts:
                return
            # A renderer goes by the order of the images: what went in before was withheld.
            for key in [key for key in self._sent if key[0] == camera]:
                self._forget(key)
                if key[1] == stamp:
                    break
            self._changed.notify_all()
            if stamp <= self._recorder.rehearsed_ns:
                return
            self.got[camera] += 1
            self._seconds = time.monotonic() - self._started
            elapsed_s = time.monotonic() - sent
            self.latencies_ms.append(1e3 * elapsed_s)
        self._recorder.write_latency(camera, stamp, frame_id, elapsed_s)

    def _on_diagnostics(self, raw: bytes) -> None:
        with self._changed:
            self.reports.take(raw)
            self._changed.notify_all()
