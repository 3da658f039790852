"""How far somebody is whom one view sees."""

import dataclasses

import numpy as np
import pytest
from room import camera_ring, lying, person, seen
from test_pose3d import flat_depth

from disguisor_ros.core.placement import settle, to_depth
from disguisor_ros.core.posture import place, place_again
from disguisor_ros.core.skeleton import CORE
from disguisor_ros.core.tracking import Track, predict

CAMERA = camera_ring(4)["cam1"]
BODY = person(0.2, 0.1, yaw=0.9)
CERTAIN = np.tile(np.eye(3) * 0.02**2, (17, 1, 1))


def view_of(body, score=0.8):
    keypoints = seen([body], {"cam1": CAMERA}, score=score)["cam1"][0]
    return CAMERA.center, CAMERA.rays(keypoints[:, :2]), keypoints[:, 2]


def away(joints):
    return np.linalg.norm(joints[CORE] - CAMERA.center, axis=1).mean()


@pytest.mark.parametrize("yaw", [0.0, 1.2, 2.6, 4.0, 5.4])
def test_a_standing_body_is_found_with_its_turn(yaw):
    body = person(-0.3, 0.4, yaw=yaw)
    placed = place(*view_of(body), 0.0)
    assert abs(away(placed.joints) - away(body)) < 0.03 * away(body)
    assert np.linalg.norm(placed.joints[CORE] - body[CORE], axis=1).mean() < 0.15
    across = np.cross(placed.joints[5] - placed.joints[6], body[5] - body[6])
    assert np.linalg.norm(across[:2]) < 0.5 * 0.35**2 and placed.share < 0.1


def test_without_a_floor_the_distance_is_known_worse():
    known, unknown = place(*view_of(BODY), 0.0), place(*view_of(BODY), None)
    assert unknown.share > 1.5 * known.share
    assert abs(away(unknown.joints) - away(BODY)) < 2 * unknown.share * away(BODY)


def test_what_is_no_body_says_that_it_does_not_know():
    center, rays, score = view_of(BODY)
    scrambled = rays[np.random.default_rng(3).permutation(17)]
    assert place(center, scrambled, score, 0.0).share > 2 * place(center, rays, score, 0.0).share


def tracked(body, drift=None, elapsed_s=0.2):
    """Prediction of a track that measured somebody a moment ago."""
    track = Track(1, body, CERTAIN, 0, body=body)
    track.drift = np.zeros((17, 3)) if drift is None else drift
    return predict([track], round(elapsed_s * 1e9)).of(0)


def test_a_track_that_was_measured_knows_the_distance_of_a_child():
    child = person(0.2, 0.1, yaw=0.9, size=0.7)
    alone = settle(*view_of(child), None, None, None)
    known = settle(*view_of(child), None, tracked(child), None)
    assert abs(known.distance_m - away(child)) < 0.05 < 0.1 * abs(alone.distance_m - away(child))
    assert known.sigma_m < 0.15


@pytest.mark.parametrize("parts", [17, 11, 7])
def test_noise_brings_nobody_nearer(parts):
    """A body that is nearer is nearer to all rays: who was measured was put 1 to 2 % too near."""
    rng, center = np.random.default_rng(0), CAMERA.center
    measured, found = [], []
    for _ in range(300):
        body = person(*rng.uniform(-1, 1, 2), yaw=rng.uniform(0, 6))
        keypoints = seen([body], {"cam1": CAMERA}, noise_px=12.0, rng=rng)["cam1"][0]
        score = keypoints[:, 2] * (np.arange(17) < parts)
        placed = place_again(center, CAMERA.rays(keypoints[:, :2]), score, body, 0.2)
        found.append(np.log(away(placed.joints) / away(body)))
        measured.append(placed.share)
    assert abs(np.mean(found)) < 0.005
    assert np.std(found) < 1.2 * np.mean(measured)  # and it is said how well it is known


def test_a_body_that_was_measured_long_ago_says_less():
    shares = [place_again(*view_of(BODY), BODY, age_s).share for age_s in (0.1, 1.0, 3.0, 60.0)]
    assert shares == sorted(shares) and shares[0] < 0.025
    assert shares[-1] == pytest.approx(place(*view_of(BODY), 0.0).share, rel=0.1)


def test_seeing_the_same_body_again_and_again_makes_nobody_surer():
    first = settle(*view_of(BODY), 0.0, None, None)
    track = Track(1, first.joints, CERTAIN, 0)
    sigma_m = first.sigma_m
    for step in range(1, 20):
        ray = track.joints - CAMERA.center
        track.drift = ray * sigma_m / np.linalg.norm(ray, axis=1, keepdims=True)
        track.stamp_ns = step * 33_000_000
        there = predict([track], track.stamp_ns + 33_000_000).of(0)
        one = settle(*view_of(BODY), 0.0, there, None)
        track.joints, sigma_m = one.joints, one.sigma_m
    assert sigma_m > 0.9 * first.sigma_m


@pytest.mark.parametrize("yaw", [0.0, 1.5, 3.0, 4.5])
@pytest.mark.parametrize("floor_z_m", [0.0, None])
def test_a_patient_is_not_stood_up(yaw, floor_z_m):
    """Without lying postures the guess was 1.3 m in front of the camera, and 3.2 m right."""
    body = lying(yaw)
    one = settle(*view_of(body), floor_z_m, None, None)
    assert abs(one.distance_m - away(body)) < 0.12 * away(body)
    assert np.linalg.norm(one.joints[:5] - body[:5], axis=1).mean() < 0.5


def test_depth_shows_who_is_far_from_every_guess():
    """Sitting, bent and cut by the image: no posture suits, but depth knows."""
    center, rays, score = view_of(BODY)
    rays = CAMERA.rays(CAMERA.project(BODY[:7].mean(0) + 2.5 * (BODY - BODY[:7].mean(0)))[0])
    guess = settle(center, rays, score, 0.0, None, None)
    depth = flat_depth(CAMERA, CAMERA.to_camera(BODY[[0, 5, 6]])[:, 2].mean())
    one = settle(center, rays, score, 0.0, None, depth)
    assert guess.distance_m < 0.6 * away(BODY)
    assert one.measured and abs(one.distance_m - away(BODY)) < 0.15 * away(BODY)


def test_depth_makes_sure():
    guessed = settle(*view_of(BODY), None, None, None)
    distance = CAMERA.to_camera(BODY[[5, 6, 11, 12]])[:, 2].mean()
    measured = settle(*view_of(BODY), None, None, flat_depth(CAMERA, distance - 0.08))
    assert measured.measured and not guessed.measured
    assert measured.sigma_m < 0.1 < guessed.sigma_m


def test_what_stands_in_front_does_not_move_somebody_who_was_measured():
    distance = CAMERA.to_camera(BODY[[5, 6, 11, 12]])[:, 2].mean()
    screen = flat_depth(CAMERA, 0.75 * distance)
    one = settle(*view_of(BODY), 0.0, tracked(BODY), screen)
    assert not one.measured and abs(one.distance_m - away(BODY)) < 0.05
    agreed = settle(*view_of(BODY), 0.0, tracked(BODY), None)
    assert one.sigma_m > 2 * agreed.sigma_m  # but it is said that something contradicts


def test_what_stands_before_the_hips_does_not_bend_the_body():
    """Head and shoulders show the body, the hips a table half a metre before it."""
    center, _, score = view_of(BODY)
    distance = CAMERA.to_camera(BODY[[5, 6]])[:, 2].mean()
    depth = flat_depth(CAMERA, distance - 0.05)
    image = depth.image.copy()
    pixels, _ = depth.camera.project(BODY[[11, 12]])
    image[int(pixels[:, 1].min()) - 15 :] -= 500
    depth = dataclasses.replace(depth, image=image)
    moved, agreed = to_depth(BODY, center, score, depth, 0.06, 1.6)
    assert np.abs(np.linalg.norm(moved - BODY, axis=1))[[11, 12]].max() < 0.25
    assert 0.5 < agreed < 1.0
