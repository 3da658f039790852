"""Image messages and arrays. A message that is not what it says is refused, never passed on."""

from __future__ import annotations

import array
import contextlib
import os
import re
from collections.abc import Iterator

import cv2
import numpy as np

#: Colour encodings that can be anonymized: name -> number of channels.
COLOR_ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}

#: Depth encodings (REP-118): name -> (dtype, metres per unit).
DEPTH_ENCODINGS = {
    "16UC1": (np.uint16, 0.001),
    "mono16": (np.uint16, 0.001),
    "32FC1": (np.float32, 1.0),
}

_MAX_SIDE = 16384

#: What most of a depth image of a room lies away, metres; else it is in another unit.
_ROOM_M = (0.5, 20.0)

#: Bytes by which cameras may fill up a JPEG before its end: harmless.
_FILLED_UP = 64


def color_array(message) -> np.ndarray:
    """Pixels of a colour sensor_msgs/Image, without a copy where rows are not padded.

    Returns
    -------
    ndarray, shape (height, width, channels), uint8
        Channels in the order of the message's encoding.

    Raises
    ------
    ValueError
        If the encoding is not one of :data:`COLOR_ENCODINGS` or the sizes do not agree.
    """
    channels = COLOR_ENCODINGS.get(message.encoding)
    if channels is None:
        raise ValueError(
            f"colour encoding {message.encoding!r} is not supported; use one of"
            f" {', '.join(COLOR_ENCODINGS)} (debayer or convert first)"
        )
    return _pixels(message, np.uint8, channels)


def read_color(message) -> tuple[np.ndarray, str]:
    """Pixels of a sensor_msgs/Image or CompressedImage, and the encoding that they are in.

    See :func:`color_array` and :func:`compressed_color_array`.
    """
    if hasattr(message, "format"):
        return compressed_color_array(message), "bgr8"
    return color_array(message), message.encoding


def cut_short(data) -> bool:
    """Whether bytes are a JPEG that lacks its end."""
    return bytes(data[:2]) == b"\xff\xd8" and b"\xff\xd9" not in bytes(data[-_FILLED_UP:])


def compressed_color_array(message) -> np.ndarray:
    """Decoded pixels of a sensor_msgs/CompressedImage.

    Returns
    -------
    ndarray, shape (height, width, 3), uint8
        In the encoding ``bgr8``.

    Raises
    ------
    ValueError
        If the data are not a whole JPEG or PNG image.
    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    if cut_short(data):
        raise ValueError("compressed image is cut short (JPEG without an end)")
    try:
        # Turned as its EXIF tag says, it would fit neither its calibration nor its keypoints.
        how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        with _complaints() as complaints:
            image = cv2.imdecode(data, how) if len(data) else None
    except cv2.error:  # for example a header that promises more pixels than OpenCV takes
        image = None
    if image is None:
        raise ValueError(f"compressed image ({message.format!r}) cannot be decoded")
    # Where bytes are missing all that follows moves up, out of the covers.
    if any(map(_tells_of_damage, complaints)):
        raise ValueError("compressed image is damaged (JPEG that lacks a part)")
    return image


def _tells_of_damage(complaint: bytes) -> bool:
    """Whether libjpeg says more than that a camera has filled up its image by some bytes."""
    too_many = re.search(rb"JPEG data: (\d+) extraneous bytes", complaint)
    return int(too_many[1]) > _FILLED_UP if too_many else b"JPEG" in complaint


@contextlib.contextmanager
def _complaints() -> Iterator[list[bytes]]:
    """Lines that a library writes to standard error in here; libjpeg tells of damage nowhere else.

    They are there after the ``with`` statement, and written then.
    """
    out: list[bytes] = []
    with os.fdopen(os.memfd_create("complaints"), "w+b") as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield out
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            out += file.readlines()
            os.write(2, b"".join(out))


def depth_array(message) -> tuple[np.ndarray, float]:
    """Depth image of a sensor_msgs/Image and its unit.

    Returns
    -------
    image : ndarray, shape (height, width), uint16 or float32
    unit_m : float
        Metres per unit.

    Raises
    ------
    ValueError
        If the encoding is not one of :data:`DEPTH_ENCODINGS`, the sizes do not agree, or no room
        is as large or small as that: too near, everything would stand before the faces.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        raise ValueError(
            f"depth encoding {message.encoding!r} is not supported; use one of"
            f" {', '.join(DEPTH_ENCODINGS)}"
        )
    dtype, unit_m = DEPTH_ENCODINGS[message.encoding]
    image = _pixels(message, dtype, 1)[..., 0]
    some = image[::8, ::8]
    some = some[some > 0]
    middle_m = np.median(some) * unit_m if len(some) else _ROOM_M[0]
    if not _ROOM_M[0] <= middle_m <= _ROOM_M[1]:
        raise ValueError(
            f"half of the depth image lies within {middle_m:.3g} m: {message.encoding} must be in"
            f" {'metres' if unit_m == 1 else 'millimetres'}"
        )
    return image, unit_m


def fill_image(message, image: np.ndarray, encoding: str) -> None:
    """Put pixels, shape (height, width, channels) uint8, into a sensor_msgs/Image."""
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = image.shape[1] * image.shape[2]
    # An array.array is what rclpy keeps; anything else it copies element by element.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message.data = data


def to_rgb(image: np.ndarray, encoding: str) -> np.ndarray:
    """Image in one of :data:`COLOR_ENCODINGS` as RGB, shape (height, width, 3)."""
    if encoding == "mono8":
        return np.repeat(image, 3, axis=2)
    return image[..., 2::-1] if encoding.startswith("bgr") else image[..., :3]


def _pixels(message, dtype, channels: int) -> np.ndarray:
    height, width, step = message.height, message.width, message.step
    row = width * channels * np.dtype(dtype).itemsize
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise ValueError(f"image size {width}x{height} is not possible")
    if step < row or len(message.data) < step * height:
        raise ValueError(
            f"image of {width}x{height} {message.encoding} needs {row * height} bytes,"
            f" has {len(message.data)} (step {step})"
        )
    data = np.frombuffer(message.data, dtype=np.uint8, count=step * height)
    data = data.reshape(height, step)[:, :row]
    if message.is_bigendian and np.dtype(dtype).itemsize > 1:
        swapped = np.ascontiguousarray(data).view(np.dtype(dtype).newbyteorder(">"))
        return swapped.astype(dtype).reshape(height, width, channels)
    if step != row or np.dtype(dtype).itemsize > 1:
        data = np.ascontiguousarray(data)
    return data.view(dtype).reshape(height, width, channels)
