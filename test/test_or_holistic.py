"""The or_holistic benchmark scores what it says."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from disguisor_ros.core.boxes import box_iou
from disguisor_ros.core.cameras import Camera, look_at
from disguisor_ros.core.types import Region
from disguisor_ros.errors import UserError
from disguisor_ros.eval import or_holistic
from disguisor_ros.eval.datasets import OrHolistic, load_or_holistic

REAL = Path(__file__).resolve().parents[2] / "shared/data/or_holistic"


def ring_camera(name, angle_deg, distance_m=3.0):
    """Camera on a circle around the origin that looks at it from 1 m above."""
    angle = np.deg2rad(angle_deg)
    center = np.array([distance_m * np.cos(angle), distance_m * np.sin(angle), 1.0])
    tf = look_at(center, np.zeros(3))
    return Camera(name, 1000, 1000, np.array([[800.0, 0, 500], [0, 800, 500], [0, 0, 1]]), tf)


CAMERAS = {f"cn0{i}": ring_camera(f"cn0{i}", 80 * i) for i in range(1, 5)}


def boxes_of(points, names=None):
    """Boxes 0.16 m wide and high around points of the world, in each camera."""
    out = {}
    for name in names or CAMERAS:
        pixels, depth = CAMERAS[name].project(np.asarray(points, float))
        size = 0.16 * 800 / depth[:, None]
        out[name] = np.concatenate([pixels - size / 2, np.repeat(size, 2, axis=1)], axis=1)
    return out


def region(box, confidence=0.9):
    x, y, w, h = box
    polygon = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], float)
    return Region(np.asarray(box, float), polygon, 1, "mesh", confidence)


def recording(boxes):
    return OrHolistic(CAMERAS, {0: {}}, {0: boxes})


def test_box_iou_by_hand():
    a = np.array([[0, 0, 10, 10.0]])
    b = np.array([[0, 0, 10, 10.0], [5, 0, 10, 10], [20, 20, 5, 5]])
    np.testing.assert_allclose(box_iou(a, b), [[1.0, 50 / 150, 0.0]])


def test_boxes_of_two_heads_are_told_apart():
    boxes = boxes_of([[0.3, 0, 0], [-0.1, 0.2, 0.1]])
    faces = or_holistic.same_faces(boxes, CAMERAS)
    assert sorted(map(sorted, (f.items() for f in faces))) == [
        [(name, i) for name in CAMERAS] for i in (0, 1)
    ]


def test_every_box_belongs_to_one_face():
    boxes = boxes_of([[0.3, 0, 0]], ["cn01", "cn02"])
    boxes["cn03"] = np.array([[10.0, 10, 50, 50]])
    faces = or_holistic.same_faces(boxes, CAMERAS)
    assert sorted(map(len, faces)) == [1, 2]


def test_perfect_regions_score_one():
    boxes = boxes_of([[0.3, 0, 0], [-0.4, 0.2, 0]])
    regions = {0: {name: [region(b) for b in found] for name, found in boxes.items()}}
    figures = or_holistic.score(recording(boxes), regions)
    for key in ("recall_iou40", "precision_iou40", "centre_coverage", "holistic_recall"):
        assert figures[key] == 1.0
    assert figures["annotated_boxes"] == 8 and figures["faces"] == 2


def test_one_missed_view_costs_the_whole_face():
    boxes = boxes_of([[0.3, 0, 0], [-0.4, 0.2, 0]])
    regions = {0: {name: [region(b) for b in found] for name, found in boxes.items()}}
    regions[0]["cn02"].pop(0)
    figures = or_holistic.score(recording(boxes), regions)
    assert figures["recall_iou40"] == 7 / 8 and figures["holistic_recall"] == 0.5
    assert figures["precision_iou40"] == 1.0


def test_false_claims_cost_precision_and_precautions_do_not():
    boxes = boxes_of([[0.3, 0, 0]], ["cn01"])
    wrong = [region([900, 900, 50, 50]), region([800, 900, 50, 50], confidence=0.2)]
    regions = {0: {"cn01": [region(boxes["cn01"][0]), region(boxes["cn01"][0]), *wrong],
                   "cn02": [region([0, 0, 40, 40])]}}  # fmt: skip
    figures = or_holistic.score(recording(boxes), regions)
    assert figures["precision_iou40"] == 1 / 4 and figures["recall_iou40"] == 1.0


def test_precaution_covers_but_does_not_find():
    boxes = boxes_of([[0.3, 0, 0]], ["cn01"])
    figures = or_holistic.score(
        recording(boxes), {0: {"cn01": [region(boxes["cn01"][0], confidence=0.3)]}}
    )
    assert figures["centre_coverage"] == 1.0 and figures["recall_iou40"] == 0.0


def test_missing_data_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        or_holistic.main(argparse.Namespace(data=tmp_path / "nowhere", json=None))


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/or_holistic is not there")
def test_real_faces_are_found(tmp_path, monkeypatch):
    whole = load_or_holistic(REAL)
    frames = sorted(whole.keypoints)[:12]
    few = OrHolistic(
        whole.cameras, {f: whole.keypoints[f] for f in frames},
        {f: whole.face_boxes[f] for f in frames if f in whole.face_boxes},
    )  # fmt: skip
    monkeypatch.setattr(or_holistic, "load_or_holistic", lambda _: few)
    file = tmp_path / "figures.json"
    assert or_holistic.main(argparse.Namespace(data=REAL, json=file)) == 0
    figures = json.loads(file.read_text())
    assert figures["recall_iou40"] > 0.6 and figures["precision_iou40"] > 0.6
    assert figures["ms_per_frame"] > 0
    assert set(figures["stage_ms"]) == {"pose3d", "smpl_fitter", "head_registrar", "face_renderer"}
