"""People walk smoothly, around the furniture and one another."""

import numpy as np
import pytest

from disguisor_ros.sim import room
from disguisor_ros.sim.motion import RATE_HZ
from disguisor_ros.sim.scenario import SCENARIOS, choreography


@pytest.fixture(scope="module", params=[("easy", 0), ("medium", 1), ("hard", 2), ("hard", 3)])
def motion(request):
    name, seed = request.param
    return choreography(SCENARIOS[name], 20.0, np.random.default_rng(seed))


def test_nobody_walks_through_anybody(motion):
    places = np.stack([track["place"] for track in motion.tracks], axis=1)
    distance = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    distance += 9 * np.eye(places.shape[1])
    assert distance.min() > 0.38


def test_nobody_walks_through_furniture(motion):
    for track in motion.tracks:
        x, y = track["place"].T
        for x0, x1, y0, y1 in (*room.FURNITURE, *room.WALLS):
            assert not ((x > x0) & (x < x1) & (y > y0) & (y < y1)).any()


def test_motion_is_smooth_and_of_human_speed(motion):
    for track in motion.tracks:
        speed = np.linalg.norm(np.diff(track["place"], axis=0), axis=1) * RATE_HZ
        turn = np.abs(np.diff(track["heading"])) * RATE_HZ
        assert speed.max() < 2.0
        assert turn.max() < 5.0


def test_somebody_moves_and_somebody_stays(motion):
    ways = [np.ptp(track["place"], axis=0).max() for track in motion.tracks]
    assert max(ways) > 1.0
    assert min(ways) < 0.5


def test_standing_feet_do_not_slide(motion):
    first = motion.pose(0, 5.0, 0.95, 0.08, 1.45)
    second = motion.pose(0, 5.04, 0.95, 0.08, 1.45)
    assert np.abs(first.ankles - second.ankles).max() < 0.02


def test_same_seed_same_motion():
    a, b = (choreography(SCENARIOS["easy"], 5.0, np.random.default_rng(7)) for _ in range(2))
    assert all(np.array_equal(x["place"], y["place"]) for x, y in zip(a.tracks, b.tracks))
