"""ONNX Runtime sessions, opened and checked the same way for every model of this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

#: Execution providers, the one to prefer first; only those that are installed are used.
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def open_session(path: str | Path, threads: int = 1):
    """Open an ONNX model.

    Parameters
    ----------
    path : path
        The ``.onnx`` file.
    threads : int
        Threads inside one inference on the CPU; 0 leaves it to ONNX Runtime.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    ValueError
        If ONNX Runtime is not installed, or the file is missing or not an ONNX model.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ValueError("onnxruntime is not installed: run `make pose-model`") from None
    if not Path(path).is_file():
        raise ValueError(f"model {path} does not exist (`make pose-model` fetches the default)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=[p for p in PROVIDERS if p in available]
        )
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's exceptions share no base)
        reason = str(error).splitlines()[0]
        raise ValueError(f"model {path} cannot be loaded as ONNX: {reason}") from None


def describe(session) -> str:
    """Inputs and outputs of a session in one line, for messages."""
    sides = [
        ", ".join(f"{tensor.name} {tensor.type} {tensor.shape}" for tensor in tensors)
        for tensors in (session.get_inputs(), session.get_outputs())
    ]
    return " -> ".join(sides)


def declares(session, kind: str, input_shape: tuple, output_shapes: tuple) -> bool:
    """Whether a session has one input of a kind and shape, and outputs of these shapes.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    kind : str
        Of the numbers, for example ``float``.
    input_shape : tuple
    output_shapes : tuple of tuple
        In the order of the outputs; None stands for any size.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return (
        len(inputs) == 1
        and inputs[0].type == f"tensor({kind})"
        and _fits(inputs[0].shape, input_shape)
        and len(outputs) == len(output_shapes)
        and all(_fits(output.shape, shape) for output, shape in zip(outputs, output_shapes))
    )


def _fits(declared: list, shape: tuple) -> bool:
    """Whether a declared shape can be another one; None and names stand for any size."""
    return len(declared) == len(shape) and all(
        want is None or not isinstance(have, int) or have == want
        for have, want in zip(declared, shape)
    )


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless an image is (H, W, 3) uint8 and not empty."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"image must be a uint8 array, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape (height, width, 3), got {image.shape}")


@dataclass(frozen=True)
class Letterbox:
    """An image scaled into the top left corner of a network's input.

    Parameters
    ----------
    image : ndarray, shape (height, width, 3), uint8
        Network input.
    scale : ndarray, shape (2,)
        Network pixels per image pixel in x and y.
    """

    image: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, image: np.ndarray, size: tuple[int, int], pad: int) -> Letterbox:
        """Scale ``image`` to fit into ``size`` (height, width), keeping its proportions."""
        height, width = image.shape[:2]
        factor = min(size[0] / height, size[1] / width)
        inner = (max(1, round(width * factor)), max(1, round(height * factor)))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        out = np.full((*size, 3), pad, np.uint8)
        out[: inner[1], : inner[0]] = cv2.resize(image, inner, interpolation=method)
        return cls(out, np.array(inner) / (width, height))

    @classmethod
    def fit_side(cls, image: np.ndarray, side: int, pad: int) -> Letterbox:
        """Scale ``image`` so that its longer side is ``side``; pad to multiples of 32."""
        height, width = image.shape[:2]
        factor = side / max(height, width)
        size = [-(-max(1, round(n * factor)) // 32) * 32 for n in (height, width)]
        return cls.fit(image, (size[0], size[1]), pad)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the network's input in pixels of the image.

        Networks count from the corner of the first pixel, images from its centre.
        """
        return points / self.scale - 0.5
