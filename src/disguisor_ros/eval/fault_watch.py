"""The outside of the graph under test: its inputs are published and its outputs held to truth."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from disguisor_ros.bridge.diagnostics import stage_values
from disguisor_ros.bridge.images import read_color, to_rgb
from disguisor_ros.bridge.messages import stamp_ns
from disguisor_ros.eval.fault_record import FaultRecord, recorded
from disguisor_ros.eval.fault_tape import KINDS, Tape
from disguisor_ros.eval.scores import COVERED, MIN_PIXELS, MIN_VISIBILITY, replaced_pixels
from disguisor_ros.run.recording import Recording

#: A face of which a smaller share of the visible pixels was replaced has leaked.
LEAKED = 0.5
#: A frame that has not come out after this long is not under way any more, seconds.
GIVEN_UP_S = 3.0
#: Faults that began this long before a leak are named with it, seconds.
MEMORY_S = 8.0


class Watch:
    """Publishes to the graph; checks, counts and times what it publishes."""

    def __init__(self, recording: Recording, tape: Tape):
        self.tape, self.cameras = tape, recording.cameras
        self.record = FaultRecord(recorded(self.cameras))
        self.connected: set[str] = set()
        self.images = 0
        self._lock = threading.Lock()
        self._notes: deque = deque(maxlen=20)
        self._recoveries: list[dict] = []
        self._sent_at: dict[tuple[str, int], float] = {}
        self._under_way: dict[tuple[str, int], float] = {}
        self._ledgers: dict[str, dict[str, int]] = {}
        self._lost_lives = Counter()
        self._transforms = recording.transforms
        self.driver_restarts = 0
        self._forget()
        self._connect()

    def _connect(self) -> None:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("disguisor_faults")
        queue = QoSProfile(depth=30)
        self._publishers = {
            f"/{c}/{kind}": self.node.create_publisher(message, f"/{c}/{kind}", queue)
            for c in self.cameras
            for kind, message in KINDS.items()
        }
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = self.node.create_publisher(TFMessage, "/tf_static", latched)
        self.publish_transforms()
        for camera in self.cameras:
            self.node.create_subscription(
                Image,
                f"/{camera}/anonymized/image_raw",
                lambda message, c=camera: self._on_image(c, message),
                QoSProfile(depth=50),
            )
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=50)
        )
        for topic, message in self.record.types.items():
            if topic not in self._publishers:  # what is sent need not be heard
                self.node.create_subscription(
                    message, topic, lambda raw, t=topic: self._on_said(t, raw), queue, raw=True
                )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join(5.0)
        rclpy.try_shutdown()

    def restart_drivers(self) -> None:
        """Start the publishers of the input anew.

        A reader that is killed while it copies a message from the publisher's shared memory never
        gives that part back: after some dozen kills no image fits in (Fast DDS 3.2).
        """
        self.close()
        self._connect()
        self.driver_restarts += 1

    def _forget(self) -> None:
        self.frames_in = self.frames_out = self.blank = self.unknown = 0
        self.face_views = self.ledger_errors = 0
        self.leaks: list[dict] = []
        self.thin: list[dict] = []
        self.recovered: list[tuple[str, str, float]] = []

    # Into the graph.

    def publish(self, topic: str, raw: bytes) -> None:
        """Publish an input message, given as CDR bytes."""
        if topic.endswith("/color/image_raw"):
            ns = int.from_bytes(raw[4:8], "little") * 10**9 + int.from_bytes(raw[8:12], "little")
            with self._lock:
                self.frames_in += 1
                frame = topic.split("/")[1], ns
                self._sent_at[frame] = self._under_way[frame] = time.monotonic()
                while len(self._sent_at) > 2000:
                    del self._sent_at[next(iter(self._sent_at))]
        self._on_said(topic, raw)
        self._publishers[topic].publish(raw)

    def under_way(self) -> int:
        """How many frames went in lately and have not come out."""
        since = time.monotonic() - GIVEN_UP_S
        with self._lock:
            self._under_way = {f: at for f, at in self._under_way.items() if at > since}
            return len(self._under_way)

    def publish_transforms(self, camera: str = "", shift_m: float = 0.0, rng=None) -> None:
        """Publish the static transforms, those of one camera moved and turned at random."""
        out = TFMessage()
        for raw in self._transforms:
            out.transforms += deserialize_message(raw, TFMessage).transforms
        for stamped in out.transforms:
            if camera and stamped.child_frame_id.startswith(camera):
                t, q = stamped.transform.translation, stamped.transform.rotation
                t.x, t.y, t.z = (v + rng.uniform(-shift_m, shift_m) for v in (t.x, t.y, t.z))
                turn = Rotation.from_rotvec([rng.uniform(-0.3, 0.3) for _ in range(3)])
                turned = Rotation.from_quat([q.x, q.y, q.z, q.w]) * turn
                q.x, q.y, q.z, q.w = map(float, turned.as_quat())
        self._static.publish(out)

    def slow_subscriber(self, camera: str):
        """Subscribe to a camera's output and sleep over it; returns how to end that."""
        node = rclpy.create_node(f"slow_subscriber_{time.monotonic_ns()}")
        node.create_subscription(
            Image,
            f"/{camera}/anonymized/image_raw",
            lambda _: time.sleep(0.7),
            QoSProfile(depth=1),
        )
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()

        def end():
            executor.shutdown()
            thread.join(5.0)
            if node.context.ok():  # the drivers may have been started anew meanwhile
                node.destroy_node()

        return end

    # Notes of the campaign.

    def note(self, fault: str) -> None:
        """Remember a fault, to be named with leaks."""
        with self._lock:
            self._notes.append((time.monotonic(), fault))

    def recover(self, fault: str, cameras: list[str], done=None, stage: str = "") -> None:
        """Time how long it takes until all these cameras give an image that was sent from now.

        A stage that was killed is named, to be told apart in the result.
        """
        with self._lock:
            self._recoveries.append({
                "fault": fault, "stage": stage, "left": set(cameras), "done": done,
                "since": time.monotonic(),
            })  # fmt: skip

    def recovering(self) -> bool:
        """Whether some fault has not been recovered from."""
        with self._lock:
            return bool(self._recoveries)

    @property
    def below(self) -> int:
        """How many face views were replaced to less than :data:`COVERED`."""
        return len(self.leaks) + len(self.thin)

    def begin_faults(self) -> dict:
        """Start counting anew; returns what was counted without faults."""
        with self._lock:
            control = {
                "face_views": self.face_views,
                "leaked_face_views": len(self.leaks),
                "face_views_below_95": self.below,
                "frames_in": self.frames_in,
                "frames_out": self.frames_out,
            }
            self._forget()
            self._base = self._withheld()
        return control

    # Out of the graph.

    def _on_said(self, topic: str, raw: bytes) -> None:
        with self._lock:
            self.record.add(topic, raw)

    def _on_image(self, camera: str, message: Image) -> None:
        now = time.monotonic()
        stamp = stamp_ns(message.header.stamp)
        image = to_rgb(*read_color(message))
        view = self.tape.view(camera, stamp)
        with self._lock:
            self.images += 1
            self.frames_out += 1
            sent = self._sent_at.get((camera, stamp), 0.0)
            self._under_way.pop((camera, stamp), None)
            self._recovered(camera, sent, now)
            if view is None:
                self.unknown += 1
            elif image.shape != view.image.shape:
                self.leaks.append({"camera": camera, "stamp_ns": stamp, "coverage": None})
            elif (image == 128).all():
                self.blank += 1
            else:
                self._check(camera, stamp, image, view, now)

    def _check(self, camera: str, stamp: int, image: np.ndarray, view, now: float) -> None:
        replaced = replaced_pixels((image != view.image).any(axis=2))
        for face in view.faces:
            mine = view.labels == face["person"]
            if face["visibility"] < MIN_VISIBILITY or np.count_nonzero(mine) < MIN_PIXELS:
                continue
            coverage = float(replaced[mine].mean())
            self.face_views += 1
            if coverage >= COVERED:
                continue
            self.record.keep()
            (self.leaks if coverage < LEAKED else self.thin).append(
                {
                    "camera": camera,
                    "stamp_ns": stamp,
                    "index": self.tape.index(self.tape.instant_of(stamp)),
                    "person": face["person"],
                    "pixels": int(np.count_nonzero(mine)),
                    "yaw_deg": face["yaw_deg"],
                    "coverage": round(coverage, 3),
                    "faults": [
                        f"{fault} {now - at:.1f} s ago"
                        for at, fault in self._notes
                        if now - at < MEMORY_S
                    ],
                }
            )

    def _recovered(self, camera: str, sent: float, now: float) -> None:
        for one in list(self._recoveries):
            if sent >= one["since"]:
                one["left"].discard(camera)
            if not one["left"]:
                self._recoveries.remove(one)
                self.recovered.append((one["fault"], one["stage"], now - one["since"]))
                if one["done"]:
                    one["done"]()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._lock:
            for name, values in stage_values(message).items():
                if values.get("connected") == "True":
                    self.connected.add(name)
                if "frames_in" in values:
                    self._on_ledger(name, values)

    def _on_ledger(self, name: str, values: dict[str, str]) -> None:
        count = {k: int(v) for k, v in values.items() if k.startswith(("frames_", "withheld: "))}
        out = count["frames_out"] + count["frames_withheld"] + count["frames_waiting"]
        self.ledger_errors += count["frames_in"] != out
        before = self._ledgers.get(name, {})
        if count["frames_in"] < before.get("frames_in", 0):  # another life of this stage
            self._lost_lives.update(_reasons(before))
        self._ledgers[name] = count

    def _withheld(self) -> Counter:
        out = Counter(self._lost_lives)
        for count in self._ledgers.values():
            out.update(_reasons(count))
        return out

    # Results.

    def line(self) -> str:
        """How it stands, in a few words."""
        return f"{self.frames_out} images out, {len(self.leaks)} face views leaked"

    def result(self) -> dict:
        """Everything that was counted, for the JSON."""
        with self._lock:
            reasons = self._withheld() - self._base
            missing = self.frames_in - self.frames_out - sum(reasons.values())
            # Ledgers come once a second: what was withheld just before all was counted anew is in
            # these, and then none is missing.
            reasons["never reached a renderer, or was with one that was killed"] = max(missing, 0)
            by_fault: dict[str, list[float]] = {}
            by_stage: dict[str, list[float]] = {}
            for fault, stage, seconds in self.recovered:
                by_fault.setdefault(fault, []).append(seconds)
                if stage:
                    by_stage.setdefault(stage, []).append(seconds)
            return {
                "leaked_face_views": len(self.leaks),
                "leaks": self.leaks[:100],
                "thinly_covered": self.thin[:100],
                "face_views": self.face_views,
                "face_views_below_95": self.below,
                "recover_s_median": _median([s for *_, s in self.recovered]),
                "recover_s_median_by_fault": {f: _median(s) for f, s in sorted(by_fault.items())},
                "recover_s_median_by_stage": {n: _median(s) for n, s in sorted(by_stage.items())},
                "not_recovered": [one["fault"] for one in self._recoveries],
                "frames_in": self.frames_in,
                "frames_out": self.frames_out,
                "frames_withheld": self.frames_in - self.frames_out,
                "withheld": dict(reasons),
                "frames_blank": self.blank,
                "frames_of_unknown_stamp": self.unknown,
                "ledger_errors": self.ledger_errors,
                "driver_restarts": self.driver_restarts,
            }


def _reasons(count: dict[str, int]) -> dict[str, int]:
    return {k.removeprefix("withheld: "): n for k, n in count.items() if k.startswith("withheld")}


def _median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 2) if values else None
