"""Scores of single images and their summary, held against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_recording import region

from disguisor_ros.core.boxes import box_iou
from disguisor_ros.eval.scores import (
    Face,
    changed_pixels,
    match,
    region_boxes,
    region_mask,
    score_image,
)
from disguisor_ros.eval.summary import breakdown, jitter, summarize

BOX = (40, 30, 20, 20)
RNG = np.random.default_rng(7)
BEFORE = RNG.integers(30, 220, (100, 120, 3), dtype=np.uint8)


def face(box=BOX, person=1, visibility=1.0, yaw_deg=10.0):
    return Face(person, box, box, int(box[2] * box[3]), visibility, yaw_deg)


def labels_of(*faces):
    labels = np.zeros(BEFORE.shape[:2], dtype=np.uint8)
    for each in faces:
        x, y, width, height = each.box
        labels[y : y + height, x : x + width] = each.person
    return labels


def filled(*boxes, image=BEFORE):
    out = image.copy()
    for x, y, width, height in boxes:
        out[y : y + height, x : x + width] = 0
    return out


def score(after, faces=None, regions=(), index=0, before=BEFORE, camera="cam1"):
    faces = [face()] if faces is None else faces
    return score_image(camera, index, before, after, labels_of(*faces), faces, list(regions))


def test_untouched_image_scores_nothing():
    figures = summarize([score(BEFORE.copy(), regions=[region(BOX)])])
    for key in ("recall_iou40", "holistic_recall", "pixel_coverage", "face_views_covered_95",
                "precision_iou40", "nonface_changed"):  # fmt: skip
        assert figures[key] == 0, key
    assert figures["detail_left"] == pytest.approx(1)
    assert figures["outside_exact"] and figures["psnr_nonface_db"] is None
    assert figures["ssim_nonface"] == 1


def test_blank_image_is_all_recall_and_no_precision():
    figures = summarize([score(np.zeros_like(BEFORE))])
    assert figures["recall_iou40"] == figures["holistic_recall"] == figures["pixel_coverage"] == 1
    assert figures["precision_iou40"] == 0
    assert figures["recall_iou40_boxes_only"] == 0
    assert figures["nonface_changed"] == 1
    assert not figures["outside_exact"]


def test_exact_cover_is_perfect():
    figures = summarize([score(filled(BOX), regions=[region(BOX)])])
    for key in ("recall_iou40", "recall_iou40_boxes_only", "holistic_recall", "pixel_coverage",
                "face_views_covered_95", "precision_iou40"):  # fmt: skip
        assert figures[key] == 1, key
    assert figures["outside_exact"] and figures["nonface_changed"] == 0
    # Neighbours outside the face differ in nothing, but share windows with pixels that do.
    assert 0.9 < figures["ssim_nonface"] < 1


def test_half_a_face_is_found_but_leaks():
    half = (40, 30, 10, 20)
    figures = summarize([score(filled(half), regions=[region(half)])])
    assert figures["recall_iou40"] == 1  # IoU is 0.5
    assert figures["pixel_coverage"] == pytest.approx(0.5)
    assert figures["face_views_leaking"] == 1


def test_a_third_of_a_face_is_not_found():
    third = (40, 30, 7, 20)
    figures = summarize([score(filled(third), regions=[region(third)])])
    assert figures["recall_iou40"] == 0  # IoU is 0.35
    assert figures["precision_iou40"] == 0
    assert figures["pixel_coverage"] == pytest.approx(0.35)


def test_changed_pixels_are_enough_without_any_declared_region():
    figures = summarize([score(filled(BOX, (80, 60, 10, 10)))])
    assert figures["recall_iou40_boxes_only"] == 1
    assert figures["precision_iou40"] == 0.5
    assert figures["nonface_changed"] == pytest.approx(100 / (100 * 120 - 400))
    assert not figures["outside_exact"]


def test_a_declared_region_is_not_believed_where_nothing_changed():
    tenth = (40, 30, 2, 20)
    figures = summarize([score(filled(tenth), regions=[region(BOX)])])
    assert figures["recall_iou40"] == 0
    assert figures["pixel_coverage"] == pytest.approx(0.1)


def test_one_changed_pixel_outside_is_seen():
    after = filled(BOX)
    after[5, 5, 2] ^= 1
    figures = summarize([score(after, regions=[region(BOX)])])
    assert not figures["outside_exact"] and figures["outside_changed_pixels"] == 1
    samples = 3 * (100 * 120 - 400)
    assert figures["psnr_nonface_db"] == pytest.approx(10 * np.log10(255**2 * samples))


def test_a_re_encoded_face_is_not_replaced():
    noise = RNG.integers(-3, 4, BEFORE.shape)
    noisy = np.clip(BEFORE + noise, 0, 255).astype(np.uint8)
    figures = summarize([score(noisy, regions=[region(BOX)])])
    assert figures["pixel_coverage"] == 0 and figures["recall_iou40"] == 0
    assert figures["detail_left"] > 0.95


def test_a_blend_shows_how_much_of_the_original_it_keeps():
    after = BEFORE.copy()
    x, y, w, h = BOX
    after[y : y + h, x : x + w] = np.round(0.275 * BEFORE[y : y + h, x : x + w] + 90)
    figures = summarize([score(after, regions=[region(BOX)])])
    assert figures["detail_left"] == pytest.approx(0.275, abs=0.03)


def test_a_pixel_replaced_by_its_own_value_counts_as_replaced():
    after = filled(BOX)
    after[40, 50] = BEFORE[40, 50]
    assert summarize([score(after, regions=[region(BOX)])])["pixel_coverage"] == 1


def test_a_hole_in_a_region_does_not_count_as_replaced():
    after = filled(BOX)
    after[35:45, 45:55] = BEFORE[35:45, 45:55]
    coverage = summarize([score(after, regions=[region(BOX)])])["pixel_coverage"]
    assert coverage == pytest.approx(0.75)  # all but 100 of 400 pixels


def test_precautions_cover_but_claim_nothing():
    elsewhere = (80, 60, 20, 20)
    after = filled(BOX, elsewhere)
    regions = [region(BOX), region(elsewhere, confidence=0.2)]
    figures = summarize([score(after, regions=regions)])
    assert figures["precision_iou40"] == 1
    assert figures["precautions_per_image"] == 1
    assert figures["outside_exact"] and figures["nonface_changed"] > 0


def test_a_region_on_a_sliver_of_a_face_is_neither_right_nor_wrong():
    sliver = face((80, 60, 20, 20), person=2, visibility=0.05)
    after = filled(BOX, sliver.box)
    figures = summarize([
        score(after, [face(), sliver], [region(BOX), region(sliver.box)])
    ])  # fmt: skip
    assert figures["face_views"] == 1
    assert figures["precision_iou40"] == 1


def test_holistic_recall_needs_every_view():
    found, missed = filled(BOX), BEFORE.copy()
    images = [
        score(found, regions=[region(BOX)], camera="cam1", index=0),
        score(missed, camera="cam2", index=0),
        score(found, regions=[region(BOX)], camera="cam1", index=1),
        score(found, regions=[region(BOX)], camera="cam2", index=1),
    ]
    figures = summarize(images)
    assert figures["recall_iou40"] == 0.75
    assert figures["holistic_recall"] == 0.5


def test_nothing_published_does_not_look_perfect():
    figures = summarize([])
    assert figures["recall_iou40"] == figures["pixel_coverage"] == figures["holistic_recall"] == 0


def test_worst_percent_is_the_mean_of_the_lowest():
    images = [score(filled(BOX), regions=[region(BOX)], index=i) for i in range(199)]
    images.append(score(BEFORE.copy(), index=199))
    assert summarize(images)["pixel_coverage_worst_1pct"] == pytest.approx(0.5)  # of 0 and 1


def test_jitter_compares_with_the_motion_of_the_face():
    def run(offsets):
        images = []
        for index, offset in enumerate(offsets):
            box = (40 + 3 * index, 30, 20, 20)
            replaced = (box[0] + offset, 30, 20, 20)
            images.append(score(filled(replaced), [face(box)], [region(replaced)], index))
        return jitter(images)

    glued, shaky = run([2, 2, 2, 2]), run([1, -1, 1, -1])
    assert glued == {"pairs": 3, "replacement_px": 0, "motion_px": pytest.approx(3)}
    assert shaky["replacement_px"] == pytest.approx(2)


def test_breakdown_counts_every_face_once_in_each_table():
    rows = breakdown([score(filled(BOX), regions=[region(BOX)])], {1: "mask worn"})
    assert [(row["by"], row["value"].split()[0]) for row in rows] == [
        ("visible", "90%"), ("turned", "0"), ("size", "20"), ("wears", "mask"), ("camera", "cam1"),
    ]  # fmt: skip
    assert all(row["face_views"] == row["recall_iou40"] == 1 for row in rows)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        changed_pixels(BEFORE, BEFORE[:50])


def test_iou_by_hand():
    iou = box_iou([[0, 0, 10, 10]], [[5, 0, 10, 10], [0, 0, 10, 10], [20, 20, 5, 5]])
    assert iou[0] == pytest.approx([1 / 3, 1, 0])


def test_matching_is_one_to_one_and_best_first():
    assert match(np.array([[0.5, 0.9], [0.45, 0.8]])) == [(0, 1), (1, 0)]
    assert match(np.zeros((0, 3))) == []


boxes = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a, b):
    forward, backward = box_iou([a], [b])[0, 0], box_iou([b], [a])[0, 0]
    assert forward == backward
    assert 0 <= forward <= 1
    assert box_iou([a], [a])[0, 0] == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4))
def test_covering_more_never_lowers_coverage(cover):
    values = []
    for count in range(len(cover) + 1):
        values.append(summarize([score(filled(*cover[:count]))])["pixel_coverage"])
    assert values == sorted(values)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes, max_size=4))
def test_what_is_declared_and_changed_is_boxed_and_nothing_is_left_over(cover):
    after, regions = filled(*cover), [region(box) for box in cover]
    changed = changed_pixels(BEFORE, after)
    assert len(region_boxes(changed, regions)) == len(cover)
    assert not (changed & ~region_mask(regions, changed.shape)).any()
