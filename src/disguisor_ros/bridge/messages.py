"""Messages of disguisor_msgs and the arrays of ``core``.

Every ``read_*`` checks what it is given: a malformed message raises ValueError and is dropped by
the node, whatever it holds.
"""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseWithCovariance, Transform

from disguisor_msgs import msg
from disguisor_ros.core.cameras import rigid
from disguisor_ros.core.rotations import from_quaternion, to_quaternion
from disguisor_ros.core.synchronization import FrameSet
from disguisor_ros.core.types import Body, Head, Person3D, Region

#: More people than this in one message is an attack or a bug, not a room.
MAX_PEOPLE = 200
_STATUS = ("multiview", "single_view", "predicted")
_METHODS = ("registered", "keypoints", "body", "predicted")
_MAX_PIXEL = 1e6
#: A person whose keypoints all lie within so many pixels of the image's corner is none.
_MIN_PIXEL = 2.0
_MAX_METRE = 1e4


def stamp_ns(time: Time) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return time.sec * 1_000_000_000 + time.nanosec


def time_message(ns: int) -> Time:
    """builtin_interfaces/Time of nanoseconds."""
    return Time(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def flat(values: np.ndarray, code: str = "f") -> array.array:
    """Numbers as an ``array.array``, the one type that rclpy takes without looking at each."""
    out = array.array(code)
    out.frombytes(np.ascontiguousarray(values, dtype=code).tobytes())
    return out


def read_keypoints(message: msg.Keypoints2D) -> np.ndarray:
    """Keypoints, shape (P, 17, 3), of a Keypoints2D.

    Raises
    ------
    ValueError
        If the skeleton is not COCO-17, sizes do not agree, a number is not finite, or nobody can
        look like that: believed, such a detector would have the room empty.
    """
    if message.skeleton != "coco17":
        raise ValueError(f"skeleton {message.skeleton!r} is not supported, only 'coco17' is")
    _check_count(message.persons, "persons")
    for person in message.persons:
        if len(person.keypoints) != 51:
            raise ValueError(
                f"a person has {len(person.keypoints)} numbers, not 51 (17 x, y, score)"
            )
    out = np.array([p.keypoints for p in message.persons], dtype=np.float64).reshape(-1, 17, 3)
    _check_finite(out, "keypoints (score 0 marks missing ones)", _MAX_PIXEL)
    np.clip(out[..., 2], 0, 1, out=out[..., 2])
    scored = out[..., 2] > 0
    if out[..., :2].any() and not scored.any():
        raise ValueError("persons whose keypoints all have score 0, which marks missing ones")
    tiny = (np.abs(out[..., :2]).max(axis=2) < _MIN_PIXEL) | ~scored
    if (tiny.all(axis=1) & (scored.sum(axis=1) > 1)).any():
        raise ValueError("keypoints are not in pixels: shares of the image's size?")
    return out


def write_keypoints(header, keypoints: np.ndarray) -> msg.Keypoints2D:
    """Keypoints2D of keypoints, shape (P, 17, 3)."""
    return msg.Keypoints2D(
        header=header,
        skeleton="coco17",
        persons=[
            msg.PersonKeypoints2D(score=float(p[:, 2].mean()), keypoints=flat(p))
            for p in keypoints
        ],
    )


def read_transform(transform: Transform) -> np.ndarray:
    """Matrix (4, 4) of a geometry_msgs/Transform.

    Raises
    ------
    ValueError
        If a number is not finite or the quaternion's norm is not 1.
    """
    numbers = _numbers(transform.translation, transform.rotation)
    if not np.isfinite(numbers).all():
        raise ValueError("the transform has numbers that are not finite")
    return _rigid(numbers)


def write_transform(tf: np.ndarray) -> Transform:
    """geometry_msgs/Transform of a rigid transform (4, 4)."""
    out = Transform()
    _fill(out.translation, out.rotation, tf)
    return out


def _numbers(position, quaternion) -> np.ndarray:
    """Position and quaternion (x, y, z, w) of a message, shape (7,)."""
    p, q = position, quaternion
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def _rigid(numbers: np.ndarray) -> np.ndarray:
    """Rigid transform (4, 4) of a position and quaternion (7,), finite; ValueError if none."""
    norm = np.linalg.norm(numbers[3:])
    if abs(norm - 1) > 0.01:
        raise ValueError(f"the quaternion's norm is {norm:.3f}, not 1")
    return rigid(from_quaternion(numbers[3:]), numbers[:3])


def _fill(position, quaternion, tf: np.ndarray) -> None:
    """Write a rigid transform (4, 4) into the position and quaternion of a message."""
    position.x, position.y, position.z = map(float, tf[:3, 3])
    q = quaternion
    q.x, q.y, q.z, q.w = map(float, to_quaternion(tf[:3, :3]))


def read_frame_set(message: msg.FrameSet) -> FrameSet:
    """FrameSet of stamps; ValueError when a camera is moved by what is no transform."""
    out = FrameSet(stamp_ns(message.header.stamp))
    _check_count(message.cameras, "cameras")
    for entry in message.cameras:
        out.color_ns[entry.camera] = out.keypoints_ns[entry.camera] = stamp_ns(entry.color)
        depth = stamp_ns(entry.depth)
        if depth:
            out.depth_ns[entry.camera] = depth
        if entry.move != Transform():
            try:
                out.moves[entry.camera] = read_transform(entry.move)
            except ValueError as error:
                raise ValueError(f"the move of camera {entry.camera}: {error}") from error
    return out


def write_frame_set(frame_set: FrameSet, world_frame: str) -> msg.FrameSet:
    """Message of a frame set; cameras that lack colour or keypoints are left out."""
    out = msg.FrameSet()
    out.header.stamp = time_message(frame_set.stamp_ns)
    out.header.frame_id = world_frame
    out.cameras = [
        msg.CameraStamps(
            camera=camera,
            color=time_message(frame_set.color_ns[camera]),
            depth=time_message(frame_set.depth_ns.get(camera, 0)),
        )
        for camera in frame_set.usable
    ]
    return out


def read_persons(message: msg.Persons3D) -> list[Person3D]:
    """Persons of a Persons3D."""
    _check_count(message.persons, "persons")
    out = []
    for p in message.persons:
        if p.status >= len(_STATUS) or len(p.cameras) != len(p.detections):
            raise ValueError(f"person {p.track_id} is malformed")
        joints = np.array(p.joints, dtype=np.float64).reshape(17, 3)
        if np.isinf(joints).any() or np.nanmax(np.abs(joints), initial=0) > _MAX_METRE:
            raise ValueError(f"person {p.track_id}: joints are out of range")
        covariance = np.array(p.covariance, dtype=np.float64).reshape(17, 3, 3)
        if np.isinf(covariance).any():
            raise ValueError(f"person {p.track_id}: covariance is out of range")
        out.append(
            Person3D(
                track_id=p.track_id,
                joints=joints,
                covariance=covariance,
                confidence=np.clip(np.nan_to_num(np.array(p.confidence, dtype=np.float64)), 0, 1),
                detections=dict(zip(p.cameras, p.detections, strict=True)),
                status=_STATUS[p.status],
                age=p.age,
            )
        )
    return out


def write_persons(persons: list[Person3D], frame_set: msg.FrameSet) -> msg.Persons3D:
    """Persons3D of persons found in a frame set."""
    return msg.Persons3D(
        header=frame_set.header,
        frame_set=frame_set,
        persons=[
            msg.Person3D(
                track_id=p.track_id,
                status=_STATUS.index(p.status),
                age=p.age,
                joints=p.joints.ravel().astype(np.float32),
                covariance=p.covariance.ravel().astype(np.float32),
                confidence=p.confidence.astype(np.float32),
                cameras=list(p.detections),
                detections=[int(i) for i in p.detections.values()],
            )
            for p in persons
        ],
    )


def read_head(message: msg.Head) -> Head:
    """Head of a message.

    Raises
    ------
    ValueError
        If a number is not finite, the quaternion is not a rotation, the covariance none or the
        mesh is cut short.
    """
    numbers = _numbers(message.pose.pose.position, message.pose.pose.orientation)
    vertices = np.array(message.vertices, dtype=np.float32)
    _check_finite(numbers, f"head {message.track_id}: pose", _MAX_METRE)
    _check_finite(vertices, f"head {message.track_id}: vertices", _MAX_METRE)
    try:
        tf_world_head = _rigid(numbers)
    except ValueError as error:
        raise ValueError(f"head {message.track_id}: {error}") from error
    if len(vertices) % 3 or message.method >= len(_METHODS):
        raise ValueError(f"head {message.track_id} is malformed")
    if not 0 <= message.confidence <= 1:
        raise ValueError(f"head {message.track_id}: confidence is out of range")
    covariance = np.array(message.pose.covariance, dtype=np.float64).reshape(6, 6)
    _check_finite(covariance, f"head {message.track_id}: covariance", _MAX_METRE**2)
    tiny = 1e-6 * np.abs(covariance).max()
    skew = np.abs(covariance - covariance.T).max()
    if skew > tiny or np.linalg.eigvalsh(covariance)[0] < -tiny:
        raise ValueError(f"head {message.track_id}: covariance is not symmetric and positive")
    # sensor_msgs has zeros for "unknown"; taken at their word the cover would be the tightest.
    if not np.diag(covariance).all():
        raise ValueError(f"head {message.track_id}: covariance is zero, which tells nothing")
    return Head(
        track_id=message.track_id,
        tf_world_head=tf_world_head,
        vertices=vertices.reshape(-1, 3),
        covariance=covariance,
        method=_METHODS[message.method],
        confidence=float(message.confidence),
    )


def write_head(head: Head) -> msg.Head:
    """Message of a head."""
    pose = Pose()
    _fill(pose.position, pose.orientation, head.tf_world_head)
    return msg.Head(
        track_id=head.track_id,
        pose=PoseWithCovariance(pose=pose, covariance=head.covariance.ravel()),
        method=_METHODS.index(head.method),
        confidence=float(np.clip(head.confidence, 0, 1)),
        vertices=flat(head.vertices),
    )


def read_heads(message: msg.Heads) -> list[Head]:
    """Heads of a Heads message."""
    _check_count(message.heads, "heads")
    return [read_head(h) for h in message.heads]


def write_heads(heads: list[Head], frame_set: msg.FrameSet) -> msg.Heads:
    """Heads message of heads found in a frame set."""
    return msg.Heads(
        header=frame_set.header, frame_set=frame_set, heads=[write_head(h) for h in heads]
    )


def read_bodies(message: msg.Bodies) -> list[Body]:
    """Bodies of a Bodies message."""
    _check_count(message.bodies, "bodies")
    out = []
    for b in message.bodies:
        joints = np.array(b.joints, dtype=np.float64).reshape(17, 3)
        vertices = np.array(b.vertices, dtype=np.float32)
        _check_finite(vertices, f"body {b.track_id}: vertices", _MAX_METRE)
        if np.isinf(joints).any() or len(vertices) % 3:
            raise ValueError(f"body {b.track_id} is malformed")
        out.append(Body(b.track_id, vertices.reshape(-1, 3), joints, read_head(b.head)))
    return out


def write_bodies(bodies: list[Body], frame_set: msg.FrameSet) -> msg.Bodies:
    """Bodies message of bodies fitted in a frame set."""
    return msg.Bodies(
        header=frame_set.header,
        frame_set=frame_set,
        bodies=[
            msg.Body(
                track_id=b.track_id,
                joints=b.joints.ravel().astype(np.float32),
                vertices=flat(b.vertices),
                head=write_head(b.head),
            )
            for b in bodies
        ],
    )


def write_regions(header, regions: list[Region]) -> msg.FaceRegions:
    """FaceRegions of the regions that were replaced in an image."""
    out = msg.FaceRegions(header=header)
    for region in regions:
        out.regions.append(
            msg.FaceRegion(
                method=region.method,
                track_id=int(region.track_id),
                confidence=float(region.confidence),
                box=np.maximum(region.box, 0).astype(np.float32),
                polygon=flat(region.polygon),
            )
        )
    return out


def write_topology(name: str, vertices: np.ndarray, faces: np.ndarray) -> msg.MeshTopology:
    """MeshTopology of a mesh: what does not change from instant to instant."""
    triangles = flat(faces.astype(np.uint32), "I")
    return msg.MeshTopology(name=name, vertex_count=len(vertices), triangles=triangles)


def _check_count(items, name: str) -> None:
    if len(items) > MAX_PEOPLE:
        raise ValueError(f"{len(items)} {name} in one message; at most {MAX_PEOPLE} are taken")


def _check_finite(values: np.ndarray, name: str, limit: float) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} with NaN or infinite numbers")
    if values.size and np.abs(values).max() > limit:
        raise ValueError(f"{name} out of range")
