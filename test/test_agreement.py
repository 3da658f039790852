"""Cameras that do not show the same people, and depth that shows them elsewhere, are noticed."""

from dataclasses import replace

import numpy as np
import pytest
from room import camera_ring, person, seen
from scipy.spatial.transform import Rotation

from disguisor_ros.core.agreement import Agreement, doubt
from disguisor_ros.core.cameras import invert_rigid
from disguisor_ros.core.depth_watch import DepthWatch
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.types import DepthView

BODIES = [person(-0.6, 0.2), person(0.7, -0.3, yaw=1.5)]


def watched(rig, found, seconds=30, nobody_s=0):
    """An Agreement after some seconds of what the cameras found, and of an empty room."""
    agreement, estimator = Agreement(), PoseEstimator()
    nobody = {camera: keypoints[:0] for camera, keypoints in found.items()}
    for k in range(5 * (seconds + nobody_s)):
        here = found if k < 5 * seconds else nobody
        stamp_ns = 10**12 + k * 2 * 10**8
        agreement.look(here, rig, estimator(here, rig, stamp_ns), stamp_ns)
    return agreement


def turned(camera, degrees):
    """The camera with a pose that is rolled about its optical axis."""
    tf = camera.tf_camera_world.copy()
    tf[:3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix() @ tf[:3]
    return replace(camera, tf_camera_world=tf)


def test_cameras_that_are_right_agree():
    rig = camera_ring(3)
    agreement = watched(rig, seen(BODIES, rig, noise_px=2.0))
    assert not agreement.none
    assert len(agreement.shares) == 3 and min(agreement.shares.values()) > 0.9
    assert not any(map(agreement.wrong, rig))


@pytest.mark.parametrize("count", [2, 4])
def test_keypoints_of_images_of_half_the_size_agree_on_nobody(count):
    rig = camera_ring(count)
    found = seen(BODIES, rig)
    for keypoints in found.values():
        keypoints[..., :2] /= 2
    assert watched(rig, found).none


@pytest.mark.parametrize(("count", "factor", "told"), [(1, 0.5, 1), (1, 1.0, 0), (3, 1.0, 0)])
def test_a_camera_all_of_whose_people_are_in_the_upper_left_quarter(count, factor, told):
    """Nobody contradicts one camera alone."""
    rig = camera_ring(count)
    found = seen(BODIES, rig)
    for keypoints in found.values():
        keypoints[..., :2] *= factor
    assert sum(map(watched(rig, found).quartered, rig)) == told


@pytest.mark.parametrize("spoil", ["pose", "keypoints"])
def test_one_camera_that_is_wrong_is_closed(spoil):
    rig = camera_ring(4)
    found, wrong = seen(BODIES, rig), list(rig)[1]
    if spoil == "pose":
        rig[wrong] = turned(rig[wrong], 90)
    else:
        found[wrong][..., :2] /= 2
    agreement = watched(rig, found)
    assert [c for c, share in agreement.shares.items() if doubt(share)] == [wrong]
    assert [c for c in rig if agreement.wrong(c)] == [wrong] and not agreement.none


@pytest.mark.parametrize("exchanged", [False, True])
def test_keypoints_that_have_left_and_right_exchanged_are_noticed(exchanged):
    """All cameras agree on people whose heads are turned round."""
    rig = camera_ring(3)
    found = seen(BODIES, rig, noise_px=2.0)
    if exchanged:
        order = [0, *(k + 1 if k % 2 else k - 1 for k in range(1, 17))]
        found = {camera: keypoints[:, order] for camera, keypoints in found.items()}
    agreement = watched(rig, found)
    assert not agreement.none
    assert (agreement.exchanged, "left and right" in agreement.problem) == (exchanged, exchanged)


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (0.2, False), (0.02, True)])
def test_scores_in_another_scale_are_noticed(factor, told):
    """Nobody would be believed: the room passed for empty."""
    rig = camera_ring(2)
    found = {camera: keypoints * [1, 1, factor] for camera, keypoints in seen(BODIES, rig).items()}
    agreement = watched(rig, found)
    assert (agreement.unscored, "0 to 1" in agreement.problem) == (told, told)
    empty = {camera: keypoints[:0] for camera, keypoints in found.items()}
    assert not watched(rig, empty).problem


def test_who_comes_after_an_empty_room_finds_the_cameras_closed():
    rig = camera_ring(4)
    found, wrong = seen(BODIES, rig), list(rig)[1]
    rig[wrong] = turned(rig[wrong], 90)
    assert watched(rig, found, nobody_s=300).wrong(wrong)
    rig = {c: replace(v, tf_camera_world=invert_rigid(v.tf_camera_world)) for c, v in rig.items()}
    assert watched(rig, found, nobody_s=300).none


@pytest.mark.parametrize("others", [0, 1])
def test_who_is_seen_by_one_camera_alone_proves_nothing(others):
    """A patient whom no other camera sees, alone or beside one person whom all see."""
    rig = camera_ring(3)
    found = seen(BODIES[: 1 + others], rig)
    for camera in list(rig)[1:]:
        found[camera] = found[camera][1:]
    agreement = watched(rig, found)
    assert not agreement.none and not any(map(doubt, agreement.shares.values()))


def test_a_camera_that_shows_somebody_whom_others_miss_stays_open():
    """It sees a patient, the others one who stands out of its image: told, but not closed."""
    rig = camera_ring(3)
    alone = list(rig)[0]
    away = next(
        body
        for distance in np.arange(0.0, 9.0, 0.5)
        for body in [person(*(distance * rig[alone].center[:2] / 3))]
        if not rig[alone].inside(rig[alone].project(body[[0, 5, 6, 11, 12]])[0]).all()
    )
    found = {c: seen([BODIES[0] if c == alone else away], {c: rig[c]})[c] for c in rig}
    agreement = watched(rig, found)
    assert doubt(agreement.shares[alone]) and not agreement.wrong(alone)


def depth_of(camera, bodies, scale=1.0):
    """A depth image of people before a wall; it measures 10 cm before the joints."""
    image = np.full((camera.height, camera.width), 6000.0)
    for body in bodies:
        pixels, distance = camera.project(body)
        for (x, y), metres in zip(np.rint(pixels).astype(int), distance, strict=True):
            image[max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9] = 1000 * metres - 100
    return DepthView(camera, (scale * image).astype(np.uint16))


@pytest.mark.parametrize(
    ("scale", "turn", "wrong"),
    [(1.0, 0, False), (0.5, 0, True), (2.0, 0, True), (1.0, 20, True)],
)
def test_depth_that_shows_people_elsewhere_is_not_used(scale, turn, wrong):
    rig = camera_ring(3)
    found, watch = seen(BODIES, rig), DepthWatch()
    depth = {name: depth_of(camera, BODIES, scale) for name, camera in rig.items()}
    depth = {n: replace(v, camera=turned(v.camera, turn)) for n, v in depth.items()}
    persons = PoseEstimator()(found, rig, 10**12)
    for _ in range(5):
        watch.look(found, persons, depth)
    assert [watch.wrong(name) for name in rig] == [wrong] * 3


def test_depth_of_a_room_without_people_is_used():
    camera = camera_ring(1)
    watch = DepthWatch()
    watch.look({}, [], {name: depth_of(c, []) for name, c in camera.items()})
    assert not any(map(watch.wrong, camera))
