"""Ground truth beside a simulated bag: written once, read by whoever scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from disguisor_ros.errors import UserError

SCHEMA = "disguisor-truth"
VERSION = 1

#: Latched topic (std_msgs/String) with the ``bag_id`` of the bag that the truth belongs to.
BAG_ID_TOPIC = "/disguisor/bag_id"

_KEYS = ("bag_id", "scenario", "seed", "fps", "cameras", "persons", "frames")


@dataclass(frozen=True)
class Truth:
    """Truth of one simulated bag; docs/simulation.md describes every field.

    Parameters
    ----------
    folder : Path
        Holds ``truth.json`` and ``masks/<camera>/<color stamp_ns>.png``.
    data : dict
        Contents of ``truth.json``.
    """

    folder: Path
    data: dict

    @property
    def bag_id(self) -> str:
        """Hex string that the bag carries too, on :data:`BAG_ID_TOPIC`."""
        return self.data["bag_id"]

    @property
    def cameras(self) -> dict[str, dict]:
        """Camera name -> width, height, matrix, distortion, tf_world_camera, ..."""
        return self.data["cameras"]

    @property
    def persons(self) -> dict[int, dict]:
        """Person id -> attributes."""
        return {int(key): value for key, value in self.data["persons"].items()}

    @property
    def frames(self) -> list[dict]:
        """The instants, in order of time."""
        return self.data["frames"]

    def mask(self, camera: str, stamp_ns: int) -> np.ndarray:
        """Label image of a colour image, shape (height, width), uint8.

        0 is no face; k is a visible pixel of the face of person k.

        Raises
        ------
        UserError
            If the mask file is missing or damaged.
        """
        path = mask_path(self.folder, camera, stamp_ns)
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.exists() else None
        if mask is None:
            raise UserError(f"{path}: the face mask of this image is missing or damaged")
        return mask


def mask_path(folder: Path, camera: str, stamp_ns: int) -> Path:
    """Place of the label image of a colour image."""
    return Path(folder) / "masks" / camera / f"{stamp_ns}.png"


def truth_folder(bag: str | Path) -> Path:
    """Folder of the truth of a simulated bag: ``OUT.truth`` beside ``OUT``."""
    bag = Path(bag)
    return bag.with_name(bag.name + ".truth")


def load_truth(folder: str | Path) -> Truth:
    """Read the truth of a simulated bag.

    Parameters
    ----------
    folder : path
        The truth folder (``OUT.truth``).

    Raises
    ------
    UserError
        If there is no truth, or it is damaged or of another schema or version.
    """
    folder = Path(folder)
    path = folder / "truth.json"
    if not path.is_file():
        raise UserError(f"{path}: there is no ground truth (expected the folder OUT.truth)")
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the ground truth cannot be read ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise UserError(f"{path}: this is not a {SCHEMA} file")
    if data.get("version") != VERSION:
        raise UserError(
            f"{path}: truth of version {data.get('version')}, this program reads {VERSION};"
            " simulate the bag again"
        )
    missing = [key for key in _KEYS if key not in data]
    if missing:
        raise UserError(f"{path}: the ground truth is damaged ({', '.join(missing)} missing)")
    return Truth(folder, data)


def write_truth(folder: Path, data: dict) -> None:
    """Write ``truth.json``; ``data`` is everything but schema and version."""
    text = json.dumps({"schema": SCHEMA, "version": VERSION, **data}, separators=(",", ":"))
    (Path(folder) / "truth.json").write_text(text + "\n")


def write_mask(folder: Path, camera: str, stamp_ns: int, labels: np.ndarray) -> None:
    """Write the label image, shape (height, width) uint8, of a colour image."""
    path = mask_path(folder, camera, stamp_ns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), labels):
        raise UserError(f"{path}: cannot be written")
