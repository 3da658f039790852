"""The page: that it stands alone, and says what the figures say."""

import re

import cv2
import numpy as np
import pytest
import tiny_recording as tiny

from disguisor_ros.eval.evaluate import evaluate
from disguisor_ros.eval.graph import plot
from disguisor_ros.eval.pairs import BagPair
from disguisor_ros.eval.report import write_report
from disguisor_ros.sim.truth import load_truth, truth_folder


def page(folder, change):
    room = tiny.write_recording(folder / "room")
    out = tiny.anonymize(room, folder / "out", change)
    evaluation = evaluate(load_truth(truth_folder(room)), BagPair(room, out), 0)
    write_report(folder / "report.html", evaluation)
    return (folder / "report.html").read_text(), evaluation


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    def change(image, faces, camera, index):
        keep = (camera, index) == ("cam2", 4)
        return tiny.cover(image, faces[1:] if keep else faces, camera, index)

    return page(tmp_path_factory.mktemp("page"), change)


def test_it_is_one_file(leaky):
    text, _ = leaky
    sources = re.findall(r"(?:src|href)=['\"]?([^'\" >]+)", text)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in text


def test_it_names_the_one_leak_and_shows_the_face(leaky):
    text, evaluation = leaky
    assert evaluation.result["face_views_leaking"] == 1
    assert "<b class=bad>1</b><span>of 21 face views under 95 % replaced" in text
    worst = evaluation.worst[0]
    assert worst.title.startswith("cam2, frame 4, person 1: 0.0 %")
    assert worst.title in text
    assert np.array_equal(worst.before, worst.after)
    assert not np.array_equal(evaluation.worst[1].before, evaluation.worst[1].after)


def test_nobody_else_may_read_it(tmp_path):
    """It shows the worst faces as they were."""
    (tmp_path / "report.html").touch(0o644)
    page(tmp_path, tiny.cover)
    assert (tmp_path / "report.html").stat().st_mode & 0o077 == 0


def test_nothing_published_is_said(tmp_path):
    def nearly_none(image, faces, camera, index):
        return image if (camera, index) == ("cam1", 0) else None

    text, evaluation = page(tmp_path, nearly_none)
    assert "1 / 12</b><span>frames published (11 withheld)" in text
    assert evaluation.result["recall_iou40"] == 0


def test_text_from_bags_is_escaped(tmp_path):
    _, evaluation = page(tmp_path, tiny.cover)
    evaluation.result["scenario"] = "<script>alert(1)</script>"
    write_report(tmp_path / "escaped.html", evaluation)
    assert "<script>" not in (tmp_path / "escaped.html").read_text()


def test_the_cost_of_the_graph_is_drawn_against_cameras_and_people(tmp_path):
    def row(cameras, persons):
        stage_ms = {"pose3d": 3.0, "cam1/face_renderer": 20.0, "cam2/face_renderer": 30.0}
        return {"cameras": cameras, "persons": persons, "fps": 8.0, "latency_ms": 200.0,
                "stage_ms": stage_ms}  # fmt: skip

    plot([row(4, 5), row(2, 5), row(4, 0)], tmp_path / "cost.png")
    picture = cv2.imread(str(tmp_path / "cost.png"))
    left, right = np.array_split(picture, 2, axis=1)
    assert all((half < 250).mean() > 0.05 for half in (left, right))
