"""3D pose error on MVOR: three views of a hybrid operating room, one instant every 75 seconds."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from disguisor_ros.core.assignment import assign
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.eval.datasets import MVOR_COCO, MVOR_JOINTS, Mvor, load_mvor
from disguisor_ros.eval.detected_views import detected_views
from disguisor_ros.figures import rounded, write_figures
from disguisor_ros.progress import track

#: An annotated person counts as found when the shoulders are off by less, metres.
_MATCH_M = 0.5

_NOT_HIPS = [k for k, name in enumerate(MVOR_JOINTS) if not name.endswith("hip")]
_SHOULDERS = [MVOR_JOINTS.index("left_shoulder"), MVOR_JOINTS.index("right_shoulder")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``disguisor benchmark mvor``."""
    parser.add_argument("--data", type=Path, required=True, help="directory of the data set")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument(
        "--detections",
        default="openpose_kps.json",
        help="file in DIR with the 2D detections (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Run the benchmark, print and write its figures."""
    figures = evaluate(load_mvor(args.data, args.detections))
    _print(figures)
    if args.json:
        write_figures(args.json, figures)
    return 0


def evaluate(mvor: Mvor) -> dict:
    """Recall and mean per joint position error by the number of views that detected a person.

    Returns
    -------
    dict
        ``mpjpe_cm`` and ``recall_by_views`` ({"1", "2", "3"}), ``mpjpe_cm_multiview``, ``recall``
        and ``recall_multiview`` (persons detected in one or more, and two or more views),
        ``joint_cm`` (by joint, two or more views), ``mpjpe_cm_without_hips`` (MVOR defines hips
        otherwise than COCO does), counts. None where there was nobody.
    """
    estimator = PoseEstimator()
    rows = []
    for frame in track(mvor.frames, "mvor"):
        persons = estimator(frame.keypoints, mvor.cameras, frame.stamp_ns)
        estimated = np.array([person.joints for person in persons]).reshape(-1, 17, 3)
        keypoints = {name: found[:, MVOR_COCO] for name, found in frame.keypoints.items()}
        views = detected_views(frame.persons, keypoints, mvor.cameras)
        rows += _match(frame.persons, estimated[:, MVOR_COCO], views)
    return _figures(rows)


def _match(annotated: np.ndarray, estimated: np.ndarray, views: np.ndarray) -> list[tuple]:
    """(views, errors in metres or None when not found) of each annotated person."""
    if not len(annotated):
        return []
    rows = [(int(count), None) for count in views]
    if not len(estimated):
        return rows
    error = np.linalg.norm(annotated[:, None] - estimated[None], axis=-1)
    shoulders = error[..., _SHOULDERS].mean(-1)
    cost = np.where(shoulders < _MATCH_M, shoulders, np.inf)
    for person, k in zip(*assign(cost), strict=True):
        rows[person] = (int(views[person]), error[person, k])
    return rows


def _figures(rows: list[tuple]) -> dict:
    by_views = defaultdict(list)
    for views, error in rows:
        by_views[views].append(error)

    def recall(counts):
        errors = [error for count in counts for error in by_views[count]]
        return float(np.mean([e is not None for e in errors])) if errors else None

    def mpjpe(counts, joints=slice(None)):
        errors = [error[joints] for n in counts for error in by_views[n] if error is not None]
        return 100.0 * float(np.nanmean(errors)) if errors else None

    several = [error for count in (2, 3) for error in by_views[count] if error is not None]
    joints = 100.0 * np.nanmean(several, axis=0) if several else np.full(len(MVOR_JOINTS), np.nan)
    return {
        "mpjpe_cm": {str(count): mpjpe([count]) for count in (1, 2, 3)},
        "mpjpe_cm_multiview": mpjpe([2, 3]),
        "recall": recall([1, 2, 3]),
        "recall_multiview": recall([2, 3]),
        "recall_by_views": {str(count): recall([count]) for count in (1, 2, 3)},
        "mpjpe_cm_without_hips": {str(count): mpjpe([count], _NOT_HIPS) for count in (1, 2, 3)},
        "joint_cm": {
            name: float(value) if np.isfinite(value) else None
            for name, value in zip(MVOR_JOINTS, joints, strict=True)
        },
        "persons": {str(count): len(by_views[count]) for count in (0, 1, 2, 3)},
    }


def _print(figures: dict) -> None:
    table = Table("views", "persons", "recall", "MPJPE cm", "without hips")
    for views in ("1", "2", "3"):
        table.add_row(
            views,
            str(figures["persons"][views]),
            rounded(figures["recall_by_views"][views], 3),
            rounded(figures["mpjpe_cm"][views], 1),
            rounded(figures["mpjpe_cm_without_hips"][views], 1),
        )
    table.add_row(
        "2-3",
        "",
        rounded(figures["recall_multiview"], 3),
        rounded(figures["mpjpe_cm_multiview"], 1),
    )
    console = Console()
    console.print(table)
    console.print(
        f"recall of persons that one or more views detected: {rounded(figures['recall'], 3)}"
    )
    joints = Table("joint (2-3 views)", "error cm")
    for name, value in figures["joint_cm"].items():
        joints.add_row(name.replace("_", " "), rounded(value, 1))
    console.print(joints)
