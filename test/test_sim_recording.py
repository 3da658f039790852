"""A small recording from end to end: bag, truth and how they fit together."""

import hashlib

import numpy as np
import pytest

from disguisor_ros.bridge.bags import open_bag
from disguisor_ros.bridge.calibration import CameraRig
from disguisor_ros.core.cameras import Camera, invert_rigid
from disguisor_ros.errors import UserError
from disguisor_ros.sim.recording import Settings, record
from disguisor_ros.sim.truth import BAG_ID_TOPIC, load_truth

SETTINGS = Settings("easy", 0.4, 5.0, 2, 320, 180, 3)
CAMERAS = ("cn01", "cn02")


def messages(path):
    found = {}
    with open_bag(path) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append(message)
    return found


def stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("sim") / "bag"
    record(SETTINGS, path)
    return path


@pytest.fixture(scope="module")
def contents(bag):
    return messages(bag)


@pytest.fixture(scope="module")
def truth(bag):
    return load_truth(bag.with_name("bag.truth"))


def test_every_topic_is_there_with_the_same_stamps(contents, truth):
    for name in CAMERAS:
        stamps = [f["cameras"][name]["stamp_ns"] for f in truth.frames]
        for topic in (
            "color/image_raw",
            "color/camera_info",
            "depth/image_raw",
            "depth/camera_info",
            "keypoints2d",
        ):
            assert [stamp(m) for m in contents[f"/{name}/{topic}"]] == stamps
        assert contents[f"/{name}/color/image_raw"][0].encoding == "rgb8"
        assert contents[f"/{name}/depth/image_raw"][0].encoding == "16UC1"
    assert contents[BAG_ID_TOPIC][0].data == truth.bag_id


def test_calibration_in_the_bag_is_the_truth(contents, truth):
    rig = CameraRig()
    rig.add_transforms(contents["/tf_static"][0])
    for name in CAMERAS:
        for sensor, expected in (
            ("color", truth.cameras[name]),
            ("depth", truth.cameras[name]["depth"]),
        ):
            rig.add_info((name, sensor), contents[f"/{name}/{sensor}/camera_info"][0])
            camera = rig.camera((name, sensor))
            assert np.allclose(camera.tf_world_camera, expected["tf_world_camera"], atol=1e-6)
            assert np.allclose(camera.matrix, expected["matrix"])


def test_masks_agree_with_the_faces_listed(truth):
    some = between = 0
    for frame in truth.frames:
        for name, view in frame["cameras"].items():
            mask = truth.mask(name, view["stamp_ns"])
            listed = {f["person"]: f for f in view["faces"]}
            assert set(np.unique(mask)) - {0} <= set(listed)
            for person, face in listed.items():
                assert (mask == person).sum() == face["visible_pixels"]
                assert 0 <= face["visibility"] <= 1
                if face["visible_pixels"]:
                    some += 1
                    x, y, w, h = face["box"]
                    assert (mask[y : y + h, x : x + w] == person).sum() == face["visible_pixels"]
                    # The whole face holds its visible pixels, whose middles show it.
                    left, top, width, height = face["box_full"]
                    assert left <= x + 0.5 and x + w - 0.5 <= left + width
                    assert top <= y + 0.5 and y + h - 0.5 <= top + height
                    between += left % 1 > 0 and top % 1 > 0
    assert some >= 4 and between >= 4


def test_visible_faces_lie_where_the_head_is_and_depth_agrees(contents, truth):
    checked = 0
    for k, frame in enumerate(truth.frames):
        heads = {p["id"]: np.array(p["tf_world_head"]) for p in frame["persons"]}
        for name, view in frame["cameras"].items():
            color, depth = camera_of(truth.cameras[name]), camera_of(truth.cameras[name]["depth"])
            message = contents[f"/{name}/depth/image_raw"][k]
            image = message.data.view(np.uint16).reshape(message.height, message.width)
            for face in view["faces"]:
                if face["visibility"] < 0.6 or face["yaw_deg"] > 70:
                    continue
                head = heads[face["person"]]
                face_point = head[:3, 3] + 0.09 * head[:3, 0]
                x, y, w, h = face["box"]
                pixel = color.project(face_point)[0]
                assert np.all(np.abs(pixel - [x + w / 2, y + h / 2]) < 12)
                pixel, z = depth.project(face_point)
                if depth.inside(pixel):
                    measured = image[tuple(pixel.round().astype(int)[::-1])] / 1000
                    checked += 1
                    assert measured == 0 or abs(measured - z) < 0.15
    assert checked


def camera_of(entry):
    pose = invert_rigid(np.array(entry["tf_world_camera"]))
    distortion = np.array(entry["distortion"])
    return Camera(
        "c",
        entry["width"],
        entry["height"],
        np.array(entry["matrix"]),
        pose,
        distortion,
        entry["model"],
    )


def test_joints_stand_on_the_floor_and_have_human_size(truth):
    for person in truth.frames[0]["persons"][:-1]:
        joints = np.array(person["joints"])
        assert joints[15:, 2].max() < 0.35
        assert 1.2 < joints[0, 2] < 1.95
        assert 0.25 < np.linalg.norm(joints[5] - joints[6]) < 0.5


def test_same_seed_same_bytes(bag, tmp_path):
    record(SETTINGS, tmp_path / "bag")
    for path in ("bag/bag.mcap", "bag/metadata.yaml", "bag.truth/truth.json"):
        digests = {
            hashlib.sha256((root / path).read_bytes()).hexdigest()
            for root in (bag.parent, tmp_path)
        }
        assert len(digests) == 1, path


def test_an_existing_recording_is_not_overwritten(bag):
    with pytest.raises(UserError, match="exists already"):
        record(SETTINGS, bag)


def test_dropped_frames_compressed_colour_and_wrong_calibration(tmp_path):
    settings = Settings(
        "easy", 0.8, 5.0, 1, 128, 96, 3, jpeg=80, drop=0.5, calibration_error=(10.0, 5.0)
    )
    record(settings, tmp_path / "bag")
    found, truth = messages(tmp_path / "bag"), load_truth(tmp_path / "bag.truth")
    stamps = [f["cameras"]["cn01"]["stamp_ns"] for f in truth.frames]
    assert None in stamps
    kept = [s for s in stamps if s is not None]
    assert [stamp(m) for m in found["/cn01/color/image_raw/compressed"]] == kept
    rig = CameraRig()
    rig.add_transforms(found["/tf_static"][0])
    rig.add_info(("cn01", "color"), found["/cn01/color/camera_info"][0])
    published = rig.camera(("cn01", "color")).tf_world_camera
    exact = np.array(truth.cameras["cn01"]["tf_world_camera"])
    assert 0.001 < np.linalg.norm(published[:3, 3] - exact[:3, 3]) < 0.06
