"""Whether a person can still be told: face embeddings before and after."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from disguisor_ros.eval.scores import Face
from disguisor_ros.eval.summary import mean_or_none

#: Distance of two embeddings below which dlib's model takes two faces for one person.
SAME_PERSON = 0.6

#: Faces that an embedding can be asked about: large, free, and turned at most this far.
MIN_PIXELS, MIN_VISIBILITY, MAX_YAW_DEG = 30, 0.6, 60.0


class FaceEmbedder:
    """dlib's ResNet: 128 numbers for a face, close together for one person (King 2017).

    The weights come inside the package ``face-recognition-models``.

    Raises
    ------
    ImportError
        If dlib or the package with the weights is not installed.
    """

    def __init__(self):
        import dlib

        spec = find_spec("face_recognition_models")
        if spec is None:
            raise ImportError("No module named 'face_recognition_models'")
        models = Path(spec.origin).parent / "models"
        self._dlib = dlib
        landmarks = models / "shape_predictor_5_face_landmarks.dat"
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._network = dlib.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        )
        self.package = (
            f"dlib {dlib.__version__} face recognition ResNet"
            f" (weights of face-recognition-models {version('face-recognition-models')})"
        )

    def __call__(self, image: np.ndarray, box) -> np.ndarray:
        """Embedding, shape (128,), of the face in a box x, y, width, height of an RGB image."""
        x, y, width, height = (round(value) for value in box)
        landmarks = self._landmarks(image, self._dlib.rectangle(x, y, x + width, y + height))
        chip = self._dlib.get_face_chip(image, landmarks, size=150, padding=0.25)
        return np.array(self._network.compute_face_descriptor(chip))


def can_be_told(face: Face) -> bool:
    """Whether a face is large, free and frontal enough for its embedding to mean something."""
    return (
        face.visibility >= MIN_VISIBILITY
        and face.yaw_deg <= MAX_YAW_DEG
        and min(face.box_full[2:]) >= MIN_PIXELS
    )


class Identity:
    """Collects faces before and after, and says how much of them can still be told."""

    def __init__(self, embedder: FaceEmbedder):
        self._embedder = embedder
        self._persons: list[int] = []
        self._before: list[np.ndarray] = []
        self._after: list[np.ndarray] = []

    def add(self, before: np.ndarray, after: np.ndarray, faces: list[Face]) -> None:
        """Embed faces of one image, shape (H, W, 3), RGB, before and after."""
        for face in faces:
            self._persons.append(face.person)
            self._before.append(self._embedder(before, face.box_full))
            self._after.append(self._embedder(after, face.box_full))

    def summary(self) -> dict:
        """Figures; only the number of faces when it is 0."""
        out = {"package": self._embedder.package, "faces": len(self._persons)}
        if not self._persons:
            return out
        persons, before, after = map(np.array, (self._persons, self._before, self._after))
        moved = np.linalg.norm(before - after, axis=1)
        between = np.linalg.norm(before[:, None] - before[None], axis=2)
        same = persons[:, None] == persons[None]
        others = ~np.eye(len(persons), dtype=bool)
        return {
            **out,
            "persons": len(set(self._persons)),
            "distance_before_after": float(moved.mean()),
            "taken_for_same": float((moved < SAME_PERSON).mean()),
            "others_taken_for_same": mean_or_none(between[~same] < SAME_PERSON),
            "distance_same_person": mean_or_none(between[same & others]),
            "distance_other_persons": mean_or_none(between[~same]),
            "rank1_before": rank1(before, before, persons),
            "rank1_after": rank1(after, before, persons),
            "rank1_chance": rank1_chance(persons),
        }


def rank1(probes: np.ndarray, gallery: np.ndarray, persons: np.ndarray) -> float:
    """Share of faces whose nearest face among all *other* original faces is the same person's.

    Parameters
    ----------
    probes, gallery : ndarray, shape (N, D)
        Row i of both is of the same face view, which is never compared with itself.
    persons : ndarray, shape (N,)
    """
    if len(persons) < 2:
        return 0.0
    distance = np.linalg.norm(probes[:, None] - gallery[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((persons[distance.argmin(axis=1)] == persons).mean())


def rank1_chance(persons: np.ndarray) -> float:
    """Chance that a random other face is the same person's; what :func:`rank1` must beat."""
    if len(persons) < 2:
        return 0.0
    same = persons[:, None] == persons[None]
    return float((same.sum(axis=1) - 1).mean() / (len(persons) - 1))
