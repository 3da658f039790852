"""A camera that is not where its calibration has it is told by its own images."""

import numpy as np
import pytest
from head_scene import ball_template, depth_view, front_camera, head_at, keypoints_of
from scipy.spatial.transform import Rotation

from disguisor_ros.core.anonymize import FaceRenderer
from disguisor_ros.core.calibration_watch import CalibrationWatch, suspicion
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import largest_sigma
from disguisor_ros.core.rendering import EmbreeBackend, Window
from disguisor_ros.core.sightings import Sighting, sight_heads

TEMPLATE = ball_template()
PLACES = [(2.0, -0.5), (2.5, 0.2), (3.0, 0.8)]


def turned(camera, mrad):
    """The camera as a calibration has it that is off by a turn about the image's y axis."""
    wrong = camera.tf_camera_world.copy()
    wrong[:3] = Rotation.from_rotvec([0, mrad * 1e-3, 0]).as_matrix() @ wrong[:3]
    return Camera(camera.name, camera.width, camera.height, camera.matrix, wrong)


def watched(camera, instants, noise_px=0.5, believed=None):
    """A watch that has seen three people with the ``camera``, ``believed`` to be another."""
    rng, watch = np.random.default_rng(0), CalibrationWatch()
    heads = [head_at(TEMPLATE, x, y, track_id=i) for i, (x, y) in enumerate(PLACES)]
    for k in range(instants):
        found = np.concatenate([keypoints_of(camera, head, TEMPLATE) for head in heads])
        found[..., :2] += noise_px * rng.normal(size=found[..., :2].shape)
        sightings = sight_heads(believed or camera, heads, found, TEMPLATE)
        watch.look(heads, sightings, k * 10**8)
    return watch, heads


def test_a_turned_camera_has_all_faces_aside():
    """20 mrad at 2 to 3 m are 4 to 6 cm along x; a seventh of the variance is not believed."""
    camera = front_camera()
    watch, heads = watched(camera, 40, believed=turned(camera, 20))
    (x, _), (_, y) = np.sqrt(np.abs(watch.covariance))
    assert 0.03 < x < 0.055 and y < 0.01 and watch.off_m == pytest.approx(x, rel=0.05)
    for head, doubted in zip(heads, watch.doubted(camera, heads), strict=True):
        ray = head.tf_world_head[:3, 3] / np.linalg.norm(head.tf_world_head[:3, 3])
        aside = np.cross(ray, [0, 0, 1])
        for way in (ray, aside):
            sigma = np.sqrt(way @ doubted.covariance[:3, :3] @ way)
            assert sigma == pytest.approx(np.hypot(x, head.sigma_m), rel=0.05)
        assert (doubted.covariance[3:, 3:] == head.covariance[3:, 3:]).all()


def test_people_who_are_off_to_either_side_do_not_cancel_out():
    """A camera that is rolled, or nearer than it is said to be: two people, 5 cm to each side."""
    head, watch = head_at(TEMPLATE), CalibrationWatch()
    left, right = (Sighting(np.zeros(2), 10.0, off_m=np.array([x, 0.0])) for x in (-0.05, 0.05))
    heads = [head, head_at(TEMPLATE, track_id=2)]
    for k in range(60):
        watch.look(heads, [left, right], k * 10**8)
    assert 0.035 < watch.off_m < 0.05


def test_a_right_camera_leaves_heads_as_sure_as_they_are():
    watch, heads = watched(front_camera(), 40)
    assert watch.off_m == 0
    assert watch.doubted(front_camera(), heads) is heads


def test_a_few_faces_prove_little():
    camera = front_camera()
    few, many = (watched(camera, n, believed=turned(camera, 10))[0] for n in (2, 40))
    assert 0 < largest_sigma(few.covariance) < 0.5 * many.off_m


def test_nobody_is_told_of_a_camera_that_hardly_saw_faces():
    """Recordings of a dozen images once warned of cameras that were where they should be."""
    camera = front_camera()
    watch, _ = watched(camera, 12, believed=turned(camera, 20))
    assert watch.off_m == 0 and largest_sigma(watch.covariance) > 0.03


def test_the_user_is_told_of_a_camera_that_is_off():
    assert suspicion(0.015) == ""
    assert "3 cm beside the faces" in suspicion(0.03)


def test_heads_that_are_badly_known_tell_nothing():
    camera, watch = front_camera(), CalibrationWatch()
    head = head_at(TEMPLATE, sigma_m=0.1)
    sightings = sight_heads(turned(camera, 20), [head], keypoints_of(camera, head, TEMPLATE),
                            TEMPLATE)  # fmt: skip
    for k in range(100):
        watch.look([head], sightings, k * 10**8)
    assert watch.off_m == 0


def test_faces_are_covered_where_the_image_has_them_although_the_calibration_is_off():
    """Also the face of somebody whom the detector misses: once a third of it stayed open."""
    camera, renderer = front_camera(), FaceRenderer(TEMPLATE)
    believed = turned(camera, 20)
    heads = [head_at(TEMPLATE, x, y, track_id=i) for i, (x, y) in enumerate(PLACES)]
    found = np.concatenate([keypoints_of(camera, head, TEMPLATE) for head in heads])
    image = np.random.default_rng(0).integers(1, 256, (240, 320, 3), dtype=np.uint8)
    covered = []
    for k in range(20):
        shown = found if k < 19 else found[1:]
        out = renderer(image, believed, heads, shown, stamp_ns=k * 10**8).image
        face, _ = camera.project(heads[0].vertices[TEMPLATE.face])
        x, y = np.rint(face).astype(int).T
        covered.append((out != image).any(axis=2)[y, x].mean())
    assert covered[-1] == 1
    assert heads[0].sigma_m == pytest.approx(0.005), "what came in stays"


def test_a_face_does_not_hide_itself_where_the_calibration_is_off():
    """Others have the head 13 cm behind where this camera's depth shows its face."""
    camera, renderer = front_camera(), FaceRenderer(TEMPLATE)
    believed = turned(camera, 10)
    true = [head_at(TEMPLATE, x, y, track_id=i) for i, (x, y) in enumerate(PLACES)]
    heads = [head_at(TEMPLATE, x + 0.13, y, track_id=i) for i, (x, y) in enumerate(PLACES)]
    found = np.concatenate([keypoints_of(camera, head, TEMPLATE) for head in true])
    window = Window(0, 0, camera.width, camera.height)
    seen = [
        EmbreeBackend()(camera, camera.to_camera(h.vertices.astype(float)), TEMPLATE.faces, window)
        for h in true
    ]
    depth = depth_view(believed, np.minimum(6.0, np.min([hits.depth_m for hits in seen], axis=0)))
    image = np.random.default_rng(0).integers(1, 256, (240, 320, 3), dtype=np.uint8)
    for k in range(20):
        shown = found if k < 19 else found[1:]
        out = renderer(image, believed, heads, shown, depth, stamp_ns=k * 10**8).image
    face = (seen[0].triangle >= 0) & TEMPLATE.on_face[seen[0].triangle]
    assert (out != image).any(axis=2)[face].mean() > 0.95
