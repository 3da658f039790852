"""Joints from rays."""

import dataclasses

import numpy as np
import pytest
from room import camera_ring, person, seen

from disguisor_ros.core.skeleton import MIRROR
from disguisor_ros.core.triangulation import (
    Observations,
    Prior,
    complete,
    consensus_points,
    solve,
    unswap,
)

BODY = person(0.3, -0.2, yaw=0.7)


def observations(rig, body=BODY, change=None, noise_px=0.0):
    keypoints = {name: found[0] for name, found in seen([body], rig, noise_px).items()}
    if change:
        change(keypoints)
    rays = np.array([rig[name].rays(keypoints[name][:, :2]) for name in rig])
    score = np.array([keypoints[name][:, 2] for name in rig])
    rays *= (score > 0)[..., None]
    return Observations(np.array([rig[name].center for name in rig]), rays[None], score[None])


def estimate(found, **options):
    joints = consensus_points(found)
    found = unswap(found, joints)
    return solve(found, complete(joints, found), **options)


def worst_error(result, body=BODY):
    return np.linalg.norm(result.joints[0] - body, axis=-1).max()


def test_clean_rays_give_the_joints_back():
    found = observations(camera_ring(4))
    assert np.linalg.norm(consensus_points(found)[0] - BODY, axis=-1).max() < 1e-6
    assert worst_error(estimate(found)) < 0.01


def test_noise_of_two_pixels_costs_two_centimetres_at_most():
    result = estimate(observations(camera_ring(4), noise_px=2.0))
    assert np.linalg.norm(result.joints[0] - BODY, axis=-1).mean() < 0.02


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", [-0.2, 0.05, 0.001, -0.001, 0.0]),
        ("rational_polynomial", [0.45, -2.5, 0.0001, -0.0003, 1.4, 0.33, -2.4, 1.4]),
        ("equidistant", [0.02, -0.01, 0.003, -0.001]),
    ],
)
def test_all_lens_models(model, distortion):
    rig = {
        name: dataclasses.replace(camera, model=model, distortion=np.array(distortion))
        for name, camera in camera_ring(3).items()
    }
    assert worst_error(estimate(observations(rig))) < 0.01


def test_one_wrong_joint_in_one_of_three_views_is_outvoted():
    def move_wrist(keypoints):
        keypoints["cam2"][9, :2] += [90.0, -60.0]

    assert worst_error(estimate(observations(camera_ring(3), change=move_wrist))) < 0.02


def test_swapped_legs_of_one_view_are_swapped_back():
    legs = [13, 14, 15, 16]

    def swap(keypoints):
        keypoints["cam1"][legs] = keypoints["cam1"][MIRROR[legs]]

    assert worst_error(estimate(observations(camera_ring(4), change=swap))) < 0.01


def test_a_joint_that_nobody_sees_is_inferred_near_its_place():
    def hide(keypoints):
        for found in keypoints.values():
            found[9, 2] = 0.0

    result = estimate(observations(camera_ring(3), change=hide))
    assert np.linalg.norm(result.joints[0, 9] - BODY[9]) < 0.15
    assert result.weight[0, :, 9].max() == 0.0
    assert np.trace(result.covariance[0, 9]) > 4 * np.trace(result.covariance[0, 10])


def test_covariance_is_a_covariance_and_long_along_the_ray_of_a_single_view():
    rig = camera_ring(3)
    both = estimate(observations(rig)).covariance[0]
    assert (np.linalg.eigvalsh(both) > 0).all()
    name = next(iter(rig))
    found = observations({name: rig[name]})
    single = solve(found, BODY[None]).covariance[0, 5]
    ray = found.rays[0, 0, 5]
    assert ray @ single @ ray > 5 * ray @ both[5] @ ray
    vectors = np.linalg.eigh(single)[1]
    assert abs(vectors[:, 2] @ ray) > 0.9


def test_a_prediction_fills_in_for_missing_views_but_does_not_hold_back():
    rig = camera_ring(3)
    sharp = Prior(BODY[None] + [0.3, 0.0, 0.0], np.full((1, 17), 0.03))
    assert worst_error(estimate(observations(rig), prior=sharp)) < 0.05
    name = next(iter(rig))
    found = observations({name: rig[name]})
    known = Prior(BODY[None], np.full((1, 17), 0.03))
    assert worst_error(solve(found, BODY[None] + 0.05, known)) < 0.04


def test_feet_stay_above_the_floor():
    sunk = BODY - [0, 0, 0.4]
    result = estimate(observations(camera_ring(2), body=sunk), floor_z_m=0.0)
    free = estimate(observations(camera_ring(2), body=sunk))
    assert result.joints[0, 15:, 2].min() > free.joints[0, 15:, 2].min()
