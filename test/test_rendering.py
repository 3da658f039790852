"""Ray casting of heads."""

import sys

import numpy as np
import pytest
from head_scene import ball_template, front_camera, head_at, keypoints_of, room
from hypothesis import given, settings
from hypothesis import strategies as st

from disguisor_ros.core.anonymize import FaceRenderer
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.rendering import (
    EmbreeBackend,
    Pytorch3dBackend,
    Window,
    diffuse,
    make_backend,
)

WHOLE = Window(0, 0, 320, 240)


@pytest.fixture(scope="module")
def template():
    return ball_template()


def cast(backend, template, camera, head, window=WHOLE):
    return backend(camera, camera.to_camera(head.vertices.astype(float)), template.faces, window)


def test_ball_is_seen_where_it_is(template):
    hits = cast(EmbreeBackend(), template, front_camera(), head_at(template, x=2.0))
    rows, columns = np.nonzero(hits.triangle >= 0)
    # A ball of radius r at distance d has the angular radius asin(r / d).
    radius = 300 * np.tan(np.arcsin(0.1 / 2.0))
    assert np.isclose(columns.mean(), 159.5, atol=0.5) and np.isclose(rows.mean(), 119.5, atol=0.5)
    assert np.isclose(np.ptp(columns) + 1, 2 * radius, atol=1.5)
    assert np.isclose(hits.depth_m[120, 160], 1.9, atol=1e-3)
    assert np.isinf(hits.depth_m[0, 0]) and hits.triangle[0, 0] == -1


def test_interpolated_vertices_are_the_points_that_were_hit(template):
    camera, head = front_camera(), head_at(template, y=0.2, away_deg=30)
    hits = cast(EmbreeBackend(), template, camera, head)
    points = hits.interpolate(camera.to_camera(head.vertices.astype(float)), template.faces)
    hit = hits.triangle >= 0
    assert np.allclose(points[..., 2][hit], hits.depth_m[hit], atol=1e-4)
    pixels, _ = camera.project_camera(points[hit].astype(float))
    rows, columns = np.nonzero(hit)
    assert np.abs(pixels - np.stack([columns, rows], axis=-1)).max() < 0.05


@pytest.mark.parametrize("distortion", [(-0.2, 0.05, 1e-3, -1e-3, 0.0), (0.1, -0.05, 0, 0, 0)])
def test_lens_distortion_is_followed(template, distortion):
    camera, head = front_camera(distortion=distortion), head_at(template, x=1.5, y=0.5, z=0.3)
    window = Window(20, 20, 80, 80)
    hits = cast(EmbreeBackend(), template, camera, head, window)
    points = hits.interpolate(camera.to_camera(head.vertices.astype(float)), template.faces)
    rows, columns = np.nonzero(hits.triangle >= 0)
    assert len(rows) > 500
    pixels, _ = camera.project_camera(points[rows, columns].astype(float))
    assert np.abs(pixels - np.stack([columns + 20, rows + 20], axis=-1)).max() < 0.1


@pytest.mark.parametrize(
    "model, distortion",
    [
        ("plumb_bob", (-0.28, 0.08, 0.0, 0.0, 0.0)),
        ("rational_polynomial", (0.5, -2.6, 1e-4, 2e-4, 1.5, 0.38, -2.4, 1.4)),
        ("equidistant", (0.01, 0.0, 0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("side", [24, 120, 240])
def test_a_ray_finds_its_cell_however_wide_the_window(model, distortion, side):
    """A quadratic took it up to 50 pixels away: depth uncovered what it does not see."""
    lens = front_camera(focal=200)
    camera = Camera("cn01", 320, 240, lens.matrix, lens.tf_camera_world, distortion, model)
    window = Window(0, 0, side, side)
    pixels = np.stack(np.meshgrid(*2 * [np.arange(0, side, 3)]), axis=-1).reshape(-1, 2)
    cells = window.cells_of(camera, camera.undistort(pixels))
    assert np.abs(cells - pixels).max() < 0.7


def test_the_rim_of_a_fisheye_is_followed():
    """x/z, which grows without bound there, is not linear over 16 pixels."""
    lens, bent = front_camera(focal=120), [1e-9, 0.0, 0.0, 0.0]
    camera = Camera("cn01", 320, 240, lens.matrix, lens.tf_camera_world, bent, "equidistant")
    rays = Window(0, 100, 40, 40).normalized(camera).astype(float)
    angle = np.arctan(np.linalg.norm(rays, axis=-1))
    x, y = np.arange(40) - 159.5, np.arange(100, 140)[:, None] - 119.5
    assert np.abs(120 * angle - np.hypot(x, y)).max() < 0.5


@settings(max_examples=15, deadline=None)
@given(st.floats(1.0, 4.0), st.floats(-0.3, 0.3), st.floats(-180, 180), st.floats(0.8, 1.2))
def test_moved_rays_see_what_a_new_scene_sees(x, y, yaw, scale):
    template, camera = ball_template(), front_camera()
    kept, head = EmbreeBackend(), head_at(template, x, y, away_deg=yaw)
    cast(kept, template, camera, head_at(template))
    head.vertices = template.place(head.tf_world_head, scale)
    a, b = cast(kept, template, camera, head), cast(EmbreeBackend(), template, camera, head)
    assert len(kept._scenes) == 1 and np.mean((a.triangle < 0) != (b.triangle < 0)) < 1e-3
    both = (a.triangle >= 0) & (b.triangle >= 0)
    assert np.allclose(a.depth_m[both], b.depth_m[both], atol=2e-3)


def test_heads_of_different_shapes_are_not_confused(template):
    backend, camera = EmbreeBackend(), front_camera()
    heads = [head_at(template), head_at(template)]
    heads[1].vertices = heads[0].vertices * np.float32([1.0, 1.0, 1.5])
    for _ in range(2):
        for head, stretch in zip(heads, (1.0, 1.5), strict=True):
            rows = np.nonzero(cast(backend, template, camera, head).triangle >= 0)[0]
            expected = stretch * 2 * 300 * np.tan(np.arcsin(0.05))
            assert np.isclose(np.ptp(rows) + 1, expected, atol=2)
    assert len(backend._scenes) == 2


def test_coarse_grid_samples_the_same_image(template):
    camera, head = front_camera(), head_at(template, x=1.0)
    fine = cast(EmbreeBackend(), template, camera, head)
    coarse = cast(EmbreeBackend(), template, camera, head, Window(0, 0, 80, 60, step=4))
    block = (fine.triangle >= 0).reshape(60, 4, 80, 4).mean(axis=(1, 3))
    assert np.mean((coarse.triangle >= 0) != (block > 0.5)) < 0.01


def test_surface_facing_the_lamp_is_brightest():
    up = np.array([0.0, 0.0, 1.0])
    shade = diffuse(np.array([[0, 0, 1.0], [1, 0, 0], [0, 0, -1.0]]), up)
    assert shade[0] == pytest.approx(1.0) and shade[0] > shade[1] > shade[2] > 0


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend must be one of .*, got 'opengl'"):
        make_backend("opengl")


def test_auto_takes_pytorch3d_only_where_there_is_a_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(make_backend("auto"), EmbreeBackend)


def test_auto_does_without_a_pytorch3d_that_does_not_import(monkeypatch, tmp_path):
    (tmp_path / "pytorch3d").mkdir()
    (tmp_path / "pytorch3d/__init__.py").write_text("raise ImportError('built for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pytorch3d", raising=False)
    assert isinstance(make_backend("auto"), EmbreeBackend)
    with pytest.raises(ValueError, match="'pytorch3d' cannot be imported: built for another"):
        make_backend("pytorch3d")


@pytest.fixture(scope="module")
def pytorch3d():
    pytest.importorskip(
        "pytorch3d.renderer.mesh.rasterize_meshes",
        reason="PyTorch3D is not installed: a build from source, see docs/face_renderer.md",
    )
    return Pytorch3dBackend()


@pytest.mark.parametrize("distortion", [(), (-0.2, 0.05, 1e-3, -1e-3, 0.0)])
@pytest.mark.parametrize("pose", [(0.7, 0.1, 40), (1.5, -0.3, -100), (3.0, 0.2, 170)])
def test_backends_agree(pytorch3d, distortion, pose):
    x, y, away_deg = pose
    template, camera = HeadTemplate.load(), front_camera(distortion=distortion)
    head = head_at(template, x, y, away_deg=away_deg)
    pixels, _ = camera.project(head.vertices.astype(float))
    low, high = pixels.min(axis=0).astype(int) - 4, pixels.max(axis=0).astype(int) + 4
    window = Window(*low, *(high - low))  # of NumPy's integers, as the renderer's are
    a = cast(EmbreeBackend(), template, camera, head, window)
    b = cast(pytorch3d, template, camera, head, window)
    hit = a.triangle >= 0
    both = hit & (b.triangle >= 0)
    assert hit.sum() > 150 and ((b.triangle >= 0) != hit).sum() <= max(2, 2e-3 * hit.sum())
    off_m = np.abs(a.depth_m[both] - b.depth_m[both])
    assert np.median(off_m) < 1e-4 and np.quantile(off_m, 0.99) < 2e-3


def test_backends_agree_on_nothing_behind_the_camera(pytorch3d, template):
    hits = cast(pytorch3d, template, front_camera(), head_at(template, x=-2.0))
    assert (hits.triangle == -1).all() and np.isinf(hits.depth_m).all()


def test_anonymized_image_is_the_same_with_both_backends(pytorch3d):
    template, camera = HeadTemplate.load(), front_camera()
    heads = [head_at(template, 1.2, 0.2, away_deg=30), head_at(template, 2.0, -0.4, track_id=2)]
    keypoints = np.concatenate([keypoints_of(camera, head, template) for head in heads])
    image = room()
    a, b = (
        FaceRenderer(template, "mesh", name)(image, camera, heads, keypoints, None, 0)
        for name in ("open3d", "pytorch3d")
    )
    off = np.abs(a.image.astype(int) - b.image).max(axis=-1)
    replaced = (a.image != image).any(axis=-1)
    assert replaced.sum() > 2000 and (off > 2).sum() < 5e-3 * replaced.sum()
