"""Anonymize a bag: start the graph, replay the bag into it, record what comes out."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from disguisor_ros.bridge.bags import BagWriter, header_of, open_bag, raw_messages, typestore
from disguisor_ros.errors import UserError
from disguisor_ros.graph import Graph, set_environment, stages
from disguisor_ros.recordings import Recording, check_keypoints, inspect

#: Images of one camera that may be under way at once with ``--rate max``.
WINDOW = 3
#: The graph must be up after this long, seconds.
START_S = 120.0
#: A frame that has not come out after this long is lost, seconds.
LOST_S = 30.0

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
_CAMERA_RESULTS = {
    "anonymized/image_raw": "sensor_msgs/msg/Image",
    "anonymized/camera_info": "sensor_msgs/msg/CameraInfo",
    "anonymized/regions": "disguisor_msgs/msg/FaceRegions",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``disguisor run``."""
    parser.add_argument("--bag", required=True, metavar="IN", help="rosbag2 to anonymize")
    parser.add_argument("--out", required=True, metavar="OUT", help="rosbag2 (MCAP) to write")
    parser.add_argument(
        "--rate",
        default="max",
        type=_rate,
        help="speed of the replay: 1 is real time, 0.5 half of it; max (the default) is as fast"
        " as the graph keeps up, dropping nothing",
    )
    parser.add_argument(
        "--cameras-file",
        metavar="FILE",
        type=Path,
        help="parameter file that names the cameras, like config/cameras.yaml (default: all)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="parameter file (default: config/disguisor.yaml)",
    )
    parser.add_argument(
        "--mode",
        default=None,
        choices=("mesh", "solid", "pixelate", "blur"),
        help="how a replaced face looks (default: mesh)",
    )
    parser.add_argument(
        "--backend",
        default=None,
        choices=("open3d", "pytorch3d", "auto"),
        help="what draws the heads",
    )
    parser.add_argument(
        "--model-path",
        default=None,
        metavar="FILE",
        help="your own SMPL, SMPL-H or SMPL-X file (default: Anny, which needs none)",
    )
    parser.add_argument(
        "--pose2d",
        action="store_true",
        help="find the 2D keypoints too, by the model of `make pose-model`",
    )
    parser.add_argument(
        "--markers", action="store_true", help="also record the meshes for RViz (larger, slower)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of the run here"
    )
    parser.add_argument(
        "--domain-id", type=int, help="ROS domain (default: ROS_DOMAIN_ID, else a free one)"
    )
    parser.add_argument("--log-dir", type=Path, help="keep the logs of the stages here")


def main(args) -> int:
    """Run ``disguisor run``; 0 when every frame came out, 1 when not, 2 for bad input."""
    cameras = read_cameras(args.cameras_file) if args.cameras_file else None
    if args.config and not args.config.is_file():
        raise UserError(f"{args.config}: there is no such parameter file")
    recording = inspect(args.bag, cameras, keypoints=not args.pose2d)
    set_environment()
    if args.domain_id is not None:
        os.environ["ROS_DOMAIN_ID"] = str(args.domain_id)
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with contextlib.ExitStack() as stack:
        folder = args.log_dir or Path(tempfile.mkdtemp(prefix="disguisor-"))
        folder.mkdir(parents=True, exist_ok=True)
        if not args.log_dir:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        writer = BagWriter(args.out)
        stack.callback(writer.discard)
        graph = stack.enter_context(
            Graph(
                stages(recording.cameras, _parameters(args, recording), args.pose2d),
                folder,
                args.config,
            )
        )
        replay = stack.enter_context(Replay(recording, writer, graph, args.markers))
        return _replay(replay, writer, args)


def read_cameras(path: Path) -> list[str]:
    """Names of cameras in a parameter file."""
    try:
        found = yaml.safe_load(path.read_text())
        cameras = found["/**"]["ros__parameters"]["cameras"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no list of cameras in it (see config/cameras.yaml): {error}"
        ) from error
    if not cameras or not all(isinstance(c, str) for c in cameras):
        raise UserError(f"{path}: cameras must be a list of names")
    return cameras


def _parameters(args, recording: Recording) -> dict[str, dict]:
    renderer = {"image_transport": recording.transport, "max_latency": 60.0}
    renderer |= {k: v for k in ("mode", "backend") if (v := getattr(args, k))}
    reliable = {topic: {"subscription": {"reliability": "reliable"}} for topic in recording.topics}
    slop = min(0.05, 0.45 * recording.period_s)
    return {
        # Nothing may be lost on the way in: the bag waits, the graph does not hurry.
        "*": {"qos_overrides": reliable, "patience": 10.0},
        "synchronizer": {"slop": slop, "max_wait": 10.0},
        "smpl_fitter": {"model_path": args.model_path or ""},
        "face_renderer": renderer,
        "pose2d": {"image_transport": recording.transport, "slop": slop},
    }


def _replay(replay: Replay, writer: BagWriter, args) -> int:
    try:
        replay.wait_for_graph()
        replay.feed(args.rate)
        replay.drain()
    except KeyboardInterrupt:
        replay.close()
        writer.close()
        print(f"interrupted: {replay.summary()} -> {args.out}", file=sys.stderr)
        return 130
    except StageDied as error:
        print(f"disguisor run: {error}; no bag was written", file=sys.stderr)
        return 1
    replay.close()
    writer.close()
    print(f"{replay.summary()} -> {args.out}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(replay.figures(), indent=2) + "\n")
    return 1 if replay.lost else 0


class Replay:
    """Feeds a bag to the graph and records what the graph publishes.

    Parameters
    ----------
    recording : Recording
    writer : BagWriter
    graph : Graph
    markers : bool
        Whether to record the meshes for RViz.
    """

    def __init__(self, recording: Recording, writer: BagWriter, graph: Graph, markers: bool):
        # ROS is imported when a graph is started, not when the command prints its help.
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        self.recording, self.writer, self.graph = recording, writer, graph
        self.fed = dict.fromkeys(recording.cameras, 0)
        self.got = dict.fromkeys(recording.cameras, 0)
        self.lost = 0
        self.latencies_ms: list[float] = []
        self.peak_memory = 0
        self._bag_ns: dict[int, int] = {}
        self._sent: dict[tuple[str, int], float] = {}
        self._now_ns = recording.start_ns
        self._connected: dict[str, bool] = {}
        self._stage_ms: dict[str, float] = {}
        self._seconds = 0.0
        self._changed = threading.Condition()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("disguisor_run")
        self._publishers = {}
        self._advertise()
        self._subscribe(markers)
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
        """Block until every stage is active and hears all its topics."""
        with _progress() as progress:
            task = progress.add_task("starting the graph", total=len(self.graph.stages))
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline:
                self._check_alive()
                with self._changed:
                    ready = sum(self._connected.values())
                    progress.update(task, completed=ready)
                    if ready == len(self.graph.stages):
                        return
                    self._changed.wait(0.2)
        waiting = [n for n in self.graph.stages if not self._connected.get(n)]
        raise UserError(f"the graph did not start within {START_S:.0f} s: {', '.join(waiting)}")

    def feed(self, rate: float | None) -> None:
        """Publish the bag's messages; ``rate`` None is as fast as the graph keeps up."""
        color = {self.recording.color_topic(c): c for c in self.recording.cameras}
        self._started, first_ns = time.monotonic(), None
        checked = 0.0
        with open_bag(self.recording.path) as reader, _progress() as progress:
            connections = [c for c in reader.connections if c.topic in self.recording.topics]
            task = progress.add_task("anonymizing", total=sum(self.recording.frames.values()))
            for connection, bag_ns, raw in raw_messages(reader, connections):
                if time.monotonic() > checked + 0.5:
                    checked = time.monotonic()
                    self._check_alive()
                    self.peak_memory = max(self.peak_memory, self.graph.memory_bytes())
                topic = connection.topic
                first_ns = bag_ns if first_ns is None else first_ns
                if rate is not None:
                    time.sleep(
                        max(
                            0.0,
                            self._started + (bag_ns - first_ns) / 1e9 / rate - time.monotonic(),
                        )
                    )
                elif topic in color:
                    self._wait_for_room(color[topic])
                if topic.endswith("/keypoints2d"):
                    check_keypoints(reader.deserialize(raw, connection.msgtype), topic)
                if topic in color:
                    stamp, _ = header_of(raw)
                    with self._changed:
                        self._bag_ns[stamp] = bag_ns
                        self._sent[color[topic], stamp] = time.monotonic()
                        self.fed[color[topic]] += 1
                self._now_ns = bag_ns
                self._publishers[topic].publish(bytes(raw))
                progress.update(task, completed=sum(self.got.values()))

    def drain(self) -> None:
        """Wait for the frames that are still under way; what does not come is lost."""
        last, since = -1, time.monotonic()
        while True:
            with self._changed:
                got = sum(self.got.values())
                if not self._sent:
                    return
                if got != last:
                    last, since = got, time.monotonic()
                if time.monotonic() - since > LOST_S:
                    break
                self._changed.wait(0.2)
            self._check_alive()
        self.lost += len(self._sent)

    def summary(self) -> str:
        """One line about what came out."""
        fed, got = sum(self.fed.values()), sum(self.got.values())
        line = f"{got} of {fed} frames anonymized"
        if fed > got:
            line += f", {fed - got} withheld"
        if self.latencies_ms:
            line += f", median latency {np.median(self.latencies_ms):.0f} ms"
        return line + f", graph memory {self.peak_memory / 1e9:.1f} GB"

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
            "memory_gb": self.peak_memory / 1e9,
        }

    def _wait_for_room(self, camera: str) -> None:
        since = time.monotonic()
        while True:
            with self._changed:
                under_way = [key for key in self._sent if key[0] == camera]
                if len(under_way) < WINDOW:
                    return
                self._changed.wait(0.2)
                if time.monotonic() - since > LOST_S:
                    # The oldest is not coming any more: counted as lost, the rest goes on.
                    del self._sent[min(under_way, key=self._sent.get)]
                    self.lost += 1
                    return
            self._check_alive()

    def _check_alive(self) -> None:
        for name in self.graph.dead():
            raise StageDied(f"stage {name} died: {self.graph.why(name)}")

    def _advertise(self) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from rclpy.serialization import deserialize_message
        from tf2_msgs.msg import TFMessage

        queue = QoSProfile(depth=30)
        for topic, typename in self.recording.topics.items():
            self._publishers[topic] = self._node.create_publisher(_type(typename), topic, queue)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        transforms = TFMessage()
        for raw in self.recording.transforms:
            transforms.transforms += deserialize_message(raw, TFMessage).transforms
        self._static = self._node.create_publisher(TFMessage, "/tf_static", latched)
        self._static.publish(transforms)
        self._write("/tf_static", "tf2_msgs/msg/TFMessage", _serialized(transforms))

    def _subscribe(self, markers: bool) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile

        results = dict(_RESULTS)
        if not markers:
            del results["/disguisor/markers"]
        for camera in self.recording.cameras:
            results |= {f"/{camera}/{kind}": t for kind, t in _CAMERA_RESULTS.items()}
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
        stamp = header_of(raw)[0] if topic != "/disguisor/markers" else self._now_ns
        self._write(topic, typename, raw, stamp)
        if topic.endswith("/anonymized/image_raw"):
            self._on_image(topic.split("/")[1], raw)

    def _on_image(self, camera: str, raw: bytes) -> None:
        stamp, frame_id = header_of(raw)
        with self._changed:
            sent = self._sent.pop((camera, stamp), None)
            if sent is None:
                return
            self.got[camera] += 1
            self._seconds = time.monotonic() - self._started
            elapsed = time.monotonic() - sent
            self.latencies_ms.append(1e3 * elapsed)
            self._changed.notify_all()
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
            for status in message.status:
                if not status.name.startswith("disguisor: "):
                    continue
                values = {v.key: v.value for v in status.values}
                name = status.name.removeprefix("disguisor: ")
                self._connected[name] = values.get("connected") == "True"
                self._stage_ms[name] = float(values.get("duration_ms_median", 0.0))
            self._changed.notify_all()

    def _write(self, topic: str, typename: str, raw: bytes, stamp: int | None = None) -> None:
        # Bag time is that of the input, so that the output plays at the speed of the room.
        with self._changed:
            bag_ns = self._bag_ns.get(stamp, self._now_ns)
        self.writer.write(topic, typename, bag_ns, raw)


class StageDied(Exception):
    """A process of the graph has ended by itself."""


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _type(typename: str):
    package, _, name = typename.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _serialized(message) -> bytes:
    from rclpy.serialization import serialize_message

    return serialize_message(message)


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor max")
    return rate
