"""Replace every face of an image; the only place where an anonymized image can come from."""

from __future__ import annotations

import cv2
import numpy as np

from disguisor_ros.core.attire import MaskWatch
from disguisor_ros.core.calibration_watch import CalibrationWatch
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.face_cover import Cover, cover_heads
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.rendering import make_backend
from disguisor_ros.core.safety_net import SafetyNet
from disguisor_ros.core.sightings import Steadier, clean_keypoints, sight_heads
from disguisor_ros.core.types import DepthView, Head, Region

#: How the replaced pixels look.
MODES = ("mesh", "solid", "pixelate", "blur")

#: Whether the neutral face wears a surgical mask.
MASKS = ("auto", "always", "never")

#: Places of red, green and blue in the channels of each supported encoding.
ENCODINGS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}

#: Mean brightness of a room, 0 to 1, in which the template's colours are right as they are.
_USUAL_BRIGHTNESS = 0.45

#: Longest side of the little image from which the colours around a face are spread into it, and
#: of the one in which a face is blurred.
_RING_PIXELS = 48

#: A head is continued from its own colours when so much of it is seen beside its face.
_OWN_SHARE = 0.05

_TOKEN = object()


class AnonymizedImage:
    """An image whose faces were replaced. Only :class:`FaceRenderer` and :func:`blank` make one.

    Attributes
    ----------
    image : ndarray, shape (height, width, channels), uint8, read-only
    regions : tuple of Region
        What was replaced. A region's ``box`` is the tight box of the visible part of the face,
        as an annotator would draw it; ``polygon`` outlines all replaced pixels, which reach
        further. ``confidence`` is the probability that the box shows a face: regions below
        :data:`disguisor_ros.core.face_claim.FACE_CONFIDENCE` are precautions, replaced like the
        others, but without the claim that a face is there.
    """

    __slots__ = ("_image", "_regions")

    def __init__(self, token: object, image: np.ndarray, regions: list[Region]):
        if token is not _TOKEN:
            raise TypeError("an AnonymizedImage is made by FaceRenderer or blank() only")
        image.flags.writeable = False
        self._image, self._regions = image, tuple(regions)

    @property
    def image(self) -> np.ndarray:
        """The pixels, read-only."""
        return self._image

    @property
    def regions(self) -> tuple[Region, ...]:
        """What was replaced."""
        return self._regions


def blank(shape: tuple[int, ...]) -> AnonymizedImage:
    """Plain grey image that shows nothing, for a frame that could not be processed.

    Parameters
    ----------
    shape : tuple
        Height, width and channels.
    """
    height, width = shape[:2]
    outline = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    region = Region(np.array([0.0, 0.0, width, height]), outline, -1, "held", 0.0)
    return AnonymizedImage(_TOKEN, np.full(shape, 128, dtype=np.uint8), [region])


class FaceRenderer:
    """Replaces the faces in the images of one camera.

    What is drawn inside a region depends on nothing that the image shows inside any region:
    changing those pixels changes nothing in the output. Over time one bit per person passes,
    whether a surgical mask is worn, and only with ``mask="auto"``.

    Parameters
    ----------
    template : HeadTemplate
    mode : str
        ``mesh`` (the neutral head), ``solid``, ``pixelate`` or ``blur``. The last three work on
        the drawn head, never on the original, so none can be undone.
    backend : str
        ``open3d``, ``pytorch3d`` or ``auto``.
    mask : str
        Whether the neutral face wears a surgical mask: ``always``, ``never``, or ``auto`` as the
        person does. For that one bit per person is learnt, slowly, from earlier images.

    Raises
    ------
    ValueError
        If the mode or backend is unknown, or the backend's library is not installed.
    """

    def __init__(
        self,
        template: HeadTemplate,
        mode: str = "mesh",
        backend: str = "open3d",
        mask: str = "auto",
    ):
        for name, value, known in (("mode", mode, MODES), ("mask", mask, MASKS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.template, self.mode, self.mask = template, mode, mask
        self.backend = make_backend(backend)
        self._net = SafetyNet()
        self._watch = MaskWatch()
        self._steady = Steadier()
        self.calibration = CalibrationWatch()

    def reset(self) -> None:
        """Forget earlier images."""
        self._net.reset()
        self._watch.reset()
        self._steady.reset()
        self.calibration.reset()

    def __call__(
        self,
        image: np.ndarray,
        camera: Camera,
        heads: list[Head],
        keypoints: np.ndarray,
        depth: DepthView | None = None,
        stamp_ns: int = 0,
        encoding: str = "rgb8",
    ) -> AnonymizedImage:
        """Replace the faces of one image.

        Parameters
        ----------
        image : ndarray, shape (height, width, 3 or 4), uint8
        camera : Camera
            That took the image (raw, as distorted as the image is).
        heads : list of Head
            Of all persons in the room.
        keypoints : ndarray, shape (P, 17, 3)
            2D detections in this image: x, y, score.
        depth : DepthView, optional
            Of the same instant, from beside this camera. Where it is missing nothing counts as
            an occluder.
        stamp_ns : int
            Of the image.
        encoding : str
            One of :data:`ENCODINGS`.

        Returns
        -------
        AnonymizedImage
            Outside of its regions every pixel is that of the input.

        Raises
        ------
        ValueError
            If the image does not fit the camera or the encoding.
        """
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r}")
        expected = (camera.height, camera.width, 4 if "a" in encoding else 3)
        if image.dtype != np.uint8 or image.shape != expected:
            raise ValueError(
                f"image of camera {camera.name} must be uint8 with shape {expected},"
                f" got {image.dtype} with shape {image.shape}"
            )
        covers = self._covers(camera, heads, keypoints, depth, stamp_ns)
        rgb = ENCODINGS[encoding]
        if self.mask == "auto":
            self._watch(image, covers, rgb)
        out = image.copy()
        if covers:
            _replace(out, covers, self.mode, rgb)
        return AnonymizedImage(_TOKEN, out, [cover.region for cover in covers])

    def regions(
        self,
        camera: Camera,
        heads: list[Head],
        keypoints: np.ndarray,
        depth: DepthView | None = None,
        stamp_ns: int = 0,
    ) -> list[Region]:
        """Regions that would be replaced in an image; see :meth:`__call__`."""
        return [c.region for c in self._covers(camera, heads, keypoints, depth, stamp_ns)]

    def _covers(self, camera, heads, keypoints, depth, stamp_ns) -> list[Cover]:
        masked = frozenset()
        if self.mask != "never":
            masked = self._watch.masked(head.track_id for head in heads)
        keypoints = clean_keypoints(keypoints)
        sightings = sight_heads(camera, heads, keypoints, self.template)
        self._steady(heads, sightings, stamp_ns)
        self.calibration.look(heads, sightings, stamp_ns)
        heads = self.calibration.doubted(camera, heads)
        covers = cover_heads(
            camera, heads, self.template, self.backend, sightings, depth, masked
        )
        return self._net(camera, keypoints, heads, sightings, covers, stamp_ns) + covers


def _replace(image: np.ndarray, covers: list[Cover], mode: str, rgb: tuple[int, ...]) -> None:
    """Draw all covers into an image, those that are far first, in place.

    Everything that is read from the image is read before anything is drawn, and only outside of
    the reach of all covers.
    """
    hidden = np.zeros(image.shape[:2], dtype=bool)
    for cover in covers:
        hidden[cover.slices] |= cover.reach
    room = _room_color(image, hidden, rgb)
    fills = [_fill(image, hidden, cover, room, mode, rgb) for cover in covers]
    done = np.zeros_like(hidden)
    for cover, fill in zip(covers, fills, strict=True):
        # Only a head itself, not the soft edge around it, may lie over what is farther.
        over = cover.replaced & (cover.drawn if cover.drawn is not None else False)
        write = over | (cover.replaced & ~done[cover.slices])
        target = image[cover.slices]
        for source, channel in enumerate(rgb):
            target[..., channel][write] = fill[..., source][write]
        if image.shape[2] == 4:
            target[..., 3][write] = 255
        done[cover.slices] |= cover.replaced


def _room_color(image: np.ndarray, hidden: np.ndarray, rgb: tuple[int, ...]) -> np.ndarray:
    """Mean colour of what is not hidden, on a coarse grid, 0 to 1; grey when all is hidden."""
    step = max(1, min(image.shape[:2]) // 64)
    seen = ~hidden[::step, ::step]
    if not seen.any():
        return np.full(3, _USUAL_BRIGHTNESS)
    return image[::step, ::step][seen].mean(axis=0)[list(rgb)] / 255


def _fill(image, hidden, cover: Cover, room: np.ndarray, mode: str, rgb) -> np.ndarray:
    """Colours that replace a cover's pixels, shape (h, w, 3), uint8, red green blue."""
    fill = _surroundings(image, hidden, cover, room, rgb)
    if cover.drawing is not None:
        light = _light(fill, room)
        # A cover may be far wider than what is drawn in it.
        x, y, width, height = cv2.boundingRect(cover.drawn.astype(np.uint8))
        head = np.s_[y : y + height, x : x + width]
        # Towards its edge what is drawn melts into what surrounds it.
        drawn = np.pad(cover.drawn[head] & cover.reach[head], 1).astype(np.uint8)
        inside = cv2.distanceTransform(drawn, cv2.DIST_L2, 3)[1:-1, 1:-1]
        seam = max(2.0, 0.05 * np.sqrt(np.count_nonzero(cover.reach)))
        opacity = np.clip(inside / seam, 0, 1)[..., None]
        fill[head] += opacity * (cover.drawing[head] * light - fill[head])
    fill = _restyle(fill, cover, mode)
    return cv2.convertScaleAbs(fill, alpha=255)


def _surroundings(image, hidden, cover: Cover, room: np.ndarray, rgb) -> np.ndarray:
    """Smooth continuation into a cover of the colours around it, shape (h, w, 3), 0 to 1.

    A head is continued from what is seen of it, cap, hair or neck, and the room from the room.
    """
    rows, columns = cover.slices
    pad = max(8, max(cover.reach.shape) // 4)
    top, left = min(pad, rows.start), min(pad, columns.start)
    ring = (
        slice(rows.start - top, min(rows.stop + pad, image.shape[0])),
        slice(columns.start - left, min(columns.stop + pad, image.shape[1])),
    )
    inner = (slice(top, top + cover.reach.shape[0]), slice(left, left + cover.reach.shape[1]))
    seen = ~hidden[ring]
    own = None if cover.head is None else cover.head & seen[inner]
    if own is None or np.count_nonzero(own) <= _OWN_SHARE * np.count_nonzero(cover.head):
        return _continued(image[ring], seen, room, rgb)[inner]
    seen[inner] &= ~own
    around = _continued(image[ring], seen, room, rgb)[inner]
    head = _continued(image[cover.slices], own, room, rgb)
    edge = cv2.blur(cover.head.astype(np.float32), (3, 3))[..., None]
    return around + edge * (head - around)


def _continued(image: np.ndarray, seen: np.ndarray, default: np.ndarray, rgb) -> np.ndarray:
    """Spread the seen colours of an image smoothly over all of it, shape (h, w, 3), 0 to 1.

    They are averaged into a little image, whose holes are filled from coarser and coarser levels
    (push-pull, Gortler et al. 1996, section 3.5).
    """
    height, width = seen.shape
    size = _little(height, width)
    step = max(1, max(seen.shape) // (2 * _RING_PIXELS))  # some pixels tell as much as all
    some = np.s_[step // 2 :: step, step // 2 :: step]
    image, seen = image[some], seen[some]
    weight = cv2.resize(seen.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    colors = image[..., list(rgb)].astype(np.float32) * (seen / np.float32(255))[..., None]
    colors = cv2.resize(colors, size, interpolation=cv2.INTER_AREA)
    smooth = _push_pull(colors, weight, default.astype(np.float32))
    return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)


def _little(height: int, width: int) -> tuple[int, int]:
    """Width and height of a little copy of an image."""
    shrink = min(1.0, _RING_PIXELS / max(height, width))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _push_pull(colors: np.ndarray, weight: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Fill an image (h, w, 3), premultiplied by ``weight`` (h, w), where the weight is small."""
    height, width = weight.shape
    if max(height, width) <= 3:
        # The default weighs as much as a hundredth of a pixel.
        mean = (colors.sum(axis=(0, 1)) + 0.01 * default) / (weight.sum() + 0.01)
        below = np.broadcast_to(mean.astype(np.float32), colors.shape)
    else:
        size = ((width + 1) // 2, (height + 1) // 2)
        below = _push_pull(
            cv2.resize(colors, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], 3),
            cv2.resize(weight, size, interpolation=cv2.INTER_AREA).reshape(size[::-1]),
            default,
        )
        below = cv2.resize(
            np.ascontiguousarray(below), (width, height), interpolation=cv2.INTER_LINEAR
        ).reshape(height, width, 3)
    known = np.clip(weight, 0, 1)[..., None]
    return colors + (1 - known) * below


def _light(around: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Colour of the light on a face, 1 for white of usual brightness, shape (3,).

    Brightness comes from the surroundings and the room alike; of the room's tint only half is
    taken for the light's, for walls and gowns have colours of their own.
    """
    brightness = 0.5 * (around.mean() + room.mean()) / _USUAL_BRIGHTNESS
    tint = np.sqrt(room / max(room.mean(), 1e-3))
    light = np.clip(brightness, 0.3, 1.25) * np.clip(tint, 0.7, 1.4)
    return light.astype(np.float32)


def _restyle(fill: np.ndarray, cover: Cover, mode: str) -> np.ndarray:
    """Make flat, coarse or soft what replaces a face."""
    height, width = fill.shape[:2]
    if mode == "solid":
        return np.broadcast_to(fill[cover.reach].mean(axis=0), fill.shape)
    if mode == "pixelate":
        cell = max(4, max(height, width) // 8)
        size = (max(1, width // cell), max(1, height // cell))
        coarse = cv2.resize(fill, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    if mode == "blur":
        # Of a little copy: of an image that one face fills the kernel alone took seconds.
        size = _little(height, width)
        little = cv2.resize(fill, size, interpolation=cv2.INTER_AREA)
        little = cv2.GaussianBlur(little, (0, 0), max(1.0, 0.08 * max(size)))
        return cv2.resize(little, (width, height), interpolation=cv2.INTER_LINEAR)
    return fill
