"""From the scores of single images to the figures of a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from disguisor_ros.eval.scores import COVERED, FaceScore, ImageScore

#: Faces count for jitter when this share of them is visible: the box of a half-hidden face moves
#: with what hides it.
JITTER_VISIBILITY = 0.8


def summarize(images: list[ImageScore]) -> dict:
    """Figures over images; shares over nothing are 0, so that nothing at all never looks good.

    Parameters
    ----------
    images : list of ImageScore
        Published images only: one that was withheld shows no face.

    Returns
    -------
    dict
        ``recall_iou40``, ``holistic_recall``, ``pixel_coverage``, ... and
        what stands behind them; docs/evaluation.md defines each.
    """
    faces = [score for image in images for score in image.faces]
    scored = [score for score in faces if score.face.scored]
    coverage = np.sort([score.coverage for score in scored])
    worst = coverage[: max(1, round(0.01 * len(coverage)))]
    right = sum(image.regions_right for image in images)
    wrong = sum(image.regions_wrong for image in images)
    visible = sum(score.face.visible_pixels for score in faces)
    nonface = sum(image.nonface for image in images)
    squared_error = sum(image.nonface_squared_error for image in images)
    return {
        "images": len(images),
        "face_views": len(scored),
        "recall_iou40": _mean(score.found for score in scored),
        "recall_iou40_boxes_only": _mean(score.region_box is not None for score in scored),
        "holistic_recall": _mean(_found_everywhere(images)),
        "pixel_coverage": _mean(coverage),
        "pixel_coverage_worst_1pct": _mean(worst),
        "face_pixels_covered": sum(score.covered_pixels for score in faces) / max(visible, 1),
        "face_views_covered_95": _mean(coverage >= COVERED),
        "face_views_leaking": int((coverage < COVERED).sum()),
        "detail_left": _mean(score.detail_left for score in scored),
        "precision_iou40": right / max(right + wrong, 1),
        "precautions_per_image": _mean(image.precautions for image in images),
        "nonface_changed": sum(image.nonface_changed for image in images) / max(nonface, 1),
        "psnr_nonface_db": _psnr(squared_error, 3 * nonface),
        "ssim_nonface": 1.0 - sum(i.nonface_ssim_loss for i in images) / max(nonface, 1),
        "outside_exact": all(image.outside_changed == 0 for image in images),
        "outside_changed_pixels": sum(image.outside_changed for image in images),
        "jitter": jitter(images),
    }


def breakdown(images: list[ImageScore], wearing: dict[int, str]) -> list[dict]:
    """Recall and coverage of face views by what makes them hard.

    Parameters
    ----------
    images : list of ImageScore
    wearing : dict of int to str
        Person -> what covers the face, for example ``mask``.
    """
    groups = defaultdict(list)
    for image in images:
        for score in image.faces:
            if score.face.scored:
                for group in _groups(score, image.camera, wearing):
                    groups[group].append(score)
    order = {name: i for i, name in enumerate(("visible", "turned", "size", "wears", "camera"))}
    return [
        {
            "by": by,
            "value": value,
            "face_views": len(scores),
            "recall_iou40": _mean(score.found for score in scores),
            "pixel_coverage": _mean(score.coverage for score in scores),
            "face_views_covered_95": _mean(score.coverage >= COVERED for score in scores),
        }
        for (by, value), scores in sorted(
            groups.items(), key=lambda item: (order[item[0][0]], item[0][1])
        )
    ]


def jitter(images: list[ImageScore]) -> dict:
    """How steadily replacements follow faces, from one frame to the next.

    ``replacement_px`` is the RMS change, from a frame to the next, of the offset between the
    centre of a replaced region and the centre of its (whole) face; ``motion_px`` is the RMS
    change of the centre of the face itself over the same pairs. A replacement that is glued to
    the face has 0; one that stands still while the face moves has exactly the motion.
    """
    tracks = defaultdict(dict)
    for image in images:
        for score in image.faces:
            if score.region_box is not None and score.face.visibility >= JITTER_VISIBILITY:
                centers = np.array([_center(score.region_box), _center(score.face.box_full)])
                tracks[image.camera, score.face.person][image.index] = centers
    steps = [
        centers - track[index - 1]
        for track in tracks.values()
        for index, centers in track.items()
        if index - 1 in track
    ]
    if not steps:
        return {"pairs": 0, "replacement_px": None, "motion_px": None}
    steps = np.array(steps)
    return {
        "pairs": len(steps),
        "replacement_px": _rms(steps[:, 0] - steps[:, 1]),
        "motion_px": _rms(steps[:, 1]),
    }


def _found_everywhere(images: list[ImageScore]) -> list[bool]:
    views = defaultdict(list)
    for image in images:
        for score in image.faces:
            if score.face.scored:
                views[image.index, score.face.person].append(score.found)
    return [all(found) for found in views.values()]


def _groups(score: FaceScore, camera: str, wearing: dict[int, str]) -> Iterable[tuple[str, str]]:
    face = score.face
    yield "visible", _bin(100 * face.visibility, (10, 50, 90), "%")
    yield "turned", _bin(face.yaw_deg, (0, 30, 60, 90), "°")
    yield "size", _bin(min(face.box_full[2:]), (0, 20, 40, 80), " px")
    yield "wears", wearing.get(face.person, "unknown")
    yield "camera", camera


def _bin(value: float, edges: tuple, unit: str) -> str:
    index = max(int(np.searchsorted(edges, value, side="right")) - 1, 0)
    low = edges[index]
    if index + 1 == len(edges):
        return f"{low:3d}{unit} and more"
    return f"{low:3d} to {edges[index + 1]:3d}{unit}"


def _center(box) -> np.ndarray:
    box = np.asarray(box, dtype=np.float64)
    return box[:2] + box[2:] / 2


def _rms(steps: np.ndarray) -> float:
    return float(np.sqrt((steps**2).sum(axis=1).mean()))


def _psnr(squared_error: float, samples: int) -> float | None:
    if squared_error == 0 or not samples:
        return None
    return float(10 * np.log10(255.0**2 * samples / squared_error))


def mean_or_none(values) -> float | None:
    """Mean of numbers; None of none."""
    return float(np.mean(values)) if len(values) else None


def percentile_or_none(values, percent: float) -> float | None:
    """Percentile of numbers; None of none."""
    return float(np.percentile(values, percent)) if len(values) else None


def _mean(values) -> float:
    values = [float(value) for value in values]
    return float(np.mean(values)) if values else 0.0
