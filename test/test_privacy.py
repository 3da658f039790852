"""The promise of docs/privacy.md: structure, ledger, time. No DDS: messages are handed over."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
import small_room
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Transform, TransformStamped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from room import camera_ring, knocked, person, seen
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from disguisor_msgs.msg import CameraStamps, FrameSet, Keypoints2D, PersonKeypoints2D
from disguisor_ros.bridge import calibration
from disguisor_ros.bridge.images import fill_image
from disguisor_ros.bridge.messages import (
    read_frame_set,
    time_message,
    write_heads,
    write_transform,
)
from disguisor_ros.core.anonymize import AnonymizedImage, blank
from disguisor_ros.core.cameras import rigid
from disguisor_ros.core.covariance import pose_covariance
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.types import Head
from disguisor_ros.nodes import face_renderer, pose3d
from disguisor_ros.nodes.common import managed_node, stage
from disguisor_ros.nodes.face_renderer import FaceRendererNode, ImageOutlet
from disguisor_ros.nodes.pose3d import Pose3DNode

SOURCES = Path(__file__).parents[1] / "src" / "disguisor_ros"
WIDTH, HEIGHT = 64, 48
SECOND = 1_000_000_000


# Structure.


def _calls(path: Path):
    """(enclosing class, call) of every call in a module."""

    def walk(node, owner):
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.ClassDef) else owner
            if isinstance(child, ast.Call):
                yield inside, child
            yield from walk(child, inside)

    yield from walk(ast.parse(path.read_text()), "")


@pytest.mark.parametrize("path", sorted((SOURCES / "nodes").rglob("*.py")), ids=lambda p: p.stem)
def test_only_the_outlet_advertises_images(path):
    for owner, call in _calls(path):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name not in ("offer", "create_publisher", "create_lifecycle_publisher"):
            continue
        kinds = {n.id for a in call.args for n in ast.walk(a) if isinstance(n, ast.Name)}
        kinds |= {n.attr for a in call.args for n in ast.walk(a) if isinstance(n, ast.Attribute)}
        if {"Image", "CompressedImage"} & kinds:
            assert (path.stem, owner) == ("face_renderer", "ImageOutlet"), ast.unparse(call)


def test_only_nodes_and_the_players_of_bags_publish():
    """What else publishes plays recordings into the graph: no node's output passes it."""
    publishing = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        for _, call in _calls(path)
        if getattr(call.func, "attr", "") in ("create_publisher", "offer")
        and SOURCES / "nodes" not in path.parents
    }
    assert publishing <= {"run/replay.py", "eval/fault_watch.py"}


def test_an_anonymized_image_is_made_in_one_module():
    made = {
        path.stem
        for path in SOURCES.rglob("*.py")
        for _, call in _calls(path)
        if getattr(call.func, "id", getattr(call.func, "attr", "")) == "AnonymizedImage"
    }
    assert made == {"anonymize"}


def test_nothing_but_a_renderer_makes_an_anonymized_image():
    raw = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError):
        AnonymizedImage(raw, [])
    with pytest.raises(TypeError):
        AnonymizedImage(object(), raw, [])
    made = blank((4, 4, 3))
    with pytest.raises(ValueError):
        made.image[:] = 7
    with pytest.raises(AttributeError):
        made.image = raw


class _Publisher:
    def __init__(self, topic):
        self.topic, self.sent = topic, []

    def publish(self, message):
        self.sent.append(message)

    def get_subscription_count(self):
        return 1


class _Advertiser:
    def offer(self, kind, topic, qos):
        return _Publisher(topic)


class _Lookalike(AnonymizedImage):
    def __init__(self, image):
        self._image, self._regions = image, ()


@pytest.mark.parametrize(
    "raw", [np.zeros((4, 4, 3), np.uint8), Image(), None, SimpleNamespace(image=0, regions=())]
)
def test_the_outlet_takes_nothing_else(raw):
    outlet = ImageOutlet(_Advertiser(), "cam", "")
    with pytest.raises(TypeError):
        outlet.publish(Header(), "rgb8", raw)
    with pytest.raises(TypeError):
        outlet.publish(Header(), "rgb8", _Lookalike(np.zeros((4, 4, 3), np.uint8)))
    assert outlet.images.sent == []


# A renderer on the bench: its messages are handed to it, its clock is set by hand.


class Bench(FaceRendererNode):
    def __init__(self):
        self.heard_by, self.offered = {}, {}
        super().__init__()

    def listen(self, kind, topic, callback, qos, raw=False):
        self.heard_by[topic] = self.guarded(callback, topic)

    def offer(self, kind, topic, qos):
        return self.offered.setdefault(topic, _Publisher(topic))

    def tell(self, topic, message):
        if topic in self.heard_by:
            self.heard_by[topic](message)
            self.guarded(self.work)()

    def color(self, stamp, **changes):
        message = Image(header=_header(stamp))
        fill_image(message, np.full((HEIGHT, WIDTH, 3), stamp % 251, np.uint8), "rgb8")
        for name, value in changes.items():
            setattr(message, name, value)
        self.tell("/cam/color/image_raw", message)

    def keypoints(self, stamp):
        self.tell("/cam/keypoints2d", Keypoints2D(header=_header(stamp), skeleton="coco17"))

    def head_message(self, stamp, camera="cam", heads=(), move=None):
        frames = FrameSet(header=_header(stamp))
        frames.cameras = [CameraStamps(camera=camera, color=time_message(stamp))]
        frames.cameras[0].move = move or Transform()
        self.tell("/disguisor/heads", write_heads(heads, frames))

    @property
    def out(self):
        images = self.offered["/cam/anonymized/image_raw"].sent
        return [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in images]

    def check(self):
        assert self.frames["in"] == (
            self.frames["out"] + sum(self.withheld.values()) + len(self.waiting)
        )
        assert len(self.waiting) <= self.rendezvous.capacity


def _header(stamp):
    return Header(stamp=time_message(stamp), frame_id="cam_color_optical_frame")


def _info(focal=60.0):
    info = CameraInfo(header=_header(0), width=WIDTH, height=HEIGHT)
    info.k = np.array([focal, 0, 32, 0, focal, 24, 0, 0, 1])
    return info


class _Clock:
    def __init__(self):
        self.ns = 10**12

    def monotonic_ns(self):
        return self.ns

    def monotonic(self):
        return self.ns / 1e9


@pytest.fixture(scope="module")
def ros():
    rclpy.init(args=["--ros-args", "-p", "camera:=cam", "-p", "mode:=solid"])
    yield
    rclpy.try_shutdown()


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    for module in (managed_node, stage, face_renderer, calibration):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(scope="module")
def bench_in_module(ros):
    node = Bench()
    assert node.trigger_configure().name == "SUCCESS"
    yield node
    node.destroy_node()


def _anew(node):
    """The same node, as if it had just been activated."""
    if node.active:
        node.trigger_deactivate()
    node.waiting.clear()
    node.frames.clear()
    node.withheld.clear()
    node.offered, node.on_failure, node._newest_ns, node._heads_at = {}, "drop", {}, 0.0
    assert node.trigger_activate().name == "SUCCESS"
    node.rig = calibration.CameraRig()
    node._infos.clear()
    node.heard_by["/cam/color/camera_info"](serialize_message(_info()))
    transforms = TFMessage()
    stamped = TransformStamped(child_frame_id="cam_color_optical_frame")
    stamped.header.frame_id = "world"
    stamped.transform.rotation.x, stamped.transform.rotation.w = -np.sqrt(0.5), np.sqrt(0.5)
    transforms.transforms = [stamped]
    node.rig.add_transforms(transforms)
    return node


@pytest.fixture
def bench(bench_in_module, clock):
    return _anew(bench_in_module)


def test_a_frame_with_its_own_heads_goes_out_under_its_own_header(bench):
    bench.color(SECOND)
    bench.keypoints(SECOND)
    assert bench.out == []
    bench.head_message(SECOND)
    assert bench.out == [SECOND]
    message = bench.offered["/cam/anonymized/image_raw"].sent[0]
    assert message.header.frame_id == "cam_color_optical_frame"
    assert (message.width, message.height) == (WIDTH, HEIGHT)
    assert bench.offered["/cam/anonymized/regions"].sent[0].header == message.header
    bench.check()


@pytest.mark.parametrize("other", [SECOND + 1, SECOND - 1, 0, 2 * SECOND])
def test_heads_of_another_instant_do_not_open_the_outlet(bench, clock, other):
    bench.color(SECOND)
    bench.keypoints(SECOND)
    bench.keypoints(other)
    bench.head_message(other)
    bench.head_message(SECOND, camera="cam2")
    clock.ns += 10 * SECOND
    bench.guarded(bench.work)()
    assert bench.out == []
    assert bench.withheld == {"no heads in time": 1}
    bench.check()


def test_without_keypoints_of_its_own_it_is_withheld(bench, clock):
    bench.color(SECOND)
    bench.head_message(SECOND)
    clock.ns += int(1.5 * SECOND)
    bench.guarded(bench.work)()
    assert bench.out == [] and bench.withheld == {"no keypoints": 1}


def test_an_image_that_was_left_out_is_told_from_one_that_nobody_looked_at(bench):
    for stamp in (SECOND, SECOND + 1, SECOND + 2):
        bench.color(stamp)
    for stamp in (SECOND + 1, SECOND + 2):
        bench.keypoints(stamp)
    bench.head_message(SECOND + 2)
    assert bench.out == [SECOND + 2] and bench.withheld == {"no keypoints": 1, "skipped": 1}


def test_a_renderer_that_slept_lets_no_old_frame_go(bench, clock):
    bench.color(SECOND)
    bench.keypoints(SECOND)
    clock.ns += 10 * SECOND
    bench.head_message(SECOND)
    assert bench.out == [] and bench.withheld == {"no heads in time": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"encoding": "bayer_rggb8"}, {"width": 2 * WIDTH}, {"height": 0}, {"step": 1},
        {"data": b""}, {"height": HEIGHT - 1}, {"encoding": "rgba8"}, {"encoding": "mono8"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_failure", ["drop", "blank"])
def test_a_malformed_image_never_leaves(bench, changes, on_failure):
    bench.on_failure = on_failure
    bench.color(SECOND, **changes)
    bench.keypoints(SECOND)
    bench.head_message(SECOND)
    for message in bench.offered["/cam/anonymized/image_raw"].sent:
        assert changes == {"encoding": "mono8"} or set(message.data) == {128}
    if changes != {"encoding": "mono8"}:
        assert bench.frames["out"] == 0 and bench.withheld["malformed"] == 1
    bench.check()


def test_without_calibration_it_is_withheld(bench):
    bench.rig._infos.clear()
    bench.rig._cameras.clear()
    bench._infos.clear()
    bench.color(SECOND)
    bench.keypoints(SECOND)
    bench.head_message(SECOND)
    assert bench.out == [] and bench.withheld == {"no calibration": 1}


@pytest.mark.parametrize("part", ["image", "keypoints"])
def test_what_another_camera_took_is_withheld(bench, part):
    """A topic that is remapped wrongly, or two drivers on one: the stamps may be the same."""
    theirs = Header(stamp=time_message(SECOND), frame_id="other_color_optical_frame")
    changes = {"header": theirs} if part == "image" else {}
    bench.color(SECOND, **changes)
    bench.keypoints(SECOND)
    if part == "keypoints":
        bench.tell("/cam/keypoints2d", Keypoints2D(header=theirs, skeleton="coco17"))
    bench.head_message(SECOND)
    assert bench.out == [] and sum(bench.withheld.values()) == 1
    bench.check()


@pytest.mark.parametrize("frame_id, believed", [
    ("cam_color_optical_frame", True), ("", True), ("other_depth_optical_frame", False),
])  # fmt: skip
def test_depth_of_another_camera_cuts_out_nothing(bench, frame_id, believed):
    bench.heard_by["/cam/depth/camera_info"](serialize_message(_info()))
    depth = Image(header=Header(stamp=time_message(SECOND), frame_id=frame_id))
    depth.height, depth.width, depth.encoding, depth.step = HEIGHT, WIDTH, "16UC1", 2 * WIDTH
    depth.data = np.full((HEIGHT, WIDTH), 500, np.uint16).tobytes()
    bench.tell("/cam/depth/image_raw", depth)
    assert (bench.stored(("cam", "depth"), SECOND) is not None) == believed


def test_depth_of_a_sensor_that_hangs_cuts_out_nothing(bench):
    """People stood in it where they no longer were: before the faces of others."""
    for k, metres in ((1, 2.0), (2, 2.1), (3, 2.1), (3, 2.1), (4, 2.1), (5, 2.2)):
        depth = Image(header=_header(k * SECOND), height=HEIGHT, width=WIDTH, encoding="32FC1")
        image = np.full((HEIGHT, WIDTH), metres, np.float32)
        image[0] = np.nan
        depth.step, depth.data = 4 * WIDTH, image.tobytes()
        bench.tell("/cam/depth/image_raw", depth)
    believed = [bench.stored(("cam", "depth"), k * SECOND) is not None for k in range(1, 6)]
    assert believed == [True, True, False, False, True]


@pytest.mark.parametrize("empty_first", [True, False])
def test_two_detectors_that_contradict_each_other_are_not_believed(
    bench, clock, monkeypatch, empty_first
):
    """The last message of a stamp won: one detector that finds nobody had the room empty."""
    detectors = {"/cam/keypoints2d": 1}
    monkeypatch.setattr(bench, "count_publishers", detectors.get)
    somebody = PersonKeypoints2D(keypoints=np.full(51, 20.0, np.float32))

    def frame(k, *messages):
        for persons in messages:
            message = Keypoints2D(header=_header(k * SECOND), skeleton="coco17", persons=persons)
            bench.tell("/cam/keypoints2d", message)
        bench.color(k * SECOND)
        bench.head_message(k * SECOND)

    both = [[], [somebody]] if empty_first else [[somebody], []]
    frame(1, *both)  # one that changes its mind is no second one
    detectors["/cam/keypoints2d"] = 2
    frame(2, *both)
    frame(3, both[0])  # the other one is late
    assert bench.out == [SECOND] and bench.withheld == {"no keypoints": 2}
    clock.ns += stage.CONFLICT_NS
    frame(4, both[0])
    assert bench.out == [SECOND, 4 * SECOND]
    bench.check()


def test_a_calibration_that_changes_is_not_used_before_it_has_settled(bench, clock):
    changed = serialize_message(_info(focal=80.0))
    bench.heard_by["/cam/color/camera_info"](changed)
    for k, leaves in ((1, False), (2, False), (3, True)):
        bench.color(k * SECOND)
        bench.keypoints(k * SECOND)
        bench.head_message(k * SECOND)
        assert (bench.out == [k * SECOND]) == leaves
        clock.ns += int(1.6 * SECOND)
        bench.heard_by["/cam/color/camera_info"](changed)
    assert bench.withheld == {"no calibration": 2}


def test_a_calibration_that_is_again_what_it_was_is_used_at_once(bench, clock):
    """One damaged camera_info must not close the camera for longer than it lasts."""
    for k, focal, leaves in ((1, 80.0, False), (2, 60.0, True)):
        bench.heard_by["/cam/color/camera_info"](serialize_message(_info(focal=focal)))
        bench.color(k * SECOND)
        bench.keypoints(k * SECOND)
        bench.head_message(k * SECOND)
        assert (bench.out == [k * SECOND]) == leaves
    assert bench.withheld == {"no calibration": 1}


def test_a_camera_that_was_knocked_replaces_where_it_looks(bench):
    """Heads of a camera that is turned by 5 degrees lie 5 of its pixels aside."""
    template = HeadTemplate.load()
    tf = rigid(Rotation.from_euler("z", -90, degrees=True).as_matrix(), [0.0, 1.5, 0.0])
    head = Head(
        1, tf, template.place(tf), pose_covariance(1e-5 * np.eye(3), 2.0), "registered", 1.0
    )
    turned = rigid(Rotation.from_euler("z", 5, degrees=True).as_matrix(), np.zeros(3))
    middle = []
    for stamp, move in ((SECOND, np.eye(4)), (2 * SECOND, turned)):
        bench.color(stamp)
        bench.keypoints(stamp)
        bench.head_message(stamp, heads=[head], move=write_transform(move))
        (region,) = bench.offered["/cam/anonymized/regions"].sent[-1].regions
        middle.append(np.reshape(region.polygon, (-1, 2)).mean(axis=0))
    assert bench.out == [SECOND, 2 * SECOND]
    np.testing.assert_allclose(middle[1] - middle[0], [60 * np.tan(np.radians(5)), 0], atol=1.0)


@pytest.mark.parametrize("broken", [{"w": 0.0}, {"x": 0.3}, {"z": np.nan}])
def test_heads_of_a_camera_that_is_moved_by_nonsense_open_nothing(bench, broken):
    bench.color(SECOND)
    bench.keypoints(SECOND)
    move = Transform()
    for name, value in broken.items():
        setattr(move.rotation, name, value)
    bench.head_message(SECOND, move=move)
    assert bench.out == [] and "the move of camera cam" in bench.last_problem


class Watcher(Pose3DNode):
    listen = Bench.listen
    offer = Bench.offer
    tell = Bench.tell

    def __init__(self):
        self.heard_by, self.offered = {}, {}
        super().__init__()


def test_who_is_in_the_room_is_learnt_before_frames_may_leave(ros):
    node = Watcher()
    node.trigger_configure()
    node.trigger_activate()
    left = node.offered["/disguisor/persons3d"].sent

    def see(first_ns):
        for k in range(10):
            stamp = first_ns + k * SECOND // 5
            node.tell("/disguisor/frame_set", FrameSet(header=_header(stamp)))
        return [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in left]

    start = 100 * SECOND
    later = start + 1000 * SECOND
    for first in (start, start - 50 * SECOND, later, later + SECOND):  # the last is 0.8 s back
        left.clear()
        assert see(first) == [first + SECOND + k * SECOND // 5 for k in range(5)]
    node.destroy_node()


@pytest.fixture
def two_cameras(ros):
    """An active pose3d that knows of the cameras a and b."""
    node = Watcher()
    node.trigger_configure()
    node.trigger_activate()
    node.cameras = ["a", "b"]
    yield node
    node.destroy_node()


def saw(**people):
    """Keypoints of cameras that found so many people."""
    return {camera: np.ones((count, 17, 3)) for camera, count in people.items()}


def test_a_camera_that_is_gone_at_the_start_may_be_the_only_one_that_sees_somebody(two_cameras):
    node, step = two_cameras, SECOND // 2
    late = [node._unwatched(k * step, saw(a=1) if k < 6 else saw(a=1, b=1)) for k in range(10)]
    assert [bool(why) for why in late] == [True] * 8 + [False] * 2  # a second of b, too
    assert "b saw too little" in late[5]
    node.reset()
    absent = [node._unwatched(k * step, saw(a=1)) for k in range(22)]
    assert [bool(why) for why in absent] == [True] * 20 + [False] * 2  # not for ever
    node.reset()
    once = [node._unwatched(k * step, saw(a=1) if k else saw(a=1, b=1)) for k in range(22)]
    assert [bool(why) for why in once] == [True] * 20 + [False] * 2  # it missed somebody


def test_a_camera_that_finds_nobody_at_the_start_may_be_blind(two_cameras):
    """In a fault campaign a patient's camera found nobody just after the clock had jumped."""
    node, step = two_cameras, SECOND // 2
    blind = [node._unwatched(k * step, saw(a=1, b=int(k >= 6))) for k in range(10)]
    assert [bool(why) for why in blind] == [True] * 8 + [False] * 2
    node.reset()
    empty_room = [node._unwatched(k * step, saw(a=0, b=0)) for k in range(4)]
    assert [bool(why) for why in empty_room] == [True] * 2 + [False] * 2


def test_cameras_that_agree_on_nobody_and_wrong_depth_are_closed(two_cameras):
    """The heads would be anywhere, and what stands before them, too."""
    node = two_cameras
    rig, far = small_room.cameras(2), np.full((240, 320), 500, np.uint16)
    node.cameras, node.warm_up_ns = list(rig), 0
    node.known_cameras = lambda names, kind="color": {name: rig[name] for name in names}

    def see(k, factor):
        frames = FrameSet(header=_header(k * SECOND // 5))
        for name, found in small_room.keypoints(rig, 0).items():
            stamps = CameraStamps(camera=name, color=frames.header.stamp)
            stamps.depth = frames.header.stamp
            frames.cameras.append(stamps)
            node.rendezvous.put((name, "keypoints"), k * SECOND // 5, found * [factor, factor, 1])
            node.rendezvous.put((name, "depth"), k * SECOND // 5, (far, 0.001))
        node.tell("/disguisor/frame_set", frames)

    left = node.offered["/disguisor/persons3d"].sent
    for k in range(5, 50):
        see(k, 1.0)
    assert len(left) == 45
    assert all(camera.depth == Time() for camera in left[-1].frame_set.cameras)
    assert "depth/image_raw: shows only 0 %" in node.health(1)[1]
    node.trigger_deactivate()
    node.trigger_activate()
    left.clear()
    for _ in range(3):  # a short recording that is played in a loop
        for k in range(50, 100):
            see(k, 0.5)
    assert 0 < len(left) < 100 and "same people" in node.last_problem
    node.trigger_deactivate()
    node.trigger_activate()
    left.clear()
    see(150, 1.0)
    assert len(left) == 1 and "same people" not in node.health(1)[1]


def test_a_camera_that_was_knocked_is_moved_for_all_stages_and_named(two_cameras):
    node, right = two_cameras, camera_ring(4)
    rig = right | {"cam2": knocked(right["cam2"], [0.0, 0.0, np.radians(2.0)])}
    node.cameras, node.warm_up_ns = list(rig), 0
    node.known_cameras = lambda names, kind="color": {name: rig[name] for name in names}
    people = [person(-0.9, 0.4), person(0.8, -0.6), person(0.2, 0.9), person(-0.4, -0.9)]
    rng = np.random.default_rng(0)
    for k in range(1, 15):
        frames = FrameSet(header=_header(k * SECOND // 5))
        for name, found in seen(people, right, 2.0, rng=rng).items():
            frames.cameras.append(CameraStamps(camera=name, color=frames.header.stamp))
            node.rendezvous.put((name, "keypoints"), k * SECOND // 5, found)
        node.tell("/disguisor/frame_set", frames)
    moves = read_frame_set(node.offered["/disguisor/persons3d"].sent[-1].frame_set).moves
    assert list(moves) == ["cam2"]
    seen_from = rig["cam2"].moved(moves["cam2"]).tf_world_camera
    np.testing.assert_allclose(seen_from, right["cam2"].tf_world_camera, atol=0.01)
    assert "cam2: it looks 1.8 degrees aside" in node.health(1)[1]


def test_two_graphs_on_one_domain_open_nothing(ros, clock, monkeypatch):
    """One that has fewer cameras would tell the other's renderers of fewer people."""
    monkeypatch.setattr(pose3d, "time", clock)
    node = Watcher()
    node.warm_up_ns = 0
    node.trigger_configure()
    node.trigger_activate()
    left = node.offered["/disguisor/persons3d"].sent

    def tell(k, *cameras):
        clock.ns += SECOND // 5
        frames = FrameSet(header=_header(k * SECOND // 5))
        frames.cameras = [CameraStamps(camera=c, color=frames.header.stamp) for c in cameras]
        node.tell("/disguisor/frame_set", frames)

    for k in range(10):
        tell(k, "a", "b")
    assert len(left) == 10
    tell(10, "a", "b")
    tell(10, "a")
    for k in range(11, 40):
        tell(k, "a", "b")
    assert len(left) == 11 and "another graph" in node.last_problem
    clock.ns += pose3d.ALONE_NS
    tell(40, "a", "b")
    assert len(left) == 12
    node.destroy_node()


def test_a_blank_frame_has_the_header_and_none_of_the_pixels(bench, clock):
    bench.on_failure = "blank"
    bench.color(7 * SECOND)
    clock.ns += 10 * SECOND
    bench.guarded(bench.work)()
    (message,) = bench.offered["/cam/anonymized/image_raw"].sent
    assert message.header.stamp.sec == 7 and set(message.data) == {128}
    assert bench.frames["blank"] == 1 and sum(bench.withheld.values()) == 1
    bench.check()


def test_a_bug_in_the_renderer_withholds(bench, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("the picture says: " + "secret")

    monkeypatch.setattr(bench, "renderer", SimpleNamespace(__call__=broken))
    bench.color(SECOND)
    bench.keypoints(SECOND)
    bench.head_message(SECOND)
    assert bench.out == [] and bench.withheld == {"internal error": 1}
    assert "secret" not in bench.last_problem
    bench.check()


def test_deactivate_stops_output_at_once(bench):
    bench.color(SECOND)
    bench.keypoints(SECOND)
    before = bench.offered["/cam/anonymized/image_raw"].sent
    assert bench.trigger_deactivate().name == "SUCCESS"
    bench.head_message(SECOND)
    bench.color(2 * SECOND)
    bench.guarded(bench.work)()
    assert before == []
    bench.check()


def test_shutdown_stops_output_at_once(two_cameras):
    """It went on for as long as the process lived."""
    two_cameras.warm_up_ns = 0
    for k in range(1, 4):
        two_cameras.tell("/disguisor/frame_set", FrameSet(header=_header(k * SECOND)))
        if k == 1:
            assert two_cameras.trigger_shutdown().name == "SUCCESS"
    assert len(two_cameras.offered["/disguisor/persons3d"].sent) == 1


def test_what_waited_before_a_restart_does_not_leave_after_it(bench):
    bench.color(SECOND)
    bench.keypoints(SECOND)
    bench.trigger_deactivate()
    bench.trigger_activate()
    bench.head_message(SECOND)
    assert bench.out == [] and bench.withheld == {"clock jump or restart": 1}
    bench.check()


@pytest.mark.parametrize("jump", [-100 * SECOND, -2 * SECOND, 5 * SECOND, 10**6 * SECOND])
def test_after_a_clock_jump_frames_leave_again(bench, jump):
    start = 1000 * SECOND
    bench.color(start)
    bench.keypoints(start)
    for k in range(3):
        stamp = start + jump + k * SECOND // 5
        bench.color(stamp)
        bench.keypoints(stamp)
        bench.head_message(stamp)
        assert bench.out[-1] == stamp
        bench.check()


def test_compressed_output_is_of_the_same_anonymized_image(bench):
    outlet = ImageOutlet(_Advertiser(), "cam", "png")
    outlet.publish(_header(5), "bgr8", blank((8, 8, 3)))
    (message,) = outlet.compressed.sent
    assert isinstance(message, CompressedImage) and message.header == _header(5)
    with pytest.raises(TypeError):
        outlet.publish(_header(5), "bgr8", np.zeros((8, 8, 3), np.uint8))
    assert len(outlet.compressed.sent) == 1


# Whatever comes, in whatever order: the ledger adds up, and only frames with heads leave.

_STAMPS = st.integers(0, 12).map(lambda k: k * SECOND // 5)
_FAR = st.sampled_from([0, 50 * SECOND, 10**5 * SECOND])
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["color", "color", "keypoints", "head_message"]), _STAMPS, _FAR),
        st.tuples(st.just("broken"), _STAMPS, _FAR),
        st.tuples(st.just("wait"), st.integers(0, 3 * SECOND), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=_EVENTS, on_failure=st.sampled_from(["drop", "blank"]))
def test_the_ledger_adds_up_whatever_comes(bench_in_module, clock, events, on_failure):
    bench = _anew(bench_in_module)
    bench.on_failure = on_failure
    came, told = 0, defaultdict(set)
    for what, value, far in events:
        stamp = value + far
        if what == "wait":
            clock.ns += value
            bench.guarded(bench.work)()
        elif what == "restart":
            bench.trigger_deactivate()
            bench.trigger_activate()
        elif what == "broken":
            bench.color(stamp, step=1)
            came += 1
        else:
            getattr(bench, what)(stamp)
            came += what == "color"
            told[what].add(stamp)
        assert bench.frames["in"] == came
        bench.check()
    images = bench.offered["/cam/anonymized/image_raw"].sent
    assert len(images) == bench.frames["out"] + bench.frames["blank"]
    for message in images:
        stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
        processed = stamp in told["color"] & told["keypoints"] & told["head_message"]
        assert processed or set(message.data) == {128}


def test_thousand_frames_leave_no_memory_behind(bench, clock):
    for k in range(1000):
        bench.color(k * SECOND // 30)
        clock.ns += SECOND // 30
    assert len(bench.waiting) <= bench.rendezvous.capacity
    bench.check()


def test_health_says_when_nothing_can_leave(bench, clock):
    level, line = bench.health(0)
    bench.color(SECOND)
    bench.keypoints(SECOND)
    bench.head_message(SECOND)
    good, line = bench.health(1)
    assert (level, good) == (b"\x01", b"\x00")
    assert line.startswith("1 in, 1 out, 0 withheld, 0 waiting")


# Nobody who was there is left out because he is missed.

RIG = camera_ring(4)


def _watched(estimator, body, frames=10):
    for frame in range(frames):
        estimator(seen([body], RIG), RIG, frame * SECOND // 5)
    return frames * SECOND // 5


@pytest.mark.parametrize("blind", [0, 1])
def test_nobody_is_forgotten_for_want_of_the_camera_that_saw_him(blind):
    estimator = PoseEstimator(floor_z_m=0.0)
    now = _watched(estimator, person(0, 0))
    looking = list(RIG)[blind:]
    for frame in range(25):
        nobody = {name: np.zeros((0, 17, 3)) for name in looking}
        there = estimator(nobody, {n: RIG[n] for n in looking}, now + frame * SECOND // 5)
    assert [p.status for p in there] == ["predicted"] * blind


def test_time_in_which_nobody_looked_does_not_make_anybody_go():
    """A camera that was away for seconds and misses somebody once has looked once."""
    estimator = PoseEstimator(floor_z_m=0.0)
    now = _watched(estimator, person(0, 0)) + 5 * SECOND
    there = estimator({name: np.zeros((0, 17, 3)) for name in RIG}, RIG, now)
    assert [p.status for p in there] == ["predicted"]


def test_who_was_seen_for_a_moment_by_several_views_is_somebody():
    """A patient whom four cameras had seen for a second was forgotten after 1.5 more."""
    estimator = PoseEstimator(floor_z_m=0.0, predict_s=3.0)
    now = _watched(estimator, person(0, 0), frames=3)
    for frame in range(12):
        nobody = {name: np.zeros((0, 17, 3)) for name in RIG}
        there = estimator(nobody, RIG, now + frame * SECOND // 5)
    assert [p.status for p in there] == ["predicted"]


def test_a_child_in_somebody_s_arms_who_is_missed_is_covered():
    """Missed for an instant, it was forgotten at once: it lay where somebody else was seen."""
    estimator = PoseEstimator(floor_z_m=0.0)
    adult = person(0, 0)
    child = person(0.2, 0, size=0.6) + [0, 0, 0.5]
    for frame in range(10):
        together = estimator(seen([adult, child], RIG), RIG, frame * SECOND // 5)
    there = estimator(seen([adult], RIG), RIG, 2 * SECOND)
    assert [len(together), *sorted(p.status for p in there)] == [2, "multiview", "predicted"]


def test_a_stray_detection_does_not_take_a_cover_away():
    estimator = PoseEstimator(floor_z_m=0.0)
    lost = person(0, 0)
    now = _watched(estimator, lost)
    for frame in range(3):
        stray = {name: np.zeros((0, 17, 3)) for name in RIG}
        one = next(iter(RIG))
        stray[one] = seen([person(0.7, 0.7)], RIG)[one]
        there = estimator(stray, RIG, now + frame * SECOND // 5)
        off = [np.linalg.norm(p.joints[:5].mean(0) - lost[:5].mean(0)) for p in there]
        assert min(off) < 0.3
