"""Identity and motion of people over time."""

import numpy as np
from room import person

from disguisor_ros.core.tracking import Track, body_distance, learn_motion, per_axis, predict

STEP_NS = 33_333_333
CERTAIN = np.tile(np.eye(3) * 0.02**2, (17, 1, 1))


def see(track, joints, stamp_ns):
    there, seen = predict([track], stamp_ns), (joints[None], CERTAIN[None], np.zeros((1, 17, 3)))
    learn_motion([track], there.joints, there.reach, *seen, stamp_ns)
    track.update(joints, CERTAIN, stamp_ns)


def walked(speed, steps=20):
    track = Track(1, person(0, 0), CERTAIN, 0)
    for step in range(1, steps + 1):
        stamp_ns = step * STEP_NS
        see(track, person(speed * stamp_ns * 1e-9, 0), stamp_ns)
    return track


def test_someone_who_walks_is_predicted_to_go_on():
    track = walked(1.2)
    there = predict([track], track.stamp_ns + 3 * STEP_NS).of(0)
    moved = (there.joints - track.joints)[:, 0].mean()
    assert 0.09 < moved < 0.12  # 0.1 s at 1.2 m/s, fading
    assert abs((there.joints - track.joints)[:, 1:]).max() < 1e-9


def test_someone_who_stands_is_predicted_to_stay():
    track = walked(0.0)
    there = predict([track], track.stamp_ns + 30 * STEP_NS).of(0)
    assert np.abs(there.joints - track.joints).max() < 1e-6


def test_predictions_do_not_run_away_and_grow_uncertain():
    track = walked(2.0)
    soon, late = (predict([track], track.stamp_ns + n * STEP_NS).of(0) for n in (1, 60))
    assert np.abs(late.joints - track.joints).max() < 2.0 * 0.5
    assert (per_axis(late.covariance) > 10 * per_axis(soon.covariance)).all()


def test_who_walked_and_is_not_seen_may_have_turned_back():
    walker, stander = walked(1.0), walked(0.0)
    second_ns = walker.stamp_ns + 1_000_000_000
    sigma = np.sqrt([np.diag(predict([t], second_ns).of(0).body_covariance)
                     for t in (walker, stander)])  # fmt: skip
    assert sigma[0, 0] > 0.9 and np.allclose(sigma[0, 1:], sigma[1, 1:], atol=0.01)


def test_nobody_starts_faster_than_people_do():
    """After 0.3 s, acceleration of 3 m^2/s^3 makes a variance of 3 * 0.3**3 / 3."""
    track = Track(1, person(0, 0), 0 * CERTAIN, 0, velocity_variance=np.zeros(17))
    there = predict([track], 300_000_000).of(0)
    reach, resting = np.sqrt(per_axis(there.reach)), np.sqrt(per_axis(there.covariance))
    assert np.allclose(reach[:9], np.sqrt(0.027), atol=0.002)
    assert (reach[[9, 10, 15, 16]] > 1.5 * reach[0]).all()  # wrists and ankles swing
    assert (resting[5:] < 0.5 * reach[5:]).all()  # but mostly do not; heads turn
    assert np.allclose(resting[:5], reach[:5])


def test_what_was_seen_just_now_says_only_so_much():
    """Detectors' errors last: a hundred instants within a moment are not a hundred looks."""
    track = Track(1, person(0, 0), 1e-6 * CERTAIN, 0, velocity_variance=np.zeros(17))
    assert (np.sqrt(per_axis(predict([track], 1_000_000).of(0).covariance)) > 0.015).all()


def test_distance_of_bodies_is_that_of_their_shift():
    assert np.isclose(body_distance(person(0, 0), person(0.3, 0.4)), 0.5)
    crowd = np.array([person(1, 0), person(2, 0)])
    assert np.allclose(body_distance(person(0, 0), crowd), [1.0, 2.0])


def test_a_guessed_distance_that_is_corrected_is_no_motion():
    """Found half a metre nearer, when a second camera comes, than one camera had guessed."""
    track = Track(1, person(0.5, 0), CERTAIN, 0)
    track.drift = np.tile([0.4, 0.0, 0.0], (17, 1))
    stamp_ns = 6 * STEP_NS
    see(track, person(0, 0), stamp_ns)
    assert np.abs(track.velocity).max() < 0.8  # and not 0.5 m in 0.2 s
    assert np.abs(track.body_velocity).max() < 0.5
    assert not track.drift.any() and track.anchored
    there = predict([track], stamp_ns + 6 * STEP_NS).of(0)
    assert body_distance(there.joints, person(0, 0)) < 0.12


def test_the_body_is_remembered_as_it_was_measured():
    track = walked(0.0)
    guessed = person(0.3, 0)
    track.update(guessed, CERTAIN, 1_000_000_000, measured=False, drift=np.full((17, 3), 0.1))
    there = predict([track], 1_100_000_000).of(0)
    assert np.allclose(there.body, person(0, 0)) and np.allclose(there.drift, 0.1)
