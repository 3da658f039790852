"""What all stage nodes share: parameters, topics, waiting by stamp, diagnostics, start-up."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from disguisor_msgs.msg import Keypoints2D
from disguisor_ros.bridge.calibration import WORLD_FRAME, CameraRig
from disguisor_ros.bridge.diagnostics import PREFIX
from disguisor_ros.bridge.images import depth_array
from disguisor_ros.bridge.messages import read_keypoints, stamp_ns
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.synchronization import JUMP_NS, Rendezvous
from disguisor_ros.core.types import DepthView
from disguisor_ros.errors import MISCONFIGURED
from disguisor_ros.security import STAGES
from disguisor_ros.shared_memory import avoiding_dead_ports, leave_no_core

# REP-2003: sensor data in best effort, results reliable, constants latched.
SENSOR = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT
)
RESULT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE
)
# What a stage works on, as many as the synchronizer lets be under way: a stage that has fallen
# behind goes on with the newest. `disguisor run`, which leaves nothing out, keeps more.
WORK = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=2, reliability=ReliabilityPolicy.RELIABLE
)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
STATIC_TRANSFORMS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

#: Events cost at each wake-up; :meth:`StageNode._silent_topics` tells what does not match.
NO_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)

#: Stands in the rendezvous for a message that came but could not be read.
INVALID = object()
#: After this long without data a topic is reported.
SILENCE_S = 5.0
#: So long after two detectors contradicted each other neither is believed.
QUARREL_NS = 10_000_000_000
#: A stage that has reported so often and heard none of the others, who report as often, is deaf.
DEAF_REPORTS = 10


class Deaf(Exception):
    """Nothing reaches this process."""


class StageNode(LifecycleNode):
    """A stage as a managed node: subclasses say what to load, what to listen to and what to do.

    Subclasses declare their parameters in ``__init__`` and override :meth:`load` (configure),
    :meth:`connect` (activate: create subscriptions and publishers), :meth:`reset` (clock jump)
    and :meth:`work` (called after each message and five times a second).
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.cameras = self.parameter("cameras", [""], "Names of the cameras.")
        self.cameras = [c for c in self.cameras if c]
        self.world_frame = self.parameter(
            "world_frame", WORLD_FRAME, "Frame of all 3D results."
        )
        self.autostart = self.parameter(
            "autostart", True, "Configure and activate by itself; false leaves it to a manager."
        )
        self.patience_ns = self.duration_ns(
            "patience", 1.0, "How long to wait for data that can be done without, s.", (0.0, 60.0)
        )
        self.rendezvous = Rendezvous(capacity=30, patience_ns=self.patience_ns)
        self.rig = CameraRig(self.world_frame)
        self.drops = Counter()
        self.figures: dict[str, float | int | str] = {}
        self.durations_ms = deque(maxlen=100)
        self.latencies_ms = deque(maxlen=100)
        self.active = False
        self._done = self._done_before = 0
        self._newest_ns: dict[str, int] = {}
        self._submitted_ns: int | None = None
        self._last_error = ""
        self._infos: dict[tuple, bytes] = {}
        self._quarrels_until_ns: dict[str, int] = {}
        self._logged_s: dict[str, float] = {}
        self._heard: dict[str, float | None] = {}
        self._topics = []
        self._sender = b""
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers_here = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RESULT)
        self._unheard = 0
        self.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, RESULT, raw=True,
            event_callbacks=NO_EVENTS,
        )  # fmt: skip
        self.create_timer(1.0, self._report, clock=self._steady)

    # What subclasses override.

    def load(self) -> None:
        """Load models; raise ValueError or OSError with a clear line when that fails."""

    def connect(self) -> None:
        """Create subscriptions and publishers, with :meth:`listen` and :meth:`offer`."""

    def reset(self) -> None:
        """Forget what was learnt from earlier images."""

    def work(self) -> None:
        """Do what has become possible."""

    def health(self, rate: int) -> tuple[bytes, str]:
        """Level and one line about an active stage that hears its topics, for diagnostics."""
        return DiagnosticStatus.OK, f"active, {rate} per second"

    # Lifecycle.

    def on_configure(self, state):
        try:
            self.load()
        except (ValueError, OSError, ImportError) as error:
            self.get_logger().fatal(f"cannot be configured: {error}")
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state):
        self.rendezvous.reset()
        self._quarrels_until_ns.clear()
        self.reset()
        self.connect()
        self._timers_here.append(
            self.create_timer(0.2, self.guarded(self.work), clock=self._steady)
        )
        self.active = True
        self._activated = time.monotonic()
        return super().on_activate(state)

    def on_deactivate(self, state):
        self.active = False
        for timer in self._timers_here:
            self.destroy_timer(timer)
        for topic in self._topics:
            destroy = (
                self.destroy_publisher if hasattr(topic, "publish") else self.destroy_subscription
            )
            destroy(topic)
        self._timers_here, self._topics, self._heard = [], [], {}
        return super().on_deactivate(state)

    def destroy_node(self):
        super().destroy_node()
        # It would hold rclpy's node, and with it the middleware's shared memory, beyond the end.
        self._state_machine = None

    # Parameters and topics.

    def parameter(self, name: str, default, description: str, bounds: tuple | None = None):
        """Declare a parameter with a description and a range, and return its value."""
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if bounds and isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(bounds[0]), to_value=float(bounds[1]))
            ]
        elif bounds and isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1])]
        elif bounds:
            descriptor.additional_constraints = "one of " + ", ".join(bounds)
        value = self.declare_parameter(name, default, descriptor).value
        if bounds and isinstance(default, str) and value not in bounds:
            raise ValueError(f"parameter {name} is {value!r}, must be one of {', '.join(bounds)}")
        return value

    def duration_ns(self, name: str, default_s: float, description: str, bounds: tuple) -> int:
        """Declare a parameter in seconds and return its value in nanoseconds."""
        return int(1e9 * self.parameter(name, default_s, description, bounds))

    def listen(self, kind, topic: str, callback: Callable, qos: QoSProfile, raw=False) -> None:
        """Subscribe; a message that the callback refuses with ValueError is counted, not fatal."""
        self._heard[topic] = None
        guarded = self.guarded(callback, topic)

        def heard(message, about):
            self._heard[topic] = time.monotonic()
            self._sender = bytes((about.get("publisher_gid") or {}).get("data", b""))
            guarded(message)
            if callback != self._on_info:
                guarded_work()

        guarded_work = self.guarded(self.work)
        self._topics.append(
            self.create_subscription(
                kind,
                topic,
                heard,
                qos,
                raw=raw,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                event_callbacks=NO_EVENTS,
            )
        )

    def offer(self, kind, topic: str, qos: QoSProfile):
        """Advertise a topic."""
        publisher = self.create_publisher(
            kind, topic, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._topics.append(publisher)
        return publisher

    def listen_calibration(self, *kinds: str, cameras=None) -> None:
        """Keep :attr:`rig` up to date with camera_info of the given kinds, and /tf_static."""
        self.listen(TFMessage, "/tf_static", self._on_transforms, STATIC_TRANSFORMS)
        for camera in cameras or self.cameras:
            for kind in kinds:
                topic = f"/{camera}/{kind}/camera_info"
                self.listen(
                    CameraInfo,
                    topic,
                    lambda raw, key=(camera, kind): self._on_info(key, raw),
                    SENSOR,
                    raw=True,
                )

    def _on_transforms(self, message) -> None:
        self.rig.add_transforms(message, self._sender)

    def _on_info(self, key, raw: bytes) -> None:
        # All but the stamp is the same in nearly every message: compared, not deserialized.
        if self._infos.get(key) != raw[12:]:
            self.rig.add_info(key, deserialize_message(raw, CameraInfo))
            self._infos[key] = raw[12:]

    def known_cameras(self, names, kind: str = "color") -> dict[str, Camera]:
        """Cameras among ``names`` that have a calibration; the others are reported."""
        out = {}
        for name in names:
            try:
                out[name] = self.rig.camera((name, kind))
            except ValueError as error:
                self.dropped("no calibration", str(error))
        return out

    def listen_stored(self, kind, topic: str, key, sensor: str, read: Callable) -> None:
        """Subscribe and keep ``read(message)`` in the rendezvous under the key and its stamp.

        What is not of the frame of the camera's ``sensor``, color or depth, is another camera's:
        its keypoints show others, its depth would cut faces out of their covers.
        """
        camera, _ = key

        def keep(message):
            stamp = stamp_ns(message.header.stamp)
            try:
                self.rig.check_frame((camera, sensor), message.header.frame_id)
                self.rendezvous.put(key, stamp, read(message))
            except ValueError:
                self.rendezvous.put(key, stamp, INVALID)
                raise

        self.listen(kind, topic, keep, SENSOR)

    def listen_keypoints(self, cameras) -> None:
        """Subscribe to the 2D keypoints of cameras, stored under ``(camera, "keypoints")``."""
        for camera in cameras:

            def read(message, camera=camera):
                found = read_keypoints(message)
                self._check_one_detector(camera, stamp_ns(message.header.stamp), found)
                return found

            self.listen_stored(
                Keypoints2D, f"/{camera}/keypoints2d", (camera, "keypoints"), "color", read
            )

    def _check_one_detector(self, camera: str, stamp: int, found: np.ndarray) -> None:
        """Refuse keypoints of a topic on which two detectors contradict each other.

        Whichever spoke last would be believed, by each stage another one; and one that finds
        nobody would have the room empty. A single one may have changed its mind (``--pose2d`` in
        the rehearsal).
        """
        said, now = (camera, "keypoints as said"), time.monotonic_ns()
        before = self.rendezvous.get(said, stamp)
        self.rendezvous.put(said, stamp, found)
        changed = before is not None and not np.array_equal(before, found)
        if changed and self.count_publishers(f"/{camera}/keypoints2d") > 1:
            self._quarrels_until_ns[camera] = now + QUARREL_NS
        if now < self._quarrels_until_ns.get(camera, 0):
            raise ValueError("two detectors publish here and contradict each other; stop one")

    def listen_depth(self, cameras) -> None:
        """Subscribe to the depth images of cameras, for :meth:`depth_views`."""
        for camera in cameras:
            self.listen_stored(
                Image, f"/{camera}/depth/image_raw", (camera, "depth"), "depth", depth_array
            )

    def submit(self, payload, wants) -> None:
        """Queue a job of the rendezvous; when there are too many the oldest is dropped."""
        now = time.monotonic_ns()
        for _ in self.rendezvous.submit((payload, now), wants, now):
            self.dropped("overrun", "the stage does not keep up")

    def ready(self):
        """Jobs of :meth:`submit` that can be done now; each is timed until :meth:`finished`."""
        for payload, submitted_ns in self.rendezvous.ready(time.monotonic_ns()):
            self._submitted_ns = submitted_ns
            yield payload

    def stored(self, key, stamp: int):
        """What :meth:`listen_stored` kept; None when it is not there or could not be read."""
        datum = self.rendezvous.get(key, stamp)
        return None if datum is INVALID else datum

    def depth_views(self, depth_ns: dict[str, int]) -> dict[str, DepthView]:
        """Depth images with their cameras; those that are missing or do not fit are left out."""
        out = {}
        for name, stamp in depth_ns.items():
            datum = self.stored((name, "depth"), stamp)
            camera = self.known_cameras([name], "depth").get(name) if datum else None
            if camera is None:
                continue
            image, unit_m = datum
            if image.shape != (camera.height, camera.width):
                self.dropped(
                    "malformed",
                    f"/{name}/depth/image_raw: {image.shape[1]}x{image.shape[0]}, but its"
                    f" camera_info says {camera.width}x{camera.height}",
                )
                continue
            out[name] = DepthView(camera, image, unit_m)
        return out

    # Errors, time and figures.

    def guarded(self, function: Callable, topic: str = "") -> Callable:
        """The function, with what it raises counted and logged: no message may stop a node."""

        def call(*args):
            if not self.active:  # deactivated while this was already on its way
                return None
            try:
                return function(*args)
            except ValueError as error:
                self.dropped("malformed", f"{topic}: {error}" if topic else str(error))
            except Exception as error:  # the node must outlive its bugs; the frame is withheld
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{os.path.basename(where.filename)}:{where.lineno}"
                self.dropped("internal error", f"{type(error).__name__} at {place}")

        return call

    def dropped(self, reason: str, detail: str = "", count: int = 1) -> None:
        """Count a drop, and log it at most every 5 s a reason: none hides another."""
        self.drops[reason] += count
        self._last_error = detail or reason
        now = time.monotonic()
        if now - self._logged_s.get(reason, -np.inf) >= 5.0:
            self._logged_s[reason] = now
            self.get_logger().warning(f"{reason}: {detail}" if detail else reason)

    def jumped(self, stamp_ns: int, topic: str = "") -> None:
        """Note a stamp of a topic; when it jumps backwards everything is reset."""
        newest = self._newest_ns.get(topic, stamp_ns)
        back = stamp_ns < newest - JUMP_NS
        if back:
            self.get_logger().info("the clock jumped back: starting anew")
            self.rendezvous.jump(stamp_ns)
            self.reset()
        self._newest_ns[topic] = stamp_ns if back else max(newest, stamp_ns)

    def finished(self, started_ns: int, arrived_ns: int | None = None) -> None:
        """Note that one unit of work is done.

        Parameters
        ----------
        started_ns : int
            Monotonic time at which the work began.
        arrived_ns : int, optional
            ... and at which what it was done for arrived (when the job was submitted).
        """
        self._done += 1
        now = time.monotonic_ns()
        since = arrived_ns or self._submitted_ns or started_ns
        self.durations_ms.append((now - started_ns) / 1e6)
        self.latencies_ms.append((now - since) / 1e6)

    def _on_diagnostics(self, raw: bytes) -> None:
        if f"{PREFIX}{self._path}".encode() not in raw:
            self._unheard = 0

    @property
    def _path(self) -> str:
        return self.get_fully_qualified_name().lstrip("/")

    def _report(self) -> None:
        # Fast DDS, when several processes start anew at once, may take away the port that one of
        # them listens at; that one then hears nothing for ever, and only a new process does.
        others = self.get_publishers_info_by_topic("/diagnostics")
        others = [o for o in others if o.node_name in STAGES and self._path != _path_of(o)]
        self._unheard = self._unheard + 1 if others else 0
        if self._unheard > DEAF_REPORTS:
            raise Deaf(f"{self._path} hears none of the other stages")
        there = self.get_publishers_info_by_topic("/tf_static")
        self.rig.believe({bytes(publisher.endpoint_gid) for publisher in there})
        silent = self._silent_topics() if self.active else []
        rate, self._done_before = self._done - self._done_before, self._done
        status = DiagnosticStatus(name=f"{PREFIX}{self._path}", hardware_id="disguisor")
        if not self.active:
            status.level, status.message = DiagnosticStatus.WARN, "inactive"
        elif silent:
            status.level, status.message = DiagnosticStatus.WARN, silent[0]
        else:
            status.level, status.message = self.health(rate)
        values = {
            "connected": self.active
            and all(self.count_publishers(t) for t in self._heard if not _optional(t)),
            "listens_to": ",".join(self._heard),
            "rate_hz": rate,
            "done": self._done,
            "duration_ms_median": _median(self.durations_ms),
            "latency_ms_median": _median(self.latencies_ms),
            "queue": len(self.rendezvous),
            **self.figures,
            **{f"dropped: {reason}": n for reason, n in sorted(self.drops.items())},
            "last_problem": self._last_error,
        }
        status.values = [KeyValue(key=k, value=str(v)) for k, v in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _silent_topics(self) -> list[str]:
        out = []
        now = time.monotonic()
        if now - self._activated < SILENCE_S:
            return out
        for subscription in self._topics:
            topic = getattr(subscription, "topic_name", None)
            if hasattr(subscription, "publish") or topic not in self._heard or self._heard[topic]:
                continue
            offers = self.get_publishers_info_by_topic(topic)
            asked = subscription.qos_profile
            if not offers and _optional(topic):
                continue
            if not offers:
                line = f"{topic}: no data, nobody publishes it"
            else:
                checks = [qos_check_compatible(o.qos_profile, asked) for o in offers]
                reasons = [why for result, why in checks if result == QoSCompatibility.ERROR]
                line = f"{topic}: no data from {len(offers)} publisher(s)" + (
                    f"; quality of service does not match: {reasons[0]}" if reasons else ""
                )
            self.get_logger().warning(line, throttle_duration_sec=30.0)
            out.append(line)
        return out


def run_node(make: Callable[[], StageNode]) -> None:
    """Run a stage until it is told to stop; exits with 2 when it cannot work as configured."""
    leave_no_core()
    # Raw images are nobody's business outside this machine unless somebody says so.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        rclpy.init()
    except RuntimeError as error:  # a parameter file or an argument that ROS does not take
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(MISCONFIGURED)
    code, node = 0, None
    try:
        with avoiding_dead_ports():
            node = make()
        if node.autostart:
            code = _start(node)
        if code == 0:
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ValueError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        code = MISCONFIGURED
    except Deaf as error:
        print(f"error: {error}; it ends, to be started anew", file=sys.stderr)
        code = 1
    except Exception:
        if rclpy.ok():  # else it was stopped in the middle of something
            traceback.print_exc()
            code = 1
    # The middleware's shared memory outlives a process that does not give it back.
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Torch and Open3D tear down threads at exit in an order that can hang: leave at once.
    os._exit(code)


def _start(node: StageNode) -> int:
    success = TransitionCallbackReturn.SUCCESS
    if node.trigger_configure() != success:
        return MISCONFIGURED
    return 0 if node.trigger_activate() == success else 1


def _path_of(endpoint) -> str:
    return f"{endpoint.node_namespace}/{endpoint.node_name}".strip("/")


def _optional(topic: str) -> bool:
    """Whether a topic need not exist: a room without depth cameras is a room all the same."""
    return "/depth/" in topic


def _median(values) -> float:
    return round(float(np.median(values)), 2) if values else 0.0
