"""Cost of the 2D pose stage: milliseconds an image by network and image size."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from disguisor_ros.core.pose2d import MODEL_TYPES, load_detector
from disguisor_ros.core.pose2d.face_detector import FaceDetector
from disguisor_ros.errors import UserError
from disguisor_ros.pose_models import default_face_model, default_model, reference_image
from disguisor_ros.progress import track

SIZES = ((1280, 720), (2048, 1536))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="TYPE:FILE",
        help=f"also measure this network; TYPE is one of {', '.join(MODEL_TYPES)}",
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="image to measure on (default: portraits)"
    )
    parser.add_argument("--repeat", type=int, default=9, help="runs of which the median is taken")
    parser.add_argument("--threads", type=int, default=1, help="threads of each network")


def main(args: argparse.Namespace) -> int:
    """Run ``disguisor benchmark pose2d``."""
    if args.repeat < 1:
        raise UserError("--repeat must be at least 1")
    stages = _stages(args)
    source = _source(args.image)
    table = Table("stage", *(f"{w}x{h} ms" for w, h in SIZES), "people")
    for name, stage in track(stages.items(), "measuring"):
        times, found = [], 0
        for size in SIZES:
            milliseconds, found = measure(stage, _fit(source, size), args.repeat)
            times.append(f"{milliseconds:.0f}")
        table.add_row(name, *times, str(found))
    Console().print(table)
    print(f"median CPU milliseconds of {args.repeat} runs, threads: {args.threads}")
    return 0


def measure(stage, image: np.ndarray, repeat: int) -> tuple[float, int]:
    """Median CPU time of ``stage(image)`` in milliseconds, and how many it found."""
    found = stage(image)  # the first run is slow
    times = []
    for _ in range(repeat):
        started = time.process_time()
        found = stage(image)
        times.append(time.process_time() - started)
    return 1e3 * float(np.median(times)), len(found)


def _stages(args) -> dict:
    try:
        detector = load_detector("movenet", default_model(), threads=args.threads)
        half = load_detector("movenet", default_model(), 256, threads=args.threads)
        tiled = load_detector("movenet", default_model(), tiles=2, threads=args.threads)
        out = {
            "MoveNet MultiPose 512": detector,
            "MoveNet MultiPose 256": half,
            "MoveNet MultiPose 512, 2x2 tiles": tiled,
            "MoveNet MultiPose 512, 2 lost people": lambda image: detector(image, _corners(image)),
            "CenterFace 960": FaceDetector.load(default_face_model(), args.threads),
        }
        for text in args.model:
            kind, _, path = text.partition(":")
            out[Path(path).name] = load_detector(kind, path, threads=args.threads)
    except ValueError as error:
        raise UserError(str(error)) from None
    return out


def _corners(image: np.ndarray) -> np.ndarray:
    """Two regions in corners, where nobody is."""
    height, width = image.shape[:2]
    return np.array([[0, 0, 100, 200], [width - 101, height - 201, 100, 200]], float)


def _source(path: Path | None) -> np.ndarray:
    if path is None:
        portrait = reference_image()
        return np.concatenate([portrait, portrait[:, ::-1]] * 2, axis=1)
    image = cv2.imread(str(path))
    if image is None:
        raise UserError(f"{path}: not an image")
    return image[..., ::-1]


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    factor = min(size[0] / image.shape[1], size[1] / image.shape[0])
    inner = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    out = np.zeros((size[1], size[0], 3), np.uint8)
    out[: inner[1], : inner[0]] = cv2.resize(np.ascontiguousarray(image), inner)
    return out
