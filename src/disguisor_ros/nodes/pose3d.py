"""Node: 2D keypoints of all cameras to tracked people in 3D."""

from __future__ import annotations

import time

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from disguisor_msgs.msg import FrameSet, Persons3D
from disguisor_ros.bridge.diagnostics import DOUBT
from disguisor_ros.bridge.messages import read_frame_set, write_persons, write_transform
from disguisor_ros.core.agreement import QUARTERED, Agreement, doubt
from disguisor_ros.core.depth_watch import DepthWatch, misfit
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.self_calibration import SelfCalibration, turned
from disguisor_ros.nodes.common.process import run_node
from disguisor_ros.nodes.common.qos import RESULT, WORK
from disguisor_ros.nodes.common.stage import StageNode

#: After a gap this long, by stamps, people are watched anew before frames may leave.
GAP_NS = 2_000_000_000

#: A camera that gives nothing, or finds nobody where others find somebody, is waited for this long
#: before people are watched without it: it may be the only one that sees somebody.
ABSENT_NS = 10_000_000_000

#: A camera that gives nothing for longer does not watch meanwhile.
LOOK_NS = 500_000_000

#: So long after two synchronizers were heard nothing leaves: a graph with other cameras, too, may
#: open this one's renderers, and does not know of people whom only these cameras see.
ALONE_NS = 10_000_000_000


class Pose3DNode(StageNode):
    """Frame sets and keypoints in, people out."""

    def __init__(self):
        super().__init__("pose3d")
        self.use_depth = self.parameter(
            "use_depth", True, "Place people that one camera sees by its depth image."
        )
        self.warm_up_ns = self.duration_ns(
            "warm_up",
            1.0,
            "After a start, a clock jump or a gap: how long people are only watched, by all"
            " cameras, before frames may leave, s.",
            (0.0, 60.0),
        )
        predict_s = self.parameter(
            "predict", 3.0, "How long people who are no longer seen are covered, s.", (0.0, 10.0)
        )
        self.estimator = PoseEstimator(predict_s=predict_s, forget_s=max(3.0, predict_s))
        self._doubts: dict[str, str] = {}
        self._wrong: list[str] = []
        self._alone_from_ns = 0
        self._forget()

    def connect(self):
        # Not with each clock jump: of a recording in a loop too little would be seen to judge.
        self.agreement, self.depth_watch = Agreement(), DepthWatch()
        self.calibration = SelfCalibration()
        self.publisher = self.offer(Persons3D, "/disguisor/persons3d", RESULT)
        self.listen_calibration("color", *(["depth"] if self.use_depth else []))
        self.listen_keypoints(self.cameras)
        if self.use_depth:
            self.listen_depth(self.cameras)
        self.listen(FrameSet, "/disguisor/frame_set", self._on_frame_set, WORK)

    def reset(self):
        self.estimator.reset()
        self._forget()

    def _forget(self):
        self._taken_ns: dict[str, int] = {}
        self._began_ns = self._last_ns = None
        self._watched_ns: dict[str, int] = {}
        self._looked_ns: dict[str, int] = {}

    def health(self, rate):
        """A warning while cameras do not show what others show."""
        if problem := self.agreement.problem:
            return DiagnosticStatus.WARN, f"nothing goes out: {problem}"
        for topic, line in self._doubts.items():
            return DiagnosticStatus.WARN, f"{topic}: {line}"
        return super().health(rate)

    def _on_frame_set(self, message):
        frame_set = read_frame_set(message)
        self.jumped(frame_set.stamp_ns)
        # A synchronizer lists every image once, in the order of their stamps.
        if any(s <= self._taken_ns.get(c, s - 1) for c, s in frame_set.color_ns.items()):
            self._alone_from_ns = time.monotonic_ns() + ALONE_NS
        self._taken_ns |= frame_set.color_ns
        wants = [((c, "keypoints"), s) for c, s in frame_set.color_ns.items()]
        if self.use_depth:
            wants += [((c, "depth"), s) for c, s in frame_set.depth_ns.items()]
        self.submit((message, frame_set), wants)

    def work(self):
        for message, frame_set in self.ready():
            self._estimate(message, frame_set)

    def _estimate(self, message, frame_set):
        started = time.monotonic_ns()
        cameras = self.known_cameras(frame_set.color_ns)
        moves = self.calibration.moves(cameras)
        cameras = {c: camera.moved(moves.get(c)) for c, camera in cameras.items()}
        keypoints = {}
        for camera in cameras:
            found = self.stored((camera, "keypoints"), frame_set.color_ns[camera])
            if found is None:
                self.dropped(
                    "no keypoints", f"/{camera}/keypoints2d: nothing usable at this instant"
                )
            elif not cameras[camera].shows(found).all():
                self.dropped(
                    "no keypoints",
                    f"/{camera}/keypoints2d: somebody is out of the image: of another image?",
                )
            else:
                keypoints[camera] = found
        depth = self.depth_views(frame_set.depth_ns, moves) if self.use_depth else {}
        persons = self.estimator(
            keypoints,
            {c: cameras[c] for c in keypoints},
            frame_set.stamp_ns,
            {c: view for c, view in depth.items() if not self.depth_watch.wrong(c)},
        )
        self.figures["persons"] = len(persons)
        self._watch(keypoints, cameras, persons, frame_set.stamp_ns, depth)
        # Only these cameras were looked at: an image of any other may not leave.
        message.cameras = [
            c for c in message.cameras if c.camera in keypoints and c.camera not in self._wrong
        ]
        for entry in message.cameras:
            if entry.camera in moves:
                entry.move = write_transform(moves[entry.camera])
            if self.depth_watch.wrong(entry.camera):  # the stages after this go by these stamps
                entry.depth = Time()
        if time.monotonic_ns() < self._alone_from_ns:
            self.dropped(
                "not alone", "another graph runs on this ROS domain, or two synchronizers do"
            )
            return
        if problem := self.agreement.problem:
            self.dropped("no agreement", problem)
            return
        if unwatched := self._unwatched(frame_set.stamp_ns, keypoints):
            self.dropped("warming up", f"who is in the room is not known: {unwatched}")
            return
        self.publisher.publish(write_persons(persons, message))
        self.finished(started)

    def _watch(self, keypoints, cameras, persons, stamp_ns: int, depth) -> None:
        """Hold the cameras and their depth against each other."""
        self.calibration.look(persons, keypoints, cameras, stamp_ns)
        self.agreement.look(keypoints, cameras, persons, stamp_ns)
        self.depth_watch.look(keypoints, persons, depth)
        lines = {camera: turned(self.calibration.turn_deg(camera)) for camera in keypoints}
        shares = self.agreement.shares.items()
        lines |= {camera: line for camera, share in shares if (line := doubt(share))}
        quartered = [camera for camera in keypoints if self.agreement.quartered(camera)]
        lines |= dict.fromkeys(quartered, QUARTERED)
        for camera in filter(self.depth_watch.wrong, depth):
            lines[f"/{camera}/depth/image_raw"] = misfit(self.depth_watch.share(camera))
        self._doubts = {topic: line for topic, line in lines.items() if line}
        self._wrong = quartered + [c for c in keypoints if self.agreement.wrong(c)]
        self.figures["disagreement"] = self.agreement.problem
        for camera in self._wrong:
            self.dropped("no agreement", f"{camera}: nothing of it goes out: {lines[camera]}")
            self.figures["disagreement"] = f"{camera}: {lines[camera]}"
        self.figures = {k: v for k, v in self.figures.items() if not k.startswith(DOUBT)}
        self.figures |= {f"{DOUBT}{topic}": line for topic, line in self._doubts.items()}

    def _unwatched(self, stamp_ns: int, keypoints: dict) -> str:
        """Why somebody might be in the room who is not known yet; empty when nobody can be.

        Each camera must have watched for :attr:`warm_up_ns` since the start, or since stamps went
        back, with which the estimator starts anew: not looked once, and then given nothing. One
        that finds nobody where others do may be blind.
        """
        if self._began_ns is None or not 0 <= stamp_ns - self._last_ns <= GAP_NS:
            self._forget()
            self._began_ns = stamp_ns
        self._last_ns = stamp_ns
        for camera in [c for c, found in keypoints.items() if len(found)] or keypoints:
            self._watched_ns.setdefault(camera, stamp_ns)
            self._looked_ns[camera] = stamp_ns
        since_ns = stamp_ns - self._began_ns
        if since_ns < self.warm_up_ns:
            return "it has just begun"
        until_ns = {c: min(ns + LOOK_NS, stamp_ns) for c, ns in self._looked_ns.items()}
        late = [
            c for c in self.cameras
            if until_ns.get(c, 0) - self._watched_ns.get(c, 0) < self.warm_up_ns
        ]  # fmt: skip
        return f"{', '.join(late)} saw too little" if late and since_ns < ABSENT_NS else ""


def main():
    """Run the node."""
    run_node(Pose3DNode)


if __name__ == "__main__":
    main()
