"""Whatever is wrong with the input: one line that names it, exit code 2, and no output."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
import small_room
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from disguisor_msgs.msg import FrameSet
from disguisor_ros.bridge.bags import BagWriter, open_bag, raw_messages
from disguisor_ros.bridge.room_bag import RoomBag
from disguisor_ros.cli import main
from disguisor_ros.core.cameras import Camera
from disguisor_ros.errors import UserError
from disguisor_ros.graph import check_parameters, own_domain, read_cameras, set_environment
from disguisor_ros.paths import share
from disguisor_ros.run.recording import inspect

NODES = Path(__file__).resolve().parents[1] / "src" / "disguisor_ros" / "nodes"


def refused(capsys, tmp_path, *args):
    """Run the command; check that it refuses cleanly, and return its line."""
    code = main(["run", "--out", str(tmp_path / "out"), *map(str, args)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and "Traceback" not in lines[0]
    assert not list(tmp_path.glob("out*"))
    return lines[0]


def test_no_bag(capsys, tmp_path):
    assert "nowhere" in refused(capsys, tmp_path, "--bag", tmp_path / "nowhere")


def test_not_a_bag(capsys, tmp_path):
    (tmp_path / "in").mkdir()
    assert "metadata.yaml" in refused(capsys, tmp_path, "--bag", tmp_path / "in")


def test_empty_bag(capsys, tmp_path):
    BagWriter(tmp_path / "in").close()
    assert "empty" in refused(capsys, tmp_path, "--bag", tmp_path / "in")


def test_bag_of_ros_1(capsys, tmp_path):
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer(tmp_path / "in.bag") as bag:
        topic = bag.add_connection("/cn01/color/image_raw", "std_msgs/msg/Empty", typestore=store)
        bag.write(topic, 0, b"")
    assert "rosbags-convert" in refused(capsys, tmp_path, "--bag", tmp_path / "in.bag")


def test_corrupt_bag(capsys, tmp_path):
    bag = small_room.write(tmp_path / "in", frames=2)
    storage = next(bag.glob("*.mcap"))
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size // 2])
    assert str(bag) in refused(capsys, tmp_path, "--bag", bag)


def test_bag_without_colour(capsys, tmp_path):
    def spoil(bag, camera, index):
        bag.keypoints(camera, small_room.stamp(index), np.zeros((0, 17, 3)))
        return True

    bag = small_room.write(tmp_path / "in", frames=1, spoil=spoil)
    assert "/color/image_raw" in refused(capsys, tmp_path, "--bag", bag)


def test_unknown_camera_in_the_config(capsys, tmp_path):
    bag = small_room.write(tmp_path / "in", frames=1)
    config = tmp_path / "cameras.yaml"
    config.write_text("/**: {ros__parameters: {cameras: [cn01, cn09]}}")
    assert "cn09" in refused(capsys, tmp_path, "--bag", bag, "--cameras-file", config)


@pytest.mark.parametrize("names", [["/cn01", "cn02"], ["cn-1"], ["1"], ["cn01", "cn01"]])
def test_cameras_that_cannot_be_nodes(tmp_path, names):
    """The launch would start their stages again and again, or two of the same name."""
    file = tmp_path / "cameras.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"cameras": names}}}))
    with pytest.raises(UserError, match="cameras.yaml: .*camera '"):
        read_cameras(file)


@pytest.mark.parametrize(
    "content",
    [b"cameras: 3", b"/**: {ros__parameters: {cameras: cn01}}", b"\x89MCAP0\r\n", b"hello: ["],
)
@pytest.mark.parametrize("option", ["--cameras-file", "--config"])
def test_a_parameter_file_that_is_none(capsys, tmp_path, content, option):
    if option == "--config" and b"cameras" in content:
        return
    bag = small_room.write(tmp_path / "in", frames=1)
    config = tmp_path / "cameras.yaml"
    config.write_bytes(content)
    assert str(config) in refused(capsys, tmp_path, "--bag", bag, option, config)


def bag_with_messages(tmp_path, change, frames=1):
    """A short bag whose messages ``change(topic, fields)`` may alter; None drops one."""
    write = RoomBag.write

    def altered(self, topic, typename, time_ns, qos=(), **fields):
        fields = change(topic, fields)
        if fields is not None:
            write(self, topic, typename, time_ns, qos, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoomBag, "write", altered)
        return small_room.write(tmp_path / "in", frames)


def without(topic):
    return lambda t, fields: None if t == topic else fields


def but_one(topic):
    """Only the first message of the topic stays, as when a driver latches its calibration."""
    left = iter([True])
    return lambda t, fields: fields if t != topic or next(left, False) else None


def with_field(topic, **change):
    return lambda t, fields: {**fields, **change} if t == topic else fields


def with_frame(topic, frame):
    def change(t, fields):
        if t == topic:
            fields["header"].frame_id = frame
        return fields

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("/cn02/color/camera_info"), "/cn02/color/camera_info"),
        (without("/cn02/depth/camera_info"), "/cn02/depth/camera_info"),
        (without("/cn02/keypoints2d"), "/cn02/keypoints2d"),
        (without("/tf_static"), "/tf_static"),
        (with_field("/tf_static", transforms=[]), "/tf_static"),
        (with_field("/cn02/color/camera_info", k=np.zeros(9)), "/cn02/color/camera_info"),
        (with_field("/cn02/color/image_raw", encoding="yuv422"), "/cn02/color/image_raw"),
        (with_field("/cn02/color/image_raw", data=np.zeros(9, np.uint8)), "/cn02/color/image_raw"),
        (with_field("/cn02/depth/image_raw", encoding="8UC1"), "/cn02/depth/image_raw"),
        (with_field("/cn02/depth/image_raw", height=120), "/cn02/depth/image_raw"),
        (with_field("/cn02/keypoints2d", skeleton="body25"), "/cn02/keypoints2d"),
        (with_frame("/cn02/color/image_raw", "cn01_color_optical_frame"), "cn02_color_optical"),
    ],
)
def test_a_message_that_is_missing_or_wrong_is_named(capsys, tmp_path, change, named):
    bag = bag_with_messages(tmp_path, change)
    assert named in refused(capsys, tmp_path, "--bag", bag)


@pytest.mark.parametrize("topic", ["/cn02/color/camera_info", "/cn02/keypoints2d"])
def test_what_each_image_needs_but_has_not(capsys, tmp_path, topic):
    bag = bag_with_messages(tmp_path, but_one(topic), frames=3)
    assert f"{topic}: has 1 messages for 3 images" in refused(capsys, tmp_path, "--bag", bag)


@pytest.mark.parametrize("topic", ["/cn02/color/camera_info", "/cn02/keypoints2d"])
def test_stamps_that_are_not_those_of_the_images(capsys, tmp_path, topic):
    def change(t, fields):
        if t == topic:
            fields["header"].stamp.nanosec += 1000
        return fields

    line = refused(capsys, tmp_path, "--bag", bag_with_messages(tmp_path, change, frames=3))
    assert topic in line and "/cn02/color/image_raw" in line


def test_a_camera_of_the_other_transport_is_not_left_out_without_a_word(capsys, tmp_path):
    def spoil(bag, camera, index):
        if camera == "cn02":
            bag.compressed_color(camera, small_room.stamp(index), b"\xff\xd8")
        return camera == "cn02"

    line = refused(capsys, tmp_path, "--bag", small_room.write(tmp_path / "in", 1, spoil=spoil))
    assert "raw of cn01, cn03 and compressed of the others" in line


def test_depth_that_is_announced_only_is_not_waited_for(tmp_path):
    bag = bag_with_messages(tmp_path, without("/cn02/depth/image_raw"))
    recording = inspect(bag)
    assert {t.split("/")[1] for t in recording.topics if "depth" in t} == {"cn01", "cn03"}


def test_the_world_may_have_another_name(capsys, tmp_path):
    bag, config = small_room.write(tmp_path / "in", 1), tmp_path / "my.yaml"
    config.write_text("/**: {ros__parameters: {world_frame: map}}")
    line = refused(capsys, tmp_path, "--bag", bag, "--config", config)
    assert "no transform from 'map'" in line
    assert inspect(bag, world_frame="world").cameras == ["cn01", "cn02", "cn03"]


def test_depth_on_the_colour_grid_but_of_another_size(capsys, tmp_path):
    def change(topic, fields):
        if topic == "/cn02/depth/image_raw":
            return {**fields, "height": 120, "data": fields["data"][: 120 * 640]}
        return {**fields, "height": 120} if topic == "/cn02/depth/camera_info" else fields

    line = refused(capsys, tmp_path, "--bag", bag_with_messages(tmp_path, change))
    assert "/cn02/depth/image_raw" in line and "320x240" in line


def test_keypoints_with_nan(capsys, tmp_path):
    def spoil(bag, camera, index):
        if camera == "cn02":
            bag.raw_color(camera, small_room.stamp(index), small_room.image(camera, index))
            bag.keypoints(camera, small_room.stamp(index), np.full((1, 17, 3), np.nan))
        return camera == "cn02"

    bag = small_room.write(tmp_path / "in", frames=1, depth=False, spoil=spoil)
    line = refused(capsys, tmp_path, "--bag", bag)
    assert "/cn02/keypoints2d" in line and "NaN" in line


def test_keypoints_of_images_of_half_the_size(capsys, tmp_path):
    """All of them valid, all in the upper left quarters: 0.97 of faces stayed open."""

    def spoil(bag, camera, index):
        found = small_room.keypoints(small_room.cameras(), index)[camera]
        bag.raw_color(camera, small_room.stamp(index), small_room.image(camera, index))
        bag.keypoints(camera, small_room.stamp(index), found * [0.5, 0.5, 1.0])
        return True

    bag = small_room.write(tmp_path / "in", 160, depth=False, spoil=spoil)
    code = main(["run", "--bag", str(bag), "--out", str(tmp_path / "out")])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "do not find the same people" in line
    assert not list(tmp_path.glob("out*"))


def test_output_that_exists_is_not_touched(capsys, tmp_path):
    bag = small_room.write(tmp_path / "in", frames=1)
    (tmp_path / "there").mkdir()
    assert main(["run", "--bag", str(bag), "--out", str(tmp_path / "there")]) == 2
    assert "exists" in capsys.readouterr().err and not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("option", ["--out", "--json", "--log-dir"])
def test_a_place_that_cannot_be_written(capsys, tmp_path, option):
    bag = small_room.write(tmp_path / "in", frames=1)
    (tmp_path / "file").write_text("")
    line = refused(capsys, tmp_path, "--bag", bag, option, tmp_path / "file" / "a" / "b")
    assert str(tmp_path / "file") in line


def test_transforms_in_millimetres(capsys, tmp_path):
    rig = {}
    for name, camera in small_room.cameras().items():
        tf = camera.tf_camera_world.copy()
        tf[:3, 3] *= 1000
        rig[name] = Camera(name, camera.width, camera.height, camera.matrix, tf)
    bag = small_room.write(tmp_path / "in", frames=1, rig=rig)
    assert "millimetres" in refused(capsys, tmp_path, "--bag", bag)


def test_two_poses_of_one_camera(capsys, tmp_path):
    """A calibration, and an older one that something still published while it was recorded."""
    bag, other = small_room.write(tmp_path / "in", 1), small_room.cameras()
    moved = other["cn02"].tf_camera_world.copy()
    moved[0, 3] += 0.1
    other["cn02"] = replace(other["cn02"], tf_camera_world=moved)
    older = small_room.write(tmp_path / "older", 1, rig=other)
    with BagWriter(tmp_path / "both") as writer:
        for part in (bag, older):
            with open_bag(part) as reader:
                for connection, time_ns, raw in raw_messages(reader):
                    if part == bag or connection.topic == "/tf_static":
                        writer.write(connection.topic, connection.msgtype, time_ns, raw)
    line = refused(capsys, tmp_path, "--bag", tmp_path / "both")
    assert "/tf_static: there are two different poses of cn02_" in line


def test_a_domain_in_which_another_run_is(capsys, tmp_path, monkeypatch):
    """Its stages would hear both recordings' images; from a shell with ROS_DOMAIN_ID set."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "231")
    bag = small_room.write(tmp_path / "in", frames=1)
    with own_domain(None):
        assert "domain 231" in refused(capsys, tmp_path, "--bag", bag)
        monkeypatch.delenv("ROS_DOMAIN_ID")
        with own_domain(None):  # not set: a free one is looked for
            free = os.environ["ROS_DOMAIN_ID"]
            monkeypatch.delenv("ROS_DOMAIN_ID")
            with own_domain(None):
                assert os.environ["ROS_DOMAIN_ID"] not in (free, "231")


def test_a_domain_that_is_none(capsys, tmp_path):
    assert "--domain-id" in refused(capsys, tmp_path, "--bag", tmp_path, "--domain-id", 233)


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan", "inf"])
def test_a_rate_that_is_none(tmp_path, rate):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--bag", "x", "--out", "y", "--rate", rate])
    assert stop.value.code == 2


def test_a_domain_in_which_a_live_graph_is(capsys, tmp_path, monkeypatch):
    """It would get the bag's images, and keep the poses of the bag's cameras when it is over."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "148")
    set_environment()
    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("synchronizer", context=context)
    node.create_publisher(FrameSet, "/disguisor/frame_set", 10)
    bag = small_room.write(tmp_path / "in", frames=1)
    poses = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(TFMessage, "/tf_static", poses.append, latched)
    assert main(["run", "--bag", str(bag), "--out", str(tmp_path / "out")]) == 2
    assert "ROS domain 148 already" in capsys.readouterr().err.strip().splitlines()[-1]
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.spin_once(timeout_sec=0.2)
    assert not poses and not list(tmp_path.glob("out*"))
    executor.shutdown()
    node.destroy_node()
    context.shutdown()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("/**/face_renderer: {ros__parameters: {moode: blur}}", "'moode'; it has backend"),
        ("/**: {ros__parameters: {patence: 1.0}}", "'patence'"),
        ("/room: {pose3d: {ros__parameters: {predicts: 1.0}}}", "/room/pose3d has no"),
        ("/**/face_rendrer: {ros__parameters: {mode: blur}}", "face_renderer is one"),
        ("face_renderer: {ros__parameters: {mode: blur}}", "write /**/face_renderer"),
    ],
)
def test_a_parameter_that_no_stage_has_is_not_ignored(capsys, tmp_path, content, named):
    """A typing error once left the faces as the default has them, without a word."""
    config = tmp_path / "my.yaml"
    config.write_text(content)
    line = refused(capsys, tmp_path, "--bag", tmp_path / "in", "--config", config)
    assert str(config) in line and named in line


def test_what_a_parameter_file_may_hold(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text(
        "/**: {ros__parameters: {cameras: [cn01], use_sim_time: true, mode: blur}}\n"
        "/cn01: {face_renderer: {ros__parameters: {mask: never}}, driver: {ros__parameters: {}}}\n"
        "/pose2d: {ros__parameters: {tiles: 2, qos_overrides./cn01/x.reliability: reliable}}\n"
        "/camera_driver: {ros__parameters: {fps: 30}}\n"
    )
    check_parameters(config)


@pytest.mark.parametrize("stage", sorted(p.stem for p in NODES.glob("[a-z]*.py")))
def test_the_configuration_lists_every_parameter(stage):
    """It is what others are held against."""
    code = (NODES / f"{stage}.py").read_text()
    asked = re.findall(r'self\.(?:parameter|duration_ns)\(\s*"(\w+)"', code)
    listed = yaml.safe_load(share("config/disguisor.yaml").read_text())
    ours = [part["ros__parameters"] for name, part in listed.items() if name.endswith(f"/{stage}")]
    assert {name for part in ours for name in part} == set(asked) - {"camera"}


def test_two_commands_do_not_write_one_bag(tmp_path):
    """The second once removed what the first had written."""
    first = BagWriter(tmp_path / "out")
    with pytest.raises(UserError, match="another command is writing"):
        BagWriter(tmp_path / "out")
    first.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_in_place_of_the_figures_is_found_before_the_work(capsys, tmp_path):
    assert "is a folder" in refused(capsys, tmp_path, "--bag", tmp_path, "--json", tmp_path)


def test_an_installation_that_was_not_sourced(monkeypatch):
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    with pytest.raises(UserError, match=r"source the setup\.bash"):
        share("config/not_in_the_source_tree.yaml")


def test_ctrl_c_while_the_command_is_looked_up(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("disguisor_ros.cli.importlib.import_module", interrupted)
    assert main(["run", "--help"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
