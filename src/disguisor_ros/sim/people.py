"""People of the operating room: bodies, clothes, faces, and their skinned meshes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import open3d as o3d

from disguisor_ros.core.cameras import rigid
from disguisor_ros.core.head_template import vertex_normals
from disguisor_ros.sim import faces, mesh
from disguisor_ros.sim.anatomy import JOINT_BONES, Anatomy
from disguisor_ros.sim.skeleton import BONES, Pose, bone_transforms
from disguisor_ros.sim.textures import TextureSet, cloth, linear

#: How texture coordinates follow from a vertex' template coordinates.
HEAD, LEFT_EYE, RIGHT_EYE, CLOTH = range(4)

_IRISES = ((74, 52, 38), (96, 116, 128), (88, 98, 66), (60, 40, 30))
_SCRUBS = ((44, 116, 122), (40, 84, 130), (62, 128, 108), (96, 62, 112))
_GOWNS = ((70, 128, 160), (74, 138, 128), (100, 146, 176))
_CAPS = ((120, 168, 196), (96, 150, 128), (46, 96, 140), (188, 196, 204))
_MASKS = ((150, 190, 212), (160, 204, 200), (214, 220, 222))


@dataclass(frozen=True)
class Look:
    """What a person looks like.

    Parameters
    ----------
    phenotype : dict
        Anny's: gender (0 female .. 1 male), age, muscle, weight, height, proportions; 0 to 1.
    skin : int
        Index into :data:`~disguisor_ros.sim.faces.SKINS`.
    hair : str
        Key of :data:`~disguisor_ros.sim.faces.HAIRS`.
    garment : str
        ``scrubs``, ``gown`` or ``patient``.
    cap, mask, glasses : str
        ``none``, ``skull`` or ``bouffant``; ``none``, ``surgical``, ``below_nose`` or ``oxygen``;
        ``none``, ``glasses`` or ``visor`` (a face shield whose sheet is perfectly clear).
    gloves : bool
    beard : float
        0 none, 0.5 stubble, 1 full.
    bald, made_up : bool
    """

    phenotype: dict[str, float]
    skin: int
    hair: str
    garment: str
    cap: str
    mask: str
    glasses: str
    gloves: bool
    beard: float
    bald: bool
    made_up: bool


def random_look(rng: np.random.Generator, garment: str, masked: float) -> Look:
    """Draw a look.

    Parameters
    ----------
    rng : numpy Generator
    garment : str
    masked : float
        Probability of a mask; sterile staff go without half as often as others.
    """
    gender = float(np.clip(rng.choice([0.1, 0.9]) + rng.normal(0, 0.08), 0, 1))
    age = float(rng.uniform(0.6, 0.95))
    sterile = garment == "gown"
    mask = "none"
    if rng.random() < (1 + masked) / 2 if sterile else rng.random() < masked:
        mask = "surgical" if rng.random() < (0.9 if sterile else 0.7) else "below_nose"
    patient = garment == "patient"
    return Look(
        phenotype={
            "gender": gender, "age": age, "muscle": float(rng.uniform(0.3, 0.8)),
            "weight": float(rng.uniform(0.35, 0.75)), "height": float(rng.uniform(0.35, 0.7)),
            "proportions": float(rng.uniform(0.4, 0.8)),
        },
        skin=int(rng.choice(6, p=[0.26, 0.26, 0.18, 0.12, 0.1, 0.08])),
        hair=str(rng.choice(list(faces.HAIRS))) if age < 0.85 else "grey",
        garment=garment,
        cap=str(rng.choice(["skull", "bouffant"])) if sterile or rng.random() < 0.7 else "none",
        mask=str(rng.choice(["none", "oxygen"])) if patient else mask,
        glasses="none" if patient else str(
            rng.choice(["none", "glasses", "visor"], p=[0.6, 0.25, 0.15])
        ),
        gloves=sterile or (not patient and rng.random() < 0.3),
        beard=float(rng.choice([0.0, 0.5, 1.0], p=[0.5, 0.3, 0.2])) if gender > 0.5 else 0.0,
        bald=bool(gender > 0.5 and rng.random() < 0.15),
        made_up=bool(gender < 0.5 and rng.random() < 0.4),
    )  # fmt: skip


class Person:
    """A dressed body that can be posed.

    Attributes
    ----------
    faces : ndarray, shape (F, 3), int32
    material : ndarray, shape (F,), int16
        Texture of each triangle.
    projection : ndarray, shape (F,), int8
        HEAD, LEFT_EYE, RIGHT_EYE or CLOTH.
    face_region : ndarray, shape (F,), bool
        Triangles that belong to the face, what is worn on it included.
    coords : ndarray, shape (V, 3), metres
        Texture coordinates: place on the template, relative to the middle of its head.
    face_vertices : ndarray, shape (n,)
        Vertices of the face region.
    outline : ndarray, shape (m, 3)
        Coarse triangles of the face region, indices into ``face_vertices``.
    occlusion : ndarray, shape (V,)
        Share of the sky that the body itself leaves open at rest.
    """

    def __init__(self, identity: int, look: Look, anatomy: Anatomy):
        self.id, self.look = identity, look
        self.body = anatomy.rest(look.phenotype)
        self._rest, self._weights, self._coords = [], [], []
        self._parts = []
        self._count = 0

    def add(self, rest, triangles, weights, coords, texture, projection, face=False) -> None:
        """Add a part: rest vertices (n, 3), their weights and texture coordinates.

        ``face`` tells of the vertices, or of all of them, whether they belong to the face.
        """
        used, local = np.unique(triangles, return_inverse=True)
        local = local.reshape(-1, 3).astype(np.int32) + self._count
        self._count += len(used)
        self._rest.append(rest[used])
        self._weights.append(weights[used])
        self._coords.append(coords[used])
        n = len(local)
        face = np.broadcast_to(face, len(rest))[triangles].all(axis=1)
        self._parts.append((local, np.full(n, texture), np.full(n, projection), face))

    def finish(self) -> Person:
        """Join the parts."""
        self.rest = np.concatenate(self._rest).astype(np.float32)
        self.weights = np.concatenate(self._weights).astype(np.float32)
        self.coords = np.concatenate(self._coords).astype(np.float32)
        columns = [np.concatenate(c) for c in zip(*self._parts)]
        self.faces, self.material = columns[0], columns[1].astype(np.int16)
        self.projection, self.face_region = columns[2].astype(np.int8), columns[3]
        self.normals = vertex_normals(self.rest, self.faces).astype(np.float32)
        self.occlusion = _self_occlusion(self.rest, self.normals, self.faces)
        region = self.faces[self.face_region]
        self.face_vertices = np.unique(region)
        thin = mesh.cluster(self.rest, region, 0.012)
        self.outline = np.searchsorted(self.face_vertices, thin)
        del self._rest, self._weights, self._coords, self._parts
        return self

    @property
    def hip_height(self) -> float:
        """Height of the pelvis joint over the soles when standing, metres."""
        return float(self.body.heads["root"][2] - self.rest[:, 2].min())

    @property
    def ankle_height(self) -> float:
        """Height of the ankle joint over the sole, metres."""
        return float(self.body.heads["foot.L"][2] - self.rest[:, 2].min())

    def transforms(self, pose: Pose) -> np.ndarray:
        """Skinning transforms of a pose, shape (len(BONES), 4, 4)."""
        return bone_transforms(self.body.heads, pose)

    def skin(self, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and normals in the world, each (V, 3) float32 (linear blend skinning)."""
        flat = transforms[:, :3].reshape(len(BONES), 12).astype(np.float32)
        blended = (self.weights @ flat).reshape(-1, 3, 4)
        turn = blended[:, :, :3]
        vertices = (turn @ self.rest[:, :, None])[..., 0] + blended[:, :, 3]
        normals = (turn @ self.normals[:, :, None])[..., 0]
        return vertices, normals

    def joints(self, transforms: np.ndarray) -> np.ndarray:
        """COCO-17 joints in the world, shape (17, 3), metres."""
        index = [BONES.index(bone) for bone in JOINT_BONES]
        tf = transforms[index]
        return np.einsum("kij,kj->ki", tf[:, :3, :3], self.body.joints) + tf[:, :3, 3]

    def head_pose(self, transforms: np.ndarray) -> np.ndarray:
        """Pose of the head frame, shape (4, 4): world <- head (origin between the ears)."""
        between_ears = rigid(np.eye(3), self.body.joints[3:5].mean(axis=0))
        return transforms[BONES.index("head")] @ between_ears

    def attributes(self) -> dict:
        """Attributes for the ground truth."""
        return asdict(self.look) | {"height_m": round(float(np.ptp(self.rest[:, 2])), 3)}


class Wardrobe:
    """Makes persons; holds what all of them share."""

    def __init__(self, textures: TextureSet):
        self.anatomy = Anatomy()
        self.textures = textures
        a = self.anatomy
        self.origin = a.average.joints[3:5].mean(axis=0)
        self.coords = a.template - self.origin
        self.ear = a.texture_mask("mpfb_ears.jpg")
        self.skin_part = np.concatenate([a.part("head"), a.part("body")])
        self.eye_parts = (a.part("eye_front.L"), a.part("eye_front.R"))
        self.eyes = a.average.joints[1:3] - self.origin
        self.head_map = faces.map_head(
            self.coords, self.skin_part, np.concatenate(self.eye_parts),
            a.texture_mask("mpfb_lips.jpg"), self.ear, self.eyes,
        )  # fmt: skip
        self.face_region = self._face_region()

    def dress(self, identity: int, look: Look, rng: np.random.Generator) -> Person:
        """Make a person of a look."""
        person = Person(identity, look, self.anatomy)
        self._head(person, rng)
        self._clothes(person, rng)
        self._hands_and_feet(person, rng)
        if look.cap != "none":
            self._cap(person, rng)
        elif not look.bald:
            self._hair(person, rng)
        if look.mask == "oxygen":
            self._oxygen_mask(person)
        elif look.mask != "none":
            self._mask(person, rng)
        if look.glasses == "glasses":
            self._glasses(person)
        elif look.glasses == "visor":
            self._visor(person)
        return person.finish()

    def _face_region(self) -> np.ndarray:
        x, y, z = self.coords.T
        below_hairline = 0.075 + 0.25 * (x - 0.08) - z
        before_ears = x - 0.012 - 0.35 * np.clip(-0.06 - z, 0, None)
        above_throat = z + 0.112 + 0.5 * np.clip(0.05 - x, 0, None) * (z < -0.06)
        region = np.minimum(np.minimum(below_hairline, before_ears), above_throat)
        return (region > 0) & (self.ear < 0.5)

    def _add(self, person, triangles, texture, projection, rest=None, face=False):
        rest = person.body.vertices if rest is None else rest
        person.add(rest, triangles, self.anatomy.weights, self.coords, texture, projection, face)

    def _inflate(self, person, triangles, offset) -> np.ndarray:
        """Rest vertices moved out along their normals by ``offset`` metres."""
        normals = vertex_normals(person.body.vertices, triangles)
        return person.body.vertices + normals * np.broadcast_to(offset, len(normals))[:, None]

    def _head(self, person, rng):
        look = person.look
        paint = faces.paint_head(
            self.head_map, rng, look.skin, look.hair, age=(look.phenotype["age"] - 0.6) / 0.4,
            beard=look.beard, bald=look.bald, made_up=look.made_up,
        )  # fmt: skip
        texture = self.textures.add(paint, faces.TEXELS_PER_M)
        keep = (self.coords[self.skin_part, 2] > -0.24).all(axis=1)
        keep &= (np.abs(self.coords[self.skin_part, 1]) < 0.13).all(axis=1)
        skin = self.skin_part[keep]
        self._add(person, skin, texture, HEAD, face=self.face_region)
        eye = self.textures.add(
            faces.paint_eye(rng, _IRISES[int(rng.integers(len(_IRISES)))]), 128 / 0.026
        )
        for part, projection in zip(self.eye_parts, (LEFT_EYE, RIGHT_EYE)):
            self._add(person, part, eye, projection, face=True)

    def _clothes(self, person, rng):
        look = person.look
        colors = {"scrubs": _SCRUBS, "gown": _GOWNS, "patient": ((196, 208, 214),)}[look.garment]
        color = colors[int(rng.integers(len(colors)))]
        texture = self.textures.add(cloth(rng, color), 512.0)
        tights = self.anatomy.group("helper-tights")
        x, y, z = self.coords.T
        collar = (z < -0.108) & (z > -1.66)
        if look.garment != "gown":
            neckline = -0.20 + 1.6 * np.abs(y)
            collar &= (z < neckline) | (x < 0.02)
            collar &= np.abs(y) < 0.31
        if look.garment == "patient":
            collar &= (z > -0.40) & (np.abs(y) < 0.2)
        cut = tights[collar[tights].all(axis=1)]
        loose = 0.012 + 0.016 * _waves(person.body.vertices, rng)
        if look.garment == "gown":
            loose += 0.012 * (np.abs(y) > 0.22)
        loose += 0.02 * np.clip((-0.5 - z) / 0.5, 0, 1)
        rest = mesh.smooth(self._inflate(person, cut, loose), cut, 2)
        self._add(person, cut, texture, CLOTH, rest)
        if look.garment == "gown":
            skirt = self.anatomy.group("helper-skirt")
            low = skirt[(z[skirt] > -1.48).all(axis=1)]
            rest = self._inflate(person, low, 0.03 + 0.02 * _waves(person.body.vertices, rng))
            self._add(person, low, texture, CLOTH, rest)

    def _hands_and_feet(self, person, rng):
        look, a = person.look, self.anatomy
        if look.garment == "patient":
            return
        tone = linear(faces.SKINS[look.skin])
        bare = self.textures.add(np.tile(tone, (4, 4, 1)), 64.0)
        glove = linear(((236, 228, 206), (120, 160, 200), (222, 226, 232))[int(rng.integers(3))])
        hand = self.textures.add(np.tile(glove, (4, 4, 1)), 64.0) if look.gloves else bare
        thin = mesh.cluster(a.template, a.part("hand.L", "hand.R"), 0.012)
        rest = self._inflate(person, thin, 0.002) if look.gloves else None
        self._add(person, thin, hand, CLOTH, rest)
        if look.garment != "gown":
            body = a.part("body")
            arms = body[(np.abs(self.coords[body, 1]) > 0.25).all(axis=1)]
            self._add(person, mesh.cluster(a.template, arms, 0.012), bare, CLOTH)
        dark = ((40, 44, 52), (220, 222, 224), (60, 90, 130))[int(rng.integers(3))]
        shoe = self.textures.add(np.tile(linear(dark), (4, 4, 1)), 64.0)
        feet = mesh.cluster(a.template, a.part("foot.L", "foot.R"), 0.018)
        self._add(person, feet, shoe, CLOTH, self._inflate(person, feet, 0.01))

    def _scalp(self, edge: np.ndarray) -> np.ndarray:
        head = self.anatomy.part("head", "body")
        return head[(edge[head] > 0).all(axis=1)]

    def _cap(self, person, rng):
        x, y, z = self.coords.T
        bouffant = person.look.cap == "bouffant"
        edge = z - ((-0.004 + 0.50 * x) if bouffant else (0.016 + 0.42 * x))
        edge = np.where(z > -0.06, edge, -1)
        scalp = self._scalp(edge)
        puff = 0.022 if bouffant else 0.007
        height = 0.006 + puff * np.clip(edge / 0.035, 0, 1)
        rest = mesh.smooth(self._inflate(person, scalp, height), scalp, 8 if bouffant else 4)
        rest[:, 2] += 0.008 * np.clip(edge / 0.04, 0, 1)
        color = _CAPS[int(rng.integers(len(_CAPS)))]
        texture = self.textures.add(cloth(rng, color, 0.2 if bouffant else 0.1), 1024.0)
        self._add(person, scalp, texture, CLOTH, rest)

    def _hair(self, person, rng):
        x, y, z = self.coords.T
        hairline = z - (0.082 + 0.35 * (x - 0.08))
        temple = np.minimum(0.02 - x, z + 0.02)
        nape = np.minimum(-0.02 - x, z + 0.065)
        edge = np.maximum(np.maximum(hairline, temple), nape)
        edge = np.where(self.ear > 0.3, -1, edge)
        scalp = self._scalp(edge)
        volume = 0.014 if person.look.phenotype["gender"] > 0.5 else 0.026
        height = 0.001 + volume * np.clip(edge / 0.03, 0, 1)
        rest = mesh.smooth(self._inflate(person, scalp, height), scalp, 3)
        color = faces.HAIRS[person.look.hair]
        strands = np.repeat(cloth(rng, color, 0.5)[:1], 256, axis=0)
        texture = self.textures.add(strands, 1500.0)
        self._add(person, scalp, texture, CLOTH, rest)

    def _mask(self, person, rng):
        x, y, z = self.coords.T
        below = person.look.mask == "below_nose"
        heights = (-0.036, -0.036, -0.040) if below else (0.012, -0.003, -0.022)
        top = np.interp(np.abs(y), (0.0, 0.02, 0.07), heights)
        inside = np.minimum(
            np.minimum(top - z, x - 0.014 - 0.3 * np.clip(-0.06 - z, 0, 1)), z + 0.125
        )
        head = self.anatomy.part("head", "body")
        cut = head[(inside[head] > 0).all(axis=1) & (self.ear[head] < 0.3).all(axis=1)]
        body = person.body.vertices
        rest = mesh.smooth(self._inflate(person, cut, 0.006), cut, 14)
        forward = np.maximum(rest[:, 0], body[:, 0] + 0.003)
        rest[:, 0] = forward
        folds = 1 - 0.16 * (np.cos(2 * np.pi * np.arange(256) / 32) > 0.75)
        color = linear(_MASKS[int(rng.integers(len(_MASKS)))])
        pleats = np.tile((color * folds[:, None])[:, None], (1, 256, 1))
        pleats *= 1 + 0.04 * rng.standard_normal((256, 256, 1))
        texture = self.textures.add(pleats, 1500.0)
        self._add(person, cut, texture, CLOTH, rest, face=True)
        for ear in person.body.joints[3:5]:
            side = np.sign(ear[1] - person.body.joints[3:5, 1].mean())
            corner = ear + [0.028, -0.006 * side, -0.02 if not below else -0.035]
            for drop in (0.0, -0.045):
                loop = [
                    corner + [0, 0, drop],
                    ear + [0.008, 0.004 * side, 0.3 * drop],
                    ear + [-0.008, 0, 0.02],
                ]
                self._rigid(person, mesh.tube(loop, 0.0014, 4), (226, 230, 232))

    def _rigid(self, person, shape, color, face=False):
        """Something hard worn on the head."""
        vertices, triangles = shape
        weights = np.zeros((len(vertices), len(BONES)))
        weights[:, BONES.index("head")] = 1
        texture = self.textures.add(np.tile(linear(color), (4, 4, 1)), 64.0)
        person.add(vertices, triangles, weights, vertices, texture, CLOTH, face)

    def _oxygen_mask(self, person):
        nose = person.body.joints[0]
        middle = nose + [-0.004, 0.0, -0.026]
        shell = mesh.lathe([(0.001, 0.052), (0.02, 0.048), (0.034, 0.028), (0.044, -0.004)], 20)
        turned = shell[0][:, [2, 1, 0]] * [1, 0.88, 1.15] + middle
        turned[:, 0] -= 0.1 * np.abs(turned[:, 2] - middle[2])
        self._rigid(person, (turned, shell[1][:, ::-1]), (198, 222, 220), face=True)
        hose = middle + np.array(
            [[0.045, 0, 0], [0.09, 0, -0.01], [0.12, 0, 0.05], [0.10, 0.02, 0.2]]
        )
        self._rigid(person, mesh.tube(hose, 0.011), (150, 196, 214))

    def _visor(self, person):
        """Face shield: the band on the forehead and the rim; its sheet is clear."""
        middle = person.body.joints[3:5].mean(axis=0)
        angle = np.linspace(-1.5, 1.5, 15)
        arc = np.stack(
            [0.02 + 0.108 * np.cos(angle), 0.088 * np.sin(angle), np.full(15, 0.062)], axis=1
        )
        self._rigid(person, mesh.tube(arc + middle, 0.009, 6), (232, 236, 238))
        low = np.stack(
            [0.05 + 0.115 * np.cos(angle), 0.10 * np.sin(angle), np.full(15, -0.14)], axis=1
        )
        rim = np.concatenate([arc[:1], low, arc[-1:]]) + middle
        self._rigid(person, mesh.tube(rim, 0.0022, 5), (206, 222, 232))

    def _glasses(self, person):
        eyes = person.body.joints[1:3]
        ears = person.body.joints[3:5]
        angle = np.arange(16) / 16 * 2 * np.pi
        pieces = []
        for eye, ear in zip(eyes, ears):
            side = np.sign(eye[1] - eyes[:, 1].mean())
            rim = np.stack([
                np.full(16, eye[0] + 0.016) - 0.25 * np.abs(np.cos(angle)) * 0.012,
                eye[1] + 0.024 * np.cos(angle) + 0.001 * side,
                eye[2] - 0.003 + 0.018 * np.sin(angle),
            ], axis=1)  # fmt: skip
            pieces.append(mesh.tube(rim, 0.0016, 5, closed=True))
            hinge = eye + [0.012, side * 0.026, 0.004]
            behind = np.array([ear[0] - 0.004, ear[1] + side * 0.004, eye[2] + 0.002])
            pieces.append(mesh.tube([hinge, hinge + [-0.02, side * 0.012, 0], behind], 0.0018, 5))
        bridge = eyes.mean(axis=0) + [0.02, 0, 0.002]
        pieces.append(
            mesh.tube([bridge + [0, -0.009, 0], bridge, bridge + [0, 0.009, 0]], 0.0016, 5)
        )
        vertices = np.concatenate([v for v, _ in pieces])
        starts = np.cumsum([0] + [len(v) for v, _ in pieces[:-1]])
        triangles = np.concatenate([f + s for (_, f), s in zip(pieces, starts)])
        face = vertices[:, 0] > eyes[:, 0].mean() - 0.01
        self._rigid(person, (vertices, triangles), (24, 22, 22), face)


def _waves(points, rng) -> np.ndarray:
    """Smooth folds over the surface, -1 to 1, shape (N,)."""
    total = np.zeros(len(points))
    for length in (0.05, 0.09, 0.16):
        wave = rng.normal(0, 1, 3) * [1, 1, 0.5]
        wave *= 2 * np.pi / length / np.linalg.norm(wave)
        total += np.sin(points @ wave + rng.uniform(0, 2 * np.pi))
    return total / 3


def _self_occlusion(rest, normals, triangles) -> np.ndarray:
    """Share of 32 cosine-weighted rays from each vertex that leave the body, shape (V,)."""
    scene = o3d.t.geometry.RaycastingScene(nthreads=2)
    scene.add_triangles(rest, triangles.astype(np.uint32))
    rng = np.random.default_rng(5)
    sphere = rng.normal(size=(32, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    direction = normals[:, None] + 0.98 * sphere
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    start = np.broadcast_to((rest + 0.004 * normals)[:, None], direction.shape)
    packed = np.concatenate([start, direction], axis=2).astype(np.float32)
    blocked = scene.test_occlusions(o3d.core.Tensor(packed), tnear=0.0, tfar=0.5).numpy()
    return (1 - blocked.mean(axis=1)).astype(np.float32)


def texture_coordinates(projection, coords, eyes) -> np.ndarray:
    """Texture coordinates (N, 2), metres, of pixels with a projection and template coordinates."""
    x, y, z = coords.T
    uv = np.stack([y + 0.7 * x, z + 0.2 * x], axis=1)
    head = projection == HEAD
    uv[head] = faces.head_uv(coords[head])
    for kind, eye in ((LEFT_EYE, eyes[0]), (RIGHT_EYE, eyes[1])):
        this = projection == kind
        uv[this] = coords[this][:, 1:] - eye[1:] + 0.013
    return uv
