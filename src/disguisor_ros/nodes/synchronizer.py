"""Node: which images of which cameras show the same instant.

Listens to the small topics that carry the images' stamps, never to the images themselves.
"""

from __future__ import annotations

import time

from sensor_msgs.msg import CameraInfo

from disguisor_msgs.msg import FaceRegions, Keypoints2D, Skeleton
from disguisor_msgs.msg import FrameSet as FrameSetMessage
from disguisor_ros.bridge.bags import header_of
from disguisor_ros.bridge.messages import write_frame_set
from disguisor_ros.core.synchronization import FrameSynchronizer
from disguisor_ros.core.types import COCO17, COCO17_EDGES
from disguisor_ros.nodes.common.process import run_node
from disguisor_ros.nodes.common.qos import LATCHED, RESULT, SENSOR
from disguisor_ros.nodes.common.stage import StageNode


class SynchronizerNode(StageNode):
    """Stamps in, frame sets out; publishes the skeleton once."""

    def __init__(self):
        super().__init__("synchronizer")
        slop_ns = self.duration_ns(
            "slop", 0.02, "Stamps of one instant differ by no more than this, s.", (0.0, 1.0)
        )
        max_wait_ns = self.duration_ns(
            "max_wait", 0.5, "How long a late camera is waited for, s.", (0.0, 60.0)
        )
        in_flight = self.parameter(
            "in_flight",
            2,
            "Instants under way at once; while cameras are faster, instants are left out.",
            (1, 100),
        )
        self.synchronizer = FrameSynchronizer(
            self.cameras, slop_ns, max_wait_ns, in_flight, self.patience_ns
        )

    def load(self):
        if not self.cameras:
            raise ValueError("parameter cameras is empty; name the cameras, e.g. [cn01, cn02]")

    def connect(self):
        self.sets = self.offer(FrameSetMessage, "/disguisor/frame_set", RESULT)
        self.skeleton = self.offer(Skeleton, "/disguisor/skeleton", LATCHED)
        edges = [index for edge in COCO17_EDGES for index in edge]
        self.skeleton.publish(Skeleton(name="coco17", joints=list(COCO17), edges=edges))
        for camera in self.cameras:
            for kind, message, topic in (
                ("color", CameraInfo, f"/{camera}/color/camera_info"),
                ("depth", CameraInfo, f"/{camera}/depth/camera_info"),
                ("keypoints", Keypoints2D, f"/{camera}/keypoints2d"),
            ):
                # Raw: the header is all that is needed.
                self.listen(
                    message,
                    topic,
                    lambda raw, c=camera, k=kind: self._on_stamp(c, k, raw),
                    SENSOR,
                    raw=True,
                )

            # What a renderer has done tells when there is room for another instant.
            self.listen(
                FaceRegions,
                f"/{camera}/anonymized/regions",
                lambda raw, c=camera: self.synchronizer.finished(c, header_of(raw)[0]),
                RESULT,
                raw=True,
            )

    def reset(self):
        self.synchronizer.reset()

    def _on_stamp(self, camera: str, kind: str, raw: bytes):
        self.synchronizer.add(camera, kind, header_of(raw)[0], time.monotonic_ns())

    def work(self):
        for frame_set in self.synchronizer.pop(time.monotonic_ns()):
            started = time.monotonic_ns()
            self.sets.publish(write_frame_set(frame_set, self.world_frame))
            self.finished(started)
        self.figures["late_frames"] = self.synchronizer.late
        self.figures["ahead_frames"] = self.synchronizer.ahead
        self.figures["skipped_instants"] = self.synchronizer.skipped


def main():
    """Run the node."""
    run_node(SynchronizerNode)


if __name__ == "__main__":
    main()
