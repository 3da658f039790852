"""Families of pose networks: what goes in, what comes out, and how it becomes COCO-17 poses.

Every family is a class with the same call, ``poses, scores = model(image, side)``. Adding one
means writing what its tensors are, ``tensor`` and ``decode``.
"""
# ruff: noqa: D102 (what the methods of a family do is said in PoseModel)

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

#: Candidates that a family hands on at most, best first.
MAX_CANDIDATES = 100

#: Score below which a peak of a heatmap is never decoded.
MIN_PEAK = 0.05

Candidates = tuple[np.ndarray, np.ndarray]


class PoseModel:
    """A pose network with the code around it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Or anything with its ``run``, ``get_inputs`` and ``get_outputs``.

    Raises
    ------
    ValueError
        If the network's tensors are not those of the family.
    """

    #: Tensor layout of the family in words, for messages and docs.
    layout = ""
    #: Type and shape of the input, and shapes of the outputs in each layout there is.
    input_type, input_shape = "float", (1, 3, None, None)
    output_shapes: tuple[tuple, ...] = ()
    #: Longer side of the input that networks of free input size work best with, pixels.
    side = 640
    #: Grey value around the image.
    pad = 114
    #: Score from which a candidate is a person.
    min_score = 0.3

    def __init__(self, session):
        if not any(
            declares(session, self.input_type, self.input_shape, shapes)
            for shapes in self.output_shapes
        ):
            raise ValueError(
                f"not a {type(self).__name__} network: expected {self.layout};"
                f" the file has {describe(session)}"
            )
        self.session, (tensor,) = session, session.get_inputs()
        self.input = tensor.name
        size = tuple(n for n, known in zip(tensor.shape, self.input_shape) if known is None)
        #: (height, width) of the input when the file fixes it, else None.
        self.size = size if all(isinstance(n, int) for n in size) else None

    def __call__(
        self, image: np.ndarray, side: int | None = None, min_score: float | None = None
    ) -> Candidates:
        """Find people.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8, RGB
        side : int, optional
            Longer side of the network's input, where it is free; the family's by default.
        min_score : float, optional
            Score from which a candidate is a person; the family's by default.

        Returns
        -------
        poses : ndarray, shape (P, 17, 3)
            x, y in pixels of ``image`` and score; people may be there more than once.
        scores : ndarray, shape (P,)
        """
        check_image(image)
        if self.size:
            box = Letterbox.fit(image, self.size, self.pad)
        else:
            box = Letterbox.fit_side(image, side or self.side, self.pad)
        outputs = self.session.run(None, {self.input: self.tensor(box.image)})
        poses, scores = self.decode(outputs, box.image.shape[:2])
        best = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
        best = best[scores[best] >= (self.min_score if min_score is None else min_score)]
        poses, scores = poses[best].astype(np.float64), scores[best].astype(np.float64)
        poses[..., :2] = box.to_image(poses[..., :2])
        poses[..., 2] = np.clip(poses[..., 2], 0.0, 1.0)
        return poses, scores

    def tensor(self, image: np.ndarray) -> np.ndarray:
        """Input tensor from an RGB image of the network's size."""
        raise NotImplementedError

    def decode(self, outputs: list[np.ndarray], size: tuple[int, int]) -> Candidates:
        """Poses in pixels from the corner of the network's input, and their scores."""
        raise NotImplementedError


class MoveNet(PoseModel):
    """MoveNet MultiPose: MobileNetV2-FPN with CenterNet-style heads.

    The published network decodes six people inside the graph. Its heads alone, decoded here,
    give as many people as there are, at any input size.

    References
    ----------
    https://tfhub.dev/google/movenet/multipose/lightning/1 (model card)
    """

    layout = (
        "input (1, H, W, 3) int32 RGB 0-255, output (1, people, 56):"
        " 17 x (y, x, score), box ymin xmin ymax xmax, score, all normalised;"
        " or the heads at a quarter of the size, outputs center (1, h, w, 1), box_size (.., 2),"
        " box_offset (.., 2), regression (.., 34), heatmap (.., 17), offset (.., 34), y before x"
    )
    input_type, input_shape = "int32", (1, None, None, 3)
    output_shapes = (
        ((1, None, 56),),
        tuple((1, None, None, channels) for channels in (1, 2, 2, 34, 17, 34)),
    )
    side = 512
    pad = 0
    min_score = 0.1

    def tensor(self, image):
        return image[None].astype(np.int32)

    def decode(self, outputs, size):
        if len(outputs) > 1:
            return decode_movenet_heads(*(output[0] for output in outputs))
        rows = outputs[0][0]
        poses = rows[:, :51].reshape(-1, 17, 3)[..., [1, 0, 2]].copy()
        poses[..., :2] = poses[..., :2] * (size[1], size[0])
        return poses, rows[:, 55]


def decode_movenet_heads(
    center: np.ndarray,
    box_size: np.ndarray,
    box_offset: np.ndarray,
    regression: np.ndarray,
    heatmap: np.ndarray,
    offset: np.ndarray,
) -> Candidates:
    """Poses from the heads of MoveNet MultiPose, all (h, w, channels), as its graph does it.

    People are peaks of ``center``. Each joint is where its heatmap, weighted by the distance from
    the place to which the person regresses it and cut to the person's box, is highest.

    Returns
    -------
    poses : ndarray, shape (P, 17, 3)
        x, y in pixels from the corner of the network's input, and score.
    scores : ndarray, shape (P,)
    """
    height, width = center.shape[:2]
    center = center[..., 0]
    peak = center >= cv2.dilate(center, np.ones((5, 5), np.uint8)) - 1e-6
    rows, columns = np.nonzero(peak & (center >= MIN_PEAK))
    spread = 0.3 * min(height, width)  # squared cells
    offset = offset.reshape(height, width, 17, 2)
    poses = np.zeros((len(rows), 17, 3))
    for pose, row, column in zip(poses, rows, columns):
        cell = np.array([row, column], float)
        middle, half = cell + box_offset[row, column], np.maximum(box_size[row, column], 0) / 2
        low = np.clip(np.ceil(middle - half), 0, (height, width)).astype(int)
        high = np.clip(np.ceil(middle + half), 0, (height, width)).astype(int)
        if (high <= low).any():
            continue
        y, x = np.arange(low[0], high[0]), np.arange(low[1], high[1])
        guess = cell + regression[row, column].reshape(17, 2)
        near_y = np.exp(-((y[:, None] - guess[:, 0]) ** 2) / spread)
        near_x = np.exp(-((x[:, None] - guess[:, 1]) ** 2) / spread)
        weighted = heatmap[y[0] : y[-1] + 1, x[0] : x[-1] + 1] * near_y[:, None] * near_x
        best = weighted.reshape(-1, 17).argmax(axis=0)
        best_y, best_x = y[best // len(x)], x[best % len(x)]
        joints = offset[best_y, best_x, np.arange(17)][:, ::-1] + np.stack([best_x, best_y], 1)
        pose[:, :2] = 4 * joints  # the heads are a quarter of the input's size
        pose[:, 2] = weighted[best_y - y[0], best_x - x[0], np.arange(17)]
    sure = poses[..., 2] > 0.127
    scores = center[rows, columns] * (poses[..., 2] * sure).sum(1) / np.maximum(sure.sum(1), 1)
    return poses, scores


class Rtmo(PoseModel):
    """RTMO as exported by mmdeploy, NMS inside the graph.

    References
    ----------
    Lu et al., "RTMO: Towards High-Performance One-Stage Real-Time Multi-Person Pose Estimation",
    CVPR 2024; mmdeploy's pose-detection_rtmo_onnxruntime_dynamic config.
    """

    layout = (
        "input (N, 3, H, W) float BGR 0-255, outputs dets (N, people, 5): x1 y1 x2 y2 score,"
        " and keypoints (N, people, 17, 3): x y score, in input pixels"
    )
    output_shapes = (((1, None, 5), (1, None, 17, 3)),)

    def tensor(self, image):
        return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], np.float32)

    def decode(self, outputs, size):
        return outputs[1][0], outputs[0][0, :, 4]


class YoloPose(PoseModel):
    """YOLO-pose as exported by Ultralytics, with or without NMS inside the graph.

    References
    ----------
    https://docs.ultralytics.com/tasks/pose and /modes/export (``nms=True`` or end-to-end heads)
    """

    layout = (
        "input (N, 3, H, W) float RGB 0-1, output (N, 56, anchors): box cx cy w h, score,"
        " 17 x (x, y, score), or (N, people, 57): box x1 y1 x2 y2, score, class,"
        " 17 x (x, y, score)"
    )
    output_shapes = ((1, 56, None),), ((1, None, 57),)

    def tensor(self, image):
        return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255

    def decode(self, outputs, size):
        rows = outputs[0][0]
        start = 6
        if rows.shape[1] != 57:
            rows, start = rows.T, 5
        return rows[:, start:].reshape(-1, 17, 3), rows[:, 4]


class Dekr(PoseModel):
    """DEKR, bottom-up: a centre heatmap, keypoint heatmaps and displacements from the centre.

    References
    ----------
    Geng et al., "Bottom-Up Human Pose Estimation Via Disentangled Keypoint Regression",
    CVPR 2021; sign and order of the channels as in mmpose 1.x (cell + displacement).
    """

    layout = (
        "input (N, 3, H, W) float RGB, ImageNet normalised, outputs heatmaps (N, 18, H/4, W/4)"
        " (17 joints, centre last) and displacements (N, 34, H/4, W/4): 17 x (dx, dy) in cells"
    )
    output_shapes = (((1, 18, None, None), (1, 34, None, None)),)
    side = 768
    pad = 0
    min_score = 0.1
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    std = np.array([58.395, 57.12, 57.375], np.float32)

    def tensor(self, image):
        return np.ascontiguousarray(((image - self.mean) / self.std).transpose(2, 0, 1)[None])

    def decode(self, outputs, size):
        heatmaps, displacements = outputs[0][0], outputs[1][0]
        center = heatmaps[17]
        peak = center >= cv2.dilate(center, np.ones((5, 5), np.uint8))
        y, x = np.nonzero(peak & (center >= MIN_PEAK))
        joints = displacements[:, y, x].reshape(17, 2, -1).transpose(2, 0, 1)
        joints = joints + np.stack([x, y], axis=-1)[:, None]
        cells = np.rint(joints).astype(int)
        column = np.clip(cells[..., 0], 0, center.shape[1] - 1)
        row = np.clip(cells[..., 1], 0, center.shape[0] - 1)
        scores = heatmaps[np.arange(17), row, column]
        stride = np.array([size[1] / center.shape[1], size[0] / center.shape[0]])
        pixels = joints * stride + 0.5
        return np.concatenate([pixels, scores[..., None]], axis=-1), center[y, x]


#: Name of a family, as users give it, -> its class.
MODEL_TYPES: dict[str, type[PoseModel]] = {
    "movenet": MoveNet,
    "rtmo": Rtmo,
    "yolo": YoloPose,
    "dekr": Dekr,
}


def load_model(model_type: str, model_path: str | Path, threads: int = 1) -> PoseModel:
    """Load a pose network.

    Parameters
    ----------
    model_type : str
        One of :data:`MODEL_TYPES`.
    model_path : path
        The ``.onnx`` file.
    threads : int
        Threads inside one inference on the CPU; 0 leaves it to ONNX Runtime.

    Raises
    ------
    ValueError
        If the type is not known, the file cannot be loaded, or it is of another type.
    """
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}, got {model_type!r}")
    session = open_session(model_path, threads)
    try:
        return MODEL_TYPES[model_type](session)
    except ValueError as error:
        raise ValueError(f"model {model_path} is {error}") from None
