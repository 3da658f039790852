"""Which detections are one person."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from room import camera_ring, lying, person, seen

from disguisor_ros.core.association import (
    RayPairs,
    affinities,
    cluster,
    mirrored_members,
    pair_affinity,
    track_affinity,
)
from disguisor_ros.core.detections import gather_detections
from disguisor_ros.core.skeleton import MIRROR

RIG = camera_ring(3)


def groups_of(bodies, rig=RIG, change=None):
    keypoints = seen(bodies, rig)
    if change:
        change(keypoints)
    detections = gather_detections(keypoints, rig)
    nobody_known = np.zeros((len(detections), 0))
    straight, mirrored = affinities(detections, 0.0, nobody_known)
    label = cluster(detections.view, np.maximum(straight, mirrored))
    return detections, label


def test_each_person_becomes_one_group():
    detections, label = groups_of([person(0, 0), person(1.2, 0.5, yaw=2.0), person(-1, 1, yaw=4)])
    assert label.max() == 2
    for k in range(3):
        assert sorted(detections.view[label == k]) == [0, 1, 2]
        assert len(set(detections.index[label == k])) == 1


def test_a_false_detection_stays_alone():
    def add_false(keypoints):
        false = keypoints["cam1"][:1].copy()
        false[..., 0] += 300
        false[..., 1] -= 120
        keypoints["cam1"] = np.concatenate([keypoints["cam1"], false])

    detections, label = groups_of([person(0, 0)], change=add_false)
    false = (detections.view == 0) & (detections.index == 1)
    assert (label == label[false]).sum() == 1


def test_left_and_right_of_a_whole_view_may_be_exchanged():
    def mirror(keypoints):
        keypoints["cam2"] = keypoints["cam2"][:, MIRROR]

    detections, label = groups_of([person(0, 0), person(1.5, 0)], change=mirror)
    assert label.max() == 1
    members = np.nonzero(label == 0)[0]
    assert list(detections.view[members[mirrored_members(detections, members, 0.0)]]) == [1]


def test_duplicates_within_a_view_are_dropped():
    keypoints = seen([person(0, 0), person(1.5, 0)], RIG)
    worse = keypoints["cam1"][:1] + [2.0, -1.0, -0.2]
    keypoints["cam1"] = np.concatenate([worse, keypoints["cam1"]])
    detections = gather_detections(keypoints, RIG)
    assert sorted(detections.index[detections.view == 0]) == [1, 2]


def test_missing_values_are_missing_keypoints():
    keypoints = np.full((1, 17, 3), 0.5)
    keypoints[0, 3] = np.nan
    keypoints[0, 4, 2] = 0.0
    found = gather_detections({"cam1": keypoints}, RIG)
    assert np.isfinite(found.pixels).all() and np.isfinite(found.rays).all()
    assert list(np.nonzero(found.score[0] == 0)[0]) == [3, 4]


@pytest.mark.parametrize("shape", [(1, 15, 3), (1, 25, 3), (17, 3), (1, 17, 2)])
def test_other_layouts_are_rejected_by_name(shape):
    with pytest.raises(ValueError, match=r"'cam1'.*17, 3"):
        gather_detections({"cam1": np.ones(shape)}, RIG)


def test_unknown_camera_is_named():
    with pytest.raises(ValueError, match="'cam9'"):
        gather_detections({"cam9": np.zeros((0, 17, 3))}, RIG)


def test_the_best_partition_beats_the_greedy_one():
    # Views a, b, b', c: a-b is the best pair, but a-b' with b-c together is worth more.
    view = np.array([0, 1, 1, 2])
    affinity = np.array([
        [0.0, 0.9, 0.8, -1.0],
        [0.9, 0.0, 0.0, 0.8],
        [0.8, 0.0, 0.0, -1.0],
        [-1.0, 0.8, -1.0, 0.0],
    ])  # fmt: skip
    label = cluster(view, affinity)
    assert label[0] == label[2] and label[1] == label[3] and label[0] != label[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=0, max_size=14), st.integers(0, 2**31))
def test_no_person_has_two_detections_of_a_view(views, seed):
    view = np.array(sorted(views), dtype=int)
    affinity = np.random.default_rng(seed).normal(size=(len(view), len(view)))
    label = cluster(view, affinity + affinity.T)
    assert label.shape == view.shape
    assert len({*zip(label, view, strict=True)}) == len(view)


def test_two_people_whose_rays_cross_high_up_are_not_one():
    """Rays that agree far over the heads of standing people make nobody."""
    rig = {name: RIG[name] for name in list(RIG)[:2]}
    value = {}
    for rise in (0.0, 0.2, 0.75):  # on the floor, on a step, and in the air
        lifted = person(0.3, 0.1) + [0, 0, rise]
        found = gather_detections(seen([lifted], rig), rig)
        pairs = RayPairs(found, np.array([0]), np.array([1]))
        value[rise] = pair_affinity(pairs, 0.0)[0]
    assert value[0.0] > 0.9 and value[0.2] > 0.5 and value[0.75] < 0.0


def test_a_track_may_be_off_where_it_is_vague_and_nowhere_else():
    """Two views that face each other say little of the place between them; a third knows."""
    rig = camera_ring(4)
    detections = gather_detections(seen([person(0, 0)], rig), rig)
    vague = np.tile(np.diag([0.3, 0.02, 0.02]) ** 2, (17, 1, 1))
    tracks = person(0, 0) + np.array([[0.25, 0, 0], [0, 0.25, 0], [0, 0, 0.25]])[:, None]
    fits = track_affinity(detections, tracks, np.array([vague] * 3), np.zeros((3, 17, 3)))
    assert fits[:, 0].min() > 0.0, "wherever they look from"
    assert fits[:, 1].min() < -0.5 and fits[:, 2].max() < -0.2


def test_two_mistaken_joints_do_not_tear_a_person_apart():
    """Found in a simulated room: bones that ended at mistaken joints spoke against the pair."""
    rig = {name: RIG[name] for name in list(RIG)[:2]}
    keypoints = seen([person(0.3, 0.1)], rig, score=0.5)
    hidden = [0, 1, 2, 3, 9]
    for found in keypoints.values():
        found[:, hidden, 2] = 0.0
    keypoints[next(iter(rig))][0, [13, 16], :2] += [[260, -60], [-240, 150]]
    pairs = RayPairs(gather_detections(keypoints, rig), np.array([0]), np.array([1]))
    assert pair_affinity(pairs, 0.0)[0] > 0.3


def test_the_legs_of_a_patient_do_not_lift_him():
    """Found in a simulated room: of a patient whose head no view showed two people were made."""
    rig = {name: RIG[name] for name in list(RIG)[:2]}
    keypoints = seen([lying(0.0)], rig, score=0.5)
    for found in keypoints.values():
        found[:, :5, 2] = 0.0
    pairs = RayPairs(gather_detections(keypoints, rig), np.array([0]), np.array([1]))
    assert pair_affinity(pairs, 0.0)[0] > 0.8
