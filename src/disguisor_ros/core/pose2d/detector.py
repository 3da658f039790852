"""Finding every person in one camera's image: the whole image, then where people must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disguisor_ros.core.assignment import assign
from disguisor_ros.core.boxes import box_iou
from disguisor_ros.core.detections import similarity
from disguisor_ros.core.pose2d.face_detector import FaceDetector, add_faces
from disguisor_ros.core.pose2d.families import Candidates, PoseModel, load_model
from disguisor_ros.core.pose2d.onnx_session import check_image

#: Two poses at least this alike (object keypoint similarity) are one person.
SAME_PERSON_OKS = 0.5

#: Overlap from which a pose explains a region.
REGION_IOU = 0.3

#: Part of their size by which tiles overlap, and by which a region is enlarged on every side.
OVERLAP = 0.25
MARGIN = 0.25


class PoseDetector:
    """Finds people in images of one camera.

    The whole image is looked at once. Regions in which people are known to be, and in which
    nobody was found, are looked at again enlarged, and there half the score is enough.

    Parameters
    ----------
    model : PoseModel
        The network.
    side : int
        Longer side to which each look at the image is scaled, pixels; 0 for the one that suits
        the network. Networks of fixed input size ignore it.
    tiles : int
        Also look at ``tiles`` x ``tiles`` overlapping parts of the image; 1 for none. Finds
        people who are small in a large image, at ``tiles`` squared times the cost.
    faces : FaceDetector, optional
        Faces that no pose has are added as poses of a head only.
    """

    def __init__(
        self,
        model: PoseModel,
        side: int = 0,
        tiles: int = 1,
        faces: FaceDetector | None = None,
    ):
        if side and not 64 <= side <= 4096:
            raise ValueError(f"side must be 0 or 64 to 4096 pixels, got {side}")
        if not 1 <= tiles <= 8:
            raise ValueError(f"tiles must be 1 to 8, got {tiles}")
        self.model = model
        self.side = side or model.side
        self.tiles = tiles
        self.faces = faces

    def __call__(self, image: np.ndarray, regions: np.ndarray | None = None) -> np.ndarray:
        """Find people.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8, RGB
        regions : ndarray, shape (R, 4), optional
            x, y, width, height of boxes in which whole people are expected, pixels.

        Returns
        -------
        ndarray, shape (P, 17, 3)
            x, y in pixels of the image and score 0..1 in COCO-17 order, best person first.

        Raises
        ------
        ValueError
            If the image or the regions have another form.
        """
        check_image(image)
        regions = np.zeros((0, 4)) if regions is None else np.asarray(regions, float)
        if regions.ndim != 2 or regions.shape[1] != 4:
            raise ValueError(f"regions must have shape (R, 4), got {regions.shape}")
        windows = [_whole(image)] + (_tiles(image, self.tiles) if self.tiles > 1 else [])
        looks = [self._look(image, window, self.side) for window in windows]
        found = merge(*_concatenate(looks))
        lost = unexplained(regions, found[0])
        if len(lost):
            again = [self._look_closer(image, region) for region in lost]
            found = merge(*_concatenate([found, *again]))
        poses = found[0]
        return poses if self.faces is None else add_faces(poses, self.faces(image))

    def _look(
        self, image: np.ndarray, window: np.ndarray, side: int, min_score: float | None = None
    ) -> Candidates:
        x, y, width, height = window
        part = image[y : y + height, x : x + width]
        poses, scores = self.model(part, side, min_score)
        poses[..., :2] += (x, y)
        return poses, scores

    def _look_closer(self, image: np.ndarray, region: np.ndarray) -> Candidates:
        window = _grow(region, image.shape)
        if window is None:
            return np.zeros((0, 17, 3)), np.zeros(0)
        return self._look(image, window, self.model.side // 2, self.model.min_score / 2)


def load_detector(
    model_type: str,
    model_path: str | Path,
    side: int = 0,
    tiles: int = 1,
    face_model_path: str | Path = "",
    threads: int = 1,
) -> PoseDetector:
    """Load a pose network, and a face detector where a path is given; see PoseDetector.

    Raises
    ------
    ValueError
        If a file cannot be loaded or is of another type.
    """
    faces = FaceDetector.load(face_model_path, threads) if face_model_path else None
    return PoseDetector(load_model(model_type, model_path, threads), side, tiles, faces)


def regions_of(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes around projected people, for PoseDetector.

    Parameters
    ----------
    pixels : ndarray, shape (P, 17, 2)
        Projected joints of each person; NaN where there is none.
    width, height : int
        Size of the image.

    Returns
    -------
    ndarray, shape (R, 4)
        x, y, width, height of those with two joints or more in the image, clipped to it.
    """
    inside = (
        np.isfinite(pixels).all(axis=-1)
        & (pixels >= 0).all(axis=-1)
        & (pixels <= (width - 1, height - 1)).all(axis=-1)
    )
    boxes = [_box_of(p[i]) for p, i in zip(pixels, inside) if i.sum() >= 2]
    return np.array(boxes).reshape(-1, 4)


def merge(poses: np.ndarray, scores: np.ndarray) -> Candidates:
    """Make one pose of all those (P, 17, 3) of one person, best person first.

    The pose with the best score leads; joints that another one saw better are taken from that
    one, so that a head which only an enlarged part of the image showed is not lost.
    """
    order = np.argsort(-scores, kind="stable")
    leaders: list[int] = []
    merged: list[np.ndarray] = []
    for i in order:
        similar = _similarity(poses[i], poses[leaders])
        if len(similar) and similar.max() >= SAME_PERSON_OKS:
            person = merged[similar.argmax()]
            better = poses[i][:, 2] > person[:, 2]
            person[better] = poses[i][better]
        else:
            leaders.append(i)
            merged.append(poses[i].copy())
    return np.array(merged).reshape(-1, 17, 3), scores[leaders]


def _similarity(pose: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Object keypoint similarity of a pose with others, joints weighted by both scores."""
    spans = [np.ptp(p[..., :2], axis=-2).prod(axis=-1) for p in (pose, others)]
    weights = pose[:, 2] * others[..., 2]
    return similarity(pose[:, :2], others[..., :2], weights, np.minimum(*spans))


def unexplained(regions: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Those regions (R, 4) to which no pose of their own can be given."""
    if not len(regions) or not len(poses):
        return regions
    boxes = np.array([_box_of(pose[:, :2]) for pose in poses])
    overlap = box_iou(regions, boxes)
    row, column = assign(-overlap)
    good = overlap[row, column] >= REGION_IOU
    return np.delete(regions, row[good], axis=0)


def _box_of(points: np.ndarray) -> np.ndarray:
    low = points.min(axis=0)
    return np.concatenate([low, points.max(axis=0) - low])


def _whole(image: np.ndarray) -> np.ndarray:
    return np.array([0, 0, image.shape[1], image.shape[0]])


def _tiles(image: np.ndarray, count: int) -> list[np.ndarray]:
    """Windows in ``count`` rows and columns that overlap by a part of their size."""
    size = np.array([image.shape[1], image.shape[0]])
    tile = np.minimum(np.ceil(size / (count - (count - 1) * OVERLAP)).astype(int), size)
    starts = np.rint(np.linspace(0, 1, count)[:, None] * (size - tile)).astype(int)
    return [np.array([x, y, *tile]) for y in starts[:, 1] for x in starts[:, 0]]


def _grow(region: np.ndarray, shape: tuple) -> np.ndarray | None:
    """Square window around a region with room on every side, inside the image."""
    if not np.isfinite(region).all():
        return None
    side = max(region[2:].max() * (1 + 2 * MARGIN), 32.0)
    center = region[:2] + region[2:] / 2
    size = (shape[1], shape[0])
    low = np.clip(np.floor(center - side / 2), 0, size).astype(int)
    high = np.clip(np.ceil(center + side / 2), 0, size).astype(int)
    window = np.concatenate([low, high - low])
    return window if window[2:].min() >= 8 else None


def _concatenate(parts: list[Candidates]) -> Candidates:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
