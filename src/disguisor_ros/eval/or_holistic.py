"""Face recall on the real operating-room recordings of or_holistic (keypoints, no images)."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from disguisor_ros.core.anonymize import FaceRenderer
from disguisor_ros.core.assignment import assign
from disguisor_ros.core.body_models import load_anny
from disguisor_ros.core.boxes import box_iou
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.fitting import BodyFitter
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.registration import HeadRegistrar
from disguisor_ros.core.types import Region
from disguisor_ros.errors import UserError
from disguisor_ros.eval.datasets import OrHolistic, load_or_holistic
from disguisor_ros.eval.scores import MIN_CLAIM, MIN_IOU
from disguisor_ros.figures import write_figures
from disguisor_ros.progress import track

#: Rays through the boxes of one face pass this close to one point, metres: boxes show different
#: sides of a head.
SAME_FACE_M = 0.12

#: Size of a face, root of box area, metres, and the factor by which a box may tell otherwise.
FACE_SIZE_M = 0.16
FACE_SIZE_FACTOR = 2.0

#: Names of the stages, in order, as they are timed.
STAGES = ("pose3d", "smpl_fitter", "head_registrar", "face_renderer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``disguisor benchmark or_holistic``."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR",
                        help="directory with calibration/, keypoints2d.json and face_boxes.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")


def main(args: argparse.Namespace) -> int:
    """Run the stages on the recording, print and write the figures."""
    recording = load_or_holistic(args.data)
    if not any(len(b) for views in recording.face_boxes.values() for b in views.values()):
        raise UserError(f"{args.data / 'face_boxes.json'}: no annotated face in it")
    regions, stage_ms = run_stages(recording)
    figures = score(recording, regions)
    figures["stage_ms"] = {name: float(np.median(ms)) for name, ms in stage_ms.items()}
    figures["ms_per_frame"] = float(np.median(np.sum(list(stage_ms.values()), axis=0)))
    _print(figures)
    if args.json:
        write_figures(args.json, figures)
    return 0


def run_stages(
    recording: OrHolistic,
) -> tuple[dict[int, dict[str, list[Region]]], dict[str, list[float]]]:
    """Run all stages over all frames with keypoints, in order of time.

    Returns
    -------
    regions : dict of int to dict of str to list of Region
        Frame -> camera -> what would be replaced there.
    stage_ms : dict of str to list of float
        Wall time of each stage at each frame, milliseconds.
    """
    template = HeadTemplate.load()
    cameras = recording.cameras
    estimator = PoseEstimator()
    fitter = BodyFitter(load_anny(), template)
    registrar = HeadRegistrar(template)
    renderers = {name: FaceRenderer(template) for name in cameras}
    regions, stage_ms = {}, {stage: [] for stage in STAGES}
    for frame, found in track(recording.keypoints.items(), "or_holistic"):
        stamp_ns = recording.stamp_ns(frame)
        seen = {name: found.get(name, np.zeros((0, 17, 3))) for name in cameras}
        times = [time.perf_counter()]
        persons = estimator(seen, cameras, stamp_ns)
        times.append(time.perf_counter())
        bodies = fitter(persons, seen, cameras, stamp_ns)
        times.append(time.perf_counter())
        heads = registrar(bodies, {}, stamp_ns)
        times.append(time.perf_counter())
        regions[frame] = {
            name: renderers[name].regions(camera, heads, seen[name], None, stamp_ns)
            for name, camera in cameras.items()
        }
        times.append(time.perf_counter())
        for stage, seconds in zip(STAGES, np.diff(times), strict=True):
            stage_ms[stage].append(1e3 * seconds)
    return regions, stage_ms


@dataclass(frozen=True)
class _View:
    """How one camera's annotated faces were found at one frame."""

    found: np.ndarray
    covered: np.ndarray
    claims: int


def score(recording: OrHolistic, regions: dict[int, dict[str, list[Region]]]) -> dict:
    """Figures of merit of regions against the annotated boxes.

    A region claims a face from a confidence of ``MIN_CLAIM`` on; the pixels of the others
    count for ``centre_coverage`` only. Boxes of one camera are matched one to one.

    Returns
    -------
    dict
        ``recall_iou40``, ``precision_iou40``, ``centre_coverage`` (annotated faces whose centre
        is replaced), ``holistic_recall`` (faces found in every view in which they are annotated),
        the counts behind them and ``recall_by_camera``.
    """
    views = defaultdict(dict)
    found = total = claims = covered = 0
    by_camera = defaultdict(list)
    holistic = []
    for frame, annotated in recording.face_boxes.items():
        for name, boxes in annotated.items():
            view = _score_view(boxes, regions.get(frame, {}).get(name, []))
            views[frame][name] = view
            found, total = found + int(view.found.sum()), total + len(boxes)
            claims, covered = claims + view.claims, covered + int(view.covered.sum())
            by_camera[name] += view.found.tolist()
        for face in same_faces(annotated, recording.cameras):
            holistic.append(all(views[frame][name].found[i] for name, i in face.items()))
        for name in set(recording.cameras) - set(annotated):
            claims += sum(r.confidence >= MIN_CLAIM for r in regions[frame].get(name, []))
    return {
        "recall_iou40": found / total,
        "precision_iou40": found / max(claims, 1),
        "centre_coverage": covered / total,
        "holistic_recall": float(np.mean(holistic)),
        "frames": len(recording.face_boxes),
        "annotated_boxes": total,
        "claimed_boxes": claims,
        "faces": len(holistic),
        "recall_by_camera": {n: float(np.mean(f)) for n, f in sorted(by_camera.items()) if f},
    }


def _score_view(boxes: np.ndarray, regions: list[Region]) -> _View:
    """Match the claimed regions of one image to its annotated boxes, one to one."""
    claimed = [r.box for r in regions if r.confidence >= MIN_CLAIM]
    found = np.zeros(len(boxes), dtype=bool)
    if claimed and len(boxes):
        overlap = box_iou(boxes, np.stack(claimed))
        rows, _ = assign(np.where(overlap >= MIN_IOU, -overlap, np.inf))
        found[rows] = True
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    outlines = [r.polygon.astype(np.float32).reshape(-1, 1, 2) for r in regions]
    covered = np.array([
        any(cv2.pointPolygonTest(o, tuple(map(float, c)), False) >= 0 for o in outlines)
        for c in centers
    ], dtype=bool)  # fmt: skip
    return _View(found, covered, len(claimed))


def same_faces(
    annotated: dict[str, np.ndarray], cameras: dict[str, Camera]
) -> list[dict[str, int]]:
    """Which annotated boxes of different cameras show one face.

    Two boxes may show the same face when the rays through their centres pass close to each other
    at a distance at which both boxes have the size of a face. Boxes are joined from the closest
    pair on, as long as all rays of a face pass close to one point and no camera counts twice.

    Parameters
    ----------
    annotated : dict of str to ndarray, shape (F, 4)
        Camera -> boxes x, y, width, height of one instant.
    cameras : dict of str to Camera

    Returns
    -------
    list of dict of str to int
        For each face camera -> row of its box; every box belongs to exactly one face.
    """
    names = [(name, i) for name, boxes in annotated.items() for i in range(len(boxes))]
    rays = {}
    for name, i in names:
        x, y, width, height = annotated[name][i]
        camera = cameras[name]
        direction = camera.rays(np.array([x + width / 2, y + height / 2]))
        focal = np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1])
        rays[name, i] = camera.center, direction, np.sqrt(width * height) / focal
    faces = [{name: i} for name, i in names]
    pairs = []
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            if a[0] != b[0]:
                gap = _spread([rays[a], rays[b]])
                if gap < SAME_FACE_M:
                    pairs.append((gap, a, b))
    for _, a, b in sorted(pairs):
        one = next(face for face in faces if face.get(a[0]) == a[1])
        other = next(face for face in faces if face.get(b[0]) == b[1])
        if one is other or one.keys() & other.keys():
            continue
        joined = {**one, **other}
        if _spread([rays[key] for key in joined.items()]) < SAME_FACE_M:
            faces = [face for face in faces if face is not one and face is not other] + [joined]
    return faces


def _spread(rays: list[tuple]) -> float:
    """Largest distance of rays (origin, direction, angular size) from the point nearest to all.

    Infinite when that point is behind a camera, or a box there would not be of a face's size.
    """
    origins = np.array([origin for origin, _, _ in rays])
    directions = np.array([direction for _, direction, _ in rays])
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    normal = across.sum(axis=0)
    if np.linalg.cond(normal) > 1e4:
        return np.inf
    point = np.linalg.solve(normal, np.einsum("nij,nj->i", across, origins))
    offset = point - origins
    distance = np.einsum("nj,nj->n", offset, directions)
    size = np.array([size for _, _, size in rays]) * distance / FACE_SIZE_M
    off = np.abs(np.log(np.maximum(size, 1e-9)))
    if (distance <= 0).any() or (off > np.log(FACE_SIZE_FACTOR)).any():
        return np.inf
    return float(np.linalg.norm(offset - distance[:, None] * directions, axis=1).max())


def _print(figures: dict) -> None:
    console = Console()
    table = Table(title="or_holistic: annotated faces of real operating-room recordings")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, name in (
        ("recall_iou40", "recall at IoU 0.4"), ("precision_iou40", "precision at IoU 0.4"),
        ("centre_coverage", "face centres covered"), ("holistic_recall", "holistic recall"),
    ):  # fmt: skip
        table.add_row(name, f"{figures[key]:.3f}")
    table.add_row("annotated boxes / faces / frames",
                  f"{figures['annotated_boxes']} / {figures['faces']} / {figures['frames']}")
    for camera, recall in figures["recall_by_camera"].items():
        table.add_row(f"recall in {camera}", f"{recall:.3f}")
    for stage, ms in figures["stage_ms"].items():
        table.add_row(f"{stage}, ms", f"{ms:.1f}")
    table.add_row("all stages, ms per frame (median)", f"{figures['ms_per_frame']:.1f}")
    console.print(table)
