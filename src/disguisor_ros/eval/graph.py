"""Frame rate and latency of the whole graph, against cameras and people."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import open3d as o3d
from matplotlib.figure import Figure

from disguisor_ros.bridge.room_bag import RoomBag
from disguisor_ros.core.body_models import load_anny
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.rendering import Window
from disguisor_ros.core.rotations import yaw_matrix
from disguisor_ros.errors import UserError
from disguisor_ros.eval.head_scenes import add_mesh
from disguisor_ros.eval.pose3d import growth, ring_of_cameras
from disguisor_ros.figures import write_figures

#: Size of the colour images, pixels.
SIZE = (1280, 720)
#: Size of the depth images, pixels: as of an Azure Kinect (NFOV).
DEPTH_SIZE = (640, 576)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 200_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``disguisor benchmark graph``."""
    parser.add_argument(
        "--cameras", type=int, nargs="+", default=[4], metavar="N", help="1 to 8 (default: 4)"
    )
    parser.add_argument(
        "--persons", type=int, nargs="+", default=[5], metavar="N",
        help="0 to 12 (default: 5); with several numbers of cameras or persons each is varied"
        " beside the first of the other",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=60, help="instants (default: 60)")
    parser.add_argument(
        "--json", type=Path, required=True, metavar="FILE",
        help="to write; a plot (.png) comes beside it",
    )  # fmt: skip


def main(args) -> int:
    """Run ``disguisor benchmark graph``."""
    if not (
        all(1 <= n <= 8 for n in args.cameras)
        and all(0 <= n <= 12 for n in args.persons)
        and args.frames >= 10
    ):
        raise UserError("--cameras must be 1 to 8, --persons 0 to 12, --frames at least 10")
    first = args.cameras[0], args.persons[0]
    varied = [(c, first[1]) for c in args.cameras] + [(first[0], p) for p in args.persons[1:]]
    rows = []
    for cameras, persons in varied:
        row = measure(cameras, persons, args.frames)
        if row is None:
            return 1
        rows.append(row)
        print(f"{cameras} cameras, {persons} persons: {row['fps']:.2f} frames per second,"
              f" latency {row['latency_ms']:.0f} ms, memory {row['memory_gb']:.1f} GB")
        for stage, ms in row["stage_ms"].items():
            print(f"  {stage:24s} {ms:7.1f} ms")
    result = {**rows[0], **({"growth": rows} if len(rows) > 1 else {})}
    write_figures(args.json, result)
    plot(rows, args.json.with_suffix(".png"))
    return 0


def measure(cameras: int, persons: int, frames: int) -> dict | None:
    """Figures of ``disguisor run`` on a made-up room; None when it failed."""
    from disguisor_ros.cli import main as disguisor

    with tempfile.TemporaryDirectory(prefix="disguisor-") as folder:
        bag, figures = Path(folder) / "room", Path(folder) / "figures.json"
        write_room(bag, cameras, persons, frames)
        run = ["run", "--bag", str(bag), "--out", f"{bag}_out", "--json", str(figures)]
        if disguisor(run):
            return None
        return json.loads(figures.read_text()) | {"cameras": cameras, "persons": persons}


def plot(rows: list[dict], path: Path) -> None:
    """Where the time of an instant goes, against cameras and against people.

    Times are those of the clock: stages that share a core wait for each other. The renderers of
    all cameras are added up.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, varied, shown in growth(figure, rows, rows[0]):
        names = [str(row[varied]) for row in shown]
        bottom = np.zeros(len(shown))
        for stage in ("synchronizer", "pose3d", "smpl_fitter", "head_registrar", "face_renderer"):
            ms = np.array([_total(row["stage_ms"], stage) for row in shown])
            axes.bar(names, ms, bottom=bottom, label=stage, width=0.7)
            bottom += ms
        for x, row in enumerate(shown):
            line = f"{row['fps']:.1f} fps\n{row['latency_ms']:.0f} ms"
            axes.text(x, bottom[x], line, ha="center", va="bottom", fontsize=8)
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("ms an instant, all stages")
    figure.axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(path, dpi=130)


def _total(stage_ms: dict[str, float], stage: str) -> float:
    """Milliseconds of a stage, summed over the cameras that have one each."""
    return sum(ms for name, ms in stage_ms.items() if name.split("/")[-1] == stage)


def write_room(path: Path, cameras: int, persons: int, frames: int) -> None:
    """Write a bag of people who stand in a circle and shift their weight, with their depth."""
    color = {name: _resized(c, name, SIZE) for name, c in ring_of_cameras(cameras).items()}
    depth = {name: _resized(c, name, DEPTH_SIZE) for name, c in color.items()}
    model = load_anny()
    rng = np.random.default_rng(0)
    grey = {n: rng.integers(90, 110, (SIZE[1], SIZE[0], 3), dtype=np.uint8) for n in color}
    around = 2 * np.pi * np.arange(persons) / max(persons, 1)
    # Soles to the floor: the model's origin lies between its hips.
    lift = -model.vertices[:, 2].min()
    with RoomBag(path, color, depth, START_NS) as bag:
        for index in range(frames):
            stamp = START_NS + index * PERIOD_NS
            sway = 0.03 * np.sin(0.5 * index + around)
            places = np.stack([1.2 * np.cos(around) + sway, 1.2 * np.sin(around),
                               np.full(persons, lift)], axis=-1)  # fmt: skip
            turns = [yaw_matrix(a + np.pi) for a in around]
            scene = _scene(model, turns, places)
            for name in color:
                bag.raw_color(name, stamp, grey[name])
                bag.raw_depth(name, stamp, _depth_mm(scene, depth[name]))
                bag.keypoints(name, stamp, _detections(model, turns, places, color[name], rng))


def _resized(camera: Camera, name: str, size: tuple[int, int]) -> Camera:
    """The camera with images of another size and the same field of view across."""
    scale = size[0] / camera.width
    matrix = np.diag([scale, scale, 1.0]) @ camera.matrix
    matrix[:2, 2] = (size[0] - 1) / 2, (size[1] - 1) / 2
    return Camera(name, *size, matrix, camera.tf_camera_world)


def _scene(model, turns, places) -> o3d.t.geometry.RaycastingScene:
    scene = o3d.t.geometry.RaycastingScene()
    for turn, place in zip(turns, places, strict=True):
        add_mesh(scene, model.vertices @ turn.T + place, model.faces)
    floor = np.array([[-6, -6, 0], [6, -6, 0], [6, 6, 0], [-6, 6, 0]])
    add_mesh(scene, floor, np.array([[0, 1, 2], [0, 2, 3]]))
    return scene


def _depth_mm(scene, camera: Camera) -> np.ndarray:
    """Depth image of a scene, uint16; rays reach depth 1, so their length is the depth."""
    window = Window(0, 0, camera.width, camera.height)
    normalized = window.normalized(camera).reshape(-1, 2)
    rays = np.concatenate([normalized, np.ones((len(normalized), 1), np.float32)], axis=1)
    rays = rays @ camera.tf_camera_world[:3, :3].astype(np.float32)
    origin = np.broadcast_to(camera.center.astype(np.float32), rays.shape)
    rays = o3d.core.Tensor(np.ascontiguousarray(np.concatenate([origin, rays], axis=1)))
    hit = scene.cast_rays(rays)["t_hit"].numpy().reshape(camera.height, camera.width)
    return np.where(np.isfinite(hit), 1000 * hit, 0).astype(np.uint16)


def _detections(model, turns, places, camera: Camera, rng) -> np.ndarray:
    """Keypoints of all people with a detector's noise; (P, 17, 3)."""
    joints = np.array([model.keypoints @ t.T + p for t, p in zip(turns, places, strict=True)])
    pixels, _ = camera.project(joints.reshape(-1, 17, 3))
    inside = camera.inside(np.nan_to_num(pixels, nan=-1e3))
    pixels = np.nan_to_num(pixels) + rng.normal(size=pixels.shape) * 1.5
    found = np.concatenate([pixels, 0.8 * inside[..., None]], axis=-1)
    return found[inside.sum(axis=1) >= 5]
