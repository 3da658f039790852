"""Node: people in 3D to parametric bodies."""

from __future__ import annotations

import time

from visualization_msgs.msg import MarkerArray

from disguisor_msgs.msg import Bodies, MeshTopology, Persons3D
from disguisor_ros.bridge.markers import MeshMarkers
from disguisor_ros.bridge.messages import (
    read_frame_set,
    read_persons,
    write_bodies,
    write_topology,
)
from disguisor_ros.core.body_models import load_anny, load_smplx
from disguisor_ros.core.fitting import BodyFitter
from disguisor_ros.nodes.common.process import run_node
from disguisor_ros.nodes.common.qos import LATCHED, RESULT, WORK
from disguisor_ros.nodes.common.stage import StageNode


class SmplFitterNode(StageNode):
    """People in, bodies out."""

    def __init__(self):
        super().__init__("smpl_fitter")
        self.model_path = self.parameter(
            "model_path",
            "",
            "SMPL, SMPL-H or SMPL-X file of your own; empty for Anny, which needs none.",
        )

    def load(self):
        self.model = load_smplx(self.model_path) if self.model_path else load_anny()
        self.fitter = BodyFitter(self.model)
        mesh = self.model.vertices, self.model.faces
        self.markers = MeshMarkers("bodies", *mesh, count=1000, opacity=0.5)

    def connect(self):
        self.publisher = self.offer(Bodies, "/disguisor/bodies", RESULT)
        self.marker_publisher = self.offer(MarkerArray, "/disguisor/markers", RESULT)
        self.topology = self.offer(MeshTopology, "/disguisor/body_topology", LATCHED)
        self.topology.publish(write_topology("body", self.model.vertices, self.model.faces))
        self.listen_calibration("color")
        self.listen_keypoints(self.cameras)
        self.listen(Persons3D, "/disguisor/persons3d", self._on_persons, WORK)

    def reset(self):
        self.fitter.reset()

    def _on_persons(self, message):
        persons = read_persons(message)
        frame_set = read_frame_set(message.frame_set)
        self.jumped(frame_set.stamp_ns)
        wants = [((c, "keypoints"), s) for c, s in frame_set.color_ns.items()]
        self.submit((message.frame_set, frame_set, persons), wants)

    def work(self):
        for job in self.ready():
            self._fit(*job)

    def _fit(self, frame_set_message, frame_set, persons):
        started = time.monotonic_ns()
        cameras = self.known_cameras(frame_set.color_ns)
        cameras = {c: camera.moved(frame_set.moves.get(c)) for c, camera in cameras.items()}
        keypoints = {c: self.stored((c, "keypoints"), frame_set.color_ns[c]) for c in cameras}
        named = {c: max((p.detections.get(c, -1) for p in persons), default=-1) for c in cameras}
        keypoints = {c: k for c, k in keypoints.items() if k is not None and named[c] < len(k)}
        bodies = self.fitter(persons, keypoints, cameras, frame_set.stamp_ns)
        message = write_bodies(bodies, frame_set_message)
        self.publisher.publish(message)
        if self.marker_publisher.get_subscription_count():
            meshes = {b.track_id: b.vertices for b in bodies}
            self.marker_publisher.publish(self.markers.message(message.header, meshes))
        self.figures["bodies"] = len(bodies)
        self.finished(started)


def main():
    """Run the node."""
    run_node(SmplFitterNode)


if __name__ == "__main__":
    main()
