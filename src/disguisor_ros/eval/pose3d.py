"""Cost of pose3d against the number of cameras and people; how well it does on a simulated bag."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from disguisor_ros.core.cameras import Camera, look_at
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.skeleton import STANDING_M
from disguisor_ros.errors import UserError
from disguisor_ros.eval.pose3d_bag import measure_bag, print_bag
from disguisor_ros.figures import rounded, write_figures
from disguisor_ros.progress import track

#: What one curve varies while the other number stays as asked.
_CAMERAS = (1, 2, 4, 6, 8, 12, 16)
_PERSONS = (1, 2, 4, 8, 12, 16)

_FPS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``disguisor benchmark pose3d``."""
    parser.add_argument("--cameras", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--persons", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=60, help="per setting; default: %(default)s")
    parser.add_argument(
        "--bag", type=Path, help="bag of 'disguisor simulate': measure who is found in it instead"
    )
    parser.add_argument(
        "--json", type=Path, help="write the figures here, and a plot (.png) beside"
    )


def main(args: argparse.Namespace) -> int:
    """Measure the asked setting and how cost grows from it; print, write and plot."""
    if args.bag is not None:
        figures = {
            "with depth": measure_bag(args.bag, True),
            "without depth": measure_bag(args.bag, False),
        }
        print_bag(figures)
        if args.json:
            write_figures(args.json, figures)
        return 0
    for name, most in (("cameras", 16), ("persons", 50), ("frames", 10000)):
        value = getattr(args, name)
        if not 1 <= value <= most:
            raise UserError(f"--{name} must be 1 to {most}, got {value}")
    settings = {(args.cameras, args.persons)}
    settings |= {(count, args.persons) for count in _CAMERAS}
    settings |= {(args.cameras, count) for count in _PERSONS}
    rows = [
        {"cameras": cameras, "persons": persons, **measure(cameras, persons, args.frames)}
        for cameras, persons in track(sorted(settings), "pose3d")
    ]
    asked = next(r for r in rows if (r["cameras"], r["persons"]) == (args.cameras, args.persons))
    figures = {**asked, "growth": rows}
    _print(rows)
    if args.json:
        write_figures(args.json, figures)
        plot(figures, args.json.with_suffix(".png"))
    return 0


def measure(cameras: int, persons: int, frames: int) -> dict:
    """Run the estimator over a made-up scene.

    Returns
    -------
    dict
        ``ms_per_frame`` (median process CPU time), ``ms_p95``, ``found`` (share of people seen by
        two or more views that were found within 0.3 m), ``joint_error_cm`` (theirs).
    """
    rig = ring_of_cameras(cameras)
    rng = np.random.default_rng(0)
    estimator = PoseEstimator(floor_z_m=0.0)
    times, errors, expected = [], [], 0
    for frame in range(frames):
        bodies = walking_people(persons, frame / _FPS)
        keypoints = {name: detect(bodies, camera, rng) for name, camera in rig.items()}
        begun = time.process_time()
        people = estimator(keypoints, rig, round(frame / _FPS * 1e9))
        times.append(1e3 * (time.process_time() - begun))
        visible = sum((camera.inside(camera.project(bodies[:, 0])[0])) for camera in rig.values())
        joints = np.array([person.joints for person in people]).reshape(-1, 17, 3)
        for body, views in zip(bodies, visible, strict=True):
            expected += views >= 2
            error = np.linalg.norm(joints - body, axis=-1).mean(axis=1).min(initial=np.inf)
            if views >= 2 and error < 0.3:
                errors.append(error)
    warm = times[min(3, len(times) - 1) :]
    return {
        "ms_per_frame": float(np.median(warm)),
        "ms_p95": float(np.percentile(warm, 95)),
        "found": len(errors) / expected if expected else None,
        "joint_error_cm": 100.0 * float(np.mean(errors)) if errors else None,
    }


def ring_of_cameras(count: int) -> dict[str, Camera]:
    """Cameras at 2.5 m height around a room of 6 m, looking at its middle."""
    matrix = np.array([[600.0, 0, 640], [0, 600, 360], [0, 0, 1]])
    rig = {}
    for k in range(count):
        angle = 2 * np.pi * k / count + 0.3
        center = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), 2.5])
        tf_camera_world = look_at(center, np.array([0.0, 0.0, 1.0]))
        rig[f"cam{k + 1}"] = Camera(f"cam{k + 1}", 1280, 720, matrix, tf_camera_world)
    return rig


def walking_people(count: int, seconds: float) -> np.ndarray:
    """Joints of people who walk small circles on a grid, shape (P, 17, 3), metres."""
    number = np.arange(count)
    side = int(np.ceil(np.sqrt(count)))
    spacing = min(1.1, 4.0 / max(side, 1))
    cell = np.stack([number // side, number % side], axis=1) - (side - 1) / 2
    phase = number * 2.4 + 0.8 * seconds
    center = cell * spacing + 0.25 * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    yaw = phase + np.pi / 2
    rotation = np.zeros((count, 3, 3))
    rotation[:, 0, 0] = rotation[:, 1, 1] = np.cos(yaw)
    rotation[:, 1, 0], rotation[:, 0, 1] = np.sin(yaw), -np.sin(yaw)
    rotation[:, 2, 2] = 1.0
    height = 1.0 + 0.06 * np.sin(7.0 * number)
    bodies = np.einsum("pab,jb->pja", rotation, STANDING_M) * height[:, None, None]
    bodies[..., :2] += center[:, None]
    return bodies


def detect(bodies: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Keypoints of bodies (P, 17, 3), metres, in a camera, as a detector gives them.

    With noise, missed joints and people, and a false person at times.
    """
    pixels, depth = camera.project(bodies)
    noise = rng.normal(size=pixels.shape) * (0.02 * camera.matrix[0, 0] / depth)[..., None]
    score = rng.uniform(0.5, 0.95, pixels.shape[:2])
    score[rng.random(score.shape) < 0.05] = 0.0
    score[~camera.inside(pixels) | (depth < 0.3)] = 0.0
    keypoints = np.concatenate([np.nan_to_num(pixels + noise), score[..., None]], axis=-1)
    keypoints = keypoints[(rng.random(len(bodies)) > 0.05) & ((score > 0).sum(axis=1) >= 5)]
    if rng.random() < 0.1:
        false = rng.uniform(0, 1, (1, 17, 3)) * [150, 300, 0.3]
        false[..., :2] += rng.uniform(0, 1, 2) * [camera.width - 150, camera.height - 300]
        keypoints = np.concatenate([keypoints, false])
    return keypoints[rng.permutation(len(keypoints))]


def plot(figures: dict, path: Path) -> None:
    """Cost against cameras and against people, one curve each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, varied, rows in growth(figure, figures["growth"], figures):
        axes.plot([row[varied] for row in rows], [row["ms_per_frame"] for row in rows], "o-")
        axes.set(ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms per frame (CPU, median)")
    figure.savefig(path, dpi=120)


def growth(figure, rows: list[dict], asked: dict) -> Iterator[tuple]:
    """Axes, what is varied and rows in its order: against cameras, then against people.

    The other number is that of ``asked``.
    """
    names = ("cameras", "persons"), ("persons", "cameras")
    for axes, (varied, fixed) in zip(figure.subplots(1, 2, sharey=True), names, strict=True):
        axes.set(xlabel=varied, title=f"{asked[fixed]} {fixed}")
        shown = [row for row in rows if row[fixed] == asked[fixed]]
        yield axes, varied, sorted(shown, key=lambda row: row[varied])


def _print(rows: list[dict]) -> None:
    table = Table("cameras", "persons", "ms", "ms p95", "found", "joint error cm")
    for row in rows:
        table.add_row(
            str(row["cameras"]),
            str(row["persons"]),
            f"{row['ms_per_frame']:.1f}",
            f"{row['ms_p95']:.1f}",
            rounded(row["found"], 3),
            rounded(row["joint_error_cm"], 1),
        )
    Console().print(table)
