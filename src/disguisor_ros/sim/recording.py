"""Write a simulated recording: the bag as the drivers would fill it, and the truth beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from disguisor_ros.bridge.room_bag import LATCHED, RoomBag
from disguisor_ros.core.cameras import Camera, invert_rigid, rigid
from disguisor_ros.errors import UserError
from disguisor_ros.sim import scenario as scenarios
from disguisor_ros.sim.detections import Detector, visible_joints
from disguisor_ros.sim.people import Wardrobe
from disguisor_ros.sim.render import EXPOSURE_S, Renderer, View
from disguisor_ros.sim.room import build_room
from disguisor_ros.sim.sensors import ColorSensor, DepthSensor
from disguisor_ros.sim.textures import TextureSet
from disguisor_ros.sim.truth import BAG_ID_TOPIC, truth_folder, write_mask, write_truth

#: Stamp of the first instant: the same in every recording, so that bytes repeat.
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Settings:
    """What to record.

    Parameters
    ----------
    scenario : str
    seconds, fps : float
    cameras : int
    width, height : int
        Colour images, pixels.
    seed : int
    jpeg : int
        Quality of compressed colour, 0 for raw images.
    drop : float
        Chance that a camera loses a frame.
    calibration_error : tuple of float
        Standard deviation of the published camera poses: millimetres, milliradians.
    """

    scenario: str
    seconds: float
    fps: float
    cameras: int
    width: int
    height: int
    seed: int
    jpeg: int = 0
    drop: float = 0.0
    calibration_error: tuple[float, float] = (0.0, 0.0)

    @property
    def frames(self) -> int:
        """Number of instants."""
        return max(int(round(self.seconds * self.fps)), 1)

    @property
    def bag_id(self) -> str:
        """Hex string that says which settings made the recording."""
        text = json.dumps(self.__dict__, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Studio:
    """The scene of a recording, ready to take frames."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.scenario = scenarios.SCENARIOS[settings.scenario]
        textures = TextureSet()
        wardrobe = Wardrobe(textures)
        room = build_room(textures, self.rng(1), self.scenario.hard, self.scenario.screen)
        looks = scenarios.looks(self.scenario, self.rng(2))
        self.people = [wardrobe.dress(k + 1, look, self.rng(3, k)) for k, look in enumerate(looks)]
        textures.freeze()
        self.motion = scenarios.choreography(self.scenario, settings.seconds, self.rng(4))
        self.cameras = scenarios.cameras(
            settings.cameras, settings.width, settings.height, self.rng(5)
        )
        self.renderer = Renderer(room, self.people, textures, wardrobe.eyes)

    def rng(self, *stream: int) -> np.random.Generator:
        """Random numbers of one stream of the seed."""
        return np.random.default_rng([self.settings.seed, *stream])

    def transforms(self, time_s: float) -> list[np.ndarray]:
        """Skinning transforms of everybody at an instant, shape (len(BONES), 4, 4) each."""
        out = []
        for k, person in enumerate(self.people):
            if k < self.scenario.staff:
                shoulder = float(person.body.joints[5, 2] - person.rest[:, 2].min())
                pose = self.motion.pose(
                    k, time_s, person.hip_height, person.ankle_height, shoulder
                )
            else:
                pose = scenarios.patient_pose(time_s)
            out.append(person.transforms(pose))
        return out


class CameraRecorder:
    """Takes the frames of one device."""

    def __init__(self, name: str, studio: Studio, number: int):
        self.name, self.studio = name, studio
        pair = studio.cameras[name]
        self.color, self.depth = View(pair.color), View(pair.depth)
        studio.renderer.prepare(self.color, color=True)
        studio.renderer.prepare(self.depth, color=False)
        rng = studio.rng(6, number)
        self.color_sensor = ColorSensor(self.color.color, rng, float(rng.uniform(0.85, 1.15)))
        self.depth_sensor = DepthSensor(rng, self.depth.range_m.shape)
        self.detector = Detector(studio.rng(7, number))
        self.offset_s = float(rng.uniform(-0.004, 0.004))
        self.rng = studio.rng(8, number)

    def take_at(self, stamp_ns: int) -> dict:
        """Frame of the people as they are at an instant; see :meth:`take`."""
        time_s = (stamp_ns - START_NS) * 1e-9
        transforms = self.studio.transforms(time_s)
        later = self.studio.transforms(time_s + EXPOSURE_S)
        return self.take(self.studio.renderer.crowd(transforms, later), transforms)

    def take(self, crowd, transforms) -> dict:
        """Colour, depth, keypoints, face labels and truth of the faces."""
        renderer, people = self.studio.renderer, self.studio.people
        seen = renderer.look(self.color, crowd)
        index, light = renderer.picture(self.color, crowd, seen)
        flow = renderer.flow(self.color, crowd, seen)
        picture = self.color_sensor.expose(index, light, seen.index, flow, self.rng)
        range_m = self.color.range_m.copy()
        owner = np.zeros(range_m.shape, dtype=np.uint8)
        labels = np.zeros(range_m.shape, dtype=np.uint8)
        range_m.ravel()[seen.index] = seen.range_m
        owner.ravel()[seen.index] = renderer.person[seen.triangle]
        labels.ravel()[seen.index] = renderer.face_label[seen.triangle]
        visible, faces = [], []
        for person, tf in zip(people, transforms):
            joints = person.joints(tf)
            visible.append(visible_joints(person.id, joints, self.color.camera, range_m, owner))
            faces.append(self._face(person, tf, crowd, labels))
        keypoints = self.detector(visible, *labels.shape[::-1])
        return {
            "color": picture,
            "depth": self._depth(crowd),
            "keypoints": keypoints,
            "labels": labels,
            "faces": [f for f in faces if f is not None],
        }

    def _depth(self, crowd) -> np.ndarray:
        view, renderer = self.depth, self.studio.renderer
        seen = renderer.look(view, crowd)
        range_m = view.range_m.copy()
        range_m.ravel()[seen.index] = seen.range_m
        signal = view.signal.copy()
        signal.ravel()[seen.index] = renderer.signal(view, crowd, seen)
        return self.depth_sensor.measure(range_m * view.axial, signal, self.rng)

    def _face(self, person, tf, crowd, labels) -> dict | None:
        """Truth of one face in this view, or None where it is wholly outside the image."""
        camera = self.color.camera
        start = self.studio.renderer.start[person.id]
        pixels, depth = camera.project(crowd.vertices[start + person.face_vertices])
        if (depth < 0.1).any():
            return None
        # Edges of boxes lie half a pixel beyond the middles of the pixels that they take in.
        size = np.array([camera.width, camera.height])
        low = np.clip(pixels.min(axis=0) + 0.5, 0, size)
        high = np.clip(pixels.max(axis=0) + 0.5, 0, size)
        if (high <= low).any():
            return None
        (x0, y0), (x1, y1) = np.floor(low).astype(int), np.ceil(high).astype(int)
        whole = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        for corners in (pixels - [x0, y0])[person.outline].round().astype(np.int32):
            cv2.fillConvexPoly(whole, corners, 1)
        mine = labels[y0:y1, x0:x1] == person.id
        rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        count = int(mine.sum())
        box = [0, 0, 0, 0]
        if count:
            box = [
                int(x0 + columns[0]),
                int(y0 + rows[0]),
                int(np.ptp(columns) + 1),
                int(np.ptp(rows) + 1),
            ]
        head = person.head_pose(tf)
        towards = camera.center - head[:3, 3]
        cosine = head[:3, 0] @ towards / np.linalg.norm(towards)
        return {
            "person": person.id,
            "box": box,
            "box_full": np.concatenate([low, high - low]).round(3).tolist(),
            "visible_pixels": count,
            "visibility": round(min(count / max(int((whole | mine).sum()), 1), 1.0), 4),
            "yaw_deg": round(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), 1),
        }


def record(settings: Settings, out: Path, progress=None) -> None:
    """Simulate a recording into the bag ``out`` and its truth into ``out.truth``.

    Parameters
    ----------
    settings : Settings
    out : path
        Must not exist, or be an empty folder.
    progress : callable, optional
        Called with a description, the steps done and the steps in all.
    """
    out = Path(out)
    folder = truth_folder(out)
    for path in (out, folder):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path}: exists already and is not empty; choose another name")
        if path.exists():
            path.rmdir()
    folder.mkdir(parents=True)
    try:
        _record(settings, out, folder, progress or (lambda *_: None))
    except BaseException:
        shutil.rmtree(folder)
        raise


def _record(settings: Settings, out: Path, folder: Path, tell) -> None:
    total = settings.frames + settings.cameras + 2
    tell("dressing", 0, total)
    studio = Studio(settings)
    tell("lighting the room", 2, total)
    with ThreadPoolExecutor(2) as pool:
        numbered = enumerate(studio.cameras)
        recorders = list(pool.map(lambda item: CameraRecorder(item[1], studio, item[0]), numbered))
    with RoomBag(out, *_published(settings, studio), START_NS) as bag:
        bag.write(BAG_ID_TOPIC, "std_msgs/msg/String", START_NS, (LATCHED,), data=settings.bag_id)
        frames = []
        for index in range(settings.frames):
            tell("recording", 2 + settings.cameras + index, total)
            frames.append(_record_instant(index, settings, studio, recorders, bag, folder))
        write_truth(folder, _truth(settings, studio, frames))
    tell("done", total, total)


def _record_instant(index, settings, studio, recorders, bag, folder) -> dict:
    nominal_s = index / settings.fps
    stamp_ns = START_NS + int(round(nominal_s * 1e9))
    taken = []
    for recorder in recorders:
        jitter = recorder.offset_s + float(np.clip(recorder.rng.normal(0, 0.0008), -0.002, 0.002))
        dropped = recorder.rng.random() < settings.drop
        taken.append((max(stamp_ns + int(round(jitter * 1e9)), START_NS), dropped, recorder))
    truth = {"index": index, "stamp_ns": stamp_ns, "persons": [], "cameras": {}}
    for person, tf in zip(studio.people, studio.transforms(nominal_s)):
        truth["persons"].append(
            {
                "id": person.id,
                "joints": person.joints(tf).round(4).tolist(),
                "tf_world_head": person.head_pose(tf).round(5).tolist(),
            }
        )
    taken.sort(key=lambda t: t[0])
    # The heavy array work releases the interpreter: two cameras at a time fill two cores.
    with ThreadPoolExecutor(2) as pool:
        frames = list(pool.map(lambda t: None if t[1] else t[2].take_at(t[0]), taken))
    for (color_ns, dropped, recorder), frame in zip(taken, frames):
        if dropped:
            truth["cameras"][recorder.name] = {"stamp_ns": None, "faces": []}
            continue
        _write_frame(bag, recorder.name, color_ns, frame, settings.jpeg)
        write_mask(folder, recorder.name, color_ns, frame["labels"])
        truth["cameras"][recorder.name] = {"stamp_ns": color_ns, "faces": frame["faces"]}
    truth["cameras"] = dict(sorted(truth["cameras"].items()))
    return truth


def _truth(settings, studio, frames) -> dict:
    cameras = {}
    for name, pair in studio.cameras.items():
        cameras[name] = _camera_truth(pair.color) | {"depth": _camera_truth(pair.depth)}
    return {
        "bag_id": settings.bag_id,
        "scenario": settings.scenario,
        "seed": settings.seed,
        "fps": settings.fps,
        "calibration_error": list(settings.calibration_error),
        "drop": settings.drop,
        "cameras": cameras,
        "persons": {str(p.id): p.attributes() for p in studio.people},
        "frames": frames,
    }


def _camera_truth(camera: Camera) -> dict:
    return {
        "width": camera.width,
        "height": camera.height,
        "matrix": camera.matrix.tolist(),
        "distortion": camera.distortion.tolist(),
        "model": camera.model,
        "tf_world_camera": camera.tf_world_camera.tolist(),
    }


def _published(settings: Settings, studio: Studio) -> tuple[dict, dict]:
    """Colour and depth cameras as the bag tells them: with the calibration error, if any."""
    rng = studio.rng(9)
    error_mm, error_mrad = settings.calibration_error
    color, depth = {}, {}
    for name, pair in studio.cameras.items():
        turn = Rotation.from_rotvec(rng.normal(0, 1, 3) * error_mrad * 1e-3)
        wrong = rigid(turn.as_matrix(), rng.normal(0, 1, 3) * error_mm * 1e-3)
        tf_color_world = invert_rigid(pair.color.tf_world_camera @ wrong)
        tf_depth_color = pair.depth.tf_camera_world @ pair.color.tf_world_camera
        color[name] = replace(pair.color, tf_camera_world=tf_color_world)
        depth[name] = replace(pair.depth, tf_camera_world=tf_depth_color @ tf_color_world)
    return color, depth


def _write_frame(bag: RoomBag, name: str, stamp_ns: int, frame: dict, jpeg: int) -> None:
    """Write what a device publishes for one exposure, and its keypoints, when they arrive."""
    arrival_ns = stamp_ns + 12_000_000
    if jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, jpeg]
        done, data = cv2.imencode(".jpg", frame["color"][..., ::-1], quality)
        if not done:
            raise RuntimeError("a colour image could not be compressed")
        bag.compressed_color(name, stamp_ns, data.tobytes(), arrival_ns)
    else:
        bag.raw_color(name, stamp_ns, frame["color"], "rgb8", arrival_ns)
    bag.raw_depth(name, stamp_ns, frame["depth"], arrival_ns)
    bag.keypoints(name, stamp_ns, frame["keypoints"], arrival_ns + 30_000_000)
