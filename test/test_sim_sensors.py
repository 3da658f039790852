"""Colour and depth sensor models."""

import numpy as np
import pytest

from disguisor_ros.sim.sensors import FAR_M, ColorSensor, DepthSensor, tone


def measured(depth_m, signal=0.6, frames=20):
    sensor = DepthSensor(np.random.default_rng(0), (96, 128))
    rng = np.random.default_rng(1)
    flat = np.full((96, 128), depth_m, dtype=np.float32)
    shots = [sensor.measure(flat, np.full_like(flat, signal), rng) for _ in range(frames)]
    return np.array(shots)[:, 30:60, 40:80] / 1000.0


def test_depth_is_unbiased_and_its_noise_grows_with_range():
    near, far = measured(1.0), measured(3.5)
    assert near.mean() == pytest.approx(1.0, abs=0.002)
    assert far[far > 0].mean() == pytest.approx(3.5, abs=0.005)
    assert far[far > 0].std() > 1.5 * near.std()
    assert near.std() < 0.005 and far[far > 0].std() < 0.02


@pytest.mark.parametrize("depth_m", [0.2, FAR_M + 0.3])
def test_nothing_returns_out_of_range(depth_m):
    assert not measured(depth_m).any()


def test_dark_surfaces_far_away_return_less():
    assert (measured(4.0, 0.03) == 0).mean() > 0.5
    assert (measured(4.0, 0.6) == 0).mean() < 0.05


def test_edges_have_flying_pixels_and_holes():
    sensor = DepthSensor(np.random.default_rng(0), (96, 128))
    depth = np.full((96, 128), 3.0, dtype=np.float32)
    depth[:, :64] = 1.5
    image = (
        sensor.measure(depth, np.full_like(depth, 0.6), np.random.default_rng(2))[20:70, 60:68]
        / 1000
    )
    between = (image > 1.7) & (image < 2.8)
    assert between.any() and (image == 0).any()


def test_tone_is_monotonic_and_stays_in_range():
    values = tone(np.linspace(0, 50, 500, dtype=np.float32), 1.0)
    assert (np.diff(values) >= 0).all()
    assert values[0] >= 0 and values[-1] <= 255


def test_only_given_pixels_change_and_moving_ones_smear():
    empty = np.full((64, 64, 3), 0.2, dtype=np.float32)
    sensor = ColorSensor(empty, np.random.default_rng(0))
    index = np.ravel_multi_index(np.mgrid[28:36, 28:36].reshape(2, -1), (64, 64))
    white = np.full((len(index), 3), 3.0, dtype=np.float32)
    still = sensor.expose(
        index, white, index, np.zeros((64, 2), np.float32), np.random.default_rng(3)
    )
    moved = sensor.expose(
        index, white, index, np.tile(np.float32([8, 0]), (64, 1)), np.random.default_rng(3)
    )
    background = still[:16].astype(float)
    assert still[31, 31].min() > background.max() + 30
    assert moved[31, 37].mean() > still[31, 39].mean() + 5
    assert np.array_equal(still[:8], moved[:8])
