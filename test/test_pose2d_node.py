"""The pose2d node on messages: what comes out for good, odd and broken images."""
# ruff: noqa: E402, I001 (skips come first)

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("onnxruntime", reason="requirements-pose2d.txt is not installed")

from disguisor_msgs.msg import FrameSet
from sensor_msgs.msg import CompressedImage, Image

from disguisor_ros.bridge.images import fill_image
from disguisor_ros.bridge.messages import read_keypoints, time_message, write_persons
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.types import Person3D
from disguisor_ros.nodes.pose2d import Pose2DNode


class Detector:
    """Finds one person in every image, and remembers what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, image, regions):
        self.calls.append((image, regions))
        return np.full((1, 17, 3), [20.0, 20.0, 0.5])


class Publisher(list):
    def publish(self, message):
        self.append(message)


@pytest.fixture
def make():
    made = []

    def node(transport="raw"):
        rclpy.init(args=[
            "--ros-args", "-p", "cameras:=[a, b]", "-p", f"image_transport:={transport}",
        ])  # fmt: skip
        made.append(Pose2DNode())
        made[-1].detector = Detector()
        made[-1].outputs = {"a": Publisher(), "b": Publisher()}
        return made[-1]

    yield node
    for n in made:
        n.destroy_node()
    rclpy.shutdown()


def image(stamp, shape=(33, 47, 3), encoding="bgr8"):
    message = Image()
    pixels = np.zeros(shape, np.uint8)
    pixels[..., 0] = 200
    fill_image(message, pixels, encoding)
    message.header.stamp = time_message(stamp)
    message.header.frame_id = "a_color_optical_frame"
    return message


def test_header_is_kept_and_colours_are_rgb(make):
    node = make()
    node._on_image("a", image(1_000_000_007))
    node.work()
    (out,) = node.outputs["a"]
    assert (out.header.stamp.sec, out.header.stamp.nanosec) == (1, 7)
    assert out.header.frame_id == "a_color_optical_frame"
    assert read_keypoints(out).shape == (1, 17, 3)
    assert node.detector.calls[0][0][0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize("channels, encoding", [(1, "mono8"), (4, "rgba8"), (3, "rgb8")])
def test_other_encodings(make, channels, encoding):
    node = make()
    node._on_image("a", image(0, (31, 40, channels), encoding))
    node.work()
    assert len(node.outputs["a"]) == 1
    assert node.detector.calls[0][0].shape == (31, 40, 3)


def test_what_cannot_be_read_gets_no_keypoints(make):
    node = make()
    bayer = image(0)
    bayer.encoding = "bayer_rggb8"
    short = image(100_000_000)
    short.data = short.data[:50]
    for broken, reason in ((bayer, "bayer_rggb8.*debayer"), (short, "needs 4653 bytes")):
        node._on_image("a", broken)
        with pytest.raises(ValueError, match=reason):
            node.work()
    node._on_image("a", image(200_000_000))
    node.work()
    assert [m.header.stamp.nanosec for m in node.outputs["a"]] == [200_000_000]


def test_compressed_and_corrupt_jpeg(make):
    node = make("compressed")
    _, jpeg = cv2.imencode(".jpg", np.full((40, 50, 3), 90, np.uint8))
    for stamp, data in ((0, jpeg.tobytes()[:-40]), (10**8, b""), (2 * 10**8, jpeg.tobytes())):
        message = CompressedImage(format="jpeg", data=data)
        message.header.stamp = time_message(stamp)
        node._on_image("a", message)
        if stamp < 2 * 10**8:
            with pytest.raises(ValueError, match="compressed image"):
                node.work()
    node.work()
    assert len(node.outputs["a"]) == 1


def test_known_people_are_looked_for_for_a_second(make):
    node = make()
    camera = Camera("a", 47, 33, [[30, 0, 23], [0, 30, 16], [0, 0, 1]], np.eye(4))
    node.rig = SimpleNamespace(camera=lambda key: camera)
    joints = np.zeros((17, 3)) + [0, 0, 3.0]
    joints[5:, 1] = 0.5
    person = Person3D(1, joints, np.zeros((17, 3, 3)), np.ones(17))
    message = FrameSet()
    message.header.stamp = time_message(10**9)
    node._on_persons(write_persons([person], message))
    for stamp in (10**9 + 10**8, 3 * 10**9):
        node._on_image("a", image(stamp))
        node.work()
    (_, now), (_, later) = node.detector.calls
    np.testing.assert_allclose(now, [[23, 16, 0, 5]])
    assert later is None


def test_overrun_drops_whole_instants(make):
    node = make()
    for k in range(6):
        node._on_image("a", image(k * 10**8))
        node._on_image("b", image(k * 10**8 + 10**6))
    for _ in range(12):
        node.work()
    stamps = [[m.header.stamp.nanosec // 10**8 for m in node.outputs[c]] for c in "ab"]
    assert stamps == [[2, 3, 4, 5]] * 2
    assert node.drops["overrun"] == 4
