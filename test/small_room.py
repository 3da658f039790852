"""A short recording of a made-up room: three cameras, two people, noise for images.

Small enough to run the real graph on in a test. Every pixel of the input is noise of its own, so
that any that comes through can be told.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from room import camera_ring, person, seen

from disguisor_ros.bridge.room_bag import RoomBag
from disguisor_ros.core.cameras import Camera

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000


def cameras(count=3, width=320, height=240) -> dict[str, Camera]:
    """Cameras cn01 ... in a ring, scaled to small images."""
    out = {}
    for number, camera in enumerate(camera_ring(count).values(), start=1):
        matrix = camera.matrix.copy()
        matrix[0] *= width / camera.width
        matrix[1] *= height / camera.height
        name = f"cn{number:02d}"
        out[name] = Camera(name, width, height, matrix, camera.tf_camera_world)
    return out


def stamp(index: int) -> int:
    """Colour stamp of an instant, nanoseconds."""
    return START_NS + index * PERIOD_NS


def image(camera: str, index: int, size=(240, 320)) -> np.ndarray:
    """Colour image of a camera at an instant."""
    rng = np.random.default_rng([index, *camera.encode()])
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def bodies(index: int) -> list[np.ndarray]:
    """Joints of the two people at an instant, shape (17, 3), metres, world."""
    return [person(-0.6 + 0.02 * index, 0.2), person(0.7, -0.3, yaw=1.5)]


def keypoints(rig: dict[str, Camera], index: int) -> dict[str, np.ndarray]:
    """What a detector finds at an instant, in the order of the people."""
    return seen(bodies(index), rig, noise_px=0.3, rng=np.random.default_rng(index))


def write(path: Path, frames=6, depth=True, spoil=None, unseen=(), **options) -> Path:
    """Write the recording; ``spoil(bag, camera, index)`` true leaves that image to the caller.

    At the instants ``unseen`` no camera's detector finds the first person.
    """
    rig = options.get("rig") or cameras()
    with RoomBag(path, rig, start_ns=START_NS) as bag:
        for index in range(frames):
            found = keypoints(rig, index)
            for name in rig:
                if spoil and spoil(bag, name, index):
                    continue
                bag.raw_color(name, stamp(index), image(name, index))
                if depth:
                    far = np.full((240, 320), 6000, dtype=np.uint16)
                    bag.raw_depth(name, stamp(index), far)
                bag.keypoints(name, stamp(index), found[name][1 if index in unseen else 0 :])
    return path
