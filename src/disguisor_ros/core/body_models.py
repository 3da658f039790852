"""Body models behind one interface: Anny by default, SMPL, SMPL-H or SMPL-X from own files.

A body is eleven rigid segments with blend skinning between them. That is what 17 COCO keypoints
can tell, and it makes every model the same to the fitter: rest pivots, rest keypoints, weights.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disguisor_ros.core.head_template import ANNY_AXES, PHENOTYPE, cached_arrays
from disguisor_ros.core.rotations import rotation_between
from disguisor_ros.core.types import COCO17

#: Segments of a body; each but the first hangs at its pivot on its parent.
SEGMENTS = (
    "pelvis", "chest", "head", "left_upper_arm", "right_upper_arm", "left_forearm",
    "right_forearm", "left_thigh", "right_thigh", "left_shank", "right_shank",
)  # fmt: skip

#: Index of the parent of each segment, -1 for the pelvis.
PARENTS = (-1, 0, 1, 1, 1, 3, 4, 0, 0, 7, 8)

#: Segment that carries each COCO-17 keypoint.
KEYPOINT_SEGMENTS = (2, 2, 2, 2, 2, 1, 1, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10)

#: COCO-17 keypoint at the pivot of the limb segments.
LIMB_PIVOTS = {3: 5, 4: 6, 5: 7, 6: 8, 7: 11, 8: 12, 9: 13, 10: 14}

#: COCO-17 keypoint at the far end of the limb segments.
LIMB_ENDS = {3: 7, 4: 8, 5: 9, 6: 10, 7: 13, 8: 14, 9: 15, 10: 16}

#: Directions of the limbs of a body at ease, body frame, left side.
AT_EASE = {
    3: (0.05, 0.16, -1.0), 5: (0.35, 0.0, -1.0), 7: (0.02, 0.04, -1.0), 9: (-0.03, 0.0, -1.0),
}  # fmt: skip

_CACHE_VERSION = 1


@dataclass(eq=False)
class BodyModel:
    """A body at ease in the body frame (x forward, y left, z up), metres.

    Parameters
    ----------
    vertices : ndarray, shape (V, 3), float32
    faces : ndarray, shape (F, 3), int32
    weights : ndarray, shape (V, 11), float32
        Share of each of :data:`SEGMENTS` in each vertex; rows sum to 1.
    pivots : ndarray, shape (11, 3)
        Joint at which each segment turns on its parent; the pelvis turns between the hips.
    keypoints : ndarray, shape (17, 3)
        COCO-17 keypoints.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    pivots: np.ndarray
    keypoints: np.ndarray

    def __post_init__(self):
        count = len(SEGMENTS)
        expected = {"weights": (len(self.vertices), count), "pivots": (count, 3),
                    "keypoints": (17, 3)}  # fmt: skip
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"body model: {name} must have shape {shape}, got {getattr(self, name).shape}"
                )

    def skin(
        self, rotations: np.ndarray, pivots: np.ndarray, scales: np.ndarray
    ) -> np.ndarray:
        """Vertices of posed bodies by linear blend skinning.

        Parameters
        ----------
        rotations : ndarray, shape (B, 11, 3, 3)
            World <- body rotation of each segment.
        pivots : ndarray, shape (B, 11, 3), metres, world
        scales : ndarray, shape (B, 11, 3)
            Stretch of each segment along the axes of the body frame.

        Returns
        -------
        ndarray, shape (B, V, 3), float32, metres, world
        """
        linear = rotations * scales[..., None, :]
        offset = pivots - np.einsum("bsij,sj->bsi", linear, self.pivots)
        stacked = np.concatenate([linear, offset[..., None]], axis=-1).astype(np.float32)
        blended = np.einsum("vs,bsk->bvk", self.weights, stacked.reshape(*stacked.shape[:2], 12),
                            optimize=True).reshape(len(stacked), -1, 3, 4)  # fmt: skip
        moved = np.einsum("bvij,vj->bvi", blended[..., :3], self.vertices, optimize=True)
        return moved + blended[..., 3]


def load_anny() -> BodyModel:
    """Anny's average adult (MakeHuman data, CC0); the default.

    The first time takes seconds (and Anny's own cache a minute); later a cached file is read.
    """
    return BodyModel(
        **cached_arrays(f"body_model_v{_CACHE_VERSION}", lambda: vars(read_anny(PHENOTYPE)))
    )


def load_smplx(path: str | os.PathLike) -> BodyModel:
    """Mean shape of SMPL, SMPL-H or SMPL-X from the user's own licensed file, by ``smplx``.

    Parameters
    ----------
    path : path
        A model file in the official layout, for example ``SMPL_NEUTRAL.pkl`` or
        ``SMPLX_NEUTRAL.npz``. The kind of model is told by its number of vertices and joints.

    Raises
    ------
    ValueError
        If the file is missing or is not such a model.

    Notes
    -----
    The official ``.pkl`` files are pickles, which run code when they are read: use only files
    from the model's own site.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"body model {path}: no such file")
    return _read_smplx(path)


def _at_ease(vertices, faces, weights, spine, neck, keypoints) -> BodyModel:
    """Bend a model in the body frame from its rest pose to standing at ease.

    With all models at ease at identity, one set of pose priors serves them all.
    """
    middle = (keypoints[11] + keypoints[12]) / 2
    vertices, keypoints = vertices - middle, keypoints - middle
    pivots = np.zeros((len(SEGMENTS), 3))
    pivots[1], pivots[2] = spine - middle, neck - middle
    for segment, keypoint in LIMB_PIVOTS.items():
        pivots[segment] = keypoints[keypoint]
    posed, moved = pivots.copy(), keypoints.copy()
    rotations = np.tile(np.eye(3), (len(SEGMENTS), 1, 1))
    for segment, end in LIMB_ENDS.items():
        left = segment % 2 == 1
        ease = np.array(AT_EASE[segment if left else segment - 1]) * (1, 1 if left else -1, 1)
        limb = keypoints[end] - pivots[segment]
        rotations[segment] = rotation_between(limb, ease)
        posed[segment] = moved[LIMB_PIVOTS[segment]]
        moved[end] = posed[segment] + rotations[segment] @ limb
    model = BodyModel(
        vertices.astype(np.float32), faces.astype(np.int32), weights.astype(np.float32),
        pivots, keypoints,
    )  # fmt: skip
    bent = model.skin(rotations[None], posed[None], np.ones((1, len(SEGMENTS), 3)))[0]
    return BodyModel(bent, model.faces, model.weights, posed, moved)


def _segment_weights(bone_weights: np.ndarray, shares: list[dict[str, float]]) -> np.ndarray:
    """Weights of segments (V, 11) from weights of bones (V, J) and each bone's shares."""
    matrix = np.zeros((len(shares), len(SEGMENTS)))
    for row, share in zip(matrix, shares):
        for name, value in share.items():
            row[SEGMENTS.index(name)] = value
    weights = bone_weights @ matrix
    return weights / weights.sum(axis=1, keepdims=True)


def read_anny(phenotype: dict[str, float]) -> BodyModel:
    """Anny with a phenotype (each 0 to 1; see ``anny``), without the cache."""
    import anny

    model = anny.Anny(skinning_method="lbs")
    output = model(phenotype_kwargs=phenotype)
    regressor = anny.KeypointsRegressor.coco(model, labels=list(COCO17))
    vertices = output["vertices"][0].numpy().astype(np.float64) @ ANNY_AXES.T
    keypoints = regressor(output)[0].numpy().astype(np.float64) @ ANNY_AXES.T
    bones = output["bone_poses"][0, :, :3, 3].numpy().astype(np.float64) @ ANNY_AXES.T
    names = model.bone_labels
    own = [_ANNY_SHARES.get(name.split(".")[0]) for name in names]
    shares: list[dict[str, float]] = []
    for index, name in enumerate(names):
        parent = model.bone_parents[index]
        share = own[index] if own[index] is not None else shares[parent]
        side = {"L": "left_", "R": "right_"}.get(name[-1] if "." in name else "", "")
        shares.append({k if k in SEGMENTS else side + k: v for k, v in share.items()})
    bone_weights = np.zeros((len(vertices), len(names)))
    np.add.at(
        bone_weights,
        (np.arange(len(vertices))[:, None], model.vertex_bone_indices.numpy()),
        model.vertex_bone_weights.numpy(),
    )
    weights = _segment_weights(bone_weights, shares)
    spine, neck = bones[names.index("spine03")], bones[names.index("neck01")]
    return _at_ease(vertices, model.faces.numpy(), weights, spine, neck, keypoints)


#: Segments that the joints of SMPL, SMPL-H and SMPL-X belong to; all later joints (hands, jaw,
#: eyes) follow their parents.
_SMPL_SHARES = (
    {"pelvis": 1.0}, {"left_thigh": 1.0}, {"right_thigh": 1.0}, {"pelvis": 0.3, "chest": 0.7},
    {"left_shank": 1.0}, {"right_shank": 1.0}, {"chest": 1.0}, {"left_shank": 1.0},
    {"right_shank": 1.0}, {"chest": 1.0}, {"left_shank": 1.0}, {"right_shank": 1.0},
    {"chest": 0.5, "head": 0.5}, {"chest": 1.0}, {"chest": 1.0}, {"head": 1.0},
    {"left_upper_arm": 1.0}, {"right_upper_arm": 1.0}, {"left_forearm": 1.0},
    {"right_forearm": 1.0}, {"left_forearm": 1.0}, {"right_forearm": 1.0},
)  # fmt: skip

#: SMPL joints at COCO-17's shoulders to ankles, and those of spine and neck.
_SMPL_JOINTS = (16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)
_SMPL_SPINE, _SMPL_NECK = 3, 12

#: Kind of model by its number of vertices, as ``smplx`` names it.
_SMPL_KINDS = {6890: ("smpl", "smplh"), 10475: ("smplx", "smplx")}


def _read_smplx(path: Path) -> BodyModel:
    import smplx
    from smplx.vertex_ids import vertex_ids

    count, joints = _smplx_size(path)
    if count not in _SMPL_KINDS:
        raise ValueError(f"body model {path}: expected 6890 or 10475 vertices, got {count}")
    kind, landmarks = _SMPL_KINDS[count]
    kind = "smplh" if kind == "smpl" and joints > 24 else kind
    options = {"use_pca": False, "flat_hand_mean": True} if kind != "smpl" else {}
    model = smplx.create(
        str(path), model_type=kind, ext=path.suffix[1:], num_betas=10, **options
    )
    output = model()
    # SMPL is y-up and looks along z.
    axes = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    vertices = output.vertices[0].detach().numpy().astype(np.float64) @ axes.T
    bones = output.joints[0].detach().numpy().astype(np.float64) @ axes.T
    head = [vertex_ids[landmarks][name] for name in ("nose", "leye", "reye", "lear", "rear")]
    keypoints = np.concatenate([vertices[head], bones[list(_SMPL_JOINTS)]])
    shares = list(_SMPL_SHARES)
    for parent in model.parents.tolist()[len(shares) :]:
        shares.append(shares[parent])
    weights = _segment_weights(model.lbs_weights.detach().numpy().astype(np.float64), shares)
    return _at_ease(
        vertices, np.asarray(model.faces), weights, bones[_SMPL_SPINE], bones[_SMPL_NECK],
        keypoints,
    )  # fmt: skip


def _smplx_size(path: Path) -> tuple[int, int]:
    """Numbers of vertices and joints of a model file."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=True) as stored:
                return stored["weights"].shape
        with open(path, "rb") as file:
            return np.asarray(pickle.load(file, encoding="latin1")["weights"]).shape
    except ModuleNotFoundError as error:
        raise ValueError(
            f"body model {path}: needs {error.name} to be read; convert it once with smplx's"
            " tools/clean_ch.py"
        ) from error
    except Exception as error:
        raise ValueError(f"body model {path}: not a SMPL, SMPL-H or SMPL-X file") from error


#: Segments that Anny's bones belong to; bones not named here follow their parent.
_ANNY_SHARES = {
    "root": {"pelvis": 1.0}, "spine05": {"pelvis": 1.0}, "spine04": {"pelvis": 0.7, "chest": 0.3},
    "spine03": {"pelvis": 0.3, "chest": 0.7}, "spine02": {"chest": 1.0},
    "upperarm01": {"upper_arm": 1.0}, "lowerarm01": {"forearm": 1.0},
    "upperleg01": {"thigh": 1.0}, "lowerleg01": {"shank": 1.0},
    "neck01": {"chest": 0.75, "head": 0.25}, "neck02": {"chest": 0.5, "head": 0.5},
    "neck03": {"chest": 0.25, "head": 0.75}, "head": {"head": 1.0},
}  # fmt: skip
