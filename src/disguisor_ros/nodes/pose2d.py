"""Node: colour images of all cameras to 2D keypoints of the people in each."""

from __future__ import annotations

import time

import numpy as np

from disguisor_msgs.msg import Keypoints2D, Persons3D
from disguisor_ros.bridge.images import read_color, to_rgb
from disguisor_ros.bridge.messages import read_persons, stamp_ns, write_keypoints
from disguisor_ros.core.pose2d import MODEL_TYPES, load_detector, regions_of
from disguisor_ros.core.pose2d.instant_queue import InstantQueue
from disguisor_ros.nodes.common.process import run_node
from disguisor_ros.nodes.common.qos import RESULT
from disguisor_ros.nodes.common.stage import StageNode
from disguisor_ros.pose_models import default_face_model, default_model

#: People found longer ago than this are not looked for, by stamps.
KNOWN_NS = 1_000_000_000


class Pose2DNode(StageNode):
    """Images in, keypoints out; people known in 3D are looked for in every camera."""

    def __init__(self):
        super().__init__("pose2d")
        self.model_type = self.parameter(
            "model_type", "movenet", "Family of the network.", tuple(MODEL_TYPES)
        )
        self.model_path = self.parameter(
            "model_path", "", "ONNX file; empty: the one that `make pose-model` made (movenet)."
        )
        self.side = self.parameter(
            "side",
            0,
            "Longer side to which an image is scaled, pixels; 0: what suits the network.",
            (0, 4096),
        )
        self.tiles = self.parameter(
            "tiles", 1, "Also look at tiles x tiles parts of each image, for small people.", (1, 8)
        )
        self.detect_faces = self.parameter(
            "detect_faces", False, "Also cover faces that a face detector finds and no pose has."
        )
        self.threads = self.parameter("threads", 1, "Threads of the network on the CPU.", (0, 64))
        self.transport = self.parameter(
            "image_transport", "raw", "Which colour topics to read.", ("raw", "compressed")
        )
        slop_ns = self.duration_ns(
            "slop", 0.02, "Stamps of one instant differ by no more than this, s.", (0.0, 1.0)
        )
        self.queue = InstantQueue(capacity=4, slop_ns=slop_ns)
        self.image_inputs = {}
        self.known = np.zeros((0, 17, 3))
        self.known_ns = 0

    def load(self):
        if not self.cameras:
            raise ValueError("parameter cameras is empty; name the cameras, e.g. [cn01, cn02]")
        faces = default_face_model() if self.detect_faces else ""
        path = self.model_path or default_model()
        self.detector = load_detector(
            self.model_type, path, self.side, self.tiles, faces, self.threads
        )
        self.detector(np.zeros((480, 640, 3), np.uint8))  # the first inference is slow

    def connect(self):
        self.outputs = {
            c: self.offer(Keypoints2D, f"/{c}/keypoints2d", RESULT) for c in self.cameras
        }
        self.listen_calibration("color")
        self.listen(Persons3D, "/disguisor/persons3d", self._on_persons, RESULT)
        for camera in self.cameras:
            self.image_inputs[camera] = self.listen_color(
                camera, self.transport, lambda m, c=camera: self._on_image(c, m)
            )

    def reset(self):
        self.queue.reset()
        self.known = np.zeros((0, 17, 3))

    def _on_persons(self, message):
        persons = read_persons(message)
        self.known = np.array([p.joints for p in persons]).reshape(-1, 17, 3)
        self.known_ns = stamp_ns(message.header.stamp)

    def _on_image(self, camera, message):
        stamp = stamp_ns(message.header.stamp)
        self.jumped(stamp, camera)
        lost = self.queue.put(camera, stamp, message)
        if lost:
            self.dropped("overrun", "images come faster than they are processed", lost)

    def work(self):
        self._drain()
        entry = self.queue.pop()
        if entry:
            self._process(*entry)

    def _drain(self):
        # While an image was processed others came: which to drop is decided here, where the
        # instants of all cameras are known, and not by the middleware for each camera alone.
        for camera, subscription in self.image_inputs.items():
            with subscription.handle:
                while taken := subscription.handle.take_message(subscription.msg_type, False):
                    self._on_image(camera, taken[0])

    def _process(self, camera, stamp, message):
        started = time.monotonic_ns()
        rgb = np.ascontiguousarray(to_rgb(*read_color(message)))
        poses = self.detector(rgb, self._regions(camera, stamp, rgb.shape))
        self.outputs[camera].publish(write_keypoints(message.header, poses))
        self.figures[f"persons: {camera}"] = len(poses)
        self.finished(started)

    def _regions(self, camera, stamp, shape):
        if not len(self.known) or abs(stamp - self.known_ns) > KNOWN_NS:
            return None
        model = self.known_cameras([camera]).get(camera)
        if model is None or (model.height, model.width) != shape[:2]:
            return None
        pixels, _ = model.project(self.known)
        return regions_of(pixels, model.width, model.height)


def main():
    """Run the node."""
    run_node(Pose2DNode)


if __name__ == "__main__":
    main()
