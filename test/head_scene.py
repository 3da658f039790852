"""A head, cameras and a room that can be checked by hand, for the tests of the renderer."""

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import largest_sigma, pose_covariance
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.types import DepthView, Head

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0


def ball_template(radius=0.1, rings=24, columns=48):
    """A ball of a head: its front half is the face."""
    theta = np.linspace(0, np.pi, rings)[:, None]
    phi = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    normals = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta) + 0 * phi], -1
    ).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(rings - 1), np.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    faces = np.concatenate(
        [np.stack([a, a + columns, b], -1), np.stack([b, a + columns, b + columns], -1)]
    )
    colors = np.full(normals.shape, 180, np.uint8)
    return HeadTemplate(
        vertices=(radius * normals).astype(np.float32),
        faces=faces.reshape(-1, 3).astype(np.int32),
        normals=normals.astype(np.float32),
        face=normals[:, 0] > 0.01,
        mask=normals[:, 2] < 0,
        colors=colors,
        colors_masked=colors - np.uint8(40),
        keypoints=np.array([[0.1, 0, 0], [0.09, 0.03, 0.03], [0.09, -0.03, 0.03],
                            [0, 0.1, 0], [0, -0.1, 0]]),
    )  # fmt: skip


def front_camera(name="cn01", distortion=(), shift_m=0.0, width=WIDTH, height=HEIGHT, focal=FOCAL):
    """Camera ``shift_m`` to the right of the world's origin, looking along +x."""
    tf_camera_world = np.eye(4)
    tf_camera_world[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    tf_camera_world[0, 3] = -shift_m
    matrix = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    return Camera(name, width, height, np.array(matrix), tf_camera_world, np.array(distortion))


def head_at(
    template, x=2.0, y=0.0, z=0.0, away_deg=0.0, track_id=1, sigma_m=0.005, confidence=0.9,
    turn_deg=2.0,
):  # fmt: skip
    """Head that looks at a camera in the origin when it stands on the x axis."""
    yaw = np.deg2rad(180.0 + away_deg)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = x, y, z
    covariance = pose_covariance(sigma_m**2 * np.eye(3), turn_deg)
    return Head(track_id, pose, template.place(pose), covariance, "registered", confidence)


def keypoints_of(camera, head, template, score=0.9):
    """Detection (1, 17, 3) of a head with shoulders below it."""
    tf = head.tf_world_head
    shoulders = np.array([[0, 0.18, -0.25], [0, -0.18, -0.25]])
    points = np.concatenate([template.keypoints, shoulders]) @ tf[:3, :3].T + tf[:3, 3]
    out = np.zeros((1, 17, 3))
    out[0, :7, :2], _ = camera.project(points)
    out[0, :7, 2] = score
    return out


def turn_sigma(head):
    """Standard deviation of a head's turn about the axis that is known worst, radians."""
    return largest_sigma(head.covariance[3:, 3:])


def no_keypoints():
    """No detection."""
    return np.zeros((0, 17, 3))


def room(seed=0, shape=(HEIGHT, WIDTH, 3)):
    """An image of noise: every pixel tells whether it was touched."""
    return np.random.default_rng(seed).integers(30, 220, shape).astype(np.uint8)


def depth_view(camera, depth_m, unit_m=0.001):
    """Depth image in millimetres from metres."""
    return DepthView(camera, np.round(depth_m / unit_m).astype(np.uint16), unit_m)
