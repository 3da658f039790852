"""The head template: surface, regions, colours."""

import time

import numpy as np
import pytest

from disguisor_ros.core.head_template import HeadTemplate, vertex_normals


@pytest.fixture(scope="module")
def template():
    return HeadTemplate.load()


def test_axes_and_size_are_those_of_an_adult(template):
    low, high = template.vertices.min(axis=0), template.vertices.max(axis=0)
    np.testing.assert_allclose(high[1], -low[1], atol=2e-3, err_msg="symmetric left to right")
    assert 0.14 < high[1] - low[1] < 0.20, "ear to ear"
    assert 0.18 < high[0] - low[0] < 0.25, "nose to back of the head"
    assert 0.11 < high[2] < 0.16, "crown above the ears"
    nose, left_eye, right_eye, left_ear, right_ear = template.keypoints
    assert nose[0] > left_eye[0] > 0.05, "x points out of the face"
    assert left_eye[1] > 0 > right_eye[1] and left_ear[1] > 0 > right_ear[1], "y is left"
    np.testing.assert_allclose((left_ear + right_ear) / 2, 0, atol=1e-6)


def test_landmarks_lie_on_the_surface(template):
    for name, point in zip(("nose", "left eye", "right eye"), template.keypoints):
        gap = np.linalg.norm(template.vertices - point, axis=1).min()
        assert gap < 0.015, name


def test_face_region_holds_the_face_and_not_the_back(template):
    x, _, z = template.vertices.T
    assert not template.face[x < 0].any(), "nothing behind the ears"
    assert template.face[(x > 0.06) & (z > -0.08) & (z < 0.05)].all(), "the whole front"
    face = template.vertices[template.face]
    assert 0.12 < np.ptp(face[:, 1]) < 0.18 and 0.16 < np.ptp(face[:, 2]) < 0.24
    assert template.mask.any() and template.face[template.mask].all(), "mask within the face"
    assert template.vertices[template.mask][:, 2].max() < 0.005, "mask below the eyes"


def test_surface_is_seen_from_outside_in_every_direction(template):
    """Rays from far away to the middle of the head hit it: there is no hole but the neck."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(template.vertices, template.faces.astype(np.uint32))
    rng = np.random.default_rng(0)
    outward = rng.normal(size=(2000, 3))
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    outward = outward[outward[:, 2] > -0.6]
    rays = np.concatenate([outward, -outward], axis=1).astype(np.float32)
    hit = scene.cast_rays(o3d.core.Tensor(rays))
    assert (hit["t_hit"].numpy() < 1).all()
    normals = hit["primitive_normals"].numpy()
    assert (np.einsum("ni,ni->n", normals, outward) > 0).mean() > 0.99, "triangles face outside"


def test_colours_are_skin_above_and_cloth_below(template):
    assert template.colors.dtype == np.uint8 and template.colors.shape == template.vertices.shape
    cloth = template.colors_masked[template.mask].mean(axis=0)
    assert cloth[2] > cloth[0], "a surgical mask is bluish"
    assert template.colors[template.mask].mean(axis=0)[0] > cloth[0]


def test_place_moves_and_scales_about_the_origin(template):
    tf_world_head = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    placed = template.place(tf_world_head, scale=2.0)
    nose = template.vertices[:, 0].argmax()
    x, y, z = template.vertices[nose]
    np.testing.assert_allclose(placed[nose], [1 - 2 * y, 2 + 2 * x, 3 + 2 * z], atol=1e-6)
    assert placed.dtype == np.float32


def test_cached_cut_loads_fast_and_equals_itself(template, tmp_path):
    started = time.perf_counter()
    again = HeadTemplate.load()
    assert time.perf_counter() - started < 1.0
    np.testing.assert_array_equal(again.vertices, template.vertices)


def test_normals_of_a_plane_point_up():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    np.testing.assert_allclose(vertex_normals(vertices, faces), [[0, 0, 1]] * 4)
