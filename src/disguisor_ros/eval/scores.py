"""What an anonymized image is worth, measured against the truth: plain functions on arrays.

A pixel counts as *changed* when any channel differs from the input. A pixel of a face counts as
*replaced* when it changed, or when two thirds of its 5x5 neighbourhood did (the same value came
back by coincidence); what a tool declares is never taken on trust. A face whose changed pixels
still show the original (more than 90 % of its variance explained: re-encoded, slightly filtered)
counts as not replaced at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from disguisor_ros.core.boxes import box_iou
from disguisor_ros.core.types import Region

#: A face view is scored one by one when at least this share of the face is visible ...
MIN_VISIBILITY = 0.1
#: ... and at least this many pixels. Smaller slivers count in ``face_pixels_covered`` only.
MIN_PIXELS = 20
#: Overlap of a replaced region with the true box from which the face counts as found.
MIN_IOU = 0.4
#: Declared regions below this confidence are precautions: pixels count, but no face is claimed.
MIN_CLAIM = 0.5
#: Coverage from which nothing identifying is left.
COVERED = 0.95
#: Share of variance explained by the input above which a changed face is still the same picture.
KEPT = 0.9


@dataclass(frozen=True)
class Face:
    """The truth about one face in one image.

    Parameters
    ----------
    person : int
        Its value in the label image.
    box, box_full : sequence of 4 numbers
        x, y, width, height of the visible part, and of the whole face, pixels.
    visible_pixels : int
    visibility : float
        Share of the face that is visible, 0 to 1.
    yaw_deg : float
        Angle between the direction of the face and the direction to the camera.
    """

    person: int
    box: tuple
    box_full: tuple
    visible_pixels: int
    visibility: float
    yaw_deg: float

    @property
    def scored(self) -> bool:
        """Whether enough is visible for the face to be looked for at all."""
        return self.visibility >= MIN_VISIBILITY and self.visible_pixels >= MIN_PIXELS


@dataclass
class FaceScore:
    """How one face came out of one image."""

    face: Face
    covered_pixels: int
    coverage: float
    iou: float
    found: bool
    detail_left: float
    region_box: np.ndarray | None


@dataclass
class ImageScore:
    """How one image came out. Counts are of pixels unless they say otherwise."""

    camera: str
    index: int
    faces: list[FaceScore]
    regions_right: int
    regions_wrong: int
    precautions: int
    nonface: int
    nonface_changed: int
    nonface_squared_error: float
    nonface_ssim_loss: float
    outside_changed: int


def match(iou: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of a matrix of overlaps, one to one, best first; see MIN_IOU.

    Parameters
    ----------
    iou : ndarray, shape (N, M)
    """
    pairs = []
    iou = np.array(iou, dtype=np.float64)
    while iou.size and iou.max() >= MIN_IOU:
        row, column = np.unravel_index(np.argmax(iou), iou.shape)
        pairs.append((int(row), int(column)))
        iou[row], iou[:, column] = -1.0, -1.0
    return pairs


def changed_pixels(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Pixels that differ in any channel, shape (H, W), bool."""
    if before.shape != after.shape:
        raise ValueError(f"before, after must be of one shape, got {before.shape}, {after.shape}")
    different = before != after
    return different[..., 0] | different[..., 1] | different[..., 2]  # much faster than any()


def replaced_pixels(changed: np.ndarray) -> np.ndarray:
    """Pixels that changed, or whose 5x5 neighbourhood did by two thirds; shape (H, W), bool."""
    share = cv2.boxFilter(
        changed.astype(np.float32), -1, (5, 5), borderType=cv2.BORDER_REPLICATE
    )
    return changed | (share > 2 / 3)


def region_mask(regions: list[Region], shape: tuple[int, int]) -> np.ndarray:
    """Pixels inside the declared regions: their polygons, else their boxes; shape (H, W), bool."""
    mask = np.zeros(shape, dtype=np.uint8)
    for region in regions:
        fill_region(mask, region)
    return mask.astype(bool)


def fill_region(mask: np.ndarray, region: Region) -> None:
    """Set the pixels of a region to 1 in ``mask``, shape (H, W), uint8."""
    if len(region.polygon) >= 3:
        corners = np.round(region.polygon).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1)
    else:
        x, y, width, height = np.round(region.box).astype(int)
        mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = 1


def region_boxes(changed: np.ndarray, regions: list[Region]) -> np.ndarray:
    """Boxes in which an image claims that a face was replaced.

    A declared region gives its own box when it claims a face (:data:`MIN_CLAIM`) and at least a
    quarter of its pixels changed (an outline may span occluders), else nothing. Changed pixels
    that no region declares give one box for each connected component of at least
    :data:`MIN_PIXELS` pixels.

    Parameters
    ----------
    changed : ndarray, shape (H, W), bool
    regions : list of Region

    Returns
    -------
    ndarray, shape (N, 4)
    """
    boxes = []
    undeclared = changed.astype(np.uint8)
    for region in regions:
        mask = np.zeros(changed.shape, dtype=np.uint8)
        fill_region(mask, region)
        inside = mask.astype(bool)
        claims = region.confidence >= MIN_CLAIM
        if claims and inside.any() and changed[inside].mean() >= 0.25:
            boxes.append(np.asarray(region.box, dtype=np.float64))
        undeclared[inside] = 0
    if undeclared.any():
        closed = cv2.morphologyEx(undeclared, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
        boxes.extend(row[:4].astype(np.float64) for row in stats[1:] if row[4] >= MIN_PIXELS)
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def kept_share(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the variance of pixels that the input still explains; 1 is the same picture.

    Parameters
    ----------
    before, after : ndarray, shape (N, 3), uint8
    """
    before, after = before.astype(np.float64), after.astype(np.float64)
    total = ((before - before.mean(axis=0)) ** 2).sum()
    return float(1.0 - ((after - before) ** 2).sum() / total) if total > 0 else 0.0


def detail_left(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """Gain at which the input's fine detail is still in the output, 0 (none) to 1 (all).

    Least-squares gain of the output's high-pass luminance (finer than a sixth of the face) on the
    input's, over the masked pixels. Detail that both share by nature (a brow where a brow was)
    counts too, so a good neutral face does not reach exactly 0.

    Parameters
    ----------
    before, after : ndarray, shape (H, W, 3), uint8
    mask : ndarray, shape (H, W), bool
    """
    sigma = max(1.0, np.sqrt(mask.sum()) / 6.0)
    first, second = (
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (before, after)
    )
    first, second = (image - cv2.GaussianBlur(image, (0, 0), sigma) for image in (first, second))
    energy = float((first[mask] ** 2).sum())
    return float(np.clip((first[mask] * second[mask]).sum() / energy, 0, 1)) if energy else 0.0


def score_image(
    camera: str,
    index: int,
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    faces: list[Face],
    regions: list[Region],
) -> ImageScore:
    """Hold one image against its truth.

    Parameters
    ----------
    camera : str
    index : int
        Of the multi-view frame.
    before, after : ndarray, shape (H, W, 3), uint8, RGB
    labels : ndarray, shape (H, W), uint8
        Person whose visible face a pixel shows; 0 for none.
    faces : list of Face
    regions : list of Region
        What the tool declares; may be empty.
    """
    changed = changed_pixels(before, after)
    boxes = region_boxes(changed, regions)
    replaced = replaced_pixels(changed)
    scores = [_score_face(before, after, labels, changed, replaced, face) for face in faces]
    scored = [score for score in scores if score.face.scored]
    slivers = [score for score in scores if not score.face.scored and score.face.visible_pixels]
    used = set()
    for row, column in match(_face_iou(scored, boxes)):
        used.add(column)
        scored[row].iou = float(_face_iou([scored[row]], boxes[column]).item())
        scored[row].region_box = boxes[column]
        scored[row].found |= scored[row].coverage > 0
    rest = [column for column in range(len(boxes)) if column not in used]
    neutral = _face_iou(slivers, boxes[rest]).max(axis=0, initial=0.0) >= MIN_IOU
    nonface = labels == 0
    outside = changed & ~region_mask(regions, changed.shape) if regions else changed
    difference = before.astype(np.float32)[changed & nonface] - after[changed & nonface]
    return ImageScore(
        camera=camera,
        index=index,
        faces=scores,
        regions_right=len(used),
        regions_wrong=int((~neutral).sum()),
        precautions=sum(region.confidence < MIN_CLAIM for region in regions),
        nonface=int(nonface.sum()),
        nonface_changed=int((changed & nonface).sum()),
        nonface_squared_error=float((difference.astype(np.float64) ** 2).sum()),
        nonface_ssim_loss=_ssim_loss(before, after, changed, nonface),
        outside_changed=int(outside.sum()),
    )


def _score_face(before, after, labels, changed, replaced, face: Face) -> FaceScore:
    x, y, width, height = (round(value) for value in face.box)
    crop = np.s_[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    mask = labels[crop] == face.person
    touched = mask & changed[crop]
    covered = int((mask & replaced[crop]).sum())
    if touched.any() and kept_share(before[crop][touched], after[crop][touched]) > KEPT:
        covered = 0
    coverage = covered / max(int(mask.sum()), 1)
    detail = detail_left(before[crop], after[crop], mask) if face.scored and mask.any() else 0.0
    return FaceScore(face, covered, coverage, 0.0, coverage >= COVERED, detail, None)


def _face_iou(scores: list[FaceScore], boxes: np.ndarray) -> np.ndarray:
    """Overlap of faces with boxes: the better one of visible part and whole face."""
    visible = np.array([score.face.box for score in scores], dtype=np.float64)
    whole = np.array([score.face.box_full for score in scores], dtype=np.float64)
    return np.maximum(box_iou(visible, boxes), box_iou(whole, boxes))


def _ssim_loss(before, after, changed, nonface) -> float:
    """Sum of 1 - SSIM over the non-face pixels (Wang et al. 2004, 11x11 Gaussian, luminance)."""
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not len(rows):
        return 0.0
    crop = np.s_[max(rows[0] - 8, 0) : rows[-1] + 9, max(columns[0] - 8, 0) : columns[-1] + 9]
    first, second = (
        cv2.cvtColor(image[crop], cv2.COLOR_RGB2GRAY).astype(np.float32)
        for image in (before, after)
    )

    def blur(image):
        return cv2.GaussianBlur(image, (11, 11), 1.5)

    mean_1, mean_2 = blur(first), blur(second)
    variance = blur(first**2) - mean_1**2 + blur(second**2) - mean_2**2
    covariance = blur(first * second) - mean_1 * mean_2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    ssim /= (mean_1**2 + mean_2**2 + c1) * (variance + c2)
    return float((1.0 - ssim)[nonface[crop]].sum(dtype=np.float64))
