"""A face detector as one more reason to cover: faces that no pose has become head-only poses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from disguisor_ros.core.pose2d.onnx_session import (
    Letterbox,
    check_image,
    declares,
    describe,
    open_session,
)

#: Longer side of the network's input, pixels.
SIDE = 960

#: Score from which a candidate is a face.
MIN_SCORE = 0.35

#: Score of a joint from which it says where a head is.
HEAD_SCORE = 0.2


class FaceDetector:
    """CenterFace: a heatmap of face centres with sizes, offsets and five landmarks.

    Input (1, 3, H, W) float RGB 0-255; outputs at a quarter of the size: heatmap (1, 1, h, w),
    log size (1, 2, h, w) as height, width, offset (1, 2, h, w) as y, x, landmarks
    (1, 10, h, w) as 5 x (y, x) relative to the box: eyes, nose, corners of the mouth, the
    image's left one first.

    Parameters
    ----------
    session : onnxruntime.InferenceSession

    References
    ----------
    Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2020.
    """

    def __init__(self, session):
        outputs = tuple((1, channels, None, None) for channels in (1, 2, 2, 10))
        if not declares(session, "float", (1, 3, None, None), outputs):
            raise ValueError(
                "not a CenterFace network: expected input (1, 3, H, W) and outputs with 1, 2, 2"
                f" and 10 channels; the file has {describe(session)}"
            )
        self.session = session
        self.input = session.get_inputs()[0].name

    @classmethod
    def load(cls, path: str | Path, threads: int = 1) -> FaceDetector:
        """Load from an ``.onnx`` file; ValueError when it is not such a network."""
        try:
            return cls(open_session(path, threads))
        except ValueError as error:
            raise ValueError(f"face detector {path}: {error}") from None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Find faces.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8, RGB

        Returns
        -------
        ndarray, shape (F, 15)
            x, y, width, height, score and five landmarks x, y in pixels of the image.
        """
        check_image(image)
        box = Letterbox.fit_side(image, SIDE, pad=0)
        tensor = np.ascontiguousarray(box.image.transpose(2, 0, 1)[None], np.float32)
        heatmap, size, offset, landmarks = (
            output[0] for output in self.session.run(None, {self.input: tensor})
        )
        peak = heatmap[0] >= cv2.dilate(heatmap[0], np.ones((3, 3), np.uint8))
        y, x = np.nonzero(peak & (heatmap[0] >= MIN_SCORE))
        extent = 4 * np.exp(size[::-1, y, x]).T
        center = 4 * (np.stack([x, y], axis=1) + offset[::-1, y, x].T + 0.5)
        corner = center - extent / 2
        points = landmarks[:, y, x].T.reshape(-1, 5, 2)[..., ::-1]
        points = corner[:, None] + points * extent[:, None]
        corner, points, scores = box.to_image(corner), box.to_image(points), heatmap[0, y, x]
        rows = np.concatenate(
            [corner, extent / box.scale, scores[:, None], points.reshape(-1, 10)], axis=1
        )
        kept = cv2.dnn.NMSBoxes(rows[:, :4].tolist(), scores.tolist(), 0.0, 0.3)
        return rows[np.asarray(kept, int).ravel()]


def add_faces(poses: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Add faces in which no pose has a head joint, as poses with nose, eyes and ears only.

    Parameters
    ----------
    poses : ndarray, shape (P, 17, 3)
    faces : ndarray, shape (F, 15)
        From :class:`FaceDetector`.

    Returns
    -------
    ndarray, shape (P + added, 17, 3)
    """
    heads = poses[:, :5].reshape(-1, 3)
    heads = heads[heads[:, 2] >= HEAD_SCORE, :2]
    added = []
    for face in faces:
        low, high = face[:2] - face[2:4] * 0.25, face[:2] + face[2:4] * 1.25
        if ((heads >= low) & (heads <= high)).all(axis=1).any():
            continue
        right_eye, left_eye, nose = face[5:11].reshape(3, 2)
        level = (right_eye[1] + left_eye[1]) / 2
        pose = np.zeros((17, 3))
        pose[:5, :2] = (nose, left_eye, right_eye, (face[0] + face[2], level), (face[0], level))
        pose[:5, 2] = face[4]
        added.append(pose)
    return np.concatenate([poses, added]) if added else poses
