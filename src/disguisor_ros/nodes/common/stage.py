"""A stage of the graph: its cameras, and its jobs, which wait for their inputs by stamp."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from disguisor_msgs.msg import Keypoints2D
from disguisor_ros.bridge.calibration import WORLD_FRAME, CameraRig
from disguisor_ros.bridge.images import depth_array
from disguisor_ros.bridge.messages import read_keypoints, stamp_ns
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.synchronization import JUMP_NS, Rendezvous
from disguisor_ros.core.types import DepthView
from disguisor_ros.nodes.common.diagnostics import Diagnostics
from disguisor_ros.nodes.common.managed_node import ManagedNode
from disguisor_ros.nodes.common.qos import SENSOR, STATIC_TRANSFORMS

#: Stands in the rendezvous for a message that came but could not be read.
INVALID = object()
#: So long after two detectors contradicted each other neither is believed.
CONFLICT_NS = 10_000_000_000


class StageNode(ManagedNode):
    """A stage as a managed node: subclasses say what to load, what to listen to and what to do.

    Subclasses declare their parameters in ``__init__`` and override :meth:`load`, :meth:`connect`
    and :meth:`work` (see :class:`ManagedNode`), and :meth:`reset`.

    Attributes
    ----------
    cameras : list of str
    world_frame : str
    rig : CameraRig
        What :meth:`listen_calibration` has heard.
    rendezvous : Rendezvous
        Inputs by stamp, and the jobs that wait for them.
    figures : dict
        What diagnostics tell besides what all stages do.
    """

    def __init__(self, name: str):
        super().__init__(name)
        cameras = self.parameter("cameras", [""], "Names of the cameras.")
        self.cameras = [c for c in cameras if c]
        self.world_frame = self.parameter("world_frame", WORLD_FRAME, "Frame of all 3D results.")
        self.patience_ns = self.duration_ns(
            "patience", 1.0, "How long to wait for data that can be done without, s.", (0.0, 60.0)
        )
        self.rendezvous = Rendezvous(capacity=30, patience_ns=self.patience_ns)
        self.rig = CameraRig(self.world_frame)
        self.figures: dict[str, float | int | str] = {}
        self.diagnostics = Diagnostics(self)
        self._newest_ns: dict[str, int] = {}
        self._submitted_ns: int | None = None
        self._infos: dict[tuple, bytes] = {}
        self._conflicts_until_ns: dict[str, int] = {}
        self._depth: dict[str, tuple] = {}  # stamp and image of the last, and the one before

    def reset(self) -> None:
        """Forget what was learnt from earlier images: after an activation or a clock jump."""

    def health(self, rate: int) -> tuple[bytes, str]:
        """Level and one line about an active stage that hears its topics, for diagnostics."""
        return DiagnosticStatus.OK, f"active, {rate} per second"

    def on_activate(self, state):
        self.rendezvous.reset()
        self._conflicts_until_ns.clear()
        self.reset()
        return super().on_activate(state)

    # Calibration.

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
        self.rig.add_transforms(message, self.sender)

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

    def listen_color(self, camera: str, transport: str, callback: Callable) -> Subscription:
        """Subscribe to the colour images of a camera, ``raw`` or ``compressed``."""
        kind, topic = Image, f"/{camera}/color/image_raw"
        if transport == "compressed":
            kind, topic = CompressedImage, f"{topic}/compressed"
        return self.listen(kind, topic, callback, SENSOR)

    # Inputs that are kept by stamp.

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

    def stored(self, key, stamp: int):
        """What :meth:`listen_stored` kept; None when it is not there or could not be read."""
        datum = self.rendezvous.get(key, stamp)
        return None if datum is INVALID else datum

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
            self._conflicts_until_ns[camera] = now + CONFLICT_NS
        if now < self._conflicts_until_ns.get(camera, 0):
            raise ValueError("two detectors publish here and contradict each other; stop one")

    def listen_depth(self, cameras) -> None:
        """Subscribe to the depth images of cameras, for :meth:`depth_views`."""
        for camera in cameras:

            def read(message, camera=camera):
                image, unit_m = depth_array(message)
                self._check_fresh(camera, stamp_ns(message.header.stamp), image)
                return image, unit_m

            self.listen_stored(
                Image, f"/{camera}/depth/image_raw", (camera, "depth"), "depth", read
            )

    def _check_fresh(self, camera: str, stamp: int, image: np.ndarray) -> None:
        """Refuse depth that is the same to the last pixel as that of another stamp just before.

        A sensor measures nothing twice. One that hangs would have people stand where they no
        longer are: before the faces of others.
        """
        last_ns, last, before = self._depth.get(camera, (stamp, image, None))
        before = before if stamp == last_ns else last
        self._depth[camera] = stamp, image, before
        if np.array_equal(before, image, equal_nan=True):
            raise ValueError("the same image as before, with another stamp: the sensor hangs")

    def depth_views(
        self, depth_ns: dict[str, int], moves: dict[str, np.ndarray]
    ) -> dict[str, DepthView]:
        """Depth images with their cameras; those that are missing or do not fit are left out.

        Parameters
        ----------
        depth_ns : dict of str to int
            Camera -> stamp.
        moves : dict of str to ndarray, shape (4, 4)
            Cameras that are not where they were calibrated, see :class:`FrameSet`.
        """
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
            out[name] = DepthView(camera.moved(moves.get(name)), image, unit_m)
        return out

    # Jobs.

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

    def finished(self, started_ns: int, arrived_ns: int | None = None) -> None:
        """Note that one unit of work is done.

        Parameters
        ----------
        started_ns : int
            Monotonic time at which the work began.
        arrived_ns : int, optional
            ... and at which what it was done for arrived (when the job was submitted).
        """
        now = time.monotonic_ns()
        since = arrived_ns or self._submitted_ns or started_ns
        self.diagnostics.finished((now - started_ns) / 1e6, (now - since) / 1e6)

    def jumped(self, stamp_ns: int, topic: str = "") -> None:
        """Note a stamp of a topic; when it jumps backwards everything is reset."""
        newest = self._newest_ns.get(topic, stamp_ns)
        back = stamp_ns < newest - JUMP_NS
        if back:
            self.get_logger().info("the clock jumped back: starting anew")
            self.rendezvous.jump(stamp_ns)
            self.reset()
        self._newest_ns[topic] = stamp_ns if back else max(newest, stamp_ns)
