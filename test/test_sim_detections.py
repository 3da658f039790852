"""Simulated 2D keypoints."""

import numpy as np
import pytest

from disguisor_ros.core.cameras import Camera
from disguisor_ros.sim.detections import Detector, Visible, visible_joints


def someone(seen=True, x=400.0):
    pixels = np.stack([x + 10 * np.arange(17.0), 100 + 30 * np.arange(17.0)], axis=1)
    inside = np.ones(17, dtype=bool)
    return Visible(1, pixels, inside, np.full(17, seen))


def many(person, count=300):
    detector = Detector(np.random.default_rng(0))
    return [detector([person], 1280, 720) for _ in range(count)]


def test_a_visible_person_is_found_near_the_truth():
    shots = many(someone())
    found = [s for s in shots if len(s)]
    assert len(found) > 0.98 * len(shots)
    errors = np.linalg.norm([s[0, :, :2] - someone().pixels for s in found], axis=2)
    size = np.linalg.norm(np.ptp(someone().pixels, axis=0))
    assert 0.005 < np.median(errors) / size < 0.035


def test_scores_are_higher_where_joints_are_seen():
    half = someone()
    half.seen[:9] = False
    scores = np.concatenate([s[:1, :, 2] for s in many(half) if len(s)])
    assert scores[:, 9:].mean() > 0.6
    assert scores[:, :5].mean() < 0.2
    assert scores.min() >= 0 and scores.max() <= 1


def test_hidden_people_are_missed_and_an_empty_image_has_no_person():
    assert np.mean([len(s) == 0 for s in many(someone(seen=False))]) > 0.9
    assert Detector(np.random.default_rng(0))([], 640, 480).shape == (0, 17, 3)


def test_everything_is_finite_and_in_the_image():
    for shot in many(someone(x=1230.0), 100):
        assert np.isfinite(shot).all()
        assert (shot[..., 0] <= 1279).all() and (shot[..., :2] >= 0).all()


@pytest.mark.parametrize("surface_m, expected", [(3.0, True), (2.0, False)])
def test_a_joint_behind_something_is_hidden(surface_m, expected):
    camera = Camera("cn01", 64, 48, np.array([[50, 0, 32], [0, 50, 24], [0, 0, 1.0]]), np.eye(4))
    joints = np.tile([0.0, 0.0, 3.0], (17, 1))
    range_m = np.full((48, 64), surface_m)
    found = visible_joints(2, joints, camera, range_m, np.zeros((48, 64), np.uint8))
    assert found.inside.all()
    assert (found.seen == expected).all()
