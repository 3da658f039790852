import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disguisor_ros.core.cameras import Camera, invert_rigid, look_at

MATRIX = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
LENSES = {
    "plumb_bob": [0.1, -0.2, 0.001, 0.002, 0.05],
    "rational_polynomial": [0.4, -2.0, 0.0005, -0.0002, 1.5, 0.3, -1.9, 1.4],
    "equidistant": [0.1, 0.01, -0.02, 0.003],
}


def camera(model="plumb_bob", distortion=(), tf=None):
    tf = np.eye(4) if tf is None else tf
    return Camera("cn01", 640, 480, MATRIX, tf, np.array(distortion), model)


def test_a_point_on_the_axis_projects_to_the_principal_point():
    pixel, depth = camera().project(np.array([0.0, 0, 2]))
    assert pixel.tolist() == [320, 240] and depth == 2


def test_one_metre_to_the_right_at_two_metres_is_half_a_focal_length_away():
    assert camera().project(np.array([1.0, 0, 2]))[0].tolist() == [620, 240]


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(camera().project(np.array([0.0, 0, -1]))[0]).all()


@pytest.mark.parametrize("model", LENSES)
@given(x=st.floats(-0.45, 0.45), y=st.floats(-0.35, 0.35), z=st.floats(0.5, 6))
def test_undistort_inverts_project(model, x, y, z):
    lens = camera(model, LENSES[model])
    pixel, _ = lens.project(np.array([[x * z, y * z, z]]))
    assert np.allclose(lens.undistort(pixel), [[x, y]], atol=1e-6)


def test_an_ideal_fisheye_is_not_taken_for_a_pinhole():
    """Its coefficients are zero: all that bends is the model itself."""
    lens = camera("equidistant", [0.0] * 4)
    pixel, _ = lens.project(np.array([[1.0, 0, 1]]))
    assert np.allclose(pixel, [[320 + 600 * np.pi / 4, 240]], atol=1e-3)
    assert np.allclose(lens.undistort(pixel), [[1, 0]], atol=1e-4) and lens.fisheye


@pytest.mark.parametrize("angle_deg", [0, 60, 77, 80, 84, 89])
def test_a_fisheye_is_undistorted_up_to_its_rim(angle_deg):
    """OpenCV ends at pi/2 focal lengths; this lens has 77 degrees there."""
    lens = camera("equidistant", [0.1, 0.0, 0.0, 0.0])
    angle = np.deg2rad(angle_deg)
    pixel, _ = lens.project(np.array([[np.sin(angle), 0, np.cos(angle)]]))
    x, y = lens.undistort(pixel)[0]
    assert np.rad2deg(np.arctan(x)) == pytest.approx(angle_deg, abs=1e-3) and y == 0


def test_what_is_out_of_view_does_not_come_back_into_the_image():
    """A polynomial fitted to the image turns around somewhere outside it."""
    lens = camera("plumb_bob", [-0.1, 0.02, 0, 0, -0.002])
    angles = np.deg2rad(np.arange(0, 85, 5))
    pixels, _ = lens.project(np.stack([np.tan(angles), 0 * angles, 1 + 0 * angles], axis=-1))
    assert (np.diff(pixels[:, 0]) >= 0).all() and pixels[-1, 0] > 640


def test_rays_pass_through_the_projected_point():
    tf = np.eye(4)
    tf[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    tf[:3, 3] = [0.3, -0.2, 1.0]
    lens = camera("plumb_bob", LENSES["plumb_bob"], tf)
    point = lens.tf_world_camera[:3, :3] @ np.array([0.2, 0.1, 3.0]) + lens.center
    ray = lens.rays(lens.project(point)[0])
    assert np.allclose(np.cross(ray, point - lens.center), 0, atol=1e-6)


def test_a_detection_wholly_out_of_the_image_is_of_another_one():
    person = np.full((1, 17, 3), [500.0, 200, 0.8])
    beside = person + [300, 0, 0]
    partly = np.where(np.arange(17)[:, None] < 3, person, beside)
    nobody = np.zeros((1, 17, 3))
    seen = np.concatenate([person, beside, partly, nobody])
    assert camera().shows(seen).tolist() == [True, False, True, True]


def test_look_at_has_the_target_in_the_middle_and_up_up():
    center, target = np.array([2.0, -1.0, 2.5]), np.array([0.3, 0.2, 1.0])
    lens = camera("plumb_bob", [], look_at(center, target))
    assert np.allclose(lens.center, center)
    (x, y), depth = lens.project(target)
    assert np.allclose([x, y], lens.matrix[:2, 2]) and depth > 0
    above, _ = lens.project(target + [0, 0, 0.1])
    assert above[0] == pytest.approx(x) and above[1] < y


def test_invert_rigid_gives_the_identity():
    tf = np.eye(4)
    tf[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    tf[:3, 3] = [1, 2, 3]
    assert np.allclose(invert_rigid(tf) @ tf, np.eye(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": np.zeros((3, 3))}, "focal"),
        ({"matrix": np.full((3, 3), np.nan)}, "finite"),
        ({"tf_camera_world": np.diag([1.0, 1, -1, 1])}, "rotation"),
        ({"tf_camera_world": np.diag([1000.0, 1000, 1000, 1])}, "rotation"),
        ({"model": "fisheye62"}, "distortion model"),
        ({"distortion": np.ones(3)}, "coefficients"),
        ({"model": "equidistant"}, "coefficients"),
        ({"width": 0}, "size"),
    ],
)
def test_a_calibration_that_cannot_be_right_is_refused_by_name(change, message):
    good = {"name": "cn07", "width": 640, "height": 480, "matrix": MATRIX,
            "tf_camera_world": np.eye(4)}  # fmt: skip
    with pytest.raises(ValueError, match=f"cn07.*{message}"):
        Camera(**{**good, **change})
