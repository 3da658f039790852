"""Node: the faces in one camera's images replaced. The only node that publishes images.

A frame leaves only when it was processed against heads of its own instant; every other one is
withheld, or replaced by a blank one (``on_failure``). Each frame that comes in is accounted for:
``frames_in = frames_out + frames_withheld + frames_waiting``.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from disguisor_msgs.msg import FaceRegions, Heads
from disguisor_ros.bridge.images import fill_image, read_color, to_rgb
from disguisor_ros.bridge.messages import (
    flat,
    read_frame_set,
    read_heads,
    stamp_ns,
    write_regions,
)
from disguisor_ros.core.anonymize import MASKS, MODES, AnonymizedImage, FaceRenderer, blank
from disguisor_ros.core.calibration_watch import suspicion
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.nodes.common.process import run_node
from disguisor_ros.nodes.common.qos import RESULT, WORK
from disguisor_ros.nodes.common.stage import StageNode


class ImageOutlet:
    """The one place where an image is published: it takes what was anonymized and nothing else."""

    def __init__(self, node: StageNode, camera: str, compressed: str):
        self.images = node.offer(Image, f"/{camera}/anonymized/image_raw", RESULT)
        self.compressed = compressed and node.offer(
            CompressedImage, f"/{camera}/anonymized/image_raw/compressed", RESULT
        )
        self._format = compressed

    def publish(self, header, encoding: str, anonymized: AnonymizedImage) -> None:
        """Publish an image under the header of its original."""
        if type(anonymized) is not AnonymizedImage:
            raise TypeError("only an AnonymizedImage may be published")
        message, packed = Image(header=header), None
        fill_image(message, anonymized.image, encoding)
        if self.compressed and self.compressed.get_subscription_count():
            packed = self._packed(header, encoding, anonymized)
        self.images.publish(message)
        if packed is not None:
            self.compressed.publish(packed)

    def _packed(self, header, encoding: str, anonymized: AnonymizedImage) -> CompressedImage:
        bgr = np.ascontiguousarray(to_rgb(anonymized.image, encoding)[..., ::-1])
        _, data = cv2.imencode(f".{self._format}", bgr)
        return CompressedImage(
            header=header,
            format=f"{encoding}; {self._format} compressed bgr8",
            data=flat(data, "B"),
        )


class FaceRendererNode(StageNode):
    """Colour, depth and keypoints of one camera and the heads of all in; anonymized images out."""

    def __init__(self):
        super().__init__("face_renderer")
        self.camera = self.parameter("camera", "", "Name of the camera.")
        self.mode = self.parameter("mode", "mesh", "How a replaced face looks.", MODES)
        self.mask = self.parameter(
            "mask",
            "auto",
            "Whether the drawn face wears a surgical mask; auto: as the person does.",
            MASKS,
        )
        self.backend = self.parameter(
            "backend", "open3d", "What draws the heads.", ("open3d", "pytorch3d", "auto")
        )
        self.transport = self.parameter(
            "image_transport", "raw", "Which colour topic to read.", ("raw", "compressed")
        )
        self.compressed = self.parameter(
            "compressed_output", "", "Also publish compressed images.", ("", "jpg", "png")
        )
        self.on_failure = self.parameter(
            "on_failure",
            "drop",
            "What becomes of a frame that cannot be processed.",
            ("drop", "blank"),
        )
        self.max_latency_ns = self.duration_ns(
            "max_latency", 2.0, "A frame older than this is withheld, s.", (0.05, 600.0)
        )
        self.waiting: OrderedDict[int, tuple] = OrderedDict()
        self.frames = Counter()
        self.withheld = Counter()
        self.heads, self._heads_at = 0, 0.0

    def load(self):
        if not self.camera:
            raise ValueError("parameter camera is empty; name the camera, e.g. cn01")
        self.renderer = FaceRenderer(HeadTemplate.load(), self.mode, self.backend, self.mask)

    def connect(self):
        camera = self.camera
        self.outlet = ImageOutlet(self, camera, self.compressed)
        self.info_publisher = self.offer(CameraInfo, f"/{camera}/anonymized/camera_info", RESULT)
        self.region_publisher = self.offer(FaceRegions, f"/{camera}/anonymized/regions", RESULT)
        self.listen_calibration("color", "depth", cameras=[camera])
        self.listen_color(camera, self.transport, self._on_color)
        self.listen_depth([camera])
        self.listen_keypoints([camera])
        self.listen(Heads, "/disguisor/heads", self._on_heads, WORK)

    def reset(self):
        self.renderer.reset()
        for stamp in list(self.waiting):
            self._withhold(stamp, "clock jump or restart")

    def _on_color(self, message):
        stamp = stamp_ns(message.header.stamp)
        self.frames["in"] += 1
        self.jumped(stamp)
        if stamp in self.waiting:
            self._withhold(stamp, "duplicate")
        self.waiting[stamp] = (message, time.monotonic_ns())
        self.rendezvous.put((self.camera, "color"), stamp, True)
        while len(self.waiting) > self.rendezvous.capacity:
            self._withhold(next(iter(self.waiting)), "overrun")

    def _on_heads(self, message):
        stamps = read_frame_set(message.frame_set)
        color = stamps.color_ns.get(self.camera)
        if color is None:
            return
        depth, move = stamps.depth_ns.get(self.camera), stamps.moves.get(self.camera)
        wants = [((self.camera, kind), color) for kind in ("color", "keypoints")]
        wants += [((self.camera, "depth"), depth)] if depth else []
        self.submit((color, depth, move, read_heads(message)), wants)

    def work(self):
        for job in self.ready():
            self._expire()
            self._process(*job)
        self._expire()
        self.figures.update(
            {
                "heads": self.heads,
                "last_heads_s": self._heads_age_s(),
                "calibration_off_cm": round(100 * self.renderer.calibration.off_m, 1),
                "frames_in": self.frames["in"],
                "frames_out": self.frames["out"],
                "frames_blank": self.frames["blank"],
                "frames_withheld": sum(self.withheld.values()),
                "frames_waiting": len(self.waiting),
                **{f"withheld: {reason}": n for reason, n in sorted(self.withheld.items())},
            }
        )

    def health(self, rate):
        """How many frames came, went and stayed; a warning while no frame can go out."""
        age = self._heads_age_s()
        line = (
            f"{self.frames['in']} in, {self.frames['out']} out,"
            f" {sum(self.withheld.values())} withheld, {len(self.waiting)} waiting;"
            f" {rate} per second, last heads {age} s ago"
        )
        fresh = age >= 0 and age * 1e9 <= max(self.max_latency_ns, 2_000_000_000)
        suspect = suspicion(self.renderer.calibration.off_m)
        level = DiagnosticStatus.OK if fresh and not suspect else DiagnosticStatus.WARN
        return level, f"{line}; {suspect}" if suspect else line

    def _heads_age_s(self) -> float:
        """Time since a frame was last processed against heads; -1 when none ever was."""
        return round(time.monotonic() - self._heads_at, 1) if self._heads_at else -1

    def _expire(self):
        now = time.monotonic_ns()
        while self.waiting:
            stamp, (_, arrived) = next(iter(self.waiting.items()))
            if now - arrived <= self.max_latency_ns:
                return
            self._withhold(stamp, "no heads in time")

    def _process(self, color: int, depth: int | None, move: np.ndarray | None, heads):
        started = time.monotonic_ns()
        # Heads come in the order of their stamps: what is older has been left out.
        for older in [stamp for stamp in self.waiting if stamp < color]:
            seen = self.stored((self.camera, "keypoints"), older) is not None
            self._withhold(older, "skipped" if seen else "no keypoints")
        if color not in self.waiting:
            return
        message, arrived = self.waiting[color]
        keypoints = self.stored((self.camera, "keypoints"), color)
        if keypoints is None:
            self._withhold(color, "no keypoints")
            return
        try:
            camera = self.rig.camera((self.camera, "color")).moved(move)
        except ValueError as error:
            self._withhold(color, "no calibration")
            self.dropped("no calibration", str(error))
            return
        try:
            self.rig.check_frame((self.camera, "color"), message.header.frame_id)
            image, encoding = self._decode(message)
            stamps = {self.camera: depth} if depth else {}
            view = self.depth_views(stamps, {self.camera: move}).get(self.camera)
            anonymized = self.renderer(
                image,
                camera,
                heads,
                keypoints,
                view,
                stamp_ns=color,
                encoding=encoding,
            )
            self.outlet.publish(message.header, encoding, anonymized)
        except ValueError as error:
            self._withhold(color, "malformed")
            self.dropped("malformed", str(error))
            return
        except Exception:
            self._withhold(color, "internal error")
            raise
        del self.waiting[color]
        self.frames["out"] += 1
        self.heads, self._heads_at = len(heads), time.monotonic()
        methods = Counter(region.method for region in anonymized.regions)
        self.figures.update({f"covered: {m}": methods[m] for m in ("mesh", "keypoints", "held")})
        self.finished(started, arrived)
        self._describe(message.header, anonymized)

    def _decode(self, message):
        image, encoding = read_color(message)
        return (to_rgb(image, encoding), "rgb8") if encoding == "mono8" else (image, encoding)

    def _describe(self, header, anonymized):
        """What goes beside an image: its regions and its calibration."""
        self.region_publisher.publish(write_regions(header, anonymized.regions))
        info = self.rig.info((self.camera, "color"))
        if info is not None:
            info.header.stamp = header.stamp
            self.info_publisher.publish(info)

    def _withhold(self, stamp: int, reason: str):
        """Take a frame out of the queue; nothing of its pixels is published."""
        message, _ = self.waiting.pop(stamp)
        self.withheld[reason] += 1
        self.dropped(f"withheld, {reason}")
        if self.on_failure == "blank" and self.active:
            try:
                image, encoding = self._decode(message)
            except ValueError:
                return
            nothing = blank(image.shape)
            self.outlet.publish(message.header, encoding, nothing)
            self.frames["blank"] += 1
            self._describe(message.header, nothing)


def main():
    """Run the node."""
    run_node(FaceRendererNode)


if __name__ == "__main__":
    main()
