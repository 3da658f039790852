"""Node: heads of bodies put on the surface that the depth cameras measured."""

from __future__ import annotations

import time
from collections import Counter

from visualization_msgs.msg import MarkerArray

from disguisor_msgs.msg import Bodies, Heads, MeshTopology
from disguisor_ros.bridge.markers import MeshMarkers
from disguisor_ros.bridge.messages import read_bodies, read_frame_set, write_heads, write_topology
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.registration import HeadRegistrar
from disguisor_ros.nodes.common.process import run_node
from disguisor_ros.nodes.common.qos import LATCHED, RESULT, WORK
from disguisor_ros.nodes.common.stage import StageNode


class HeadRegistrarNode(StageNode):
    """Bodies and depth in, heads out. Works without depth too."""

    def __init__(self):
        super().__init__("head_registrar")

    def load(self):
        self.template = HeadTemplate.load()
        self.registrar = HeadRegistrar(self.template)
        mesh = self.template.vertices, self.template.faces
        self.markers = MeshMarkers("heads", *mesh, count=500, opacity=0.9)

    def connect(self):
        self.publisher = self.offer(Heads, "/disguisor/heads", RESULT)
        self.marker_publisher = self.offer(MarkerArray, "/disguisor/markers", RESULT)
        self.topology = self.offer(MeshTopology, "/disguisor/head_topology", LATCHED)
        self.topology.publish(write_topology("head", self.template.vertices, self.template.faces))
        self.listen_calibration("depth")
        self.listen_depth(self.cameras)
        self.listen(Bodies, "/disguisor/bodies", self._on_bodies, WORK)

    def reset(self):
        self.registrar.reset()

    def _on_bodies(self, message):
        bodies = read_bodies(message)
        frame_set = read_frame_set(message.frame_set)
        self.jumped(frame_set.stamp_ns)
        wants = [((c, "depth"), s) for c, s in frame_set.depth_ns.items()]
        self.submit((message.frame_set, frame_set, bodies), wants)

    def work(self):
        for job in self.ready():
            self._register(*job)

    def _register(self, frame_set_message, frame_set, bodies):
        started = time.monotonic_ns()
        depth = self.depth_views(frame_set.depth_ns, frame_set.moves)
        heads = self.registrar(bodies, depth, frame_set.stamp_ns)
        message = write_heads(heads, frame_set_message)
        self.publisher.publish(message)
        if self.marker_publisher.get_subscription_count():
            meshes = {h.track_id: h.vertices for h in heads}
            self.marker_publisher.publish(self.markers.message(message.header, meshes))
        methods = Counter(head.method for head in heads)
        self.figures.update(
            {f"heads: {m}": methods[m] for m in ("registered", "keypoints", "body", "predicted")}
        )
        self.finished(started)


def main():
    """Run the node."""
    run_node(HeadRegistrarNode)


if __name__ == "__main__":
    main()
