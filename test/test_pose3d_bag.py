"""Measuring pose3d against the truth of a simulated bag."""

import json

import numpy as np
import pytest
import small_room
from room import camera_ring, person, seen

from disguisor_ros.cli import main
from disguisor_ros.core.types import Person3D
from disguisor_ros.eval.pose3d_bag import Instant, Tally
from disguisor_ros.sim.truth import truth_folder, write_truth

RIG = camera_ring(3)
BODIES = {4: person(0, 0), 9: person(1.2, 0.4)}


def instant(index, bodies=BODIES):
    frame = {
        "stamp_ns": index * 30 * 10**9,
        "persons": [{"id": i, "joints": body.tolist()} for i, body in bodies.items()],
    }
    one = Instant(frame)
    one.keypoints, one.cameras = seen(list(bodies.values()), RIG), RIG
    return one


def found(track_id, joints, sigma_m=0.02, status="multiview"):
    covariance = np.tile(np.eye(3) * sigma_m**2, (17, 1, 1))
    detections = {} if status == "predicted" else {"cam1": 0}
    return Person3D(track_id, joints, covariance, np.ones(17), detections, status)


def test_errors_are_means_by_views():
    tally = Tally()
    tally.add(instant(0), [found(1, BODIES[4] + [0.03, 0, 0]), found(2, BODIES[9])])
    figures = tally.figures()
    assert figures["found"]["3"] == 1.0 and figures["found_detected"] == 1.0
    assert figures["joint_error_cm"]["3"] == pytest.approx(1.5)
    assert figures["ghosts_per_frame"] == figures["doubles_per_frame"] == 0.0


def test_joints_that_two_views_show_are_measured_apart():
    """Nose and left eye, one of them off by 4 cm: 2 cm, whatever the rest does."""
    one = instant(0)
    for name in ("cam1", "cam2"):
        one.keypoints[name][0, 2:, 2] = 0.4
    off = np.full((17, 3), [0.2, 0.0, 0.0])
    off[0], off[1] = (0.04, 0.0, 0.0), 0.0
    person_4 = found(1, BODIES[4] + off)
    person_4.detections = {"cam1": 0, "cam2": 0}
    tally = Tally()
    tally.add(one, [person_4])
    assert tally.figures()["joint_error_seen_cm"] == pytest.approx(2.0)


def test_views_are_counted_one_to_one():
    one = instant(0)
    one.keypoints["cam2"] = one.keypoints["cam2"][:1]
    tally = Tally()
    tally.add(one, [])
    assert tally.figures()["persons"] == {"0": 0, "1": 0, "2": 1, "3": 1}


def test_an_exchange_of_two_tracks_is_two_switches_in_two_person_minutes():
    tally = Tally()
    for index, ids in enumerate([(1, 2), (2, 1), (2, 1)]):
        people = [found(k, body) for k, body in zip(ids, BODIES.values(), strict=True)]
        tally.add(instant(index), people)
    assert tally.figures()["switches_per_person_minute"] == pytest.approx(1.0)


def test_ghosts_and_second_tracks_are_told_apart():
    tally = Tally()
    people = [found(k, body) for k, body in BODIES.items()]
    people += [
        found(20, BODIES[4] + [0.3, 0, 0]),
        found(21, person(-2, -2), sigma_m=0.02),
        found(22, person(2, -2), sigma_m=0.5),
    ]
    tally.add(instant(0), people)
    figures = tally.figures()
    assert figures["doubles_per_frame"] == 1 and figures["ghosts_per_frame"] == 2
    assert figures["ghosts_sure_per_frame"] == 1


def test_somebody_who_is_missing_is_counted():
    tally = Tally()
    tally.add(instant(0), [found(1, BODIES[4])])
    assert tally.figures()["found"]["3"] == 0.5


def test_one_view_is_held_to_what_it_says():
    tally = Tally()
    ray = BODIES[4] - RIG["cam1"].center
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    off = np.where(np.arange(17) < 10, 0.1, 0.3)[:, None] * ray
    tally.add(instant(0), [found(1, BODIES[4] + off, 0.2, "single_view")])
    assert tally.figures()["single_within_sigma"] == pytest.approx([10 / 17, 1.0])


def test_the_command_measures_a_bag(tmp_path):
    bag = small_room.write(tmp_path / "room", 4)
    frames = [
        {
            "stamp_ns": small_room.START_NS + k * small_room.PERIOD_NS,
            "persons": [{"id": 1, "joints": person(-0.6 + 0.02 * k, 0.2).tolist()}],
        }
        for k in range(4)
    ]
    keys = ("bag_id", "scenario", "seed", "cameras", "persons")
    rest = dict.fromkeys(keys, 0)
    truth_folder(bag).mkdir()
    write_truth(truth_folder(bag), {**rest, "fps": 10.0, "frames": frames})
    path = tmp_path / "figures.json"
    assert main(["benchmark", "pose3d", "--bag", str(bag), "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert set(figures) == {"with depth", "without depth"}
    assert figures["without depth"]["frames"] == 4
    assert figures["without depth"]["found"]["3"] == 1.0
    assert figures["without depth"]["joint_error_cm"]["3"] < 2.0
    assert figures["without depth"]["ghosts_per_frame"] == 1.0  # the other one is no part of it


def test_who_was_matched_before_stays_so_while_that_can_be():
    """A second track that is a little nearer for an instant is no exchange."""
    tally = Tally()
    near, at = BODIES[4] + [0.1, 0, 0], BODIES[4]
    tally.add(instant(0), [found(1, at)])
    tally.add(instant(1), [found(2, at), found(1, near)])
    tally.add(instant(2), [found(1, at)])
    assert tally.figures()["switches_per_person_minute"] == 0.0
