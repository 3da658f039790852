"""Faces that 3D did not place are covered from 2D."""

from dataclasses import replace

import numpy as np
import pytest
from head_scene import (
    ball_template,
    depth_view,
    front_camera,
    head_at,
    keypoints_of,
    no_keypoints,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from disguisor_ros.core.face_cover import cover_heads
from disguisor_ros.core.rendering import EmbreeBackend
from disguisor_ros.core.safety_net import SafetyNet
from disguisor_ros.core.sightings import clean_keypoints, sight_heads

TEMPLATE = ball_template()
CAMERA = front_camera()
FACE = head_at(TEMPLATE)
SECOND = 1_000_000_000


def covered_by(covers):
    mask = np.zeros((CAMERA.height, CAMERA.width), bool)
    for cover in covers:
        mask[cover.slices] |= cover.replaced
    return mask


def drawn(*heads, keypoints=None, depth=None):
    keypoints = no_keypoints() if keypoints is None else keypoints
    sightings = sight_heads(CAMERA, list(heads), keypoints, TEMPLATE)
    return cover_heads(CAMERA, list(heads), TEMPLATE, EmbreeBackend(), sightings, depth)


def cast(keypoints, heads=(), covers=(), net=None, stamp_ns=0):
    keypoints, heads, covers = clean_keypoints(keypoints), list(heads), list(covers)
    sightings = sight_heads(CAMERA, heads, keypoints, TEMPLATE)
    return (net or SafetyNet())(CAMERA, keypoints, heads, sightings, covers, stamp_ns)


def test_face_without_a_head_is_covered():
    (cover,) = cast(keypoints_of(CAMERA, FACE, TEMPLATE))
    face = drawn(FACE)[0].upper | drawn(FACE)[0].lower
    assert covered_by([cover])[drawn(FACE)[0].slices][face].mean() > 0.99
    assert cover.region.method == "keypoints" and cover.region.track_id == -1
    assert cover.region.confidence > 0.8


def test_drawn_face_needs_no_net():
    assert cast(keypoints_of(CAMERA, FACE, TEMPLATE), [FACE], drawn(FACE)) == []


def test_face_beside_the_drawn_head_is_covered():
    misplaced = head_at(TEMPLATE, y=0.25)
    (cover,) = cast(keypoints_of(CAMERA, FACE, TEMPLATE), [misplaced], drawn(misplaced))
    assert covered_by([cover])[119, 159]


@pytest.mark.parametrize(
    ("mine", "other", "other_seen"),
    [({"x": 0.6}, {"x": 3.0}, 0.0), ({"x": 0.8}, {"x": 2.0}, 0.0),
     ({"x": 2.2, "y": 0.08}, {"x": 2.0}, 0.9)],
)  # fmt: skip
def test_the_cover_of_somebody_else_does_not_answer_for_an_open_face(mine, other, other_seen):
    """Before somebody who is tracked: eyes and nose lay under his cover, all else was open."""
    face, head = head_at(TEMPLATE, **mine), head_at(TEMPLATE, track_id=2, **other)
    both = [keypoints_of(CAMERA, face, TEMPLATE), keypoints_of(CAMERA, head, TEMPLATE, other_seen)]
    keypoints = np.concatenate(both)
    covers = drawn(head, keypoints=keypoints)
    added = cast(keypoints, [head], covers)
    mask = drawn(face)[0].upper | drawn(face)[0].lower
    assert covered_by(covers + added)[drawn(face)[0].slices][mask].mean() > 0.98


@pytest.mark.parametrize("rolled_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("tilted_deg", [0, 60])
def test_a_face_is_sought_above_shoulders_in_cameras_that_hang_any_way(rolled_deg, tilted_deg):
    """Under a ceiling, upside down, on end: above is above in the room, not in the image."""
    tilt, roll = np.deg2rad([tilted_deg, rolled_deg])
    tf = CAMERA.tf_camera_world.copy()
    down = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    turn = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    tf[:3] = np.array(turn) @ np.array(down) @ tf[:3]
    camera = replace(CAMERA, tf_camera_world=tf)
    head = head_at(TEMPLATE, x=2.0 * np.cos(tilt), z=-2.0 * np.sin(tilt))
    keypoints = keypoints_of(camera, head, TEMPLATE)
    keypoints[0, :5, 2] = 0.0
    (cover,) = SafetyNet()(camera, keypoints, [], [], [], 0)
    (x, y), _ = camera.project(head.tf_world_head[:3, 3])
    mask = np.zeros((camera.height, camera.width), bool)
    mask[cover.slices] = cover.replaced
    assert mask[round(y), round(x)]


@pytest.mark.parametrize("hidden", [0.6, 0.9, 1.0])
def test_face_that_is_seen_through_what_depth_measures_is_covered(hidden):
    """Behind plastic or glass: the less of the sheet was measured, the more stayed open."""
    face = drawn(FACE)[0]
    columns = face.x + np.flatnonzero((face.upper | face.lower).any(axis=0))
    depth_m = np.full((CAMERA.height, CAMERA.width), 2.5)
    depth_m[:, : int(np.quantile(columns, hidden)) + 1] = 1.2
    keypoints = keypoints_of(CAMERA, FACE, TEMPLATE)
    heads = drawn(FACE, keypoints=keypoints, depth=depth_view(CAMERA, depth_m))
    added = cast(keypoints, [FACE], heads)
    assert covered_by(heads + added)[face.slices][face.upper | face.lower].mean() > 0.98
    assert hidden == 1.0 or added[0].region.confidence < 0.5
    # Where the detector sees nothing of the face the occluder stays as it is.
    keypoints[0, :3, 2] = 0.2
    heads = drawn(FACE, keypoints=keypoints, depth=depth_view(CAMERA, depth_m))
    assert hidden == 1.0 or cast(keypoints, [FACE], heads) == []


def test_second_detection_of_a_face_adds_nothing():
    twice = np.repeat(keypoints_of(CAMERA, FACE, TEMPLATE), 2, axis=0)
    twice[1, :, :2] += 2
    twice[1, :, 2] -= 0.1
    assert len(cast(twice)) == 1


def test_head_turned_away_is_not_covered():
    away = head_at(TEMPLATE, away_deg=180)
    keypoints = keypoints_of(CAMERA, away, TEMPLATE)
    keypoints[0, :3, 2] = 0.05
    assert cast(keypoints, [away], drawn(away)) == []
    # ... but it is when no head is known to stand there.
    assert len(cast(keypoints)) == 1


def test_shoulders_alone_are_enough():
    keypoints = keypoints_of(CAMERA, FACE, TEMPLATE)
    keypoints[0, :5, 2] = 0.0
    (cover,) = cast(keypoints)
    assert covered_by([cover])[119, 159]
    assert cover.region.confidence < 0.5


def covered_by_these(joints):
    """Share of a face that is covered of which these joints alone are seen."""
    keypoints = keypoints_of(CAMERA, FACE, TEMPLATE)
    keypoints[0, np.setdiff1d(np.arange(17), joints), 2] = 0.0
    (cover,) = cast(keypoints)
    face = drawn(FACE)[0].upper | drawn(FACE)[0].lower
    return covered_by([cover])[drawn(FACE)[0].slices][face].mean()


@pytest.mark.parametrize("joints", [[0, 1, 2], [1, 2], [0, 1], [0, 1, 2, 5]])
def test_nose_and_eyes_alone_are_enough(joints):
    """A face under a cap, above drapes: no bone told how large it is, so it was left open."""
    assert covered_by_these(joints) > 0.8


@pytest.mark.parametrize("joints", [[0], [1, 3], [2, 6], [0, 5], [1, 3, 5]])
def test_a_face_of_which_no_bone_is_seen_is_covered_as_if_near(joints):
    """Who is half out of the image may show an eye, an ear and a shoulder: he was left open."""
    assert covered_by_these(joints) > 0.9


def test_cover_grows_when_less_is_known():
    keypoints = keypoints_of(CAMERA, FACE, TEMPLATE)
    sure = covered_by(cast(keypoints)).sum()
    keypoints[0, :5, 2] = 0.35
    unsure = covered_by(cast(keypoints)).sum()
    keypoints[0, 1:5, 2] = 0.0
    assert sure < unsure < covered_by(cast(keypoints)).sum()


def test_lost_face_is_held_and_grows_and_is_let_go():
    net, sizes = SafetyNet(), []
    cast(keypoints_of(CAMERA, FACE, TEMPLATE), net=net)
    for stamp_ns in (0.1, 0.3, 0.5):
        (cover,) = cast(no_keypoints(), net=net, stamp_ns=int(stamp_ns * SECOND))
        assert cover.region.method == "held"
        sizes.append(covered_by([cover]).sum())
    assert sizes[0] < sizes[1] < sizes[2]
    assert cast(no_keypoints(), net=net, stamp_ns=int(0.7 * SECOND)) == []


def test_lost_head_is_held():
    net, keypoints = SafetyNet(), keypoints_of(CAMERA, FACE, TEMPLATE)
    cast(keypoints, [FACE], drawn(FACE, keypoints=keypoints), net)
    (cover,) = cast(no_keypoints(), net=net, stamp_ns=SECOND // 10)
    assert cover.region.method == "held" and cover.region.track_id == 1
    assert covered_by([cover])[drawn(FACE)[0].slices][drawn(FACE)[0].upper].mean() > 0.98


def test_head_that_turned_away_is_not_held():
    net, away = SafetyNet(), head_at(TEMPLATE, away_deg=180)
    keypoints = keypoints_of(CAMERA, FACE, TEMPLATE)
    cast(keypoints, [FACE], drawn(FACE, keypoints=keypoints), net)
    assert cast(no_keypoints(), [away], drawn(away), net, SECOND // 10) == []


@pytest.mark.parametrize("stamp_ns", [-SECOND // 10, 5 * SECOND])
def test_clock_jump_forgets(stamp_ns):
    net = SafetyNet()
    cast(keypoints_of(CAMERA, FACE, TEMPLATE), net=net)
    assert cast(no_keypoints(), net=net, stamp_ns=stamp_ns) == []


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 17, 3), elements=st.floats(width=64)))
def test_any_keypoints_are_survived(keypoints):
    net = SafetyNet()
    for stamp_ns in (0, SECOND // 10):
        for cover in cast(keypoints, net=net, stamp_ns=stamp_ns):
            assert np.isfinite(cover.region.box).all() and cover.replaced.any()


def test_one_mistaken_joint_does_not_blow_up_the_cover():
    """An ear far off makes two bones too long; half the image was covered for it."""
    right = keypoints_of(CAMERA, FACE, TEMPLATE)
    wrong = right.copy()
    wrong[0, 4, :2] += 250
    areas = [covered_by(cast(keypoints)).sum() for keypoints in (right, wrong)]
    assert areas[1] < 2 * areas[0]


def test_several_mistaken_joints_do_not_cover_the_image():
    """Of a detection that is torn between two people; 45 % of an image was covered for it."""
    right = keypoints_of(CAMERA, FACE, TEMPLATE)
    right[0, [7, 8], :2] = right[0, [5, 6], :2] + [0, 20]
    right[0, [11, 12], :2] = right[0, [5, 6], :2] + [0, 40]
    right[0, [7, 8, 11, 12], 2] = 0.9
    wrong = right.copy()
    wrong[0, [3, 8], :2] += [[-300, 0], [300, 0]]
    wrong[0, [3, 8], 2] = 0.2
    areas = [covered_by(cast(keypoints)).sum() for keypoints in (right, wrong)]
    assert areas[1] < 8 * areas[0]


def test_a_lost_head_is_held_around_its_face_and_not_around_all_that_was_covered():
    """Who was covered far to both sides was held with an ellipse around that, half an image."""
    face = drawn(FACE)[0].upper | drawn(FACE)[0].lower
    wide = head_at(TEMPLATE)
    wide.covariance[:3, :3] = np.diag([0.01, 0.3, 0.01]) ** 2
    covers = drawn(wide)
    covers[0].region.confidence = 0.9
    net = SafetyNet()
    cast(no_keypoints(), [wide], covers, net, 0)
    (held,) = cast(no_keypoints(), net=net, stamp_ns=SECOND // 10)
    assert covered_by([held])[drawn(FACE)[0].slices][face].mean() > 0.99
    assert held.reach.sum() < 0.5 * covers[0].reach.sum()
