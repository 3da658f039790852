"""Joints from rays."""

import dataclasses

import numpy as np
import pytest
from room import camera_ring, person, seen

from disguisor_ros.core.refinement import Equations, Held, Prior, solve
from disguisor_ros.core.skeleton import CORE, MIRROR
from disguisor_ros.core.triangulation import (
    Rays,
    complete,
    consensus_points,
    ray_costs,
    renewed,
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
    return Rays(np.array([rig[name].center for name in rig]), rays[None], score[None])


def estimate(found, **options):
    joints = consensus_points(found)
    found = unswap(found, joints, ray_costs(found, joints))
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
    assert result.confidence[0, 9] == 0.0
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
    firm = np.tile(0.03**2 * np.eye(3), (1, 17, 1, 1)), np.zeros((1, 17, 3))
    sharp = Prior(BODY[None] + [0.3, 0.0, 0.0], *firm)
    assert worst_error(estimate(observations(rig), prior=sharp)) < 0.05
    name = next(iter(rig))
    found = observations({name: rig[name]})
    known = Prior(BODY[None], *firm)
    assert worst_error(solve(found, BODY[None] + 0.05, known)) < 0.04


def test_joints_that_two_views_see_elsewhere_start_from_there_and_no_others():
    def miss_wrist(keypoints):
        keypoints["cam1"][9, :2] += [90.0, -60.0]

    expected = BODY.copy()
    expected[16] += [0.3, 0.0, 0.1]  # a foot that two views and more see elsewhere
    found = observations(camera_ring(3), change=miss_wrist)  # one view that is wrong is no reason
    ((start,), costs) = renewed(found, expected[None])
    np.testing.assert_array_equal(costs, ray_costs(found, start[None]))
    np.testing.assert_allclose(start[16], BODY[16], atol=1e-6)
    np.testing.assert_array_equal(start[:16], BODY[:16])


def test_feet_stay_above_the_floor():
    sunk = BODY - [0, 0, 0.4]
    result = estimate(observations(camera_ring(2), body=sunk), floor_z_m=0.0)
    free = estimate(observations(camera_ring(2), body=sunk))
    assert result.joints[0, 15:, 2].min() > free.joints[0, 15:, 2].min()


def test_a_prior_that_may_have_drifted_holds_back_only_across_the_drift():
    """Information along the drift is 1 / (v + d^2), across it 1 / v."""
    spread = np.tile(0.04 * np.eye(3), (1, 17, 1, 1))
    prior = Prior(BODY[None], spread, np.tile([0.3, 0.0, 0.0], (1, 17, 1)))
    information = prior.information()[0, 5]
    assert np.allclose(information, np.diag([1 / 0.13, 25.0, 25.0]))
    rig = camera_ring(3)
    prior.joints = prior.joints + [0.3, 0.0, 0.0]
    assert worst_error(estimate(observations(rig), prior=prior)) < 0.02


def test_a_distance_that_was_settled_is_kept():
    rig = camera_ring(1)
    found = observations(rig)
    offset = BODY[CORE] - found.centers[0]
    far = np.linalg.norm(offset, axis=-1, keepdims=True)
    pull = offset / far / 9
    for moved in (-0.4, 0.4):
        distance = far.mean() + moved
        origin = pull.sum(axis=0) @ found.centers[0]
        held = Held(np.array([0]), pull[None], np.array([distance + origin]), np.array([0.01]))
        start = found.centers[0] + (BODY - found.centers[0]) * (distance / far.mean())
        joints = solve(found, start[None], held=held).joints[0]
        kept = np.linalg.norm(joints[CORE] - found.centers[0], axis=-1).mean()
        assert abs(kept - distance) < 0.02


def test_whoever_has_come_to_rest_does_not_change_for_others():
    """People are solved together, each by himself."""
    still, moving = observations(camera_ring(3)), observations(camera_ring(3), BODY + 0.5)
    both = Rays(
        still.centers,
        np.concatenate([still.rays, moving.rays]),
        np.concatenate([still.score, moving.score]),
    )
    alone = solve(still, BODY[None])
    together = solve(both, np.array([BODY, BODY]))
    assert np.allclose(alone.joints[0], together.joints[0], atol=1e-9)
    assert np.allclose(alone.covariance[0], together.covariance[0])
    assert np.linalg.norm(together.joints[1] - BODY - 0.5, axis=-1).max() < 0.02


def test_limbs_that_are_eliminated_come_back_as_in_the_whole_system():
    """Against a plain solution of the 51 equations of one person."""
    rng = np.random.default_rng(4)
    blocks = np.tile(np.eye(3) * 900.0, (1, 17, 1, 1)) + 50 * np.eye(3)
    vector = rng.normal(size=(1, 17, 3)) * 100
    whole = np.zeros((51, 51))
    equations = Equations(blocks, vector, BODY[None])
    core = equations.core[0].reshape(9, 3, 9, 3)
    by_joint = whole.reshape(17, 3, 17, 3)
    by_joint[np.ix_(CORE, range(3), CORE, range(3))] = core
    right = np.zeros((17, 3))
    right[CORE] = equations.core_vector[0]
    for k, (pair, root) in enumerate(
        zip(([7, 9], [8, 10], [13, 15], [14, 16]), (5, 6, 11, 12), strict=True)
    ):
        limb = equations.limbs[0, k].reshape(2, 3, 2, 3)
        by_joint[np.ix_(pair, range(3), pair, range(3))] = limb
        by_joint[pair[0], :, root] = by_joint[root, :, pair[0]] = equations.link[0, k]
        right[pair] = equations.limb_vector[0, k].reshape(2, 3)
    step = equations.step()[0]
    assert np.allclose(step.ravel(), np.linalg.solve(whole, right.ravel()))
    inverse = np.linalg.inv(whole).reshape(17, 3, 17, 3)
    wanted = np.array([inverse[j, :, j] for j in range(17)])
    assert np.allclose(equations.covariance(np.array([True]))[0], wanted)


def test_shanks_of_unusual_length_are_believed():
    """7 cm longer than most: two views that see them well lose less than 1.5 cm of it."""
    body = BODY.copy()
    for knee, ankle in ((13, 15), (14, 16)):
        shank = body[ankle] - body[knee]
        body[ankle] += 0.07 * shank / np.linalg.norm(shank)
    result = estimate(observations(camera_ring(2), body))
    assert (np.linalg.norm(result.joints[0] - body, axis=1)[[15, 16]] < 0.015).all()
