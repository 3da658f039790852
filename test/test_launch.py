"""The launch file: what it starts for which arguments; RViz's configuration against the graph."""

import importlib.util
from pathlib import Path

import pytest
import small_room
import yaml

from disguisor_ros.bridge.topics import STAGES
from disguisor_ros.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def displays(file) -> dict[str, dict]:
    config = yaml.safe_load(Path(file).read_text())
    return {d["Name"]: d for d in config["Visualization Manager"]["Displays"]}


def test_rviz_shows_topics_that_the_graph_publishes():
    published = {t.format(camera="cn01") for topics, _ in STAGES.values() for t in topics}
    shown = {
        d["Topic"]["Value"]
        for d in displays(ROOT / "rviz/disguisor.rviz").values()
        if "Topic" in d
    }
    assert {"/disguisor/markers", "/cn01/anonymized/image_raw"} <= shown
    assert all(t in published for t in shown if not t.startswith(("/cn02", "/cn03", "/cn04")))
    assert not [t for t in shown if "color" in t or "depth" in t]


@pytest.fixture(scope="module")
def launch_file():
    pytest.importorskip("launch_ros", reason="launch_ros comes with ROS 2 only, not from PyPI")
    path = ROOT / "launch/disguisor.launch.py"
    spec = importlib.util.spec_from_file_location("disguisor_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(launch_file, tmp_path):
    """Actions of the launch file for arguments, none of them executed."""
    from launch import LaunchContext

    cameras = tmp_path / "my_cameras.yaml"
    cameras.write_text("/**: {ros__parameters: {cameras: [left, right]}}")

    def run(**arguments):
        context = LaunchContext()
        defaults = {name: default for name, (default, _, _) in launch_file.ARGUMENTS.items()}
        context.launch_configurations.update(defaults | {"cameras_file": str(cameras)} | arguments)
        return launch_file.processes(context)

    return run


def names(actions) -> list[str]:
    return [a.node_executable for a in actions if hasattr(a, "node_executable")]


def test_one_renderer_a_camera_of_the_file(start):
    four = ["synchronizer", "pose3d", "smpl_fitter", "head_registrar"]
    assert names(start()) == [*four, "face_renderer", "face_renderer"]
    assert names(start(pose2d="true", rviz="true"))[-2:] == ["pose2d", "rviz2"]


def test_every_process_has_its_own_enclave(start):
    enclaves = []
    for action in start(pose2d="true", rviz="true"):
        words = ["".join(getattr(w, "text", "") for w in part) for part in action.cmd]
        enclaves.append(words[words.index("--enclave") + 1])
    stages = ["synchronizer", "pose3d", "smpl_fitter", "head_registrar"]
    stages += ["left/face_renderer", "right/face_renderer", "pose2d", "viewer"]
    assert enclaves == [f"/disguisor/{s}" for s in stages]


@pytest.mark.parametrize("argument", ["cameras_file", "config", "bag"])
def test_a_file_that_is_not_there_is_named(start, argument):
    with pytest.raises(UserError, match="/nowhere/x.yaml: "):
        start(**{argument: "/nowhere/x.yaml"})


def test_of_a_bag_only_the_cameras_of_the_file_are_played(start, tmp_path):
    """Nor what a graph said while the bag was recorded."""
    bag = small_room.write(tmp_path / "in", frames=2)
    cameras = tmp_path / "two.yaml"
    cameras.write_text("/**: {ros__parameters: {cameras: [cn01, cn02]}}")
    player = start(bag=str(bag), cameras_file=str(cameras))[-1]
    words = ["".join(w.text for w in part) for part in player.cmd]
    assert words[:4] == ["ros2", "bag", "play", str(bag)]
    kinds = ["color/camera_info", "color/image_raw", "depth/camera_info", "depth/image_raw"]
    kinds.append("keypoints2d")
    topics = [f"/{c}/{k}" for c in ("cn01", "cn02") for k in kinds]
    assert words[words.index("--topics") + 1 :] == ["/tf_static", *topics]


def test_a_bag_without_a_camera_of_the_file_is_refused(start, tmp_path):
    bag = small_room.write(tmp_path / "in", frames=2)
    with pytest.raises(UserError, match="camera 'left' is not in .*; it has cn01, cn02, cn03"):
        start(bag=str(bag))


def test_a_stage_that_cannot_work_as_configured_ends_the_launch(launch_file):
    from types import SimpleNamespace

    event = SimpleNamespace(returncode=2, process_name="smpl_fitter-3")
    line, shutdown = launch_file.end_when_misconfigured(event, None)
    assert "smpl_fitter-3 cannot work" in line.msg[0].text and shutdown.event.reason
    for code in (-9, 0, 1):  # killed, told to stop, crashed: started again
        event.returncode = code
        assert launch_file.end_when_misconfigured(event, None) is None


def test_rviz_shows_the_images_of_the_users_cameras(launch_file):
    file = launch_file.rviz_config(["left"], "map")
    shown = displays(file)
    assert "Fixed Frame: map" in Path(file).read_text()
    assert shown["left anonymized"]["Topic"]["Value"] == "/left/anonymized/image_raw"
    assert not any(name.startswith("cn0") for name in shown) and "Bodies and heads" in shown
