"""Which pixels of one image are replaced because a 3D head's face lies there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import bounded, largest_sigma
from disguisor_ros.core.face_claim import (
    FACE_CONFIDENCE,
    PROFILE_DEG,
    Seen,
    confidence,
    named_box,
    relief,
)
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.occlusion import agreement, in_front, ruled_out
from disguisor_ros.core.rendering import Window, diffuse
from disguisor_ros.core.sightings import Sighting
from disguisor_ros.core.types import DepthView, Head, Region

#: Cover reaches this far around the face, metres: what the template's face may be too small.
MARGIN_M = 0.005

#: ... and this many standard deviations of the head's position across the view, up to a limit,
#: metres: one for people whom some camera sees, one for those whom none does.
MARGIN_SIGMAS = 1.7
MAX_MARGIN_M = 0.30
MAX_MARGIN_UNSEEN_M = 0.60

#: Of a face that is turned away an edge is seen, which a small error of the turn moves far over
#: the head: so much more is covered then, metres, between these angles, degrees.
TURNED_M = 0.006
_TURNED_DEG = (80.0, 110.0)

#: Standard deviation of the place, metres, from which the whole head is covered and not only its
#: face: who is that badly known may be turned any way.
UNSURE_SIGMA_M = 0.06

#: ... and from which the whole side of a head is covered that is turned away by so much, degrees:
#: such heads were seen turned by 30 degrees more than they are, and a cheek left open.
DOUBT_SIGMA_M = 0.012
_DOUBT_DEG = 80.0

#: Then what depth shows is left alone where it cannot be the head: this many standard deviations
#: nearer or farther than it should be, or that much higher or lower, metres, and this far from
#: all that may be the head, metres.
_SOUGHT_SIGMAS = 3.0
_SOUGHT_HEIGHT_M = 0.5
_SOUGHT_SAFETY_M = 0.04

#: Something hides a face when it is measured this far in front of it, metres: more than a mask,
#: glasses, a cap's brim or a hand at the chin stand out.
OCCLUDER_M = 0.06

#: ... and this many standard deviations of the head's distance.
OCCLUDER_SIGMAS = 3.0

#: Breathing masks and respirators stand out before mouth and nose, metres, and narrow to so much
#: of the face's own width.
MUZZLE_M = 0.05
_MUZZLE_WIDTH = 0.6

#: Standard deviation, metres, of a head whose own covariance is none.
UNKNOWN_SIGMA_M = 0.1

#: A head's window is found from every so many of its vertices, which miss at most so much, metres.
_SPARSE = 16
_SPARSE_M = 0.01

#: Largest number of rays along a side of a head; larger heads are sampled more coarsely.
_MAX_RAYS = 160

#: Two heads nearer to each other than this, metres, are one: only the surer claims a face.
_APART_M = 0.12


@dataclass
class Cover:
    """Pixels of one image that must not be seen, and what is drawn there.

    Parameters
    ----------
    x, y : int
        Top left pixel; the arrays below lie wholly in the image.
    reach : ndarray, shape (h, w), bool
        All pixels that the face may take up, also those that something hides.
    replaced : ndarray, shape (h, w), bool
        ``reach`` without what is measured in front of the face.
    drawing : ndarray, shape (h, w, 3), float32, or None
        Neutral sRGB colours, 0 to 1, of the rendered head.
    drawn : ndarray, shape (h, w), bool, or None
        Where the rendered head is; ``drawing`` means nothing elsewhere.
    upper, lower : ndarray, shape (h, w), bool, or None
        Visible face above, and where, a surgical mask would lie.
    sigma_m : float
        Standard deviation of the position of the head, metres.
    region : Region
    """

    x: int
    y: int
    reach: np.ndarray
    replaced: np.ndarray
    region: Region
    drawing: np.ndarray | None = None
    drawn: np.ndarray | None = None
    upper: np.ndarray | None = None
    lower: np.ndarray | None = None
    sigma_m: float = np.inf

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the image."""
        height, width = self.reach.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


@dataclass
class _Posed:
    """A head in one camera's frame, with the window that it takes up in the image.

    ``sigma_m`` is the standard deviation in the worst direction of all, ``along_m`` that along
    the view and ``aside_m`` the worst across it. ``margin_px`` is how far the cover reaches around
    the face, ``sweep_px`` (2,) how much farther in one direction of the image, both ways.
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
    margin_px: float
    sweep_px: np.ndarray
    px_per_m: float
    window: Window
    forward: np.ndarray

    @property
    def forward_px(self) -> np.ndarray:
        """Pixels across the image for a metre out of the face, shape (2,)."""
        return self.forward[:2] * self.px_per_m


def cover_heads(
    camera: Camera,
    heads: list[Head],
    template: HeadTemplate,
    backend,
    sightings: list[Sighting],
    depth: DepthView | None = None,
    masked: frozenset[int] = frozenset(),
) -> list[Cover]:
    """Cover the faces of 3D heads in one image, pixel by pixel.

    Parameters
    ----------
    camera : Camera
        Of the image.
    heads : list of Head
        Malformed heads (not finite) are drawn as the template at their pose, or left out when
        that is malformed too.
    template : HeadTemplate
        Its topology is that of the heads' vertices.
    backend : callable
        See :func:`disguisor_ros.core.rendering.make_backend`.
    sightings : list of Sighting
        What 2D says of each head.
    depth : DepthView, optional
        Of the same instant; without it nothing counts as an occluder.
    masked : frozenset of int
        Tracks that are drawn with a surgical mask.

    Returns
    -------
    list of Cover
        From far to near: what is near is to be drawn over what is far. Heads whose face the
        camera cannot see have none.
    """
    posed = [
        pose for head, sighting in zip(heads, sightings, strict=True)
        if (pose := _pose(camera, head, sighting, template)) is not None
    ]  # fmt: skip
    posed.sort(key=lambda p: p.distance_m)
    twice = _twice(posed)
    nearest_m = np.full((camera.height, camera.width), np.inf, np.float32) if posed else None
    covers = []
    for k, one in enumerate(posed):
        hits = backend(camera, one.vertices, template.faces, one.window)
        crop = _Crop(one.window, camera)
        surface_m = crop.enlarge(hits.depth_m)
        cover = _cover(camera, one, template, crop, hits, nearest_m, depth)
        if cover is not None:
            if k in twice:
                cover.region.confidence = min(cover.region.confidence, 0.9 * FACE_CONFIDENCE)
            known = hits.triangle >= 0
            colors = template.colors_masked if one.head.track_id in masked else template.colors
            shade = diffuse(one.normals, _lamp(camera.tf_camera_world[:3, 2]))
            drawing = hits.interpolate(colors * (shade / 255)[:, None], template.faces)
            cover.drawing = crop.enlarge_colors(drawing, known)[crop.inner]
            cover.drawn = crop.enlarge(known)[crop.inner]
            lower = crop.enlarge(known & template.on_mask[hits.triangle])[crop.inner]
            cover.lower = lower & cover.upper
            cover.upper &= ~lower
            covers.append(cover)
        behind = nearest_m[crop.outer]
        np.minimum(behind, surface_m[crop.inner], out=behind)
    return covers[::-1]


def _pose(
    camera: Camera, head: Head, sighting: Sighting, template: HeadTemplate
) -> _Posed | None:
    """Bring a head into the camera's frame; None when it cannot be seen or makes no sense."""
    tf_world_head = np.asarray(head.tf_world_head, dtype=np.float64)
    if tf_world_head.shape != (4, 4) or not np.isfinite(tf_world_head).all():
        return None
    vertices = np.asarray(head.vertices, dtype=np.float64)
    if vertices.shape != template.vertices.shape or not np.isfinite(vertices).all():
        vertices = template.place(tf_world_head)
    vertices = camera.to_camera(vertices)
    distance_m = float(vertices[:, 2].mean())
    if distance_m < template.radius:
        return None
    focal = camera.matrix[0, 0]
    turn_deg = _turn_deg(camera, tf_world_head)
    px_per_m = focal / distance_m
    along_m, across = _spread(camera, head, vertices.mean(axis=0))
    if sighting.detection >= 0:
        # Where this image itself shows the head, only the distance from the camera can be far off.
        across = bounded(across, most=UNSURE_SIGMA_M)
    (thin_m, aside_m), directions = _axes(across)
    turned_m = TURNED_M * np.interp(turn_deg, _TURNED_DEG, (0.0, 1.0))
    if aside_m <= UNSURE_SIGMA_M:
        thin_m = aside_m
    most_m = MAX_MARGIN_UNSEEN_M if head.method == "predicted" else MAX_MARGIN_M
    thin_m, wide_m = (
        min(MARGIN_M + turned_m + MARGIN_SIGMAS * sigma_m, most_m)
        for sigma_m in (thin_m, aside_m)
    )
    margin_px = max(thin_m * px_per_m, 1.0)
    sweep_px = (wide_m - thin_m) * px_per_m * directions[:, 1]
    around_px = max(margin_px, MUZZLE_M * px_per_m) + np.abs(sweep_px).max()
    around_px += np.abs(sighting.shift_px).max() + _SPARSE_M * px_per_m
    window = _window(camera, vertices[::_SPARSE], around_px)
    if window is None:
        return None
    rotation = camera.tf_camera_world[:3, :3] @ tf_world_head[:3, :3]
    normals = template.normals @ rotation.T.astype(np.float32)
    return _Posed(
        head, sighting, vertices, normals, distance_m, turn_deg, _sigma_m(head), along_m, aside_m,
        margin_px, sweep_px, px_per_m, window, rotation[:, 0],
    )  # fmt: skip


def _spread(camera: Camera, head: Head, center: np.ndarray) -> tuple[float, np.ndarray]:
    """How far off a head may be in one view.

    Parameters
    ----------
    center : ndarray, shape (3,), metres, camera frame
        Of the head.

    Returns
    -------
    along_m : float
        Standard deviation along the ray, metres.
    across : ndarray, shape (2, 2), square metres
        Covariance along x and y of the image, at the distance of the head.
    """
    rotation = camera.tf_camera_world[:3, :3]
    covariance = rotation @ _covariance(head) @ rotation.T
    ray = center / np.linalg.norm(center)
    slope = np.array([[1.0, 0.0, -ray[0] / ray[2]], [0.0, 1.0, -ray[1] / ray[2]]])
    return float(np.sqrt(ray @ covariance @ ray)), slope @ covariance @ slope.T


def _covariance(head: Head) -> np.ndarray:
    """Covariance of a head's place, shape (3, 3); a large one when its own makes no sense."""
    covariance = np.asarray(head.covariance, dtype=np.float64)
    if covariance.shape != (3, 3) or not np.isfinite(covariance).all():
        return UNKNOWN_SIGMA_M**2 * np.eye(3)
    return bounded((covariance + covariance.T) / 2)


def _sigma_m(head: Head) -> float:
    return largest_sigma(_covariance(head))


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


def _window(camera: Camera, vertices: np.ndarray, margin_px: float) -> Window | None:
    """Window around a head and its margin, cut where it is out of the image by more than that."""
    pixels, _ = camera.project_camera(vertices)
    if not np.isfinite(pixels).any():
        return None
    margin = int(np.ceil(margin_px)) + 1
    size = np.array([camera.width, camera.height])
    low = np.clip(np.floor(np.nanmin(pixels, axis=0)) - margin, -margin, size + margin)
    high = np.clip(np.ceil(np.nanmax(pixels, axis=0)) + margin, -margin, size + margin)
    x, y = low.astype(int)
    width, height = (high - low).astype(int)
    if x >= camera.width or y >= camera.height or x + width <= 0 or y + height <= 0:
        return None
    step = max(1, -(-max(width, height) // _MAX_RAYS))
    return Window(int(x), int(y), -(-int(width) // step), -(-int(height) // step), step)


class _Crop:
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


def _twice(posed: list[_Posed]) -> set[int]:
    """Heads where a surer one stands already: somebody who is tracked twice."""
    places = np.array([p.head.tf_world_head[:3, 3] for p in posed]).reshape(-1, 3)
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    order = np.argsort([p.sigma_m for p in posed], kind="stable")
    return {
        int(b) for i, a in enumerate(order) for b in order[i + 1 :] if apart[a, b] < _APART_M
    }


def _cover(
    camera, one: _Posed, template, crop: _Crop, hits, nearest_m, depth
) -> Cover | None:
    """Grow a rendered face by its margin, take out what hides it, and describe the region."""
    known = hits.triangle >= 0
    face = crop.enlarge(known & template.on_face[hits.triangle])
    sought = face
    if one.aside_m > UNSURE_SIGMA_M:
        sought = crop.enlarge(known)
    elif one.sigma_m > DOUBT_SIGMA_M and one.turn_deg > _DOUBT_DEG:
        sought = crop.enlarge(known & template.on_front[hits.triangle])
    if not sought.any():
        return None
    surface_m = crop.enlarge(hits.depth_m)
    reach = _reach(camera, one, template, crop, sought, np.isfinite(surface_m))
    hidden, measured = np.zeros_like(face), 0.0
    if depth is not None:
        whole = Window(crop.window.x, crop.window.y, *face.shape[::-1])
        margin_m = OCCLUDER_M + OCCLUDER_SIGMAS * one.along_m
        measured = agreement(depth, camera, whole, np.where(face, surface_m, np.inf), margin_m)
        side = 2 * int(np.ceil(one.margin_px + np.abs(one.sweep_px).max())) + 1
        front_m = cv2.erode(surface_m, np.ones((side, side), np.uint8))
        front_m[~reach] = np.inf
        hidden = in_front(depth, camera, whole, front_m, margin_m)
        if one.aside_m > UNSURE_SIGMA_M:
            center = np.asarray(one.head.tf_world_head, dtype=np.float64)[:3, 3]
            along_m = template.radius + _SOUGHT_SIGMAS * one.along_m
            reach &= ~ruled_out(
                depth, camera, whole, center, along_m, _SOUGHT_HEIGHT_M, _SOUGHT_SAFETY_M
            )
    replaced = (reach & ~hidden)[crop.inner]
    if not replaced.any():
        return None
    visible = face & ~hidden
    inner = visible[crop.inner]
    if one.head.confidence >= FACE_CONFIDENCE:
        inner &= surface_m[crop.inner] <= nearest_m[crop.outer]
    region = Region(
        box=tight_box(inner if inner.any() else replaced, crop.x, crop.y),
        polygon=outline_of(replaced, crop.x, crop.y), track_id=one.head.track_id, method="mesh",
        confidence=0.0,
    )  # fmt: skip
    _claim(region, camera, one, template, crop, hits, face, visible, measured)
    return Cover(
        crop.x, crop.y, reach[crop.inner], replaced, region, upper=inner, sigma_m=one.sigma_m
    )


def _reach(camera, one: _Posed, template, crop: _Crop, sought, head) -> np.ndarray:
    """All pixels of the window that a face may take up, wherever it is within its margin."""
    away = cv2.distanceTransform((~sought).astype(np.uint8), cv2.DIST_L2, 3)
    reach = away <= one.margin_px + 0.5 * crop.window.step
    if np.abs(one.sweep_px).max() >= 1:
        reach = _swept(reach, one.sweep_px)
    muzzle = _muzzle(camera, one, template, crop, sought.shape)
    # Behind the back of a head nothing of it is seen.
    reach |= muzzle if one.turn_deg < PROFILE_DEG else muzzle & ~head
    return _also_moved(reach, one.sighting.shift_px)


def _swept(mask: np.ndarray, sweep_px: np.ndarray) -> np.ndarray:
    """Hull of a mask that is moved by up to ``sweep_px`` (2,), both ways."""
    outline = outline_of(mask)
    ends = np.rint(np.concatenate([outline - sweep_px, outline + sweep_px])).astype(np.int32)
    out = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(out, cv2.convexHull(ends), 1)
    return out.astype(bool)


def _claim(region, camera, one: _Posed, template, crop, hits, face, visible, measured) -> None:
    """Give a region its box and its confidence.

    ``visible`` is the visible face in the whole window: what lies just out of the image by 3D
    may lie in it by 2D.
    """
    if not visible[crop.inner].any():
        return
    corner = (crop.window.x, crop.window.y) + one.sighting.likely_px
    size = np.array([camera.width, camera.height], dtype=np.float64)
    relief_m = np.where(visible, crop.enlarge(relief(template)[hits.triangle]), np.nan)
    box = named_box(relief_m, corner, one.forward_px, size)
    if box is not None:
        region.box = box
    pixels, _ = camera.project_camera(one.vertices[template.face][::4])
    outline = cv2.contourArea(cv2.convexHull(np.nan_to_num(pixels).astype(np.float32)))
    count = np.count_nonzero(visible[crop.inner])
    region.confidence = confidence(
        Seen(
            own=one.head.confidence, face_score=one.sighting.face_score,
            detected=one.sighting.detection >= 0, turn_deg=one.turn_deg,
            distance_m=one.distance_m, sigma_m=one.sigma_m, measured=measured,
            shown=count / max(np.count_nonzero(face), 1), share=count / max(outline, 1.0),
            narrow_m=region.box[2:].min() / one.px_per_m,
        )
    )  # fmt: skip


def _muzzle(camera, one: _Posed, template, crop: _Crop, shape) -> np.ndarray:
    """Pixels of the window that a breathing mask may take up, shape ``shape``, bool."""
    front = template.mask & (template.vertices[:, 0] > 0.6 * template.vertices[:, 0].max())
    base = one.vertices[front][::8]
    center = base.mean(axis=0)
    tip = center + _MUZZLE_WIDTH * (base - center) + MUZZLE_M * one.forward
    pixels, _ = camera.project_camera(np.concatenate([base, tip]))
    out = np.zeros(shape, np.uint8)
    if np.isfinite(pixels).all():
        pixels = np.rint(pixels - (crop.window.x, crop.window.y)).astype(np.int32)
        cv2.fillConvexPoly(out, cv2.convexHull(np.clip(pixels, -4096, 4096)), 1)
    return out.astype(bool)


def _also_moved(mask: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """A mask and its copy at an offset: 3D and this image's 2D may disagree on a face."""
    x, y = np.rint(shift_px).astype(int)
    if x == 0 and y == 0:
        return mask
    move = np.array([[1, 0, x], [0, 1, y]], dtype=np.float32)
    moved = cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1], flags=cv2.INTER_NEAREST)
    return mask | (moved > 0)


def _lamp(up: np.ndarray) -> np.ndarray:
    """Direction of the light in the camera frame: from above, and a little from the camera."""
    light = up + np.array([0.0, 0.0, -0.5])
    return light / np.linalg.norm(light)


def tight_box(mask: np.ndarray, x: int = 0, y: int = 0) -> np.ndarray:
    """Smallest box (x, y, width, height) around the True pixels of a mask at (x, y), float64."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array(
        [x + columns[0], y + rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1], dtype=np.float64
    )


def outline_of(mask: np.ndarray, x: int = 0, y: int = 0) -> np.ndarray:
    """Outline of the True pixels of a mask at (x, y), shape (N, 2); their hull when in pieces."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    if len(contours) > 1:
        contours = [cv2.convexHull(np.concatenate(contours))]
    return contours[0].reshape(-1, 2).astype(np.float64) + (x, y)
