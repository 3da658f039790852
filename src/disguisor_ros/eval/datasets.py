"""Readers for the real recordings that the benchmarks and importers work on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from disguisor_ros.core.cameras import Camera, invert_rigid, rigid
from disguisor_ros.core.types import COCO17
from disguisor_ros.errors import UserError

#: Axes of the OpenGL camera convention (x right, y up, z back) in the optical one.
_OPTICAL_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])

#: z-up world <- y-up world.
_ZUP_YUP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])

#: Joint names of MVOR's annotations that COCO-17 has too, and their COCO-17 indices.
MVOR_JOINTS = (
    "left_shoulder", "right_shoulder", "left_hip", "right_hip",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
MVOR_COCO = [COCO17.index(joint) for joint in MVOR_JOINTS]


@dataclass(frozen=True)
class OrHolistic:
    """Keypoints, face boxes and calibration of a recording in the layout of or_holistic.

    Parameters
    ----------
    cameras : dict of str to Camera
        World z-up, metres, floor at z = 0; pixels of the undistorted colour images.
    keypoints : dict of int to dict of str to ndarray, shape (P, 17, 3)
        Frame -> camera -> COCO-17 x, y (pixels), score (0 = missing).
    face_boxes : dict of int to dict of str to ndarray, shape (F, 4)
        Frame -> camera -> x, y, width, height, pixels; only frames that were annotated.
    fps : float
        Frame numbers per second.
    """

    cameras: dict[str, Camera]
    keypoints: dict[int, dict[str, np.ndarray]]
    face_boxes: dict[int, dict[str, np.ndarray]]
    fps: float = 30.0

    def stamp_ns(self, frame: int) -> int:
        """Time of a frame."""
        return round(frame / self.fps * 1e9)


@dataclass(frozen=True)
class MvorFrame:
    """One instant of MVOR, all cameras.

    Parameters
    ----------
    stamp_ns : int
        Time of capture.
    keypoints : dict of str to ndarray, shape (P, 17, 3)
        Camera -> what the 2D detector found, COCO-17 x, y (pixels), score.
    persons : ndarray, shape (A, 8, 3), metres, world
        Annotated joints in the order of :data:`MVOR_JOINTS`; NaN where there is none.
    files : dict of str to str
        Camera -> name of the colour image.
    """

    stamp_ns: int
    keypoints: dict[str, np.ndarray]
    persons: np.ndarray
    files: dict[str, str]


@dataclass(frozen=True)
class Mvor:
    """Cameras (world z-up, metres: the data set's room frame) and frames, in order of time."""

    cameras: dict[str, Camera]
    frames: list[MvorFrame]


def load_or_holistic(directory: str | Path) -> OrHolistic:
    """Read a directory with ``calibration/``, ``keypoints2d.json`` and ``face_boxes.json``.

    Raises
    ------
    UserError
        Naming the file that is missing or malformed.
    """
    directory = _existing(directory)
    calibration = _existing(directory / "calibration")
    folders = sorted(path for path in calibration.iterdir() if path.is_dir())
    if not folders:
        raise UserError(f"{calibration}: no camera folders (cn01, ...) in it")
    cameras = {folder.name: read_kinect_camera(folder) for folder in folders}
    keypoints = _by_frame_and_camera(directory / "keypoints2d.json", cameras, _keypoints)
    face_boxes = _by_frame_and_camera(
        directory / "face_boxes.json",
        cameras,
        lambda boxes: np.asarray(boxes, dtype=np.float64).reshape(len(boxes), 4),
    )
    return OrHolistic(cameras, keypoints, face_boxes)


def read_kinect_camera(folder: str | Path) -> Camera:
    """Colour camera of a Kinect from ``camera_calibration.yml`` and ``world2camera.json``.

    Its pixels are those of the undistorted images.
    The JSON holds the pose of the depth camera in a y-up world, in the OpenGL convention.

    Parameters
    ----------
    folder : path
        Its name becomes the camera's.

    Raises
    ------
    UserError
        Naming the file that is missing or malformed.
    """
    folder = Path(folder)
    path = _existing(folder / "camera_calibration.yml")
    with _malformed(path):
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        size = [int(storage.getNode(f"color_image_{side}").real()) for side in ("width", "height")]
        tf_color_depth = rigid(
            _node(storage, "depth2color_rotation", 9).reshape(3, 3),
            _node(storage, "depth2color_translation", 3) / 1000.0,
        )
        matrix = _node(storage, "undistorted_color_camera_matrix", 9).reshape(3, 3)
    tf_world_depth = _read_kinect_pose(folder / "world2camera.json")
    with _malformed(path):
        return Camera(
            name=folder.name,
            width=size[0],
            height=size[1],
            matrix=matrix,
            tf_camera_world=tf_color_depth @ invert_rigid(tf_world_depth),
        )


def load_mvor(directory: str | Path, detections: str = "openpose_kps.json") -> Mvor:
    """Read a directory with ``annotations.json`` and the detections of a 2D detector.

    Parameters
    ----------
    directory : path
    detections : str
        Name of the file with the detections.

    Raises
    ------
    UserError
        Naming the file that is missing or malformed.
    """
    directory = _existing(directory)
    path = directory / "annotations.json"
    data = _read_json(path)
    with _malformed(path):
        cameras, tf_world_first = _mvor_cameras(data["cameras_info"]["camParams"])
        persons = _mvor_persons(data, tf_world_first)
        instants = [(entry["id"], entry["images"]) for entry in data["multiview_images"]]
    path = directory / detections
    found = _read_json(path)
    with _malformed(path):
        by_image = defaultdict(list)
        for detection in found:
            by_image[detection["image_id"]].append(
                np.reshape(detection["coco_keypoints"], (17, 3))
            )
    path = directory / "annotations.json"
    with _malformed(path):
        frames = [
            _mvor_frame(images, by_image, persons.get(name, [])) for name, images in instants
        ]
    return Mvor(cameras, sorted(frames, key=lambda frame: frame.stamp_ns))


def _mvor_cameras(parameters: dict) -> tuple[dict[str, Camera], np.ndarray]:
    """Cameras ``cam1`` ..., and the transform world <- first camera."""
    tf_world_first = _millimetres(parameters["firstCamToRoomRef"])
    cameras = {}
    for number, (intrinsics, extrinsics) in enumerate(
        zip(parameters["intrinsics"], parameters["extrinsics"], strict=True), start=1
    ):
        (fx, fy), (cx, cy) = intrinsics["focallength"], intrinsics["principalpoint"]
        width, height = intrinsics["imagesize"]
        cameras[f"cam{number}"] = Camera(
            name=f"cam{number}",
            width=int(width),
            height=int(height),
            matrix=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            tf_camera_world=invert_rigid(tf_world_first @ _millimetres(extrinsics)),
        )  # no distortion: keypoints and annotations are those of a pinhole (checked on both)
    return cameras, tf_world_first


def _mvor_persons(data: dict, tf_world_first: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Annotated persons of each instant: (8, 3) in the world, NaN where not annotated."""
    names = data["categories"][0]["keypoints"]
    columns = [names.index(joint) for joint in MVOR_JOINTS]
    persons = defaultdict(list)
    for annotation in data["annotations3D"]:
        joints = np.reshape(annotation["keypoints3D"], (-1, 4))[columns]  # hands follow
        # In the first camera's frame whatever ref_camera is: only so do they meet the images.
        points = joints[:, :3] / 1000.0 @ tf_world_first[:3, :3].T + tf_world_first[:3, 3]
        points[joints[:, 3] == 0] = np.nan
        persons[annotation["image_ids"]].append(points)
    return persons


def _mvor_frame(images: list[dict], by_image: dict, persons: list) -> MvorFrame:
    return MvorFrame(
        stamp_ns=_stamp_ns(images[0]["date_captured"]),
        keypoints={
            f"cam{image['cam_id']}": _keypoints(by_image.get(image["id"], [])) for image in images
        },
        persons=np.reshape(persons, (-1, len(MVOR_JOINTS), 3)),
        files={f"cam{image['cam_id']}": image["file_name"] for image in images},
    )


def _stamp_ns(date: str) -> int:
    moment = datetime.fromisoformat(date).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


def _millimetres(numbers: list[float]) -> np.ndarray:
    transform = np.reshape(np.asarray(numbers, dtype=np.float64), (4, 4)).copy()
    transform[:3, 3] /= 1000.0
    return transform


def _read_kinect_pose(path: Path) -> np.ndarray:
    """Transform z-up world <- optical frame of the depth camera."""
    pose = _read_json(path)
    with _malformed(path):
        q, t = pose["rotation"], pose["translation"]
        turn = Rotation.from_quat([q["x"], q["y"], q["z"], q["w"]])
        tf_yup_opengl = rigid(turn.as_matrix(), [t["m00"], t["m10"], t["m20"]])
        if not np.isfinite(tf_yup_opengl).all():
            raise ValueError("numbers that are not finite")
    return _ZUP_YUP @ tf_yup_opengl @ _OPTICAL_OPENGL


def _by_frame_and_camera(path: Path, cameras: dict, parse: Callable) -> dict[int, dict]:
    data = _read_json(path)
    with _malformed(path):
        unknown = {camera for views in data.values() for camera in views} - set(cameras)
        if unknown:
            raise ValueError(f"cameras without calibration: {', '.join(sorted(unknown))}")
        frames = {
            int(frame): {camera: parse(found) for camera, found in sorted(views.items())}
            for frame, views in data.items()
        }
        return dict(sorted(frames.items()))


def _keypoints(people: list) -> np.ndarray:
    array = np.asarray(people, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 17, 3))
    if array.ndim != 3 or array.shape[1:] != (17, 3):
        raise ValueError(f"keypoints must have the shape (persons, 17, 3), got {array.shape}")
    return array


def _node(storage: cv2.FileStorage, name: str, size: int | None = None) -> np.ndarray:
    node = storage.getNode(name)
    if node.empty() or node.mat() is None:
        raise ValueError(f"{name} is missing")
    values = np.asarray(node.mat(), dtype=np.float64).ravel()
    if size is not None and len(values) != size:
        raise ValueError(f"{name} must have {size} numbers, got {len(values)}")
    return values


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: not there; is this the directory of the data set?")
    return path


def _read_json(path: Path):
    try:
        with open(_existing(path), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error


@contextmanager
def _malformed(path: Path):
    try:
        yield
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        cv2.error,
        SystemError,  # what cv2.FileStorage makes of a file that is no YAML
    ) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: malformed: {' '.join(str(what).split())}") from error
