"""Everyone in the room, over time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from room import camera_ring, lying, person, seen

from disguisor_ros.core.cameras import Camera, look_at
from disguisor_ros.core.floor import FloorEstimator
from disguisor_ros.core.multiview import _whole
from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.skeleton import (
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_SIGMA_M,
    MIRROR,
)
from disguisor_ros.core.tracking import Track, lengths_of_bones
from disguisor_ros.core.types import DepthView
from disguisor_ros.eval.pose3d import measure

RIG = camera_ring(4)
STEP_NS = 33_333_333


def head_error(found, body):
    return np.linalg.norm(found.joints[:5].mean(0) - body[:5].mean(0))


def run(paths, frames, rig=RIG, estimator=None, noise_px=2.0, hide=lambda name, frame: False):
    """Persons at each frame; ``paths`` are functions of time that give bodies."""
    estimator = estimator or PoseEstimator(floor_z_m=0.0)
    rng = np.random.default_rng(1)
    history = []
    for frame in range(frames):
        bodies = [path(frame / 30.0) for path in paths]
        keypoints = seen(bodies, rig, noise_px, rng=rng)
        for name in rig:
            if hide(name, frame):
                keypoints[name] = np.zeros((0, 17, 3))
        history.append(estimator(keypoints, rig, frame * STEP_NS))
    return history


def test_everyone_is_there_at_the_first_instant():
    bodies = [person(0, 0), person(1.2, 0.4, 2.0), person(-0.8, 1.0, 4.0)]
    people = PoseEstimator(floor_z_m=0.0)(seen(bodies, RIG), RIG, 0)
    assert len(people) == 3
    assert [p.age for p in people] == [1, 1, 1]
    for body in bodies:
        assert min(np.linalg.norm(p.joints - body, axis=1).mean() for p in people) < 0.02
    for p in people:
        assert p.status == "multiview" and len(set(p.detections.values())) == 1
        assert p.confidence.max() <= 1.0 and np.isfinite(p.covariance).all()


def test_identities_hold_while_people_pass_each_other():
    history = run(
        [lambda t: person(-1.5 + t, 0.25, 0.0), lambda t: person(1.5 - t, -0.25, np.pi)], 90
    )
    assert {len(people) for people in history} == {2}
    first = min(history[0], key=lambda p: p.joints[0, 0]).track_id
    assert max(history[-1], key=lambda p: p.joints[0, 0]).track_id == first


def test_nobody_lags_behind():
    history = run([lambda t: person(-1.5 + 1.4 * t, 0, 0.0)], 60)
    lag = history[-1][0].joints[:, 0].mean() - person(-1.5 + 1.4 * 59 / 30, 0)[:, 0].mean()
    assert abs(lag) < 0.02


def test_who_turns_back_on_the_line_of_sight_of_cameras_side_by_side_is_followed():
    matrix = np.array([[400.0, 0, 320], [0, 400, 180], [0, 0, 1]])
    table = np.array([0.0, 0.0, 1.0])
    rig = {
        name: Camera(name, 640, 360, matrix, look_at(np.array([x, -5.0, 2.4]), table))
        for name, x in (("cn01", -1.2), ("cn02", 1.2))
    }

    def body(t):
        return person(0.0, 1.2 * min(t, 2.0 - t), np.pi / 2)

    history = run([body], 50, rig)
    off_m = [(p.joints - body(k / 30.0))[5:13].mean(0) for k, (p,) in enumerate(history)]
    # 0.44 where joints are held to their predictions one by one.
    assert np.linalg.norm(off_m[5:], axis=1).max() < 0.25


def test_people_far_from_all_cameras_are_found_as_well():
    """In a hall, whoever was more than 12 m from a camera was one person for each view."""
    hall = {name: set_back(camera, 10.0, zoom=3.0) for name, camera in RIG.items()}
    bodies = [person(0, 0), person(1.5, 0.4, 2.0), person(-0.8, 1.0, 4.0)]
    people = PoseEstimator()(seen(bodies, hall, noise_px=1.0), hall, 0)
    assert [len(p.detections) for p in people] == [4, 4, 4]
    for body in bodies:
        assert min(np.linalg.norm(p.joints - body, axis=1).mean() for p in people) < 0.03


def set_back(camera, distance_m, zoom):
    """The camera that far back along its axis, its focal lengths multiplied."""
    tf_camera_world, matrix = camera.tf_camera_world.copy(), camera.matrix.copy()
    tf_camera_world[2, 3] += distance_m
    matrix[[0, 1], [0, 1]] *= zoom
    return Camera(camera.name, camera.width, camera.height, matrix, tf_camera_world)


@pytest.mark.parametrize("unit", [100.0, 1000.0])
def test_cameras_that_are_not_in_metres_are_refused(unit):
    rig = {}
    for name, c in RIG.items():
        tf_camera_world = c.tf_camera_world.copy()
        tf_camera_world[:3, 3] *= unit
        rig[name] = Camera(name, c.width, c.height, c.matrix, tf_camera_world)
    with pytest.raises(ValueError, match="not in metres"):
        PoseEstimator()(seen([person(0, 0)], RIG), rig, 0)


@pytest.mark.parametrize("fps", [5, 15, 30])
def test_a_swinging_foot_is_followed_at_any_frame_rate(fps):
    def body(t):
        joints = person(0.0, 0.0)
        joints[16] += [0.35 * np.sin(3 * np.pi * t), 0.0, 0.1]  # up to 3.3 m/s and 31 m/s^2
        return joints

    estimator, rng, errors = PoseEstimator(floor_z_m=0.0), np.random.default_rng(3), []
    for frame in range(3 * fps):
        keypoints = seen([body(frame / fps)], RIG, 2.0, rng=rng)
        (found,) = estimator(keypoints, RIG, round(frame * 1e9 / fps))
        errors.append(np.linalg.norm(found.joints[16] - body(frame / fps)[16]))
    assert np.max(errors) < 0.08 and np.mean(errors) < 0.03


def test_who_rests_is_known_better_than_from_one_instant():
    """Also at 5 frames a second, and who then raises an arm is followed at once."""
    still, raised = person(0, 0), person(0, 0)
    raised[[7, 9]] = raised[5] + [[0.0, 0.28, 0.05], [0.0, 0.5, 0.15]]
    two = {name: RIG[name] for name in list(RIG)[:2]}
    rng, tracker, errors = np.random.default_rng(2), PoseEstimator(floor_z_m=0.0), []
    for frame in range(50):
        keypoints = seen([still], two, 6.0, rng=rng)
        found = [e(keypoints, two, frame * 6 * STEP_NS)[0] for e in (tracker, PoseEstimator(0.0))]
        errors.append([np.linalg.norm(p.joints - still, axis=1)[5:].mean() for p in found])
    tracked, alone = np.mean(errors[5:], axis=0)
    assert tracked < 0.86 * alone  # 0.91 where joints are expected to swing all the time
    (moved,) = tracker(seen([raised], two, 2.0, rng=rng), two, 50 * 6 * STEP_NS)
    assert np.linalg.norm(moved.joints - raised, axis=1)[[7, 9]].max() < 0.06


def test_who_is_not_seen_is_predicted_then_known_again():
    history = run([lambda t: person(0.3 * t, 0)], 60, hide=lambda name, frame: 30 <= frame < 45)
    for frame in range(30, 45):
        (p,) = history[frame]
        assert p.status == "predicted" and not p.detections and p.confidence.max() == 0
        assert head_error(p, person(0.3 * frame / 30, 0)) < 0.25
    assert {p.track_id for people in history for p in people} == {1}


def test_who_is_gone_is_not_predicted_for_ever():
    history = run([lambda t: person(0, 0)], 110, hide=lambda name, frame: frame >= 5)
    assert history[5] and history[90] and not history[-1]


def test_one_view_that_fails_loses_nobody():
    def hide(name, frame):
        return name == "cam2" and frame % 2

    history = run([lambda t: person(0, 0), lambda t: person(1.3, 0.3, 1.0)], 20, hide=hide)
    assert {len(people) for people in history} == {2}


def test_a_single_view_places_people_by_size_and_floor():
    rig = {"cam1": RIG["cam1"]}
    body = person(0.2, 0.1, yaw=0.5)
    (p,) = PoseEstimator(floor_z_m=0.0)(seen([body], rig), rig, 0)
    assert p.status == "single_view" and p.detections == {"cam1": 0}
    assert head_error(p, body) < 0.25
    pixels, _ = rig["cam1"].project(p.joints[:5])
    truth, _ = rig["cam1"].project(body[:5])
    assert np.linalg.norm(pixels - truth, axis=1).max() < 8.0


def flat_depth(camera, distance_m):
    """Depth sensor at half the resolution of ``camera`` that sees a wall square to it."""
    matrix = camera.matrix / 2
    matrix[2, 2] = 1.0
    sensor = Camera("depth", 640, 360, matrix, camera.tf_camera_world)
    return DepthView(sensor, np.full((360, 640), distance_m * 1000, dtype=np.uint16))


def test_depth_places_people_of_any_size():
    camera = RIG["cam1"]
    child = person(0.0, 0.0, yaw=0.3, size=0.7)
    (by_size,) = PoseEstimator()(seen([child], {"cam1": camera}), {"cam1": camera}, 0)
    distance = camera.to_camera(child[[5, 6, 11, 12]])[:, 2].mean()
    depth = {"cam1": flat_depth(camera, distance - 0.08)}
    (by_depth,) = PoseEstimator()(seen([child], {"cam1": camera}), {"cam1": camera}, 0, depth)
    assert head_error(by_depth, child) < 0.15 < head_error(by_size, child)


@pytest.mark.parametrize("size", [0.92, 1.1])
def test_tall_people_do_not_lift_the_floor(size):
    """Somebody far away whom one view sees was placed half a metre too near in tall company."""
    floor = FloorEstimator()
    for x in range(3):
        floor.add(person(x, 0.0, size=size), np.ones(17))
    assert abs(floor.z_m) < 0.02


def test_the_floor_is_known_when_most_people_stand():
    """Where nobody stands, as in a world that is not z-up, single bad bodies made up a floor."""
    floor = FloorEstimator()
    for yaw in range(6):
        floor.add(lying(yaw), np.ones(17))
    for x in range(5):
        assert floor.z_m is None
        floor.add(person(x, 0.0), np.ones(17))
    floor.add(person(5, 0.0), np.ones(17))
    assert abs(floor.z_m) < 0.02


def test_several_views_find_people_in_a_world_that_is_not_z_up():
    """A floor made up from bodies that stand along y tore everyone apart from the third on."""
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # z-up world <- y-up world
    rig = {}
    for name, c in RIG.items():
        tf_camera_world = c.tf_camera_world.copy()
        tf_camera_world[:3, :3] = tf_camera_world[:3, :3] @ upright
        rig[name] = Camera(name, c.width, c.height, c.matrix, tf_camera_world)
    paths = [lambda t: person(0, 0) @ upright, lambda t: person(1.2, 0.4 + t, 2.0) @ upright]
    for people in run(paths, 20, rig, PoseEstimator()):
        assert [len(p.detections) for p in people] == [4, 4]


def test_the_floor_is_learnt_wherever_it_is():
    low = np.array([0, 0, -1.3])
    rig = rig_at(low)
    estimator = PoseEstimator()
    run([lambda t: person(0, 0) + low, lambda t: person(1, 1) + low], 10, rig, estimator)
    one = {"cam1": rig["cam1"]}
    body = person(-0.5, 0.3, 2.0) + low
    (p,) = [p for p in estimator(seen([body], one), one, 10**12) if p.status != "predicted"]
    assert head_error(p, body) < 0.3


def test_people_are_followed_in_a_world_whose_origin_is_far_away():
    """Frames may begin in the middle of the Earth (ECEF)."""
    far = np.array([6.4e6, -3e6, 0.0])
    paths = [lambda t: person(-1.5 + t, 0.25) + far, lambda t: person(1.5 - t, -0.25, np.pi) + far]
    history = run(paths, 60, rig_at(far))
    assert {p.track_id for people in history for p in people} == {p.track_id for p in history[0]}
    assert head_error(max(history[-1], key=lambda p: p.joints[0, 0]), paths[0](59 / 30)) < 0.02


@pytest.mark.parametrize("floor_known", [True, False])
def test_one_view_places_people_in_a_world_whose_origin_is_far_away(floor_known):
    """The sums of its fit were told from the origin: in ECEF somebody was put 0.4 m off."""
    far = np.array([6.4e6, -3e6, 1e6])
    one, body = {"cam1": rig_at(far)["cam1"]}, person(0.2, 0.1, yaw=0.9) + far
    (p,) = PoseEstimator(far[2] if floor_known else None)(seen([body], one), one, 0)
    assert head_error(p, body) < 0.05


@pytest.mark.parametrize("far_px", [9e5, 1e200])
def test_a_keypoint_far_outside_the_image_costs_nobody_else(far_px):
    """The lens of many depth cameras has no inverse there; the whole instant was lost."""
    lens = [8.0, 5.0, 0.0005, -0.0004, 0.2, 8.4, 7.5, 1.3]
    rig = {
        name: Camera(c.name, c.width, c.height, c.matrix, c.tf_camera_world, lens,
                     "rational_polynomial")
        for name, c in RIG.items()
    }  # fmt: skip
    bodies = [person(0, 0), person(1.2, 0.4, 2.0)]
    keypoints = seen(bodies, rig)
    keypoints["cam1"][0, 9, :2] = far_px
    keypoints["cam2"][0, 0, 0] = -far_px
    people = PoseEstimator(floor_z_m=0.0)(keypoints, rig, 0)
    assert [len(p.detections) for p in people] == [4, 4]
    for body in bodies:
        assert min(np.linalg.norm(p.joints - body, axis=1).max() for p in people) < 0.02


def rig_at(offset):
    """The rig, moved by ``offset`` (3,) in the world."""
    return {
        name: Camera(c.name, c.width, c.height, c.matrix, shifted(c.tf_camera_world, offset))
        for name, c in RIG.items()
    }


def shifted(tf_camera_world, offset):
    out = tf_camera_world.copy()
    out[:3, 3] -= out[:3, :3] @ offset
    return out


def test_instants_far_apart_do_not_pull_at_each_other():
    estimator = PoseEstimator(floor_z_m=0.0)
    for k in range(5):
        body = person(np.cos(2.0 * k), np.sin(2.0 * k), yaw=k)
        (p,) = estimator(seen([body], RIG), RIG, k * 75 * 10**9)
        assert np.linalg.norm(p.joints - body, axis=1).mean() < 0.02
        assert p.age == 1


def test_time_that_runs_back_starts_anew():
    estimator = PoseEstimator(floor_z_m=0.0)
    estimator(seen([person(0, 0)], RIG), RIG, 10**9)
    (p,) = estimator(seen([person(0, 0)], RIG), RIG, 0)
    assert p.track_id == 1 and p.age == 1


def test_no_keypoints_no_people():
    assert PoseEstimator()({}, {}, 0) == []
    assert PoseEstimator()({"cam1": np.zeros((0, 17, 3))}, RIG, 0) == []


@pytest.mark.filterwarnings("error")
def test_an_instant_without_any_camera_is_an_instant_like_others():
    estimator = PoseEstimator(floor_z_m=0.0)
    (before,) = estimator(seen([person(0, 0)], RIG), RIG, 0)
    (p,) = estimator({}, RIG, STEP_NS)
    assert p.status == "predicted" and p.track_id == before.track_id


def test_other_layouts_are_rejected():
    with pytest.raises(ValueError, match="COCO-17"):
        PoseEstimator()({"cam1": np.zeros((2, 25, 3))}, RIG, 0)


@pytest.mark.parametrize("views", [1, 2, 8, 16])
def test_any_number_of_views(views):
    rig = camera_ring(views)
    bodies = [person(0, 0), person(1.0, -0.6, 2.0)]
    people = PoseEstimator(floor_z_m=0.0)(seen(bodies, rig, 1.0), rig, 0)
    assert len(people) == 2


def test_crowd_with_noise_misses_and_false_people():
    figures = measure(cameras=5, persons=6, frames=15)
    assert figures["found"] > 0.99 and figures["joint_error_cm"] < 3.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_nonsense_never_breaks_it(seed):
    rng = np.random.default_rng(seed)
    estimator = PoseEstimator()
    for k in range(3):
        keypoints = {
            name: np.concatenate(
                [rng.uniform(-200, 1500, (n, 17, 2)), rng.uniform(-0.3, 1.2, (n, 17, 1))], axis=-1
            )
            for name, n in zip(RIG, rng.integers(0, 4, len(RIG)), strict=True)
        }
        for found in keypoints.values():
            found[rng.random(found.shape) < 0.05] = np.nan
        people = estimator(keypoints, RIG, k * STEP_NS)
        assert all(np.isfinite(p.joints).all() and np.isfinite(p.covariance).all() for p in people)
        used = [(name, d) for p in people for name, d in p.detections.items()]
        assert len(used) == len(set(used))
        assert len({p.track_id for p in people}) == len(people)


@pytest.mark.parametrize(
    ("yaw", "right", "confused"),
    [(0.0, "cam4", "cam1"), (0.0, "cam4", "cam2"), (0.5, "cam2", "cam4"), (1.0, "cam2", "cam1")],
)
def test_one_of_two_views_that_confuses_left_and_right_turns_nobody(yaw, right, confused):
    """Both agreed on shoulders that had changed places; the head was held to them, a face open.

    The others had failed, and an instant was left out: the person might have turned.
    """
    estimator, rng = PoseEstimator(), np.random.default_rng(1)
    body = person(0.6, 0.4, yaw)
    for frame in range(10):
        estimator(seen([body], RIG, 1.0, rng=rng), RIG, frame * 200_000_000)
    keypoints = seen([body], RIG, 1.0, rng=rng)
    pair = {right: keypoints[right], confused: keypoints[confused][:, MIRROR]}
    (found,) = estimator(pair, RIG, 2_600_000_000)
    shoulders = found.joints[5] - found.joints[6]
    assert len(found.detections) == 2
    assert shoulders @ (body[5] - body[6]) > 0.9 * np.linalg.norm(shoulders) * 0.35


@pytest.mark.parametrize("yaw", [0.3, 2.0, 4.5])
@pytest.mark.parametrize("confused", ["cam1", "cam2"])
def test_of_two_views_of_somebody_new_the_one_that_confuses_left_and_right_is_known(yaw, confused):
    """Whichever came first was taken to be wrong: his left was his right."""
    body = person(0.3, 0.2, yaw)
    keypoints = seen([body], {name: RIG[name] for name in ("cam1", "cam2")}, 1.0)
    keypoints[confused] = keypoints[confused][:, MIRROR]
    (found,) = PoseEstimator(floor_z_m=0.0)(keypoints, RIG, 0)
    assert len(found.detections) == 2
    assert np.linalg.norm(found.joints - body, axis=1).mean() < 0.04


def test_the_camera_that_comes_back_finds_the_same_person():
    """One view has guessed a tall man's distance wrong; two views measure it."""
    tall = person(0.8, -0.4, yaw=2.0, size=1.25)
    rig = {name: RIG[name] for name in ("cam1", "cam2")}
    estimator = PoseEstimator()
    off = []
    for frame in range(12):
        keypoints = seen([tall], rig, 1.0)
        if frame < 8:
            keypoints["cam2"] = keypoints["cam2"][:0]
        (p,) = estimator(keypoints, rig, frame * 6 * STEP_NS)
        assert p.track_id == 1
        off.append(head_error(p, tall))
    assert off[7] > 0.4 and max(off[8:]) < 0.03


def test_one_view_says_how_badly_it_knows_the_distance():
    """Along the ray of every joint, and the covariance of all joints has that direction."""
    rig = {"cam1": RIG["cam1"]}
    tall = person(0.8, -0.4, yaw=2.0, size=1.15)
    (p,) = PoseEstimator()(seen([tall], rig, 1.0), rig, 0)
    ray = p.joints - rig["cam1"].center
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    sigma = np.sqrt(np.einsum("ja,jab,jb->j", ray, p.covariance, ray))
    off = np.abs(((tall - p.joints) * ray).sum(axis=1))
    assert (off < 3 * sigma).all() and (sigma > 0.1).all()
    across = np.cross(ray, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    aside = np.sqrt(np.einsum("ja,jab,jb->j", across, p.covariance, across))
    assert (aside[:7] < 0.06).all()


@pytest.mark.parametrize(("unseen_frames", "known"), [(18, True), (1, False)])
def test_one_view_knows_a_lost_person_again_who_had_time_to_get_there(unseen_frames, known):
    """Half a metre in 0.6 s is a walk; in 0.03 s it is somebody else, or nobody."""
    estimator = PoseEstimator(floor_z_m=0.0)
    run([lambda t: person(0, 0)], 10, estimator=estimator)
    for frame in range(10, 9 + unseen_frames):
        estimator({name: np.zeros((0, 17, 3)) for name in RIG}, RIG, frame * STEP_NS)
    keypoints = {name: found[:0] for name, found in seen([person(0, 0.5)], RIG).items()}
    keypoints["cam1"] = seen([person(0, 0.5)], RIG)["cam1"]
    people = estimator(keypoints, RIG, (9 + unseen_frames) * STEP_NS)
    (there,) = [p for p in people if p.status == "single_view"]
    assert (there.track_id == 1) == known
    assert known or [p.track_id for p in people if p.status == "predicted"] == [1]


@pytest.mark.parametrize("newcomer_first", [True, False])
def test_who_was_there_first_keeps_his_number(newcomer_first):
    """A detection that was left over for an instant has born a second track of one person."""
    estimator = PoseEstimator(floor_z_m=0.0)
    body = person(0, 0)
    run([lambda t: body], 10, estimator=estimator)
    stamp_ns = estimator.tracks[0].stamp_ns
    second = Track(99, body + 0.01, estimator.tracks[0].covariance, stamp_ns, body=body)
    estimator.tracks.insert(0 if newcomer_first else 1, second)
    for step in (1, 2):
        (p,) = estimator(seen([body + 0.01], RIG), RIG, stamp_ns + step * STEP_NS)
        assert p.track_id == 1


def test_a_stray_detection_whose_joints_are_no_body_s_is_nobody():
    """Depth put it 4 m away, the fitter where it was of human size: 0.6 m before the camera."""
    one = {"cam1": RIG["cam1"]}
    depth = {"cam1": flat_depth(RIG["cam1"], 3.9)}
    keypoints = seen([person(0.0, 0.0)], one, 0.0)
    assert len(PoseEstimator(floor_z_m=0.0)(keypoints, one, 0, depth)) == 1
    keypoints["cam1"][..., :2] += np.random.default_rng(10).normal(0, 150, (17, 2))
    assert PoseEstimator(floor_z_m=0.0)(keypoints, one, 0, depth) == []


def test_a_stray_detection_whose_head_is_off_its_shoulders_is_nobody():
    """It was placed 0.26 m before the camera, and two thirds of the image were covered."""
    joints = np.full((17, 3), np.nan)
    joints[5:7] = [[0, 0.2, 1.4], [0, -0.2, 1.4]]
    assert _whole(joints)  # a head that is not seen may be anywhere
    joints[0] = 0, 0, 1.7
    assert _whole(joints)
    joints[0] = -1.2, 0, 2.2
    assert not _whole(joints)


def test_a_known_body_is_not_stood_up_when_one_view_sees_most_of_it():
    """A patient's head was put half a metre off: the search began at a standing body."""
    rng = np.random.default_rng(0)
    lying = person(0, 0)[:, [2, 1, 0]] * [1, 1, 0.5] + [-0.8, 0.2, 0.9]
    others = [person(1.5, 1.0), person(-1.4, -1.2, 2.0)]
    rig = camera_ring(3)
    estimator = PoseEstimator(floor_z_m=0.0)
    for frame in range(16):
        keypoints = seen([lying, *others], rig, noise_px=3.0, rng=rng)
        if frame >= 10:  # one camera sees a leg of his, another nobody at all
            keypoints["cam1"][0, :13, 2] = 0.0
            keypoints["cam2"] = np.zeros((0, 17, 3))
        persons = estimator(keypoints, rig, frame * 250_000_000)
        error = min(np.linalg.norm(p.joints[:7] - lying[:7], axis=1).mean() for p in persons)
        assert error < 0.12, frame


def test_a_head_that_one_view_sees_is_known_no_better_than_its_trunk():
    rig = camera_ring(2)
    keypoints = seen([person(0, 0)], rig)
    for unseen in (slice(0, 5), slice(0, 7)):
        keypoints["cam1"][0, unseen, 2] = 0.0
        (found,) = PoseEstimator(floor_z_m=0.0)(keypoints, rig, 0)
        head, shoulders = (
            np.sqrt(np.linalg.eigvalsh(found.covariance[part].mean(axis=0))[-1])
            for part in (slice(0, 5), slice(5, 7))
        )
        assert head > shoulders
        assert head > 0.05, "where a head is over its shoulders"


@pytest.mark.parametrize(("views", "left"), [(4, 0.15), (2, 0.25)])
def test_the_bones_of_a_tall_person_are_learnt(views, left):
    tall = person(0.3, 0.2, yaw=1.0, size=1.15)
    length = np.linalg.norm(tall[BONE_A] - tall[BONE_B], axis=1)
    estimator = PoseEstimator(floor_z_m=0.0)
    run([lambda t: tall], 90, dict(list(RIG.items())[:views]), estimator, noise_px=3.0)
    ((learnt,), (variance,)) = lengths_of_bones(estimator.tracks)
    before = np.abs(BONE_LENGTH_M - length).mean()
    assert np.abs(learnt - length).mean() < left * before
    assert (variance < BONE_SIGMA_M**2).all()


def test_one_view_measures_no_bones():
    one, estimator = {"cam1": RIG["cam1"]}, PoseEstimator(floor_z_m=0.0)
    run([lambda t: person(0.3, 0.2, yaw=1.0, size=1.15)], 30, one, estimator)
    np.testing.assert_array_equal(lengths_of_bones(estimator.tracks)[0], [BONE_LENGTH_M])


def test_an_estimator_that_was_started_anew_gives_no_number_twice():
    """The stages behind it remember people by their numbers, and drew one with another's head."""
    bodies = [person(0, 0), person(1.2, 0.4, 2.0)]
    stamps_ns = np.array([0, 1, 2, 20, 21]) * 100_000_000 + 1_732_554_000_000_000_000
    numbers = [
        {p.track_id for p in PoseEstimator(floor_z_m=0.0)(seen(bodies, RIG), RIG, int(s))}
        for s in stamps_ns
    ]
    assert len(set.union(*numbers)) == 10 and max(set.union(*numbers)) < 2**31


def test_nobody_is_made_up_halfway_between_cameras_that_face_each_other():
    """Found in a simulated room: at the first instant no floor was known, and a dwarf in the air
    was made of two people, each seen by one of two cameras across the room."""
    rig = camera_ring(4)
    far = 0.8 * rig["cam1"].center[:2]
    keypoints = seen([person(-0.6, 0.4), person(0.1, -0.7), person(0.7, 0.6)], rig)
    for name, at in (("cam1", -far), ("cam3", far)):
        alone = seen([person(*at, yaw=0.4)], {name: rig[name]})[name]
        keypoints[name] = np.concatenate([keypoints[name], alone])
    people = PoseEstimator()(keypoints, rig, 0)
    assert len(people) == 5
    assert max(one.joints[:, 2].min() for one in people) < 0.3, "all stand on the floor"
