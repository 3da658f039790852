"""A head as one camera sees it: where it is, how far off it may be, and its window."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import (
    MARGIN_SIGMAS,
    bounded,
    largest_sigma,
    pose_covariance,
)
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.rendering import Window
from disguisor_ros.core.sightings import Sighting
from disguisor_ros.core.types import Head

#: Cover reaches this far around the face, metres: what the template's face may be too small.
MARGIN_M = 0.007

#: ... but no less than this, pixels: small faces in small images.
MIN_MARGIN_PX = 2.0

#: ... and :data:`MARGIN_SIGMAS` of the head's position across the view, up to a limit, metres.
MAX_MARGIN_M = 0.60

#: Distance of the face from the middle of the head, about which it turns, metres.
FACE_ARM_M = 0.09

#: A head is no ball: when it turns, nose, brow and chin carry its outline along as if at the end
#: of an arm of this length, metres.
OUTLINE_ARM_M = 0.03

#: Standard deviation of the place of the face, metres, by that of the head and by its turn, from
#: which the whole head is covered and not only its face.
UNSURE_SIGMA_M = 0.06

#: Breathing masks and respirators stand out before mouth and nose, metres.
MUZZLE_M = 0.05

#: Standard deviations, metres and degrees, of a head whose own covariance is none.
UNKNOWN_SIGMA_M = 0.1
UNKNOWN_TURN_DEG = 30.0

#: Nothing nearer to a camera's plane than this is projected, metres.
_PLANE_M = 0.01

#: A head's window is found from every so many of its vertices, which miss at most so much, metres.
_SPARSE = 16
_SPARSE_M = 0.01

#: Points around one that a margin reaches, for a margin of 1: an octagon about the circle.
_EIGHTHS = np.arange(8) * np.pi / 4
_AROUND = np.stack([np.cos(_EIGHTHS), np.sin(_EIGHTHS)], axis=1) / np.cos(np.pi / 8)

#: Largest number of rays along a side of a head; larger heads are sampled more coarsely.
_MAX_RAYS = 160


@dataclass
class PosedHead:
    """A head in one camera's frame, with the window that it takes up in the image.

    ``sigma_m`` is the standard deviation per axis, ``along_m`` that along the view (inf beside the
    camera, where depth tells nothing) and ``aside_m`` the worst across it. ``turned_m`` is how far
    over the head's surface the face may reach when it is turned, ``margin_px`` how far the cover
    reaches around that in the image. Who is unsure may be farther off in one direction:
    ``ends_px`` (N, 2) are points around the head, margin included, as it looks at both ends of
    that, or as it reaches into the image from beside the camera; none for others.
    """

    head: Head
    sighting: Sighting
    vertices: np.ndarray
    normals: np.ndarray
    distance_m: float
    turn_deg: float
    sigma_m: float
    along_m: float
    aside_m: float
    turned_m: float
    margin_px: float
    ends_px: np.ndarray
    px_per_m: float
    window: Window
    forward: np.ndarray

    @property
    def unsure(self) -> bool:
        """Whether all that the head may look like is covered, and not only its face."""
        return len(self.ends_px) > 0

    @property
    def forward_px(self) -> np.ndarray:
        """Pixels across the image for a metre out of the face, shape (2,)."""
        return self.forward[:2] * self.px_per_m

    def eye(self, camera: Camera) -> np.ndarray:
        """Place of the camera in the head frame, shape (3,), metres."""
        tf_world_head = np.asarray(self.head.tf_world_head, dtype=np.float64)
        return (camera.center - tf_world_head[:3, 3]) @ tf_world_head[:3, :3]


def pose_head(
    camera: Camera, head: Head, sighting: Sighting, template: HeadTemplate
) -> PosedHead | None:
    """Bring a head into the camera's frame; None when it cannot be seen or makes no sense."""
    tf_world_head = np.asarray(head.tf_world_head, dtype=np.float64)
    if tf_world_head.shape != (4, 4) or not np.isfinite(tf_world_head).all():
        return None
    vertices = np.asarray(head.vertices, dtype=np.float64)
    if vertices.shape != template.vertices.shape or not np.isfinite(vertices).all():
        vertices = template.place(tf_world_head)
    to_camera = camera.tf_camera_world[:3, :3]
    place, turn = _covariances(head)
    covariance = to_camera @ place @ to_camera.T
    nearest_m = 2 * template.radius
    vertices = camera.to_camera(vertices)
    center = vertices.mean(axis=0)
    ends_px = np.empty((0, 2))
    if not _in_view(camera, center, template.radius):
        moved_m = _into_view(center, covariance, nearest_m)
        # Of who is moved into view, more than that is covered from there.
        most_m = np.inf if moved_m is None else UNSURE_SIGMA_M
        beside_m = _margin_m(min(largest_sigma(place), most_m))
        ends_px = _beside(camera, vertices, max(beside_m, MUZZLE_M))
        if moved_m is not None:
            vertices, center = vertices + moved_m, center + moved_m
        elif len(ends_px):
            # In the camera's plane there is no scale: as large as where heads are in view.
            center = np.append(center[:2], template.radius)
        else:
            return None
    distance_m = float(center[2])
    turn_deg = _turn_deg(camera, tf_world_head)
    px_per_m = camera.px_per_m(center)
    along_m, across, moved = _spread(camera, covariance, center)
    if len(ends_px):
        along_m = np.inf  # no depth sensor measures a head so near, it sees past it
    detected = sighting.detection >= 0
    if detected:
        # Where this image itself shows the head, only the distance from the camera can be far off.
        # An ear may show a head aside, but does not move the cover there.
        left_m = np.linalg.norm(sighting.off_m - sighting.shift_px / px_per_m)
        across = bounded(across, most=max(UNSURE_SIGMA_M, left_m))
    (thin_m, aside_m), directions = _axes(across)
    turn_sigma = largest_sigma(turn)
    unsure = not detected and np.hypot(aside_m, FACE_ARM_M * turn_sigma) > UNSURE_SIGMA_M
    turned_m = MARGIN_SIGMAS * FACE_ARM_M * turn_sigma
    off_m = thin_m if unsure else np.hypot(aside_m, OUTLINE_ARM_M * turn_sigma)
    margin_m = _margin_m(off_m)
    margin_px = max(margin_m * px_per_m, MIN_MARGIN_PX)
    around_px = max(margin_px, MUZZLE_M * px_per_m)
    around_px += np.abs(sighting.shift_px).max() + _SPARSE_M * px_per_m
    outline = vertices[::_SPARSE]
    if unsure:
        sweep_m = MARGIN_SIGMAS * (aside_m - thin_m) / aside_m**2 * moved @ directions[:, 1]
        sweep_m *= MAX_MARGIN_M / max(MAX_MARGIN_M, np.linalg.norm(sweep_m))
        around_m = max(margin_m, MUZZLE_M) + _SPARSE_M
        ends_px = np.vstack([ends_px, _ends(camera, outline, sweep_m, around_m, nearest_m)])
    window = _window(camera, outline, around_px, ends_px)
    if window is None:
        return None
    rotation = to_camera @ tf_world_head[:3, :3]
    normals = template.normals @ rotation.T.astype(np.float32)
    sigma_m = float(np.sqrt(np.trace(covariance) / 3))
    return PosedHead(
        head, sighting, vertices, normals, distance_m, turn_deg, sigma_m, along_m, aside_m,
        turned_m, margin_px, ends_px, px_per_m, window, rotation[:, 0],
    )  # fmt: skip


def _margin_m(sigma_m: float) -> float:
    """How far a cover reaches around what is known to ``sigma_m``, metres."""
    return min(MARGIN_M + MARGIN_SIGMAS * sigma_m, MAX_MARGIN_M)


def _in_view(camera: Camera, center: np.ndarray, radius_m: float) -> bool:
    """Whether a head of this size at ``center`` (3,), camera frame, is before the camera.

    A fisheye lens shows heads right beside the camera, too: at its rim, as large as any, half of
    one whose middle is just behind the camera's plane.
    """
    if camera.fisheye and np.linalg.norm(center) > 2 * radius_m:
        return center[2] > -radius_m
    return center[2] >= radius_m


def _into_view(
    center: np.ndarray, covariance: np.ndarray, nearest_m: float
) -> np.ndarray | None:
    """Way (3,) of a head behind a camera to where it may be before it; None where it cannot be."""
    toward = covariance[2]
    lacking_m = nearest_m - center[2]
    if lacking_m > MARGIN_SIGMAS * np.sqrt(toward[2]):
        return None
    return lacking_m / toward[2] * toward


def _beside(camera: Camera, vertices: np.ndarray, margin_m: float) -> np.ndarray:
    """Pixels (N, 2) around a head beside a camera that may reach into its image; else none.

    What lies in the camera's plane, or behind it, is taken for just before it: in the image the
    head goes on to infinity in that direction.
    """
    arms = vertices - vertices.mean(axis=0)
    grown = vertices + margin_m * arms / np.linalg.norm(arms, axis=1, keepdims=True)
    grown[:, 2] = np.maximum(grown[:, 2], _PLANE_M)
    pixels, _ = camera.project_camera(grown)
    return pixels if camera.inside(pixels).any() else np.empty((0, 2))


def _spread(
    camera: Camera, covariance: np.ndarray, center: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """How far off a head may be in one view.

    Parameters
    ----------
    camera : Camera
    covariance : ndarray, shape (3, 3), square metres, camera frame
        Of the head's place.
    center : ndarray, shape (3,), metres, camera frame
        Of the head.

    Returns
    -------
    along_m : float
        Standard deviation along the ray, metres.
    across : ndarray, shape (2, 2), square metres
        Covariance along x and y of the image, at the distance of the head.
    moved : ndarray, shape (3, 2), square metres
        Covariance of the place, camera frame, with how far off the head is across.
    """
    ray = center / np.linalg.norm(center)
    slope = np.array([[1.0, 0.0, -ray[0] / ray[2]], [0.0, 1.0, -ray[1] / ray[2]]])
    aside = np.hypot(ray[0], ray[1])
    if camera.fisheye and aside > 1e-6:
        # Across the ray, not along the plane of the image, which the ray may hardly meet.
        x, y = ray[:2] / aside
        slope = np.outer([x, y], [x * ray[2], y * ray[2], -aside])
        slope += np.outer([-y, x], [-y, x, 0.0])
    moved = covariance @ slope.T
    return float(np.sqrt(ray @ covariance @ ray)), slope @ moved, moved


def _ends(
    camera: Camera, vertices: np.ndarray, sweep_m: np.ndarray, margin_m: float, nearest_m: float
) -> np.ndarray:
    """Pixels (N, 2) around a head that is moved by ``sweep_m`` (3,), and the other way.

    What moves along a line in the room does so in the image, but the nearer the larger: all that
    the head may look like on its way lies in the hull of these.
    """
    distance_m = vertices[:, 2].mean()
    # No nearer than a camera can see a head; a fisheye lens does as far as beside it.
    least_m = 0.0 if camera.fisheye else nearest_m
    ends = []
    for way_m in (sweep_m, -sweep_m):
        if way_m[2] < 0:
            way_m = way_m * np.clip((least_m - distance_m) / way_m[2], 0.0, 1.0)
        pixels, _ = camera.project_camera(vertices + way_m)
        margin_px = margin_m * camera.px_per_m((vertices + way_m).mean(axis=0))
        ends.append(pixels[:, None] + margin_px * _AROUND)
    ends = np.concatenate(ends).reshape(-1, 2)
    return ends[np.isfinite(ends).all(axis=1)]


def _covariances(head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of a head's place and turn, (3, 3); large ones when its own makes no sense."""
    covariance = np.asarray(head.covariance, dtype=np.float64)
    if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
        covariance = pose_covariance(UNKNOWN_SIGMA_M**2 * np.eye(3), UNKNOWN_TURN_DEG)
    covariance = (covariance + covariance.T) / 2
    return bounded(covariance[:3, :3]), bounded(covariance[3:, 3:])


def _axes(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations, ascending, and their directions (columns)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0.0)), vectors


def _turn_deg(camera: Camera, tf_world_head: np.ndarray) -> float:
    """Angle between the direction of the face and the direction to the camera, degrees."""
    to_camera = camera.center - tf_world_head[:3, 3]
    forward = tf_world_head[:3, 0]
    scale = np.linalg.norm(to_camera) * np.linalg.norm(forward)
    return float(np.degrees(np.arccos(np.clip(forward @ to_camera / max(scale, 1e-9), -1, 1))))


def _window(
    camera: Camera, vertices: np.ndarray, margin_px: float, ends_px: np.ndarray
) -> Window | None:
    """Window around a head, its margin and its ends, cut where it is far out of the image."""
    pixels, _ = camera.project_camera(vertices)
    if not np.isfinite(pixels).any():
        return None
    margin = int(np.ceil(margin_px)) + 1
    size = np.array([camera.width, camera.height])
    low = np.vstack([np.nanmin(pixels, axis=0) - margin, ends_px]).min(axis=0)
    high = np.vstack([np.nanmax(pixels, axis=0) + margin, ends_px]).max(axis=0)
    # A face that is out of the image reaches into it by its margin; who is unsure is covered from
    # his ends alone, which next to a camera may lie thousands of pixels out.
    beyond = 0 if len(ends_px) else margin
    low = np.clip(np.floor(low), -beyond, size + beyond)
    high = np.clip(np.ceil(high), -beyond, size + beyond)
    x, y = low.astype(int)
    width, height = (high - low).astype(int)
    if x >= camera.width or y >= camera.height or x + width <= 0 or y + height <= 0:
        return None
    step = max(1, -(-max(width, height) // _MAX_RAYS))
    return Window(int(x), int(y), -(-int(width) // step), -(-int(height) // step), step)


class Crop:
    """The pixels of a window: sampled grid to pixels, and the part that lies in the image."""

    def __init__(self, window: Window, camera: Camera):
        self.window = window
        width, height = window.columns * window.step, window.rows * window.step
        x0, y0 = max(window.x, 0), max(window.y, 0)
        x1, y1 = min(window.x + width, camera.width), min(window.y + height, camera.height)
        self.x, self.y = x0, y0
        self.inner = (slice(y0 - window.y, y1 - window.y), slice(x0 - window.x, x1 - window.x))
        self.outer = (slice(y0, y1), slice(x0, x1))

    def enlarge(self, grid: np.ndarray) -> np.ndarray:
        """Values of the samples at every pixel of the window."""
        step = self.window.step
        return grid if step == 1 else grid.repeat(step, axis=0).repeat(step, axis=1)

    def enlarge_colors(self, colors: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Colours at every pixel of the window, smooth between the samples that are known."""
        step = self.window.step
        if step == 1:
            return colors
        layers = np.dstack([colors * known[..., None], known.astype(np.float32)])
        layers = cv2.resize(layers, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
        return layers[..., :3] / np.maximum(layers[..., 3:], 1e-3)
