"""Which pixels of one image are replaced because a 3D head's face lies there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.face_claim import (
    FACE_CONFIDENCE,
    PROFILE_DEG,
    Seen,
    confidence,
)
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.named_face import named_box, named_face, relief_m
from disguisor_ros.core.occlusion import agreement, in_front, ruled_out
from disguisor_ros.core.posed_head import MUZZLE_M, Crop, PosedHead, pose_head
from disguisor_ros.core.rendering import Window, diffuse
from disguisor_ros.core.sightings import Sighting
from disguisor_ros.core.types import DepthView, Head, Region

#: Where a whole head is covered, what depth shows is left alone where it cannot be the head: this
#: many standard deviations nearer or farther than it should be, or that much higher or lower,
#: metres, and this far from all that may be the head, metres.
_SOUGHT_SIGMAS = 3.0
_SOUGHT_HEIGHT_M = 0.5
_SOUGHT_SAFETY_M = 0.04

#: Something hides a face when it is measured this far in front of it, metres: more than a mask,
#: glasses, a cap's brim or a hand at the chin stand out.
OCCLUDER_M = 0.06

#: ... and this many standard deviations of the head's distance.
OCCLUDER_SIGMAS = 3.0

#: Breathing masks narrow to so much of the face's own width.
_MUZZLE_WIDTH = 0.6

#: How much farther off a head's edge is than what is seen of it a pixel inside, metres.
_EDGE_M = 0.03

#: Two heads nearer to each other than this, metres, are one: only the surer claims a face.
_APART_M = 0.12

#: ... but neither is surer by less than this, as the ratio of their standard deviations.
_ALIKE = 0.7


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
        Neutral sRGB colours, 0 to 1, of the rendered head; none where it may be far off.
    drawn : ndarray, shape (h, w), bool, or None
        Where its skin is seen; ``drawing`` means nothing elsewhere.
    head : ndarray, shape (h, w), bool, or None
        Where the head lies, hair and cap included, before no nearer one; none where it may be far
        off.
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
    head: np.ndarray | None = None
    upper: np.ndarray | None = None
    lower: np.ndarray | None = None
    sigma_m: float = np.inf

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the image."""
        height, width = self.reach.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


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
        if (pose := pose_head(camera, head, sighting, template)) is not None
    ]  # fmt: skip
    posed.sort(key=lambda p: p.distance_m)
    twice = _twice(posed)
    nearest_m = np.full((camera.height, camera.width), np.inf, np.float32) if posed else None
    covers = []
    for k, one in enumerate(posed):
        hits = backend(camera, one.vertices, template.faces, one.window)
        crop = Crop(one.window, camera)
        surface_m = crop.enlarge(hits.depth_m)
        cover = _cover(camera, one, template, crop, hits, nearest_m, depth)
        if cover is not None:
            if k in twice:
                cover.region.confidence = min(cover.region.confidence, 0.9 * FACE_CONFIDENCE)
            known = hits.triangle >= 0
            colors = template.colors_masked if one.head.track_id in masked else template.colors
            shade = diffuse(one.normals, _lamp(camera.tf_camera_world[:3, 2]))
            if not one.unsure:
                drawing = hits.interpolate(colors * (shade / 255)[:, None], template.faces)
                cover.drawing = crop.enlarge_colors(drawing, known)[crop.inner]
                drawn = known & template.on_skin[hits.triangle]
                cover.drawn = crop.enlarge(drawn)[crop.inner]
                before = surface_m[crop.inner] <= nearest_m[crop.outer]
                cover.head = crop.enlarge(known)[crop.inner] & before
            lower = crop.enlarge(known & template.on_mask[hits.triangle])[crop.inner]
            cover.lower = lower & cover.upper
            cover.upper &= ~lower
            covers.append(cover)
        behind = nearest_m[crop.outer]
        np.minimum(behind, surface_m[crop.inner], out=behind)
    return covers[::-1]


def _twice(posed: list[PosedHead]) -> set[int]:
    """Heads where a surer one stands already: somebody who is tracked twice.

    Of two that are about as sure it is always the elder (tracks are numbered in order), or the
    face would change hands from image to image.
    """
    places = np.array([p.head.tf_world_head[:3, 3] for p in posed]).reshape(-1, 3)
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    out = set()
    for a, b in zip(*np.nonzero(np.triu(apart < _APART_M, 1)), strict=True):
        sigma_a, sigma_b = posed[a].sigma_m, posed[b].sigma_m
        if min(sigma_a, sigma_b) > _ALIKE * max(sigma_a, sigma_b):
            a_stays = posed[a].head.track_id <= posed[b].head.track_id
        else:
            a_stays = sigma_a < sigma_b
        out.add(int(b if a_stays else a))
    return out


def _cover(
    camera, one: PosedHead, template, crop: Crop, hits, nearest_m, depth
) -> Cover | None:
    """Grow a rendered face by its margin, take out what hides it, and describe the region."""
    face = crop.enlarge((hits.triangle >= 0) & template.on_face[hits.triangle])
    surface_m = crop.enlarge(hits.depth_m)
    reach = _also_moved(_reach(camera, one, template, crop, hits), one.sighting.shift_px)
    if not reach.any():
        return None
    hidden, measured = np.zeros_like(face), 0.0
    if depth is not None and np.isfinite(one.along_m):
        whole = Window(crop.window.x, crop.window.y, *face.shape[::-1])
        margin_m = OCCLUDER_M + OCCLUDER_SIGMAS * one.along_m
        measured = agreement(depth, camera, whole, np.where(face, surface_m, np.inf), margin_m)
        if one.unsure:
            front_m = np.full_like(surface_m, one.distance_m - template.radius)
        else:
            side = 2 * int(np.ceil(one.margin_px)) + 1
            front_m = cv2.erode(surface_m, np.ones((side, side), np.uint8))
        front_m[~reach] = np.inf
        hidden = in_front(depth, camera, whole, front_m, margin_m)
        if one.unsure:
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


def _reach(camera, one: PosedHead, template, crop: Crop, hits) -> np.ndarray:
    """All pixels of the window that a face may take up, wherever it is within its margin."""
    known = hits.triangle >= 0
    head = crop.enlarge(known)
    if one.unsure:
        return _hull(one.ends_px - (crop.window.x, crop.window.y), head.shape)
    # Of a head that is turned a little more the face reaches farther over it, not beyond its edge.
    on_sought = template.from_face_m <= one.turned_m
    sought = crop.enlarge(known & on_sought[hits.triangle])
    if not sought.any():
        return sought
    away = cv2.distanceTransform((~sought).astype(np.uint8), cv2.DIST_L2, 3)
    reach = away <= one.margin_px + 0.5 * crop.window.step
    muzzle = _muzzle(camera, one, template, crop, head.shape)
    # Behind the back of a head nothing of it is seen.
    return reach | (muzzle if one.turn_deg < PROFILE_DEG else muzzle & ~head)


def _hull(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Convex hull of points (N, 2) as a mask."""
    out = np.zeros(shape, np.uint8)
    points = np.rint(np.clip(points, -16384, 16384)).astype(np.int32)
    cv2.fillConvexPoly(out, cv2.convexHull(points), 1)
    return out.astype(bool)


def _claim(region, camera, one: PosedHead, template, crop, hits, face, visible, measured) -> None:
    """Give a region its box and its confidence.

    ``visible`` is the visible face in the whole window: what lies just out of the image by 3D
    may lie in it by 2D.
    """
    if not visible[crop.inner].any():
        return
    size = np.array([camera.width, camera.height], dtype=np.float64)
    box = named_box(*_named(camera, one, template, hits, visible), size, crop.window.step)
    if box is not None:
        region.box = box
    pixels, _ = camera.project_camera(one.vertices[template.face][::4])
    outline = cv2.contourArea(cv2.convexHull(np.nan_to_num(pixels).astype(np.float32)))
    count = np.count_nonzero(visible[crop.inner])
    region.confidence = confidence(
        Seen(
            own=one.head.confidence, face_score=one.sighting.face_score,
            detected=one.sighting.detection >= 0, turn_deg=one.turn_deg,
            distance_m=one.distance_m, sigma_m=one.sigma_m, aside_m=one.aside_m,
            measured=measured,
            shown=count / max(np.count_nonzero(face), 1), share=count / max(outline, 1.0),
            narrow_m=region.box[2:].min() / one.px_per_m,
        )
    )  # fmt: skip


def _named(
    camera, one: PosedHead, template, hits, visible
) -> tuple[np.ndarray, np.ndarray]:
    """Samples (P, 2) and corners (C, 2) of a face for :func:`named_box`, where 2D has it."""
    window, named = one.window, named_face(template)
    within = named.within(one.eye(camera))
    middle = slice(window.step // 2, None, window.step)
    visible = visible[middle, middle]
    row, column = np.nonzero(visible)
    # Interpolated between the vertices: how far within the face, and how far forward in the head.
    values = np.stack([within, named.places[:, 0]], axis=-1).astype(np.float32)
    corner = values[template.faces[hits.triangle[row, column]]]
    inside, forward_m = np.einsum("nk,nkc->cn", hits.weights[row, column], corner)
    inside = inside > 0
    seen = window.to_pixels(np.stack([column, row], axis=-1)[inside])
    seen = seen + relief_m(forward_m[inside, None]) * one.forward_px
    # A corner is visible when a sample beside it is that shows the head at its distance.
    near_m = np.where(visible, hits.depth_m, np.float32(0))
    near_m = cv2.dilate(near_m, np.ones((3, 3), np.uint8)) + _EDGE_M
    corners = named.corners(np.column_stack([one.vertices, named.places[:, 0]]), within)
    depth_m, forward_m = corners[:, 2], corners[:, 3:]
    cells = window.cells_of(camera, corners[:, :2] / np.maximum(depth_m, 1e-3)[:, None])
    column, row = np.clip(np.rint(cells), 0, np.subtract(visible.shape[::-1], 1)).astype(int).T
    shown = depth_m < near_m[row, column]
    corners = window.to_pixels(cells[shown]) + relief_m(forward_m[shown]) * one.forward_px
    return seen + one.sighting.likely_px, corners + one.sighting.likely_px


def _muzzle(camera, one: PosedHead, template, crop: Crop, shape) -> np.ndarray:
    """Pixels of the window that a breathing mask may take up, shape ``shape``, bool."""
    front = template.mask & (template.vertices[:, 0] > 0.6 * template.vertices[:, 0].max())
    base = one.vertices[front][::8]
    center = base.mean(axis=0)
    tip = center + _MUZZLE_WIDTH * (base - center) + MUZZLE_M * one.forward
    pixels, _ = camera.project_camera(np.concatenate([base, tip]))
    if not np.isfinite(pixels).all():
        return np.zeros(shape, bool)
    return _hull(pixels - (crop.window.x, crop.window.y), shape)


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
    """Outline of the True pixels of a mask at (x, y), shape (N, 2); their hull when in pieces.

    N is at least 3: a single pixel, or a line of them, is a polygon that goes there and back.
    """
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    if len(contours) > 1:
        contours = [cv2.convexHull(np.concatenate(contours))]
    outline = contours[0].reshape(-1, 2)
    outline = outline[np.arange(max(3, len(outline))) % len(outline)]
    return outline.astype(np.float64) + (x, y)
