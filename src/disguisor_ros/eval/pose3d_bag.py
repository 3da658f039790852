"""pose3d on a simulated bag: who is found, how well, who is exchanged, and who is made up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rclpy.serialization import deserialize_message
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from disguisor_msgs.msg import Keypoints2D
from disguisor_ros.bridge.bags import header_of, open_bag, raw_messages
from disguisor_ros.bridge.calibration import CameraRig
from disguisor_ros.bridge.images import depth_array
from disguisor_ros.bridge.messages import read_keypoints
from disguisor_ros.core.assignment import assign
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.tracking import body_distance
from disguisor_ros.core.types import DepthView, Person3D
from disguisor_ros.eval.detected_views import detected_views
from disguisor_ros.eval.summary import mean_or_none
from disguisor_ros.figures import rounded
from disguisor_ros.run.recording import inspect
from disguisor_ros.sim.truth import load_truth, truth_folder

#: A person is found when head and trunk are off by less on average, metres.
_FOUND_M = 0.5

#: A view shows a joint for certain from this score on.
_SEEN_SCORE = 0.5

_KINDS = {
    "color/camera_info": CameraInfo,
    "depth/camera_info": CameraInfo,
    "depth/image_raw": Image,
    "keypoints2d": Keypoints2D,
}


class Instant:
    """What pose3d hears of one instant, and the truth of it.

    Attributes
    ----------
    stamp_ns : int
    keypoints : dict of str to ndarray, shape (P, 17, 3)
    cameras : dict of str to Camera
    depth : dict of str to DepthView
    persons : dict of int to ndarray, shape (17, 3), metres, world
    """

    def __init__(self, frame: dict):
        self.stamp_ns = int(frame["stamp_ns"])
        self.persons = {p["id"]: np.array(p["joints"], dtype=float) for p in frame["persons"]}
        self.keypoints: dict[str, np.ndarray] = {}
        self.cameras: dict[str, Camera] = {}
        self.depth: dict[str, DepthView] = {}


def instants(bag: Path) -> Iterator[Instant]:
    """Go through a simulated bag, instant by instant."""
    recording, truth = inspect(bag), load_truth(truth_folder(bag))
    rig = CameraRig()
    for raw in recording.transforms:
        rig.add_transforms(deserialize_message(raw, TFMessage))
    out = [Instant(frame) for frame in truth.frames]
    period_ns = round(1e9 / truth.data["fps"])
    waiting: dict[int, list] = defaultdict(list)
    last = 0
    with open_bag(bag) as reader:
        kinds = {c.topic: c.topic.split("/", 2)[1:] for c in reader.connections}
        wanted = [c for c in reader.connections if kinds[c.topic][-1] in _KINDS]
        for connection, _, raw in raw_messages(reader, wanted):
            camera, kind = kinds[connection.topic]
            message = deserialize_message(raw, _KINDS[kind])
            if kind.endswith("camera_info"):
                rig.add_info((camera, kind.split("/")[0]), message)
                continue
            k = round((header_of(raw)[0] - out[0].stamp_ns) / period_ns)
            waiting[k].append((camera, kind, message))
            last = max(last, k)
            for done in sorted(k for k in waiting if k < last - 1):
                yield _heard(out[done], waiting.pop(done), rig)
    for done in sorted(waiting):
        yield _heard(out[done], waiting[done], rig)


def _heard(instant: Instant, messages: list, rig: CameraRig) -> Instant:
    for camera, kind, message in messages:
        if kind == "keypoints2d":
            instant.keypoints[camera] = read_keypoints(message)
            instant.cameras[camera] = rig.camera((camera, "color"))
        else:
            instant.depth[camera] = DepthView(rig.camera((camera, "depth")), *depth_array(message))
    return instant


def measure_bag(bag: Path, depth: bool) -> dict:
    """Run pose3d over a simulated bag and hold it against the truth.

    Parameters
    ----------
    bag : Path
    depth : bool
        Whether pose3d gets the depth images.

    Returns
    -------
    dict
        ``found`` and ``joint_error_cm`` by the number of views that detect a person,
        ``found_detected`` (one or more views), ``joint_error_seen_cm`` (joints that two or more
        views show for certain), ``switches_per_person_minute``,
        ``ghosts_per_frame`` and ``doubles_per_frame`` (persons given out beside the true ones),
        ``ghosts_sure_per_frame`` (of these, whose head is said to be known within 12 cm),
        ``single_within_sigma`` (share of joints of people of one view within 1 and 2 standard
        deviations along the ray).
    """
    estimator = PoseEstimator()
    tally = Tally()
    for instant in instants(bag):
        people = estimator(
            instant.keypoints, instant.cameras, instant.stamp_ns, instant.depth if depth else {}
        )
        tally.add(instant, people)
    return tally.figures()


class Tally:
    """Counts over the instants of a recording."""

    def __init__(self):
        self.frames = 0
        self.found: dict[int, list[bool]] = defaultdict(list)
        self.errors: dict[int, list[float]] = defaultdict(list)
        self.seen: list[float] = []
        self.within: list[float] = []
        self.track_of: dict[int, int] = {}
        self.switches = 0
        self.seconds: dict[int, list[int]] = defaultdict(list)
        self.ghosts = self.sure_ghosts = self.doubles = 0

    def add(self, instant: Instant, people: list[Person3D]) -> None:
        """Match people one to one with the true ones and count."""
        self.frames += 1
        ids = list(instant.persons)
        truth = np.array([instant.persons[i] for i in ids]).reshape(-1, 17, 3)
        views = detected_views(truth, instant.keypoints, instant.cameras)
        found = np.array([p.joints for p in people]).reshape(-1, 17, 3)
        apart = body_distance(truth[:, None], found[None])
        cost = np.where(apart < _FOUND_M, apart, np.inf)
        # Who was matched before stays so while that can be (CLEAR MOT).
        row_of = {p.track_id: b for b, p in enumerate(people)}
        partner = {}
        for a, person in enumerate(ids):
            b = row_of.get(self.track_of.get(person))
            if b is not None and np.isfinite(cost[a, b]):
                partner[a] = b
                cost[a], cost[:, b] = np.inf, np.inf
        partner.update(zip(*assign(cost), strict=True))
        for a, person in enumerate(ids):
            count = min(int(views[a]), 3)
            self.seconds[person].append(instant.stamp_ns)
            self.found[count].append(a in partner)
            if a in partner:
                self._add_pair(person, count, truth[a], people[partner[a]], instant)
        self._add_others(apart, set(range(len(people))) - set(partner.values()), people)

    def _add_pair(self, person, count, truth, one: Person3D, instant: Instant) -> None:
        error = np.linalg.norm(one.joints - truth, axis=1)
        if count:
            self.errors[count].append(float(error.mean()))
        scores = [instant.keypoints[name][d, :, 2] for name, d in one.detections.items()]
        if len(scores) > 1:
            self.seen += list(error[(np.array(scores) > _SEEN_SCORE).sum(axis=0) > 1])
        before = self.track_of.get(person)
        self.switches += before is not None and before != one.track_id
        self.track_of[person] = one.track_id
        if one.status == "single_view":
            offset = one.joints - instant.cameras[next(iter(one.detections))].center
            ray = offset / np.linalg.norm(offset, axis=1, keepdims=True)
            sigma = np.sqrt(np.einsum("ja,jab,jb->j", ray, one.covariance, ray))
            self.within += list(np.abs(((truth - one.joints) * ray).sum(1)) / sigma)

    def _add_others(self, apart, others: set[int], people: list[Person3D]) -> None:
        for k in others:
            if len(apart) and apart[:, k].min() < _FOUND_M:
                self.doubles += 1
                continue
            self.ghosts += 1
            widest = np.linalg.eigvalsh(people[k].covariance[:5])[:, -1].min()
            self.sure_ghosts += widest < 0.12**2

    def figures(self) -> dict:
        """See :func:`measure_bag`."""
        minutes = sum((max(s) - min(s)) / 60e9 for s in self.seconds.values())
        detected = [f for count in (1, 2, 3) for f in self.found[count]]
        within = np.array(self.within)
        return {
            "frames": self.frames,
            "persons": {str(n): len(self.found[n]) for n in (0, 1, 2, 3)},
            "found": {str(n): mean_or_none(self.found[n]) for n in (0, 1, 2, 3)},
            "found_detected": mean_or_none(detected),
            "joint_error_cm": {
                str(n): 100 * mean_or_none(self.errors[n]) if self.errors[n] else None
                for n in (1, 2, 3)
            },
            "joint_error_seen_cm": 100 * mean_or_none(self.seen) if self.seen else None,
            "switches_per_person_minute": self.switches / minutes if minutes else None,
            "ghosts_per_frame": self.ghosts / max(self.frames, 1),
            "ghosts_sure_per_frame": self.sure_ghosts / max(self.frames, 1),
            "doubles_per_frame": self.doubles / max(self.frames, 1),
            "single_within_sigma": [mean_or_none(within < 1), mean_or_none(within < 2)],
        }


def print_bag(figures: dict[str, dict]) -> None:
    """Table with a column for each way of running, for example with and without depth."""
    table = Table("simulated bag", *figures)

    def row(name, pick, digits=3):
        values = (pick(column) for column in figures.values())
        table.add_row(name, *(rounded(value, digits) for value in values))

    for n, name in (("1", "1 view"), ("2", "2 views"), ("3", "3 or more views")):
        row(f"found, detected in {name}", lambda f, n=n: f["found"][n])
        row(f"joint error, {name}, cm", lambda f, n=n: f["joint_error_cm"][n], 1)
    row("joint error, seen by 2 or more, cm", lambda f: f["joint_error_seen_cm"], 2)
    row("found, all detected", lambda f: f["found_detected"])
    row("found, not detected at this instant", lambda f: f["found"]["0"])
    row("identity switches per person-minute", lambda f: f["switches_per_person_minute"])
    row("ghosts per frame", lambda f: f["ghosts_per_frame"])
    row("... whose head claims 12 cm", lambda f: f["ghosts_sure_per_frame"])
    row("second tracks of somebody, per frame", lambda f: f["doubles_per_frame"])
    for k in (0, 1):
        row(f"one view: within {k + 1} sigma", lambda f, k=k: f["single_within_sigma"][k], 2)
    Console().print(table)
