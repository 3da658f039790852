"""Pictures of an anonymized bag: a contact sheet (PNG) and a video (MP4), before beside after."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np

from disguisor_ros.core.boxes import box_iou
from disguisor_ros.eval.pairs import BagPair, Pair
from disguisor_ros.eval.scores import changed_pixels, region_boxes, region_mask
from disguisor_ros.figures import make_folder, whole_file
from disguisor_ros.paths import for_me_alone
from disguisor_ros.progress import track

#: Width of an image on the contact sheet and in the video, pixels.
SHEET_WIDTH, VIDEO_WIDTH = 800, 640
#: Faces of each camera that the contact sheet shows enlarged.
CLOSE_UPS = 3
_BACKGROUND, _INK = (24, 27, 31), (235, 238, 240)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``disguisor preview``."""
    parser.add_argument("--bag", required=True, type=Path, help="input bag")
    parser.add_argument("--anonymized", required=True, type=Path, help="anonymized bag")
    parser.add_argument(
        "--out", required=True, type=Path,
        help="folder for contact_sheet.png and before_after.mp4 (made when missing)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Run ``disguisor preview``."""
    for path in write_preview(args.bag, args.anonymized, args.out):
        print(f"wrote {path}")
    return 0


@for_me_alone()
def write_preview(bag: Path, anonymized: Path, folder: Path) -> tuple[Path, Path]:
    """Write the contact sheet and the video of an anonymized bag.

    Both show the original faces beside the replaced ones: make them of recordings that may be
    shown. Only this user may read them.

    Returns
    -------
    sheet, video : Path
    """
    pairs = BagPair(bag, anonymized)
    folder = Path(folder)
    make_folder(folder)
    sheet, video = folder / "contact_sheet.png", folder / "before_after.mp4"
    best: dict[str, _Shown] = {}
    stamps = np.concatenate([np.diff(sorted(pairs.stamps[camera])) for camera in pairs.cameras])
    fps = 1e9 / np.median(stamps) if len(stamps) else 1.0
    shown = _keep_best(track(pairs, "pictures"), best, pairs.declares)
    with whole_file(video) as video_file:
        write_video(video_file, _video_frames(shown, pairs.cameras), fps)
        picture = cv2.cvtColor(contact_sheet(best), cv2.COLOR_RGB2BGR)
        with whole_file(sheet) as sheet_file:  # imwrite tells no error
            sheet_file.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return sheet, video


@dataclass
class _Shown:
    """The image of a camera that shows most, and where."""

    pair: Pair
    boxes: np.ndarray


def _keep_best(pairs, best: dict[str, _Shown], declares: bool) -> Iterator[Pair]:
    """Pass pairs on, and keep of each camera the one with the most and largest replaced faces.

    Where a tool ``declares`` its faces, other pixels that changed are none: JPEG changes all.
    """
    for pair in pairs:
        if pair.after is not None:
            changed = changed_pixels(pair.before, pair.after)
            if declares:
                changed &= region_mask(pair.regions, changed.shape)
            boxes = region_boxes(changed, pair.regions)
            boxes = _distinct(boxes[np.argsort(-boxes[:, 2:].prod(axis=1), kind="stable")])
            kept = best.get(pair.camera)
            if kept is None or _rank(boxes) > _rank(kept.boxes):
                best[pair.camera] = _Shown(pair, boxes)
        elif pair.camera not in best:
            best[pair.camera] = _Shown(pair, np.zeros((0, 4)))
        yield pair


def _distinct(boxes: np.ndarray) -> np.ndarray:
    """Boxes that overlap no earlier one by much: each face once."""
    overlap = np.triu(box_iou(boxes, boxes), 1)
    return boxes[overlap.max(axis=0, initial=0) < 0.2]


def _rank(boxes: np.ndarray) -> tuple[int, float]:
    return min(len(boxes), CLOSE_UPS), float(boxes[:CLOSE_UPS, 2:].prod(axis=1).sum())


def contact_sheet(best: dict[str, _Shown]) -> np.ndarray:
    """One row for each camera: before, after, and its largest faces enlarged; RGB."""
    rows = []
    for camera in sorted(best):
        pair, boxes = best[camera].pair, best[camera].boxes
        before, after = (
            _labelled(image, f"{camera} {word}", SHEET_WIDTH, _height(image, SHEET_WIDTH))
            for image, word in ((pair.before, "before"), (_after(pair), "after"))
        )
        rows.append(np.hstack([before, after, _close_ups(pair, boxes, before.shape[0])]))
    size = sum(map(len, rows)), max(row.shape[1] for row in rows)
    out = np.full((*size, 3), _BACKGROUND, dtype=np.uint8)
    for row, top in zip(rows, np.cumsum([0, *map(len, rows)])[:-1], strict=True):
        out[top : top + len(row), : row.shape[1]] = row
    return out


def _close_ups(pair: Pair, boxes: np.ndarray, height: int) -> np.ndarray:
    """Faces before (top) and after (bottom), shape (height, CLOSE_UPS * height / 2, 3)."""
    side = height // 2
    out = np.full((height, CLOSE_UPS * side, 3), _BACKGROUND, dtype=np.uint8)
    for column, (x, y, width, box_height) in enumerate(boxes[:CLOSE_UPS]):
        reach = max(width, box_height)
        zoom = side / (2 * reach)
        center = np.array([x + width / 2, y + box_height / 2])
        shift = side / 2 - zoom * center
        tf_crop_image = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
        for row, image in enumerate((pair.before, _after(pair))):
            place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            out[place] = cv2.warpAffine(
                image, tf_crop_image, (side, side), borderValue=_BACKGROUND
            )
    return out


def write_video(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """Encode RGB frames of equal, even size as H.264."""
    writer = None
    for frame in frames:
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            writer = imageio_ffmpeg.write_frames(
                str(path), size, fps=round(fps, 3), quality=8, macro_block_size=2,
                ffmpeg_log_level="quiet",
            )
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))
    if writer is not None:
        writer.close()


def _video_frames(pairs: Iterator[Pair], cameras: list[str]) -> Iterator[np.ndarray]:
    """One picture for each instant: of every camera the newest image before and after."""
    cells: dict[str, np.ndarray] = {}
    fresh: set[str] = set()
    height = 0
    for pair in pairs:
        if pair.camera in fresh:
            yield _mosaic(cells, cameras)
            fresh.clear()
        # All frames of a video are of one size: each image has the room of the first camera's.
        height = height or _height(pair.before, VIDEO_WIDTH)
        cells[pair.camera] = np.hstack([
            _labelled(pair.before, f"{pair.camera} before", VIDEO_WIDTH, height),
            _labelled(_after(pair), f"{pair.camera} after", VIDEO_WIDTH, height),
        ])  # fmt: skip
        fresh.add(pair.camera)
    if fresh:
        yield _mosaic(cells, cameras)


def _mosaic(cells: dict[str, np.ndarray], cameras: list[str]) -> np.ndarray:
    """Cells of all cameras in one picture: one column up to two cameras, else two columns."""
    empty = np.full_like(next(iter(cells.values())), _BACKGROUND)
    tiles = [cells.get(camera, empty) for camera in cameras]
    columns = 1 if len(tiles) <= 2 else 2
    tiles += [empty] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _after(pair: Pair) -> np.ndarray:
    if pair.after is not None:
        return pair.after
    blank = np.full_like(pair.before, _BACKGROUND)
    place = (pair.before.shape[1] // 2 - 90, pair.before.shape[0] // 2)
    font = cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(blank, "withheld", place, font, 1.3, _INK, 2, cv2.LINE_AA)


def _height(image: np.ndarray, width: int) -> int:
    """Even height of an image that is scaled to a width."""
    return 2 * round(image.shape[0] * width / image.shape[1] / 2)


def _labelled(image: np.ndarray, text: str, width: int, height: int) -> np.ndarray:
    """Image in the middle of a cell, as large as fits, with a caption in the cell's corner."""
    zoom = min(width / image.shape[1], height / image.shape[0])
    columns, rows = (max(1, round(zoom * n)) for n in (image.shape[1], image.shape[0]))
    left, top = (width - columns) // 2, (height - rows) // 2
    cell = np.full((height, width, 3), _BACKGROUND, dtype=np.uint8)
    cell[top : top + rows, left : left + columns] = cv2.resize(
        image, (columns, rows), interpolation=cv2.INTER_AREA
    )
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    cv2.rectangle(cell, (0, 0), (text_width + 14, 22), _BACKGROUND, -1)
    return cv2.putText(cell, text, (7, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
