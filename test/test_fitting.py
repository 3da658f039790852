"""Bodies and heads from keypoints."""

from dataclasses import replace

import numpy as np
import pytest
from head_scene import turn_sigma
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from disguisor_ros.core import observations
from disguisor_ros.core.body_models import SEGMENTS, load_anny
from disguisor_ros.core.cameras import Camera, look_at
from disguisor_ros.core.fitting import BODY, LENGTHS, BodyFitter
from disguisor_ros.core.fitting import _Solution as Solution
from disguisor_ros.core.observations import observe
from disguisor_ros.core.rotations import (
    angle_between,
    exp_so3,
    from_quaternion,
    left_jacobian_inverse,
    log_so3,
    rotation_between,
    to_quaternion,
    yaw_matrix,
)
from disguisor_ros.core.types import Person3D

#: Typical bends of a standing person about x, y, z of each segment, degrees.
BENDS = {"pelvis": (4, 4, 0), "chest": (4, 10, 8), "upper_arm": (20, 30, 20),
         "forearm": (5, 35, 15), "thigh": (5, 10, 6), "shank": (2, 10, 3)}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load_anny()


@pytest.fixture
def fitter(model):
    return BodyFitter(model)


def camera(name: str, angle: float) -> Camera:
    place = np.array([3 * np.cos(angle), 3 * np.sin(angle), 2.4])
    tf = look_at(place, np.array([0, 0, 1.1]))
    return Camera(name, 1280, 720, np.array([[610, 0, 640], [0, 610, 360], [0, 0, 1.0]]), tf)


CAMERAS = {f"cam{k}": camera(f"cam{k}", a) for k, a in enumerate((0.3, 1.9, 3.5, 5.1))}


def stand(fitter, rng, place, yaw, lying=False):
    """Random body: true COCO-17 joints (17, 3) and pose of the head (4, 4)."""
    rotations = []
    for row, segment in enumerate(BODY):
        name = SEGMENTS[segment].removeprefix("left_").removeprefix("right_")
        bend = np.deg2rad(np.array(BENDS[name]) * rng.normal(size=3))
        bend[1] *= {"forearm": -np.sign(bend[1]), "shank": np.sign(bend[1])}.get(name, 1)
        parent = fitter.skeleton.parents[row]
        base = yaw_matrix(yaw) if parent < 0 else rotations[parent]
        if parent < 0 and lying:
            base = base @ exp_so3(np.array([0, -np.pi / 2, 0]))
        rotations.append(base @ exp_so3(bend))
    lengths = 0.5 * rng.normal(size=(1, len(LENGTHS))) * np.array(list(LENGTHS.values()))
    solution = Solution(np.asarray(place)[None], np.array(rotations)[None], lengths)
    joints = fitter.skeleton.place(solution, fitter.skeleton.keypoint_paths)[0]
    neck = fitter.skeleton.place(solution, fitter.skeleton.neck_path)[0, 0]
    head = np.eye(4)
    turn = np.deg2rad([6, 12, 25]) * rng.normal(size=3) + [0, np.deg2rad(10), 0]
    head[:3, :3] = (rotations[1] if lying else yaw_matrix(yaw)) @ exp_so3(turn)
    head[:3, 3] = neck - head[:3, :3] @ fitter.neck_base
    face = head[:3, 3] + fitter.template.keypoints @ head[:3, :3].T
    return np.vstack([face, joints]), head


def observed(rng, joints, sigma_m=0.03, pixels=3.0, cameras=CAMERAS, track_id=1, row=0):
    """What tracker and detectors make of true joints: a person and its keypoints."""
    keypoints = {}
    for name, view in cameras.items():
        pixel, _ = view.project(joints)
        keypoints[name] = np.column_stack([pixel + rng.normal(size=(17, 2)) * pixels,
                                           np.full(17, 0.9)])  # fmt: skip
    noisy = joints + rng.normal(size=(17, 3)) * sigma_m
    covariance = np.tile(np.eye(3) * sigma_m**2, (17, 1, 1))
    person = Person3D(track_id, noisy, covariance, np.full(17, 0.9), dict.fromkeys(cameras, row))
    return person, keypoints


def crowd(rng, fitter, count):
    truths, persons, keypoints = [], [], {name: [] for name in CAMERAS}
    for k in range(count):
        place = [*rng.uniform(-1.2, 1.2, 2), 0.95]
        joints, head = stand(fitter, rng, place, rng.uniform(-np.pi, np.pi))
        person, found = observed(rng, joints, track_id=k + 1, row=k)
        truths.append((joints, head))
        persons.append(person)
        for name in CAMERAS:
            keypoints[name].append(found[name])
    return truths, persons, {name: np.array(rows) for name, rows in keypoints.items()}


def test_joints_are_better_than_the_input(fitter):
    rng = np.random.default_rng(0)
    truths, persons, keypoints = crowd(rng, fitter, 6)
    bodies = fitter(persons, keypoints, CAMERAS, 0)
    fitted = [np.linalg.norm(b.joints - t, axis=1).mean() for b, (t, _) in zip(bodies, truths)]
    given_ = [np.linalg.norm(p.joints - t, axis=1).mean() for p, (t, _) in zip(persons, truths)]
    assert np.mean(fitted) < 0.6 * np.mean(given_)
    assert [b.track_id for b in bodies] == [1, 2, 3, 4, 5, 6]


def test_heads_are_found_from_noisy_keypoints(fitter):
    rng = np.random.default_rng(1)
    truths, persons, keypoints = crowd(rng, fitter, 6)
    bodies = fitter(persons, keypoints, CAMERAS, 0)
    off = [np.linalg.norm(b.head.tf_world_head[:3, 3] - t[:3, 3])
           for b, (_, t) in zip(bodies, truths)]  # fmt: skip
    turn = [angle_between(b.head.tf_world_head[:3, :3], t[:3, :3])
            for b, (_, t) in zip(bodies, truths)]  # fmt: skip
    assert np.median(off) < 0.015 and max(off) < 0.04
    assert np.rad2deg(np.median(turn)) < 8 and np.rad2deg(max(turn)) < 20
    assert all(b.head.method == "keypoints" and b.head.sigma_m < 0.05 for b in bodies)


def test_only_ears_from_behind_still_give_the_heading(fitter):
    rng = np.random.default_rng(2)
    joints, head = stand(fitter, rng, [0, 0, 0.95], 0.4)
    person, keypoints = observed(rng, joints)
    for found in keypoints.values():
        found[:3, 2] = 0
    person.joints[:3] = person.covariance[:3] = np.nan
    body = fitter([person], {n: k[None] for n, k in keypoints.items()}, CAMERAS, 0)[0]
    assert np.linalg.norm(body.head.tf_world_head[:3, 3] - head[:3, 3]) < 0.04
    forward = body.head.tf_world_head[:3, 0] @ head[:3, 0]
    assert forward > np.cos(np.deg2rad(35))


def test_head_without_keypoints_sits_on_the_shoulders_and_is_less_sure(fitter):
    rng = np.random.default_rng(3)
    joints, head = stand(fitter, rng, [0, 0, 0.95], -1.0)
    person, keypoints = observed(rng, joints)
    seen = fitter([person], {n: k[None] for n, k in keypoints.items()}, CAMERAS, 0)[0].head
    for found in keypoints.values():
        found[:5, 2] = 0
    person.joints[:5] = person.covariance[:5] = np.nan
    person.confidence[:5] = 0
    fitter.reset()
    hidden = fitter([person], {n: k[None] for n, k in keypoints.items()}, CAMERAS, 0)[0].head
    assert hidden.method == "body"
    assert np.linalg.norm(hidden.tf_world_head[:3, 3] - head[:3, 3]) < 0.12
    assert hidden.sigma_m > 1.5 * seen.sigma_m and hidden.confidence < seen.confidence
    assert turn_sigma(hidden) > 1.3 * turn_sigma(seen)


def test_predicted_persons_keep_a_head_that_grows_unsure(fitter):
    rng = np.random.default_rng(4)
    joints, head = stand(fitter, rng, [0, 0, 0.95], 2.0)
    person, keypoints = observed(rng, joints)
    first = fitter([person], {n: k[None] for n, k in keypoints.items()}, CAMERAS, 0)[0].head
    person.detections, person.status = {}, "predicted"
    person.covariance = person.covariance + 0.05**2 * np.eye(3)
    later = fitter([person], {}, {}, int(0.4e9))[0].head
    assert later.method == "predicted" and later.sigma_m > first.sigma_m
    assert turn_sigma(later) > 1.3 * turn_sigma(first)
    assert np.linalg.norm(later.tf_world_head[:3, 3] - head[:3, 3]) < 0.08


def test_a_head_is_where_the_tracker_has_it_when_the_keypoints_were_lost(fitter):
    """A stage that was stopped has people without their keypoints: their heads still move.

    Once the head stayed on the body as it was when last seen (0.2 m off after a nod), surely.
    """
    rng = np.random.default_rng(14)
    joints, head = stand(fitter, rng, [0, 0, 0.95], 2.0)
    person, keypoints = observed(rng, joints, sigma_m=0.01)
    fitter([person], {n: k[None] for n, k in keypoints.items()}, CAMERAS, 0)
    nod = np.array([0.2, 0.1, -0.1])
    person.joints = person.joints + np.where(np.arange(17)[:, None] < 5, nod, 0.0)
    later = fitter([person], {}, {}, int(0.8e9))[0].head
    assert later.method == "keypoints"
    off = np.linalg.norm(later.tf_world_head[:3, 3] - head[:3, 3] - nod)
    assert off < 0.06 and off < 2 * later.sigma_m


def test_a_patient_on_the_table_has_a_face_that_looks_up(fitter):
    rng = np.random.default_rng(5)
    joints, head = stand(fitter, rng, [0, 0, 0.95], 0.7, lying=True)
    person, keypoints = observed(rng, joints)
    body = fitter([person], {n: k[None] for n, k in keypoints.items()}, CAMERAS, 0)[0]
    assert body.head.tf_world_head[2, 0] > 0.7
    assert np.rad2deg(angle_between(body.head.tf_world_head[:3, :3], head[:3, :3])) < 20
    assert np.linalg.norm(body.joints - joints, axis=1).mean() < 0.04


def test_one_view_places_the_head_on_its_ray(fitter):
    rng = np.random.default_rng(6)
    joints, head = stand(fitter, rng, [0, 0, 0.95], 0.3)
    one = {"cam0": CAMERAS["cam0"]}
    person, keypoints = observed(rng, joints, cameras=one)
    center = one["cam0"].center
    ray = (joints - center) / np.linalg.norm(joints - center, axis=1, keepdims=True)
    person.covariance += 0.25**2 * ray[:, :, None] * ray[:, None, :]
    body = fitter([person], {"cam0": keypoints["cam0"][None]}, one, 0)[0]
    seen, _ = one["cam0"].project(body.head.tf_world_head[:3, 3])
    true, _ = one["cam0"].project(head[:3, 3])
    assert np.linalg.norm(seen - true) < 12
    assert body.head.sigma_m > 0.03


@pytest.mark.parametrize("status", ["single_view", "predicted"])
def test_a_fitter_that_meets_somebody_late_does_not_take_it_for_a_first_sight(fitter, status):
    """It was started anew, or got nobody while the room was watched; the head was known to 10 cm
    at most then, as those of stray detections are, and 24 cm off."""
    rng = np.random.default_rng(15)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.3)
    one = {"cam0": CAMERAS["cam0"]}
    person, keypoints = observed(rng, joints, cameras=one)
    found = {"cam0": keypoints["cam0"][None]}
    person.status, person.covariance = status, person.covariance + 0.3**2 * np.eye(3)
    if status == "predicted":
        person.detections, person.confidence = {}, np.zeros(17)
    sigmas = []
    for person.age in (1, 9):
        fitter.reset()
        sigmas.append(fitter([person], found, one, 0)[0].head.sigma_m)
    assert sigmas[1] > 0.25
    assert sigmas[0] < 0.16 or status == "predicted", "a stray detection stays small"


def test_somebody_is_seen_by_one_view_for_hours(fitter):
    """After 512 sights a power of two was no number any more, and all heads were withheld."""
    rng = np.random.default_rng(6)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.3)
    one = {"cam0": CAMERAS["cam0"]}
    person, keypoints = observed(rng, joints, cameras=one)
    person.status = "single_view"
    fitter.reset()
    fitter([person], {"cam0": keypoints["cam0"][None]}, one, 0)
    fitter._tracks[person.track_id].sights = 100_000
    (body,) = fitter([person], {"cam0": keypoints["cam0"][None]}, one, 100_000_000)
    assert np.isfinite(body.head.covariance).all()


def test_bone_lengths_settle_over_time(fitter):
    rng = np.random.default_rng(7)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.0)
    spread = []
    for k in range(30):
        person, keypoints = observed(rng, joints)
        fitter([person], {n: f[None] for n, f in keypoints.items()}, CAMERAS, k * 100_000_000)
        spread.append(fitter._tracks[1].lengths.copy())
    late = np.abs(np.diff(spread[-8:], axis=0)).mean()
    early = np.abs(np.diff(spread[:4], axis=0)).mean()
    assert late < 0.5 * early


def test_same_input_gives_the_same_bits(model):
    results = []
    for _ in range(2):
        fitter = BodyFitter(model)
        _, persons, keypoints = crowd(np.random.default_rng(8), fitter, 3)
        for k in range(3):
            bodies = fitter(persons, keypoints, CAMERAS, k * 100_000_000)
        meshes = [mesh for b in bodies for mesh in (b.vertices, b.head.vertices)]
        results.append(np.concatenate(meshes))
    np.testing.assert_array_equal(results[0], results[1])


def test_persons_without_any_joint_are_left_out_and_time_may_jump_back(fitter):
    rng = np.random.default_rng(9)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.0)
    person, keypoints = observed(rng, joints)
    found = {n: f[None] for n, f in keypoints.items()}
    nobody = Person3D(2, np.full((17, 3), np.nan), np.full((17, 3, 3), np.nan), np.zeros(17))
    assert len(fitter([person, nobody], found, CAMERAS, 10**9)) == 1
    assert len(fitter([person], found, CAMERAS, 0)) == 1, "a jump back starts anew"
    assert fitter([], {}, {}, 1) == []


def test_a_detection_that_is_not_there_is_named(fitter):
    rng = np.random.default_rng(10)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.0)
    person, keypoints = observed(rng, joints)
    person.detections = {"cam1": 3}
    with pytest.raises(ValueError, match="'cam1' has 1 persons, got 3"):
        fitter([person], {"cam1": keypoints["cam1"][None]}, CAMERAS, 0)


def test_a_keypoint_where_the_lens_has_no_inverse_is_missing(fitter):
    lens = [8.0, 5.0, 0.0005, -0.0004, 0.2, 8.4, 7.5, 1.3]
    view = replace(CAMERAS["cam0"], model="rational_polynomial", distortion=lens)
    rng = np.random.default_rng(6)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.0)
    person, keypoints = observed(rng, joints, cameras={"cam0": view})
    keypoints["cam0"][9, :2] = 9e5
    seen = observe([person], {"cam0": keypoints["cam0"][None]}, {"cam0": view})
    assert np.isfinite(seen.rays).all() and seen.weight[0, 0, 9] == 0 < seen.weight[0, 0, 8]
    (body,) = fitter([person], {"cam0": keypoints["cam0"][None]}, {"cam0": view}, 0)
    assert np.isfinite(body.joints).all() and np.isfinite(body.head.covariance).all()


def test_unsure_keypoints_count_for_less(fitter):
    """A quarter of a certain score counts an eighth (4 ** 1.5 = 8), too low a one nothing."""
    rng = np.random.default_rng(6)
    joints, _ = stand(fitter, rng, [0, 0, 0], 0.0)
    person, keypoints = observed(rng, joints, cameras={"cam0": CAMERAS["cam0"]})
    found = keypoints["cam0"].copy()
    found[5:8, 2] = (0.8, 0.2, 0.04)
    seen = observe([person], {"cam0": found[None]}, CAMERAS)
    assert np.allclose(seen.weight[0, 0, 5:8], (1.0, 0.125, 0.0))


def test_derivatives_are_exact(fitter, monkeypatch):
    """The gradient of the linearised cost equals central differences.

    Weights that change with distance are held, so they are made constant here.
    """
    monkeypatch.setattr(observations, "KEYPOINT_SIGMA_M", np.zeros(17))
    rng = np.random.default_rng(11)
    joints, _ = stand(fitter, rng, [0, 0, 0.95], 0.5)
    person, keypoints = observed(rng, joints)
    seen = observe([person], {n: f[None] for n, f in keypoints.items()}, CAMERAS)
    track = fitter._birth(person, 0)
    rotations = exp_so3(0.2 * rng.normal(size=(1, len(BODY), 3))) @ track.rotations[None]
    state = track.translation[None] + 0.05, rotations, 0.05 * rng.normal(size=(1, 8))
    prior = (np.zeros((1, 8)), track.precision[None])
    skeleton = fitter.skeleton
    _, gradient, _ = skeleton.linearize(Solution(*state), seen, prior)
    for k in range(gradient.shape[1]):
        step = np.zeros_like(gradient)
        step[0, k] = 1e-6
        ahead, behind = (
            skeleton.linearize(Solution(*skeleton.retract(*state, s)), seen, prior)[0][0]
            for s in (step, -step)
        )
        assert (ahead - behind) / 4e-6 == pytest.approx(gradient[0, k], rel=1e-3, abs=1e-2)


rotvecs = arrays(np.float64, (3,), elements=st.floats(-1.7, 1.7))


@settings(max_examples=60, deadline=None)
@given(rotvecs)
def test_log_inverts_exp(rotvec):
    np.testing.assert_allclose(log_so3(exp_so3(rotvec)), rotvec, atol=1e-7)


def test_log_near_half_a_turn():
    for axis in np.vstack([np.eye(3), [[0.6, -0.8, 0]]]):
        for angle in (np.pi, np.pi - 1e-6):
            turn = log_so3(exp_so3(axis * angle))
            assert np.linalg.norm(turn) == pytest.approx(angle, abs=1e-5)
            assert abs(turn @ axis) == pytest.approx(angle, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (4,), elements=st.floats(-1, 1)).filter(lambda q: q @ q > 1e-3))
def test_quaternions_are_those_of_scipy(quaternion):
    rotation = Rotation.from_quat(quaternion)
    np.testing.assert_allclose(from_quaternion(quaternion), rotation.as_matrix(), atol=1e-12)
    there, expected = to_quaternion(rotation.as_matrix()), rotation.as_quat()
    np.testing.assert_allclose(there * np.sign(there @ expected), expected, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(rotvecs, rotvecs)
def test_left_jacobian_inverse_is_the_derivative_of_log(rotvec, direction):
    step = 1e-6
    ahead = log_so3(exp_so3(step * direction) @ exp_so3(rotvec))
    behind = log_so3(exp_so3(-step * direction) @ exp_so3(rotvec))
    if np.linalg.norm(rotvec) < 3.0:
        slope = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(left_jacobian_inverse(rotvec) @ direction, slope, atol=1e-4)


@pytest.mark.parametrize(
    "a, b", [((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (-1, 0, 0)), ((0, 0, 2), (0, 0, 5))]
)
def test_rotation_between_takes_one_direction_to_the_other_and_turns_no_more(a, b):
    rotation = rotation_between(np.array(a), np.array(b))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    assert np.allclose(rotation @ a, b)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert np.trace(rotation) == pytest.approx(1 + 2 * a @ b)
