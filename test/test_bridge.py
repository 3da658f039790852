import array

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from disguisor_msgs import msg
from disguisor_ros.bridge import images, messages
from disguisor_ros.bridge.bags import LATCHED, open_bag, rename_topics
from disguisor_ros.bridge.calibration import CameraRig
from disguisor_ros.bridge.markers import MeshMarkers, coarse_triangles
from disguisor_ros.core.types import Body, Head, Person3D, Region


def head(track_id=3):
    tf = np.eye(4)
    tf[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    tf[:3, 3] = [1, 2, 1.7]
    vertices = np.arange(12, dtype=np.float32).reshape(4, 3)
    covariance = np.diag([4e-4, 1e-4, 1e-4, 9e-4, 9e-4, 4e-4])
    covariance[0, 1] = covariance[1, 0] = 1e-4
    return Head(track_id, tf, vertices, covariance, "registered", 0.75)


def frame_set():
    out = msg.FrameSet(cameras=[msg.CameraStamps(camera="cn01")])
    out.header.stamp.sec = 12
    out.header.frame_id = "world"
    return out


def test_heads_survive_the_message():
    message = messages.write_heads([head()], frame_set())
    (back,) = messages.read_heads(message)
    assert message.header.frame_id == "world" and message.frame_set.cameras[0].camera == "cn01"
    assert np.allclose(back.tf_world_head, head().tf_world_head, atol=1e-6)
    assert np.array_equal(back.vertices, head().vertices)
    assert np.array_equal(back.covariance, head().covariance)
    assert (back.track_id, back.method, back.confidence) == (3, "registered", 0.75)


def test_persons_survive_the_message():
    joints = np.arange(51.0).reshape(17, 3)
    joints[4] = np.nan
    covariance, confidence = np.tile(np.eye(3), (17, 1, 1)), np.linspace(0, 1, 17)
    person = Person3D(9, joints, covariance, confidence, {"cn02": 4}, "predicted", 7)
    (back,) = messages.read_persons(messages.write_persons([person], frame_set()))
    assert np.allclose(back.joints, joints, equal_nan=True) and back.detections == {"cn02": 4}
    assert (back.track_id, back.status, back.age) == (9, "predicted", 7)


def test_bodies_survive_the_message():
    body = Body(3, np.ones((5, 3), np.float32), np.zeros((17, 3)), head())
    (back,) = messages.read_bodies(messages.write_bodies([body], frame_set()))
    assert np.array_equal(back.vertices, body.vertices) and back.head.method == "registered"


def test_regions_are_cut_at_the_top_left_of_the_image():
    region = Region(np.array([-3.0, 5.25, 20.5, 30]), np.zeros((4, 2)), -1, "keypoints", 0.5)
    message = messages.write_regions(Header(), [region])
    assert message.regions[0].box.tolist() == [0, 5.25, 20.5, 30]  # parts of pixels stay
    assert message.regions[0].track_id == -1


def test_keypoints_survive_the_message_and_another_skeleton_is_refused():
    keypoints = np.random.default_rng(0).uniform(0, 1, (2, 17, 3)).astype(np.float32)
    keypoints[..., :2] *= 100
    message = messages.write_keypoints(Header(frame_id="c"), keypoints)
    assert np.allclose(messages.read_keypoints(message), keypoints)
    message.skeleton = "body25"
    with pytest.raises(ValueError, match="body25"):
        messages.read_keypoints(message)


@pytest.mark.parametrize(
    ("factor", "message"), [([0.005, 0.005, 1], "in pixels"), ([1, 1, 0], "score 0")]
)
def test_keypoints_that_would_have_the_room_empty_are_refused(factor, message):
    """Of networks that give shares of the image, or no scores."""
    keypoints = np.random.default_rng(0).uniform(0.1, 1, (2, 17, 3)) * [200, 200, 1] * factor
    with pytest.raises(ValueError, match=message):
        messages.read_keypoints(messages.write_keypoints(Header(), keypoints))
    padding = messages.write_keypoints(Header(), np.zeros((5, 17, 3)))
    assert not messages.read_keypoints(padding).any()


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_images_survive_the_message(encoding):
    channels = images.COLOR_ENCODINGS[encoding]
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, channels), dtype=np.uint8)
    message = Image()
    images.fill_image(message, pixels, encoding)
    assert np.array_equal(images.color_array(message), pixels)


def test_padded_rows_are_understood():
    message = Image(height=2, width=2, encoding="rgb8", step=8)
    message.data = array.array("B", range(16))
    assert images.color_array(message).tolist() == [
        [[0, 1, 2], [3, 4, 5]], [[8, 9, 10], [11, 12, 13]],
    ]  # fmt: skip


def test_big_endian_depth_is_understood():
    message = Image(height=1, width=1, encoding="16UC1", step=2, is_bigendian=1)
    message.data = array.array("B", [8, 2])
    depth, unit_m = images.depth_array(message)
    assert depth.tolist() == [[2050]] and unit_m == 0.001
    message.encoding, message.step = "32FC1", 4
    message.data = array.array("B", np.array([2.5], ">f4").tobytes())
    depth, unit_m = images.depth_array(message)
    assert depth.tolist() == [[2.5]] and depth.dtype == np.float32 and unit_m == 1.0


@pytest.mark.parametrize(("encoding", "value"), [("16UC1", 30000), ("16UC1", 300), ("32FC1", 3e3)])
def test_depth_in_another_unit_is_refused(encoding, value):
    """0.1 mm, centimetres, and millimetres as floats: most of it 30, 0.3 and 3000 m away."""
    image = np.full((8, 8), value, np.float32 if encoding == "32FC1" else np.uint16)
    message = Image(height=8, width=8, encoding=encoding, step=8 * image.itemsize)
    message.data = array.array("B", image.tobytes())
    with pytest.raises(ValueError, match=f"{encoding} must be in"):
        images.depth_array(message)


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "yuv422", "16UC1", ""])
def test_colour_that_cannot_be_anonymized_is_refused_by_name(encoding):
    message = Image(height=1, width=1, encoding=encoding, step=1)
    message.data = array.array("B", [0])
    with pytest.raises(ValueError, match=f"{encoding!r} is not supported"):
        images.color_array(message)


def test_jpeg_is_decoded_and_a_cut_one_is_refused():
    data = cv2.imencode(".jpg", np.full((20, 30, 3), 90, np.uint8))[1].tobytes()
    image, encoding = images.read_color(CompressedImage(format="jpeg", data=data))
    assert image.shape == (20, 30, 3) and encoding == "bgr8"
    for bad in (data[: len(data) // 2], b"", b"not an image"):
        with pytest.raises(ValueError):
            images.compressed_color_array(CompressedImage(format="jpeg", data=bad))


def test_jpeg_that_lacks_a_part_in_its_middle_is_refused():
    """Lost on a camera's USB: what follows moved 184 pixels aside, a face out of its cover."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    middle = len(data) // 2
    for lost in (500, 2000, 5000):
        lacking = data[:middle] + data[middle + lost :]
        with pytest.raises(ValueError, match="lacks a part"):
            images.compressed_color_array(CompressedImage(format="jpeg", data=lacking))
    filled_up = data[:-2] + bytes(64) + data[-2:]  # as some cameras do: harmless
    whole = images.compressed_color_array(CompressedImage(format="jpeg", data=data))
    padded = images.compressed_color_array(CompressedImage(format="jpeg", data=filled_up))
    assert (whole == padded).all()


def test_the_tag_of_a_jpeg_does_not_turn_the_image():
    """A camera's EXIF orientation: turned, the image would fit no calibration and no keypoint."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10] = 200
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    upside_down = bytes.fromhex("49492a00 08000000 0100 1201 0300 01000000 03000000 00000000")
    exif = b"Exif\x00\x00" + upside_down
    tagged = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    turned = cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR)
    assert turned[0].mean() < 20, "the tag is understood by OpenCV"
    image = images.compressed_color_array(CompressedImage(format="jpeg", data=tagged))
    assert image[0].mean() > 180


def transform(parent, child, x=0.0, turn=(-1.0, 0.0, 0.0, 1.0)):
    """A transform; turned as an optical frame is that looks along the y axis of its parent."""
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    out = TransformStamped(child_frame_id=child)
    out.header.frame_id = parent
    out.transform.translation.x = x
    q = out.transform.rotation
    q.x, q.y, q.z, q.w = np.array(turn) / max(np.linalg.norm(turn), 1)
    return TFMessage(transforms=[out])


def info(frame="optical", **change):
    fields = {
        "width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.0] * 5,
        "k": [600.0, 0, 320, 0, 600, 240, 0, 0, 1.0],
    }  # fmt: skip
    return CameraInfo(header=Header(frame_id=frame), **{**fields, **change})


def calibrated(message, transforms=None):
    """The camera of a camera_info and transforms."""
    rig = CameraRig()
    rig.add_transforms(transforms or transform("world", "optical"))
    rig.add_info(("cn01", "color"), message)
    return rig.camera(("cn01", "color"))


def test_transforms_are_chained_from_the_world():
    rig = CameraRig()
    rig.add_transforms(transform("world", "mount", x=1.0, turn=(0.0, 0.0, 0.0, 1.0)))
    rig.add_transforms(transform("mount", "optical", x=2.0))
    rig.add_info(("cn01", "color"), info())
    assert rig.camera(("cn01", "color")).center.tolist() == [3, 0, 0]


@pytest.mark.parametrize("change", [{"binning_x": 2}, {"roi": RegionOfInterest(x_offset=8)}])
def test_the_calibration_of_another_image_than_the_published_one_is_refused(change):
    with pytest.raises(ValueError, match="cn01/color/camera_info: binning"):
        calibrated(info(**change))


def middle(x, y, width=640, height=480):
    """A camera_info whose principal point lies at x, y."""
    return info(width=width, height=height, k=[600.0, 0, x, 0, 600, y, 0, 0, 1.0])


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [(middle(160, 120), "321x241"), (middle(640, 480), "1281x961"),
     (middle(320, 240, 1280, 720), "641x481"), (middle(960, 540, 1280, 720), "1921x1081")],
)  # fmt: skip
def test_intrinsics_of_another_resolution_are_refused(wrong, meant):
    with pytest.raises(ValueError, match=f"cn01/color/camera_info: k is of .* {meant}, not of"):
        calibrated(wrong)


@pytest.mark.parametrize(
    "real",
    [middle(327.2, 338.5, 640, 576), middle(917.3, 563.2, 1920, 1080), middle(320, 100),
     middle(480, 200)],
)  # fmt: skip
def test_lenses_that_are_off_the_middle_and_cut_images_are_not(real):
    """An Azure Kinect's depth, the worst of Panoptic's, and parts of an image."""
    assert calibrated(real).width == real.width


def test_a_pose_that_is_not_of_the_optical_frame_is_refused():
    """That of camera_link: its z axis, which points up, would be the direction of view."""
    with pytest.raises(ValueError, match="optical looks at the ceiling"):
        calibrated(info(), transform("world", "optical", turn=(0.0, 0.2, 0.0, 1.0)))


def test_a_new_calibration_replaces_the_old(monkeypatch):
    monkeypatch.setattr("disguisor_ros.bridge.calibration.SETTLE_S", 0.0)
    rig = CameraRig()
    rig.add_transforms(transform("world", "optical"))
    rig.add_info(("cn01", "color"), info())
    assert rig.camera(("cn01", "color")).width == 640
    rig.add_info(("cn01", "color"), info(width=320))
    assert rig.camera(("cn01", "color")).width == 320


@pytest.mark.parametrize(
    ("transforms", "message"),
    [(None, "no transform"), (transform("world", "optical", x=2500.0), "millimetres"),
     (transform("optical", "optical"), "no transform")],
)  # fmt: skip
def test_a_missing_or_wrong_transform_is_named(transforms, message):
    rig = CameraRig()
    if transforms:
        rig.add_transforms(transforms)
    rig.add_info(("cn01", "color"), info())
    with pytest.raises(ValueError, match=message):
        rig.camera(("cn01", "color"))


def test_two_publishers_of_one_pose_must_agree(monkeypatch):
    """An old static_transform_publisher that was left running beside the new calibration."""
    monkeypatch.setattr("disguisor_ros.bridge.calibration.SETTLE_S", 0.0)
    rig = CameraRig()
    rig.add_info(("cn01", "color"), info())
    rig.add_transforms(transform("world", "optical", x=1.0), b"old")
    rig.add_transforms(transform("world", "optical", x=1.0), b"driver")
    assert rig.camera(("cn01", "color")).center[0] == 1
    rig.add_transforms(transform("world", "optical", x=2.0), b"new")
    rig.believe({b"old", b"driver", b"new"})
    with pytest.raises(ValueError, match="two different poses of optical"):
        rig.camera(("cn01", "color"))
    rig.believe({b"new"})
    assert rig.camera(("cn01", "color")).center[0] == 2
    rig.believe(set())
    assert rig.camera(("cn01", "color")).center[0] == 2, "a pose outlives its publisher"


def test_a_zero_quaternion_is_refused():
    with pytest.raises(ValueError, match="norm"):
        CameraRig().add_transforms(transform("world", "optical", turn=(0.0, 0.0, 0.0, 0.0)))


def test_markers_of_people_who_left_are_deleted():
    mesh = np.eye(3)
    markers = MeshMarkers("heads", mesh, np.array([[0, 1, 2]]), count=1, opacity=0.9)
    markers.message(Header(), {1: mesh, 2: mesh})
    second = markers.message(Header(), {2: mesh}).markers
    assert {m.id: m.action for m in second} == {1: 2, 2: 0}  # DELETE, ADD
    assert [len(m.points) for m in second] == [0, 3]


def test_coarse_triangles_keep_the_shape_on_the_mesh_own_vertices():
    import open3d as o3d

    ball = o3d.geometry.TriangleMesh.create_sphere(1.0, resolution=40)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.triangles)
    coarse = coarse_triangles(vertices, faces, 300)
    assert 200 <= len(coarse) <= 300 and coarse.max() < len(vertices)
    a, b, c = (vertices[coarse[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert area == pytest.approx(4 * np.pi, rel=0.06)


@pytest.mark.parametrize(
    "bad",
    [
        np.diag([1, 1, 1, 1, 1, -1.0]), np.triu(np.ones((6, 6))), np.eye(6) * 1e9,
        np.zeros((6, 6)), np.diag([1.0, 1, 1, 0, 0, 0]), np.diag([1.0, 1, 0, 1, 1, 1]),
    ],
)  # fmt: skip
def test_a_covariance_that_is_none_is_refused(bad):
    message = messages.write_heads([head()], frame_set())
    message.heads[0].pose.covariance = bad.ravel()
    with pytest.raises(ValueError, match="head 3: covariance"):
        messages.read_heads(message)


def test_topics_are_renamed_and_those_of_unknown_types_left_out(tmp_path):
    """A driver's own types are in every bag that was recorded with all topics."""
    path, store = tmp_path / "in", get_typestore(Stores.ROS2_KILTED)
    store.register(
        get_types_from_msg("float64[9] rotation", "realsense2_camera_msgs/msg/Extrinsics")
    )
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        for topic, kind, qos in (
            ("/cn01/rgb/camera_info", "sensor_msgs/msg/CameraInfo", []),
            ("/cn01/extrinsics", "realsense2_camera_msgs/msg/Extrinsics", []),
            ("/tf_static", "tf2_msgs/msg/TFMessage", [LATCHED]),
        ):
            connection = bag.add_connection(topic, kind, typestore=store, offered_qos_profiles=qos)
            bag.write(connection, 1, b"\0\1\0\0")
    rename_topics(path, tmp_path / "out", lambda topic: topic.replace("/rgb/", "/color/"))
    with open_bag(tmp_path / "out") as reader:
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    assert offered == {"/cn01/color/camera_info": [], "/tf_static": [LATCHED]}
