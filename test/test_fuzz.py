"""Whatever a message holds, its reader gives arrays that make sense or raises ValueError.

A few hundred messages of each kind in the usual run; HYPOTHESIS_PROFILE=fuzz makes it 10,000.
"""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from disguisor_msgs import msg
from disguisor_ros.bridge.bags import header_of
from disguisor_ros.bridge.calibration import CameraRig
from disguisor_ros.bridge.images import color_array, compressed_color_array, depth_array
from disguisor_ros.bridge.messages import (
    MAX_PEOPLE,
    flat,
    read_bodies,
    read_frame_set,
    read_heads,
    read_keypoints,
    read_persons,
    write_heads,
)
from disguisor_ros.core.anonymize import AnonymizedImage, FaceRenderer
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.types import DepthView, Head

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 150
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

ODD = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0, -1.0, 1e6])
POISON = st.lists(st.tuples(st.integers(0, 10**6), ODD), max_size=3)
COUNT = st.one_of(st.integers(0, 4), st.sampled_from([MAX_PEOPLE, MAX_PEOPLE + 1, 1000]))
SIDE = st.one_of(st.integers(0, 70), st.sampled_from([16384, 16385, 2**31 - 1, 2**32 - 1]))
TEXT = st.one_of(
    st.sampled_from(["rgb8", "bgr8", "rgba8", "mono8", "16UC1", "32FC1", "8UC3", "bayer_rggb8"]),
    st.text(max_size=8).filter(lambda s: "\0" not in s and s.isprintable()),
)


@st.composite
def numbers(draw, size):
    """Numbers from -1 to 1, some of which are not."""
    out = np.linspace(-1, 1, size)
    for where, value in draw(POISON):
        if size:
            out[where % size] = value
    return out


def stamps():
    return st.builds(
        lambda sec, nanosec: {"sec": sec, "nanosec": nanosec},
        st.integers(-(2**31), 2**31 - 1),
        st.integers(0, 2**32 - 1),
    )


def finite(*arrays):
    return all(np.isfinite(a).all() for a in arrays)


def refused_or(function, *args):
    """What the function gives, or None when it raises ValueError; anything else is a bug."""
    try:
        return function(*args)
    except ValueError as error:
        assert str(error)
        return None


# 2D and 3D results.


@FUZZ
@given(
    COUNT, st.sampled_from([51, 51, 51, 0, 50, 52, 5100]), st.data(),
    st.sampled_from(["coco17"] * 4 + ["", "hand"]),
)  # fmt: skip
def test_keypoints(count, size, data, skeleton):
    person = msg.PersonKeypoints2D(keypoints=flat(data.draw(numbers(size))))
    read = refused_or(
        read_keypoints, msg.Keypoints2D(skeleton=skeleton, persons=[person] * count)
    )
    if read is not None:
        assert read.shape == (count, 17, 3) and finite(read) and count <= MAX_PEOPLE
        assert ((read[..., 2] >= 0) & (read[..., 2] <= 1)).all()


@FUZZ
@given(COUNT, stamps(), stamps(), st.text(max_size=5))
def test_frame_sets(count, color, depth, camera):
    entry = msg.CameraStamps(camera=camera.replace("\0", ""))
    for time, values in ((entry.color, color), (entry.depth, depth)):
        time.sec, time.nanosec = values["sec"], values["nanosec"]
    read = refused_or(read_frame_set, msg.FrameSet(cameras=[entry] * count))
    assert (read is None) == (count > MAX_PEOPLE)


@FUZZ
@given(COUNT, st.integers(0, 255), st.integers(0, 3), st.integers(0, 2**32 - 1), st.data())
def test_persons(count, status, cameras, detection, data):
    person = msg.Person3D(
        status=status,
        joints=data.draw(numbers(51)).astype(np.float32),
        covariance=data.draw(numbers(153)).astype(np.float32),
        confidence=data.draw(numbers(17)).astype(np.float32),
        cameras=["c"] * cameras,
        detections=[detection] * data.draw(st.integers(0, 3)),
    )
    read = refused_or(read_persons, msg.Persons3D(persons=[person] * count))
    for p in read or []:
        assert p.joints.shape == (17, 3) and p.covariance.shape == (17, 3, 3)
        assert not np.isinf(p.joints).any() and not np.isinf(p.covariance).any()
        assert ((p.confidence >= 0) & (p.confidence <= 1)).all()


QUATERNIONS = st.sampled_from([(0, 0, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1), (0.6, 0, 0, 0.8)])


@st.composite
def head_messages(draw):
    head = msg.Head(track_id=draw(st.integers(0, 2**32 - 1)), method=draw(st.integers(0, 6)))
    p, q = head.pose.pose.position, head.pose.pose.orientation
    p.x, p.y, p.z = draw(numbers(3)).tolist()
    q.x, q.y, q.z, q.w = map(float, draw(QUATERNIONS))
    if draw(st.booleans()):
        q.w = draw(ODD)
    spread = np.diag([draw(st.one_of(st.floats(0, 1), ODD))] * 6)
    if draw(st.booleans()):
        spread = draw(numbers(36)).reshape(6, 6)
    head.pose.covariance = spread.ravel().astype(np.float64)
    head.confidence = float(np.float32(draw(st.one_of(st.floats(0, 1, width=32), ODD))))
    full = 3 * len(_template().vertices)
    size = draw(st.sampled_from([0, 3, 4, 300, full, full, full - 3, full + 3]))
    head.vertices = flat(draw(numbers(size)))
    return head


@FUZZ
@given(head_messages(), COUNT)
def test_heads(head, count):
    for h in refused_or(read_heads, msg.Heads(heads=[head] * count)) or []:
        assert finite(h.tf_world_head, h.vertices) and h.vertices.shape[1:] == (3,)
        assert np.allclose(h.tf_world_head[:3, :3] @ h.tf_world_head[:3, :3].T, np.eye(3))
        assert 0 <= h.sigma_m < np.inf and 0 <= h.confidence <= 1
        least, largest = np.linalg.eigvalsh(h.covariance)[0], np.abs(h.covariance).max()
        assert least >= -1e-6 * max(largest, 1e-9)


@FUZZ
@given(head_messages(), COUNT, st.integers(0, 10), st.data())
def test_bodies(head, count, size, data):
    body = msg.Body(head=head, vertices=flat(data.draw(numbers(size))))
    body.joints = data.draw(numbers(51)).astype(np.float32)
    for b in refused_or(read_bodies, msg.Bodies(bodies=[body] * count)) or []:
        assert finite(b.vertices, b.head.vertices) and not np.isinf(b.joints).any()


# Images and calibration.


@st.composite
def images(draw):
    message = Image(height=draw(SIDE), width=draw(SIDE), encoding=draw(TEXT))
    right = message.width * draw(st.sampled_from([1, 2, 3, 4]))
    message.step = draw(st.one_of(SIDE, st.just(right % 2**32)))
    size = draw(st.sampled_from([message.step * message.height, 0, 7, 4096]))
    message.data = bytes(size if size < 10**6 else 64)
    message.is_bigendian = draw(st.integers(0, 255))
    return message


@FUZZ
@given(images())
def test_color(message):
    read = refused_or(color_array, message)
    if read is not None:
        assert read.dtype == np.uint8 and read.shape[:2] == (message.height, message.width)


@FUZZ
@given(images())
def test_depth(message):
    read = refused_or(depth_array, message)
    if read is not None:
        image, unit_m = read
        assert image.shape == (message.height, message.width) and unit_m in (1.0, 0.001)
        assert image.dtype == (np.float32 if message.encoding == "32FC1" else np.uint16)


@cache
def _encoded(kind):
    import cv2

    image = np.random.default_rng(1).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return cv2.imencode(f".{kind}", image)[1].tobytes()


_HUGE_PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0\0\0\0\0"
)


@FUZZ
@example("png", [], 10**6, _HUGE_PNG)
@given(
    st.sampled_from(["jpg", "png"]),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=5),
    st.integers(0, 10**4),
    st.one_of(st.none(), st.none(), st.binary(max_size=50)),
)
def test_compressed(kind, changes, length, other):
    data = bytearray(_encoded(kind))
    for where, value in changes:
        data[where % len(data)] = value
    data = data[: length % (2 * len(data))] if other is None else other
    read = refused_or(compressed_color_array, CompressedImage(format=kind, data=bytes(data)))
    if read is not None:
        assert read.dtype == np.uint8 and read.ndim == 3


@st.composite
def transforms(draw):
    out = TransformStamped(child_frame_id=draw(st.sampled_from(["a", "b", "/a", ""])))
    out.header.frame_id = draw(st.sampled_from(["world", "a", "b", ""]))
    t, q = out.transform.translation, out.transform.rotation
    t.x, t.y, t.z = draw(numbers(3)).tolist()
    q.x, q.y, q.z, q.w = map(float, draw(QUATERNIONS))
    return out


@FUZZ
@given(
    st.lists(transforms(), max_size=4), SIDE, SIDE, st.data(), st.integers(0, 15),
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "what"]),
)  # fmt: skip
def test_camera_info_and_tf(stamped, width, height, data, coefficients, model):
    rig = CameraRig()
    refused_or(rig.add_transforms, TFMessage(transforms=stamped))
    info = CameraInfo(width=width, height=height, distortion_model=model)
    info.header.frame_id = "a"
    info.k = np.abs(data.draw(numbers(9))) * 100
    info.d = data.draw(numbers(coefficients)).tolist()
    rig.add_info(("cam", "color"), info)
    camera = refused_or(rig.camera, ("cam", "color"))
    if camera is not None:
        assert camera.width > 0 and camera.height > 0 and camera.matrix[0, 0] > 0
        assert finite(camera.matrix, camera.tf_camera_world, camera.distortion)


# Bytes on the wire.

READERS = {
    msg.Keypoints2D: read_keypoints, msg.FrameSet: read_frame_set, msg.Persons3D: read_persons,
    msg.Bodies: read_bodies, msg.Heads: read_heads, Image: color_array,
    CompressedImage: compressed_color_array, TFMessage: CameraRig().add_transforms,
}  # fmt: skip


@cache
def _sound(kind):
    message = kind()
    if kind is msg.Keypoints2D:
        message.persons = [msg.PersonKeypoints2D(keypoints=flat(np.ones(51)))]
    elif kind is msg.Heads:
        message = write_heads([_head()], msg.FrameSet(cameras=[msg.CameraStamps(camera="c")]))
    elif kind is Image:
        message = Image(height=4, width=4, step=12, encoding="rgb8", data=bytes(48))
    elif kind is TFMessage:
        message.transforms = [TransformStamped()]
    return serialize_message(message)


@pytest.mark.parametrize("kind", READERS, ids=lambda k: k.__name__)
@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(4, 2000), st.integers(0, 255)), max_size=8),
    length=st.one_of(st.none(), st.integers(0, 2000)),
)
def test_bytes_on_the_wire(kind, changes, length):
    raw = bytearray(_sound(kind))
    for where, value in changes:
        raw[4 + where % max(1, len(raw) - 4)] = value
    raw = bytes(raw[:length])
    refused_or_short(raw)
    try:
        message = deserialize_message(raw, kind)
    except Exception:  # the middleware refuses it: the node is never told
        return
    refused_or(READERS[kind], message)


def refused_or_short(raw):
    try:
        header_of(raw)
    except ValueError:
        assert len(raw) < 16


# Heads into the renderer.


@cache
def _template():
    return HeadTemplate.load()


@cache
def _renderer():
    return FaceRenderer(_template(), "solid")


def _camera():
    # Looks along world x, so that a head that faces -x looks into it.
    tf = np.eye(4)
    tf[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    matrix = np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    return Camera("cam", 64, 48, matrix, tf)


def _head():
    tf = np.diag([-1.0, -1.0, 1.0, 1.0])
    tf[:3, 3] = (0.8, 0.0, 0.0)
    vertices = _template().place(tf).astype(np.float32)
    return Head(1, tf, vertices, 1e-4 * np.eye(6), "registered", 0.9)


@settings(parent=FUZZ, max_examples=max(20, EXAMPLES // 5))
@given(
    st.sampled_from(["same", "empty", "cut", "longer", "flat"]), POISON, ODD, ODD,
    st.sampled_from([None, 0, 65535, float("nan"), float("inf"), -1.0]),
)  # fmt: skip
def test_a_head_with_a_broken_mesh_is_covered_all_the_same(shape, poison, sigma, belief, depth):
    head = _head()
    vertices = {
        "same": head.vertices, "empty": head.vertices[:0], "cut": head.vertices[:-1],
        "longer": np.vstack([head.vertices] * 2), "flat": head.vertices * 0 + np.float32(5),
    }[shape].copy()  # fmt: skip
    if shape != "flat" and vertices.size and shape != "same":
        for where, value in poison:
            vertices.flat[where % vertices.size] = value
    head.vertices = vertices
    head.covariance, head.confidence = np.diag([sigma * abs(sigma)] * 6), belief
    image = np.full((48, 64, 3), 200, np.uint8)
    image[16:32, 24:40] = np.arange(16)[:, None, None] * 10
    view = None
    if depth is not None:
        kind = np.float32 if isinstance(depth, float) else np.uint16
        view = DepthView(_camera(), np.full((48, 64), depth, kind), 0.001)
    _renderer().reset()
    out = refused_or(_renderer(), image, _camera(), [head], np.zeros((0, 17, 3)), view)
    if out is not None:
        assert type(out) is AnonymizedImage
        hidden = depth == -1.0 or shape == "flat"  # a mesh that is elsewhere is believed
        assert hidden or (out.image[22:26, 30:34] != image[22:26, 30:34]).any(axis=2).all()


@settings(parent=FUZZ, max_examples=max(20, EXAMPLES // 5))
@given(st.lists(head_messages(), max_size=3), st.data())
def test_heads_from_the_wire_never_break_the_renderer(messages, data):
    heads = refused_or(read_heads, msg.Heads(heads=messages))
    keypoints = np.array([data.draw(numbers(51)).reshape(17, 3)])
    if heads is not None:
        image = np.full((48, 64, 3), 200, np.uint8)
        out = refused_or(_renderer(), image, _camera(), heads, keypoints)
        assert out is None or type(out) is AnonymizedImage


@FUZZ
@given(images())
def test_an_image_of_any_kind_comes_out_of_its_own_size_or_not_at_all(message):
    image = refused_or(color_array, message)
    if image is not None:
        nobody, encoding = np.zeros((0, 17, 3)), message.encoding
        out = refused_or(lambda: _renderer()(image, _camera(), [], nobody, encoding=encoding))
        assert out is None or out.image.shape == image.shape[:2] + (image.shape[2],)
