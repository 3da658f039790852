"""The SROS2 policy: what the nodes need, and nothing else; nobody else reads raw images."""

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest

from disguisor_ros import cli, security
from disguisor_ros.bridge.topics import STAGES
from disguisor_ros.security import policy

CAMERAS = ["cn01", "cn02"]
ROOT = Path(__file__).resolve().parents[1]


def grants(cameras=CAMERAS, pose2d=True):
    """Names by enclave and access, as :data:`{enclave: {"publish": {...}, ...}}`."""
    out = {}
    for enclave in ElementTree.fromstring(policy(cameras, pose2d)).iter("enclave"):
        (profile,) = enclave.iter("profile")
        own = f"{profile.get('ns').rstrip('/')}/{profile.get('node')}"
        access = out[enclave.get("path")] = {}
        for element in profile:
            (kind,) = element.keys()
            access.setdefault(kind, set()).update(e.text.replace("~", own, 1) for e in element)
    return out


def allowed(access: set[str], name: str) -> bool:
    """Whether an expression of the policy matches a name, as DDS security does (fnmatch)."""
    return any(fnmatch(name, expression) for expression in access)


def who(kind: str, topic: str, **kwargs) -> set[str]:
    return {
        enclave.removeprefix("/disguisor/")
        for enclave, access in grants(**kwargs).items()
        if allowed(access.get(kind, set()), topic)
    }


@pytest.fixture(scope="module")
def topics_of():
    """Stage -> (published topics, subscribed topics, services) of its real, active node."""
    rclpy = pytest.importorskip("rclpy")

    def run(stage, transport="raw"):
        namespace = "/cn01" if stage == "face_renderer" else "/"
        parameters = [
            "camera:=cn01", "cameras:=[cn01, cn02]", f"image_transport:={transport}",
            "compressed_output:=jpg",
        ]  # fmt: skip
        arguments = [x for p in parameters for x in ("-p", p)] + ["-r", f"__ns:={namespace}"]
        rclpy.init(args=["--ros-args", *arguments])
        try:
            module = __import__(f"disguisor_ros.nodes.{stage}", fromlist=["x"])
            (kind,) = (
                v
                for k, v in vars(module).items()
                if k.endswith("Node") and v.__module__ == module.__name__
            )
            node = kind()
            if stage != "pose2d":  # whose model need not be there
                node.load()
            node.connect()
            named = (node.get_name(), node.get_namespace())
            got = tuple(
                {name for name, _ in ask(*named)}
                for ask in (
                    node.get_publisher_names_and_types_by_node,
                    node.get_subscriber_names_and_types_by_node,
                    node.get_service_names_and_types_by_node,
                )
            )
            node.destroy_node()
        finally:
            rclpy.try_shutdown()
        return got

    return run


@pytest.mark.parametrize("stage", STAGES)
def test_policy_grants_a_stage_what_its_node_uses_and_nothing_else(topics_of, stage):
    enclave = f"/disguisor/{'cn01/' if stage == 'face_renderer' else ''}{stage}"
    granted = grants()[enclave]
    publishes, subscribes, replies = topics_of(stage)
    if stage in ("face_renderer", "pose2d"):  # the other transport is granted, too
        subscribes |= topics_of(stage, "compressed")[1]
    subscribes |= {"/clock"}  # with use_sim_time
    for access, used in (("publish", publishes), ("subscribe", subscribes), ("reply", replies)):
        assert [name for name in used if not allowed(granted[access], name)] == []
        unused = [e for e in granted[access] if not any(fnmatch(name, e) for name in used)]
        assert unused == []
    assert "request" not in granted


@pytest.mark.parametrize("topic", ["color/image_raw", "color/image_raw/compressed"])
def test_raw_colour_is_read_by_the_renderer_of_its_camera_alone(topic):
    assert who("subscribe", f"/cn01/{topic}", pose2d=False) == {"cn01/face_renderer"}
    assert who("subscribe", f"/cn01/{topic}", pose2d=True) == {"cn01/face_renderer", "pose2d"}


def test_results_are_published_by_their_stage_alone():
    assert who("publish", "/disguisor/heads") == {"head_registrar"}
    assert who("publish", "/disguisor/persons3d") == {"pose3d"}
    assert who("publish", "/disguisor/frame_set") == {"synchronizer"}
    assert who("publish", "/disguisor/bodies") == {"smpl_fitter"}
    for topic in ("image_raw", "image_raw/compressed", "camera_info", "regions"):
        assert who("publish", f"/cn02/anonymized/{topic}") == {"cn02/face_renderer"}
    assert who("publish", "/cn01/keypoints2d", pose2d=True) == {"pose2d"}
    assert who("publish", "/cn01/keypoints2d", pose2d=False) == {"cn01/driver", "player"}
    assert who("publish", "/cn01/color/image_raw") == {"cn01/driver", "player"}


def test_viewer_sees_what_is_anonymized_and_nothing_else():
    viewer = grants()["/disguisor/viewer"]
    assert allowed(viewer["subscribe"], "/cn01/anonymized/image_raw")
    for topic in ("color/image_raw", "color/image_raw/compressed", "depth/image_raw"):
        assert not allowed(viewer["subscribe"], f"/cn01/{topic}")
    assert viewer["publish"] == {"/rosout", "/parameter_events"}
    assert not allowed(viewer["reply"], "/cn01/face_renderer/change_state")


def test_only_the_operator_may_stop_a_stage():
    assert who("request", "/cn01/face_renderer/change_state") == {"operator"}
    assert who("request", "/pose3d/get_parameters") == {"operator"}
    assert who("request", "/pose3d/set_parameters") == set()


def test_permissions_do_not_grow_with_the_cameras():
    """Fast DDS refuses to send long ones."""
    sizes = {}
    for count in (2, 20):
        root = ElementTree.fromstring(policy([f"cn{k:02}" for k in range(count)]))
        for enclave in root.iter("enclave"):
            sizes.setdefault(enclave.get("path"), set()).add(len(ElementTree.tostring(enclave)))
    assert all(len(s) == 1 and max(s) < 3000 for s in sizes.values())


def test_policy_is_valid_for_ros2_security(tmp_path):
    sros2 = pytest.importorskip("sros2.policy", reason="sros2 is not installed")
    (tmp_path / "policy.xml").write_text(policy(CAMERAS, pose2d=True))
    enclaves = sros2.load_policy(tmp_path / "policy.xml").find("enclaves")
    assert {e.get("path") for e in enclaves} == set(grants())


def test_without_sros2_the_policy_is_written_and_one_line_says_what_to_do(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(security.shutil, "which", lambda _: None)
    keystore = tmp_path / "keys"
    assert cli.main(["secure", str(ROOT / "config/cameras.yaml"), str(keystore)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no ros2 command" in line and f"ros2 security generate_artifacts -k {keystore}" in line
    assert (keystore / "policy.xml").read_text() == policy(["cn01", "cn02", "cn03", "cn04"])


def test_keys_and_permissions_are_made_by_ros2_security(tmp_path, monkeypatch, capsys):
    fake = tmp_path / "ros2"
    write = f"open({str(tmp_path / 'args')!r}, 'w').write(' '.join(sys.argv[1:]))"
    fake.write_text(f"#!{sys.executable}\nimport sys; {write}")
    fake.chmod(0o755)
    monkeypatch.setattr(security.shutil, "which", lambda _: str(fake))
    keystore = tmp_path / "keys"
    assert cli.main(["secure", str(ROOT / "config/cameras.yaml"), str(keystore), "--pose2d"]) == 0
    asked = (tmp_path / "args").read_text()
    assert asked == f"security generate_artifacts -k {keystore} -p {keystore / 'policy.xml'}"
    assert "/disguisor/pose2d" in (keystore / "policy.xml").read_text()
    assert (tmp_path / "args").stat().st_mode & 0o077 == 0  # as the keys: for the owner alone


def test_a_stage_that_ends_gives_its_shared_memory_back(tmp_path, monkeypatch):
    """A launch that restarts stages for weeks would fill /dev/shm."""
    pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    code = (
        "import os, rclpy; from disguisor_ros.nodes.synchronizer import SynchronizerNode\n"
        "ports = lambda: {f for f in os.listdir('/dev/shm') if f.startswith('fastdds_port')}\n"
        "before = ports(); rclpy.init(); node = SynchronizerNode(); mine = ports() - before\n"
        "node.destroy_node(); rclpy.try_shutdown(); print(len(mine), len(mine & ports()))\n"
        "os._exit(0)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    made, left = map(int, shown.stdout.split())
    if not made:
        pytest.skip("the middleware uses no shared memory here")
    assert left == 0
