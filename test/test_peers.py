"""Other tools and the face recogniser, on real images of real people."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from disguisor_ros.core.boxes import box_iou
from disguisor_ros.eval import peers
from disguisor_ros.eval.identity import Identity, can_be_told, rank1, rank1_chance
from disguisor_ros.eval.peers import PeerScore, available_peers, fires, frontal_found, is_frontal
from disguisor_ros.eval.scores import Face, changed_pixels, region_mask, score_image


@pytest.fixture(scope="module")
def images():
    shared = Path(__file__).parents[1] / "../shared/data/panoptic"
    paths = sorted(shared.glob("*/*_00009348.jpg"))
    if not paths:
        pytest.skip("no real images: ../shared/data/panoptic is not there")
    pictures = [cv2.resize(cv2.imread(str(path)), (800, 450)) for path in paths[:3]]
    return [cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures]


@pytest.fixture(scope="module")
def tools():
    found, missing = available_peers()
    if missing:
        pytest.skip("; ".join(missing))
    return found


@pytest.fixture(scope="module")
def detections(images, tools):
    return {tool.name: [tool.detect(picture) for picture in images] for tool in tools}


def test_peers_agree_on_real_faces(detections):
    overlaps = [
        box_iou(mtcnn, deface).max(axis=1, initial=0)
        for mtcnn, deface in zip(detections["mtcnn"], detections["deface"], strict=True)
    ]
    assert (np.concatenate(overlaps) > 0.4).sum() >= 2


def test_peers_change_only_what_they_declare(images, tools, detections):
    for tool in tools:
        for picture, boxes in zip(images, detections[tool.name], strict=True):
            after, regions = tool.cover(picture, boxes)
            changed = changed_pixels(picture, after)
            # deface's ellipse is drawn by another rule at its rim.
            declared = cv2.dilate(
                region_mask(regions, changed.shape).astype(np.uint8), np.ones((5, 5))
            )
            assert not (changed & (declared == 0)).any(), tool.name
            assert changed.any() == bool(len(boxes))


def test_a_peer_is_scored_like_any_other_tool(images, tools, detections):
    which = max(range(len(images)), key=lambda i: len(detections["deface"][i]))
    picture = images[which]
    x, y, width, height = detections["deface"][which][0].round().astype(int)
    labels = np.zeros(picture.shape[:2], dtype=np.uint8)
    labels[y : y + height, x : x + width] = 1
    box = (x, y, width, height)
    face = Face(1, box, box, int((labels == 1).sum()), 1.0, 0.0)
    score = PeerScore(tools[0], bare={1})
    score.add("cam1", 0, picture, np.full_like(picture, 90), labels, [face])
    assert score.images[0].faces[0].found
    assert score.fired == [(True, False)]
    score.add_frontal("cam1", 1, picture, labels, [face])
    assert len(score.images) == 1
    assert score.summary()["frontal_unmasked_recall"] == (1.0 if height >= 40 else None)
    assert score.detector_summary() == {"face_views": 1, "fires_before": 1.0, "fires_after": 0.0}


def test_missing_packages_are_named(monkeypatch):
    class Absent:
        name = "deface"

        def __init__(self):
            raise ImportError("No module named 'nothing'")

    monkeypatch.setattr(peers, "Deface", Absent)
    _, missing = available_peers()
    assert any("deface was not run (No module named 'nothing')" in line for line in missing)


@pytest.mark.parametrize(
    ("yaw_deg", "visibility", "size", "counts"),
    [(10, 1.0, 45, 1), (60, 1.0, 45, 0), (10, 0.5, 45, 0), (10, 1.0, 30, 0)],
)
def test_realism_looks_at_large_free_frontal_faces_only(yaw_deg, visibility, size, counts):
    box = (10, 10, size, size)
    face = Face(1, box, box, size * size, visibility, yaw_deg)
    before = np.random.default_rng(1).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    labels = np.zeros((80, 80), dtype=np.uint8)
    labels[10 : 10 + size, 10 : 10 + size] = 1
    images = [score_image("cam1", 0, before, np.zeros_like(before), labels, [face], [])]
    assert is_frontal(face, bare={1}) == bool(counts)
    assert frontal_found(images, bare={1}) == [True] * counts
    assert frontal_found(images, bare={2}) == []


def test_detector_fires_only_where_the_face_is():
    face = Face(1, (10, 10, 20, 20), (10, 10, 20, 30), 400, 0.7, 0.0)
    assert fires(np.array([[10.0, 10, 20, 30]]), face)
    assert not fires(np.array([[60.0, 10, 20, 30]]), face)
    assert not fires(np.zeros((0, 4)), face)


def test_rank1_by_hand():
    persons = np.array([1, 1, 2, 2])
    gallery = np.array([[0.0], [0.1], [1.0], [1.1]])
    assert rank1(gallery, gallery, persons) == 1.0
    assert rank1(gallery[::-1], gallery, persons) == 0.0
    assert rank1_chance(persons) == pytest.approx(1 / 3)
    assert rank1(gallery[:1], gallery[:1], persons[:1]) == 0.0


def test_identity_of_untouched_and_blanked_faces(images):
    pytest.importorskip("dlib")
    from disguisor_ros.eval.identity import FaceEmbedder

    try:
        embedder = FaceEmbedder()
    except ImportError as error:
        pytest.skip(str(error))
    face = Face(1, (300, 150, 50, 60), (300, 150, 50, 60), 3000, 1.0, 10.0)
    untouched, blanked = Identity(embedder), Identity(embedder)
    for picture in images[:2]:
        untouched.add(picture, picture, [face])
        blanked.add(picture, np.zeros_like(picture), [face])
    assert untouched.summary()["faces"] == 2
    assert untouched.summary()["distance_before_after"] == 0
    assert untouched.summary()["taken_for_same"] == 1
    assert blanked.summary()["distance_before_after"] > 0.3
    assert Identity(embedder).summary()["faces"] == 0


@pytest.mark.parametrize(
    ("size", "visibility", "yaw_deg", "told"),
    [(40, 1.0, 10, True), (20, 1.0, 10, False), (40, 0.4, 10, False), (40, 1.0, 80, False)],
)
def test_only_faces_that_can_be_told_are_embedded(size, visibility, yaw_deg, told):
    box = (0, 0, size, size)
    assert can_be_told(Face(1, box, box, size * size, visibility, yaw_deg)) == told
