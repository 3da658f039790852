"""Turn public data sets into bags that the graph can read."""

from __future__ import annotations

import argparse
import json
import pickle
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from disguisor_ros.bridge.images import cut_short
from disguisor_ros.bridge.room_bag import RoomBag
from disguisor_ros.core.cameras import Camera, rigid
from disguisor_ros.errors import UserError
from disguisor_ros.eval.datasets import load_mvor, load_or_holistic, read_kinect_camera
from disguisor_ros.progress import track

#: Panoptic's world (y down) <- z-up world.
_PANOPTIC_ZUP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``disguisor import``."""
    parser.add_argument("layout", choices=sorted(LAYOUTS), help="layout of the data set")
    parser.add_argument("source", metavar="SRC", type=Path, help="its folder")
    parser.add_argument("out", metavar="OUT", help="rosbag2 (MCAP) to write")
    parser.add_argument(
        "--fps",
        type=float,
        default=30.0,
        help="frame numbers per second, for data sets that name frames by number (default: 30)",
    )


def main(args) -> int:
    """Run ``disguisor import``."""
    if not args.source.is_dir():
        raise UserError(f"{args.source}: there is no such folder")
    if not 0.001 <= args.fps <= 1000:  # stamps of more seconds than a message holds; all the same
        raise UserError(f"--fps must lie between 0.001 and 1000, is {args.fps}")
    LAYOUTS[args.layout](args.source, args.out, args.fps)
    return 0


def import_or_holistic(source: Path, out: str, fps: float) -> None:
    """Calibrations and keypoints; grey images stand in for those that are not public."""
    data = load_or_holistic(source)
    canvas = {name: _grey_jpeg(camera) for name, camera in data.cameras.items()}
    with RoomBag(out, data.cameras, start_ns=_stamp(min(data.keypoints), fps)) as bag:
        for frame in track(sorted(data.keypoints), "importing"):
            stamp = _stamp(frame, fps)
            for name in data.cameras:
                bag.compressed_color(name, stamp, canvas[name])
                bag.keypoints(name, stamp, data.keypoints[frame].get(name, np.zeros((0, 17, 3))))


def import_mvor(source: Path, out: str, fps: float) -> None:
    """Calibrations and OpenPose keypoints; grey images where ``SRC/dataset`` has none."""
    data = load_mvor(source)
    canvas = {name: _grey_jpeg(camera) for name, camera in data.cameras.items()}
    with RoomBag(out, data.cameras, start_ns=data.frames[0].stamp_ns) as bag:
        for frame in track(data.frames, "importing"):
            for name in data.cameras:
                image = source / "dataset" / frame.files[name]
                data_bytes = _encoded(image) if image.is_file() else canvas[name]
                bag.compressed_color(name, frame.stamp_ns, data_bytes)
                bag.keypoints(name, frame.stamp_ns, frame.keypoints[name])


def import_panoptic(source: Path, out: str, fps: float) -> None:
    """Five HD views; no keypoints (let ``disguisor run --pose2d`` find them)."""
    cameras = _panoptic_cameras(source / "camera_parameters.json", source)
    frames = _numbered(source, cameras, "*.jpg", lambda p: int(p.stem.rsplit("_", 1)[1]))
    with RoomBag(out, cameras, start_ns=_stamp(min(frames), fps)) as bag:
        for frame in track(sorted(frames), "importing"):
            for name, path in frames[frame].items():
                bag.compressed_color(name, _stamp(frame, fps), _encoded(path))


def import_disguisor(source: Path, out: str, fps: float) -> None:
    """Colour, depth on the colour grid, calibrations and keypoints as DisguisOR publishes them."""
    folders = sorted(p for p in source.iterdir() if (p / "camera_calibration.yml").is_file())
    if not folders:
        raise UserError(f"{source}: no camera folders with a camera_calibration.yml in it")
    cameras = {p.name: read_kinect_camera(p) for p in folders}
    keypoints = _disguisor_keypoints(source)
    frames = _numbered(source, cameras, "*_color.jpg", lambda p: int(p.stem.split("_")[0]))
    with RoomBag(out, cameras, start_ns=_stamp(min(frames), fps)) as bag:
        for frame in track(sorted(frames), "importing"):
            for name, path in frames[frame].items():
                stamp, color = _stamp(frame, fps), _encoded(path)
                depth_path = path.with_name(path.name.replace("_color.jpg", "_rgbd.tiff"))
                if depth_path.is_file():
                    bag.raw_depth(name, stamp, _depth_tiff(depth_path, cameras[name]))
                bag.compressed_color(name, stamp, color)
                bag.keypoints(name, stamp, keypoints.get((name, frame), np.zeros((0, 17, 3))))


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain containers and NumPy arrays; refuses everything else.

    A pickle is a program: only the functions that rebuild an array may be called.
    """

    _ALLOWED = {
        (module, name)
        for package in ("numpy.core", "numpy._core")
        for module, name in (
            (f"{package}.multiarray", "_reconstruct"),
            (f"{package}.multiarray", "scalar"),
            (f"{package}.numeric", "_frombuffer"),
        )
    } | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module, name):
        """The named object, if it is one that arrays are made of."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, only arrays are read")
        return super().find_class(module, name)


def read_pickle(path: Path):
    """Contents of a pickle of arrays.

    Raises
    ------
    UserError
        If the file holds anything else, or is damaged; nothing in it is executed.
    """
    try:
        with path.open("rb") as file:
            return ArrayUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{path}: refused: {error or type(error).__name__}") from error


def _disguisor_keypoints(source: Path) -> dict[tuple[str, int], np.ndarray]:
    files = sorted([*source.glob("*_2d_kps.pkl"), *source.parent.glob("*_2d_kps.pkl")])
    if not files:
        raise UserError(f"{source}: no *_2d_kps.pkl in or beside it (2D keypoints)")
    out = {}
    for path in files:
        content = read_pickle(path)
        if not isinstance(content, dict):
            raise UserError(f"{path}: must hold a dict of '<camera>_<frame>' to keypoints")
        for key, people in content.items():
            camera, _, frame = str(key).rpartition("_")
            array = np.asarray(people, dtype=object if len(people) == 0 else np.float64)
            if not frame.isdigit() or (array.size and array.reshape(-1).size % 51):
                raise UserError(f"{path}: {key!r} does not hold keypoints of shape (17, 3)")
            array = array.astype(np.float64).reshape(-1, 17, 3)
            if not np.isfinite(array).all():
                raise UserError(f"{path}: {key!r} has keypoints with NaN")
            array[..., 2] = np.clip(array[..., 2], 0, 1)
            out[camera, int(frame)] = array
    return out


def _depth_tiff(path: Path, camera: Camera) -> np.ndarray:
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2:
        raise UserError(f"{path}: cannot be read as a depth image")
    if depth.shape != (camera.height, camera.width):
        raise UserError(
            f"{path}: depth is {depth.shape[1]}x{depth.shape[0]}, colour is"
            f" {camera.width}x{camera.height}; depth must be on the colour grid"
        )
    return np.clip(np.nan_to_num(depth), 0, 65535).astype(np.uint16)


def _panoptic_cameras(path: Path, source: Path) -> dict[str, Camera]:
    try:
        entries = {camera["name"]: camera for camera in json.loads(path.read_text())["cameras"]}
        cameras = {}
        for name in sorted(p.name for p in source.iterdir() if p.is_dir()):
            entry = entries[name]
            image = cv2.imread(str(next((source / name).glob("*.jpg"))))
            rotation = np.reshape(entry["R"], (3, 3)) @ _PANOPTIC_ZUP
            tf_camera_world = rigid(rotation, np.ravel(entry["t"]) / 100.0)  # centimetres
            cameras[f"cam_{name}"] = Camera(
                f"cam_{name}",
                image.shape[1],
                image.shape[0],
                np.reshape(entry["K"], (3, 3)),
                tf_camera_world,
                np.ravel(entry["distCoef"]),
            )
    except (OSError, ValueError, KeyError, StopIteration, AttributeError) as error:
        raise UserError(f"{path}: malformed or incomplete: {error!r}") from error
    if not cameras:
        raise UserError(f"{source}: no camera folders in it")
    return cameras


def _numbered(source: Path, cameras, pattern: str, number) -> dict[int, dict[str, Path]]:
    frames = defaultdict(dict)
    for name in cameras:
        for path in sorted((source / name.removeprefix("cam_")).glob(pattern)):
            try:
                frames[number(path)][name] = path
            except (ValueError, IndexError) as error:
                raise UserError(f"{path}: no frame number in its name") from error
    if not frames:
        raise UserError(f"{source}: no images ({pattern}) in its camera folders")
    return frames


def _encoded(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if cut_short(data):
        raise UserError(f"{path}: the JPEG is cut short")
    return data


def _grey_jpeg(camera: Camera) -> bytes:
    grey = np.full((camera.height, camera.width, 3), 128, dtype=np.uint8)
    return cv2.imencode(".jpg", grey)[1].tobytes()


def _stamp(frame: int, fps: float) -> int:
    # A stamp of zero means "none" in ROS, so time starts at one second.
    return 1_000_000_000 + round(frame / fps * 1e9)


LAYOUTS = {
    "or_holistic": import_or_holistic,
    "mvor": import_mvor,
    "panoptic": import_panoptic,
    "disguisor": import_disguisor,
}
