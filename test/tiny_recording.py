"""A recording of two cameras, small enough to work out every score by hand.

160x120 pixels, six frames, two persons. The face of person 1 is a patch of 20x24 pixels that
moves right by 4 pixels a frame; that of person 2 is a patch of 10x12 that stands still and is seen
by the second camera only from frame 3 on. The rest of each image is noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disguisor_ros.bridge.bags import BagWriter, header_of, open_bag, raw_messages, typestore
from disguisor_ros.core.types import Region
from disguisor_ros.sim.truth import truth_folder, write_mask, write_truth

WIDTH, HEIGHT, FRAMES = 160, 120, 6
CAMERAS = ("cam1", "cam2")
BAG_ID = "5ca1ab1e"
_START_NS = 1_700_000_000_000_000_000


def faces_of(camera: str, index: int) -> list[dict]:
    """Truth of the faces of an image."""
    boxes = {1: (20 + 4 * index, 30, 20, 24)}
    if camera == "cam1" or index >= 3:
        boxes[2] = (120, 70, 10, 12)
    return [
        {
            "person": person, "box": list(box), "box_full": list(box),
            "visible_pixels": box[2] * box[3], "visibility": 1.0, "yaw_deg": 20.0,
        }
        for person, box in boxes.items()
    ]  # fmt: skip


def stamp_of(camera: str, index: int) -> int:
    """Colour stamp, nanoseconds."""
    return _START_NS + index * 200_000_000 + 1_000 * CAMERAS.index(camera)


def image_of(camera: str, index: int) -> np.ndarray:
    """Pixels, shape (HEIGHT, WIDTH, 3), 20 to 99 around the faces and 120 to 239 in them."""
    rng = np.random.default_rng(100 * index + CAMERAS.index(camera))
    image = rng.integers(20, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for face in faces_of(camera, index):
        x, y, width, height = face["box"]
        patch = rng.integers(120, 240, (height, width, 3), dtype=np.uint8)
        image[y : y + height, x : x + width] = patch
    return image


def write_recording(path: Path, bag_id: str = BAG_ID, skip: tuple = ()) -> Path:
    """Write the bag and, beside it, its truth; ``skip`` leaves (camera, index) out of the bag."""
    types = typestore().types
    with BagWriter(path) as bag:
        bag.write(
            "/disguisor/bag_id", "std_msgs/msg/String", _START_NS,
            types["std_msgs/msg/String"](data=bag_id),
        )  # fmt: skip
        for index in range(FRAMES):
            for camera in CAMERAS:
                if (camera, index) not in skip:
                    stamp_ns = stamp_of(camera, index)
                    message = _image_message(image_of(camera, index), camera, stamp_ns)
                    bag.write(
                        f"/{camera}/color/image_raw", "sensor_msgs/msg/Image", stamp_ns, message
                    )
    folder = truth_folder(path)
    for index in range(FRAMES):
        for camera in CAMERAS:
            labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
            for face in faces_of(camera, index):
                x, y, width, height = face["box"]
                labels[y : y + height, x : x + width] = face["person"]
            write_mask(folder, camera, stamp_of(camera, index), labels)
    write_truth(folder, _truth(bag_id))
    return path


def anonymize(source: Path, path: Path, change, delay_ms: float | None = None) -> Path:
    """Write a bag in which ``change(image, faces, camera, index)`` was done to each image.

    ``change`` gives a new image, or (image, regions), or None to withhold the frame. With a delay
    the bag also says how long each image took.
    """
    types = typestore().types
    order = {stamp_of(c, i): (c, i) for i in range(FRAMES) for c in CAMERAS}
    with open_bag(source) as reader, BagWriter(path) as bag:
        for connection, time_ns, rawdata in raw_messages(reader):
            if connection.msgtype != "sensor_msgs/msg/Image":
                continue
            stamp_ns, _ = header_of(rawdata)
            camera, index = order[stamp_ns]
            changed = change(image_of(camera, index), faces_of(camera, index), camera, index)
            if changed is None:
                continue
            image, regions = changed if isinstance(changed, tuple) else (changed, None)
            message = _image_message(image, camera, stamp_ns)
            late_ns = time_ns + int(1e6 * (delay_ms or 0))
            bag.write(f"/{camera}/anonymized/image_raw", "sensor_msgs/msg/Image", late_ns, message)
            if regions is not None:
                bag.write(
                    f"/{camera}/anonymized/regions", "disguisor_msgs/msg/FaceRegions", late_ns,
                    _regions_message(message.header, regions),
                )  # fmt: skip
            if delay_ms is not None:
                latency = types["builtin_interfaces/msg/Duration"](
                    sec=0, nanosec=int(1e6 * delay_ms)
                )
                bag.write(
                    "/disguisor/latency", "disguisor_msgs/msg/Latency", late_ns,
                    types["disguisor_msgs/msg/Latency"](message.header, camera, latency),
                )  # fmt: skip
    return path


def fill(image: np.ndarray, box) -> np.ndarray:
    """Image with a box filled with black."""
    x, y, width, height = box
    image = image.copy()
    image[y : y + height, x : x + width] = 0
    return image


def cover(image: np.ndarray, faces: list[dict], camera: str, index: int):
    """A perfect anonymizer: fills exactly the faces, and declares them."""
    for face in faces:
        image = fill(image, face["box"])
    return image, [region(face["box"], face["person"]) for face in faces]


def region(box, track_id: int = -1, confidence: float = 1.0) -> Region:
    """A region with the box as its polygon, whose corners are pixels."""
    x, y, width, height = box
    polygon = [(x, y), (x + width - 1, y), (x + width - 1, y + height - 1), (x, y + height - 1)]
    return Region(np.array(box, float), np.array(polygon, float), track_id, "mesh", confidence)


def _image_message(image: np.ndarray, camera: str, stamp_ns: int):
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
    )
    return types["sensor_msgs/msg/Image"](
        header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=f"{camera}_color_optical_frame"),
        height=image.shape[0], width=image.shape[1], encoding="rgb8", is_bigendian=0,
        step=3 * image.shape[1], data=image.ravel(),
    )  # fmt: skip


def _regions_message(header, regions: list[Region]):
    types = typestore().types
    return types["disguisor_msgs/msg/FaceRegions"](
        header=header,
        regions=[
            types["disguisor_msgs/msg/FaceRegion"](
                method=r.method, track_id=r.track_id, confidence=r.confidence,
                box=np.asarray(r.box, dtype=np.float32),
                polygon=r.polygon.ravel().astype(np.float32),
            )
            for r in regions
        ],
    )  # fmt: skip


def _truth(bag_id: str) -> dict:
    return {
        "bag_id": bag_id,
        "scenario": "tiny",
        "seed": 0,
        "fps": 5.0,
        "cameras": {camera: {"width": WIDTH, "height": HEIGHT} for camera in CAMERAS},
        "persons": {"1": {"mask": "none"}, "2": {"mask": "surgical"}},
        "frames": [
            {
                "index": index,
                "stamp_ns": stamp_of(CAMERAS[0], index),
                "persons": [],
                "cameras": {
                    camera: {
                        "stamp_ns": stamp_of(camera, index), "faces": faces_of(camera, index)
                    }
                    for camera in CAMERAS
                },
            }
            for index in range(FRAMES)
        ],
    }  # fmt: skip
