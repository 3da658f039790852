"""Ray-traced pictures of the room: the empty room once per camera, the people every frame.

Open3D's ``RaycastingScene`` (Embree) finds what a pixel sees; shading is plain arrays. Only
pixels that a person may cover are traced anew, the rest is the cached empty room.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import open3d as o3d

from disguisor_ros.core.cameras import Camera
from disguisor_ros.sim.people import Person, texture_coordinates
from disguisor_ros.sim.room import HEIGHT_M, Lamp, Room
from disguisor_ros.sim.textures import TextureSet

_FAR = 1e6
_BAKE_STEP = 4
_SKY_RAYS = 24
_LAMP_RADIUS_M = 0.26
_TILE = 8

#: Points on a lamp's disc that its shadows are traced to, for people and for the empty room.
_LAMP_RAYS, _LAMP_RAYS_ROOM = 4, 12

#: Further rays through pixels at edges and on heads, offsets in pixels.
_SUBPIXELS = ((-0.3, 0.1), (0.1, -0.35), (0.35, 0.25))

#: Exposure time, seconds: as long as a dim room asks for.
EXPOSURE_S = 0.012

#: Panels of the ceiling as points of light.
_PANELS = np.array([(x, y, HEIGHT_M - 0.05) for x in (-1.9, 0.0, 1.9) for y in (-1.7, 1.7)])


def _cast(scene, rays: np.ndarray):
    hit = scene.cast_rays(o3d.core.Tensor(np.ascontiguousarray(rays, dtype=np.float32)))
    uv = hit["primitive_uvs"].numpy()
    bary = np.stack([1 - uv[..., 0] - uv[..., 1], uv[..., 0], uv[..., 1]], axis=-1)
    return hit["t_hit"].numpy(), hit["primitive_ids"].numpy(), bary


def _blocked(scenes, start, towards, far) -> np.ndarray:
    """Whether something lies between points (N, 3) and points ``far`` along ``towards``."""
    rays = np.concatenate([start, towards], axis=1).astype(np.float32)
    out = np.zeros(len(rays), dtype=bool)
    for scene in scenes:
        near = scene.test_occlusions(o3d.core.Tensor(rays), tnear=0.01, tfar=float(far))
        out |= near.numpy()
    return out


def _scene(vertices, faces):
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)  # cameras run in parallel
    scene.add_triangles(
        np.ascontiguousarray(vertices, dtype=np.float32),
        np.ascontiguousarray(faces, dtype=np.uint32),
    )
    return scene


class View:
    """A camera's rays, and what it sees of the empty room.

    Attributes
    ----------
    rays : ndarray, shape (height, width, 6), float32
        Origin and unit direction, world.
    axial : ndarray, shape (height, width), float32
        Distance along the optical axis per distance along the ray.
    range_m : ndarray, shape (height, width), float32
        Distance along the ray to the empty room.
    signal : ndarray, shape (height, width)
        Share of a depth camera's light that comes back from the empty room.
    color : ndarray, shape (height, width, 3), float32
        Linear light of the empty room.
    """

    def __init__(self, camera: Camera):
        self.camera = camera
        v, u = np.mgrid[: camera.height, : camera.width]
        directions = camera.rays(np.stack([u, v], axis=-1).astype(np.float64))
        origin = np.broadcast_to(camera.center, directions.shape)
        self.rays = np.concatenate([origin, directions], axis=-1).astype(np.float32)
        self.axial = (directions @ camera.tf_camera_world[2, :3]).astype(np.float32)
        self.range_m = self.color = self.gloss = self.signal = self.bake = None


@dataclass
class Bake:
    """Light on the empty room at every fourth pixel of a view.

    Parameters
    ----------
    points, normals : ndarray, shape (h, w, 3)
    light : ndarray, shape (h, w, 3)
    lamps : ndarray, shape (lamps, h, w)
        Share of the light that comes from each lamp.
    """

    points: np.ndarray
    normals: np.ndarray
    light: np.ndarray
    lamps: np.ndarray


@dataclass
class Crowd:
    """The people at one instant, ready to be traced.

    Parameters
    ----------
    scene : RaycastingScene
    vertices, normals : ndarray, shape (V, 3), float32, world
    velocity : ndarray, shape (V, 3), float32, metres per second
    roots : ndarray, shape (P, 3), metres, world
        Where the people's hips are.
    """

    scene: object
    vertices: np.ndarray
    normals: np.ndarray
    velocity: np.ndarray
    roots: np.ndarray


@dataclass
class Seen:
    """Pixels of a view that people cover.

    Parameters
    ----------
    index : ndarray, shape (N,)
        Flat pixel indices.
    range_m : ndarray, shape (N,), metres
        Distance along the ray.
    triangle : ndarray, shape (N,)
        Triangle of the crowd.
    bary : ndarray, shape (N, 3)
        Barycentric coordinates in it.
    """

    index: np.ndarray
    range_m: np.ndarray
    triangle: np.ndarray
    bary: np.ndarray


class Renderer:
    """Draws a room and people.

    Parameters
    ----------
    room : Room
    people : list of Person
    textures : TextureSet
        Frozen.
    eyes : ndarray, shape (2, 3)
        Centres of the template's eyes, for the texture coordinates.
    """

    def __init__(self, room: Room, people: list[Person], textures: TextureSet, eyes: np.ndarray):
        self.room, self.people, self.textures, self.eyes = room, people, textures, eyes
        self._static = _scene(room.vertices, room.faces)
        first = np.cumsum([0] + [len(p.rest) for p in people])
        self.start = {p.id: int(s) for p, s in zip(people, first)}
        self.faces = np.concatenate([p.faces + s for p, s in zip(people, first)])
        self.material = np.concatenate([p.material for p in people]).astype(np.int64)
        self.projection = np.concatenate([p.projection for p in people])
        self.coords = np.concatenate([p.coords for p in people])
        self.occlusion = np.concatenate([p.occlusion for p in people])
        self.person = np.concatenate([np.full(len(p.faces), p.id, np.uint8) for p in people])
        self.face_label = np.concatenate(
            [np.where(p.face_region, p.id, 0).astype(np.uint8) for p in people]
        )

    def crowd(self, transforms: list[np.ndarray], later: list[np.ndarray]) -> Crowd:
        """Pose everybody.

        Parameters
        ----------
        transforms, later : list of ndarray
            Skinning transforms of each person, now and :data:`EXPOSURE_S` later.
        """
        skinned = [p.skin(tf) for p, tf in zip(self.people, transforms)]
        vertices = np.concatenate([v for v, _ in skinned])
        normals = np.concatenate([n for _, n in skinned])
        after = np.concatenate([p.skin(tf)[0] for p, tf in zip(self.people, later)])
        roots = [
            tf[0, :3, :3] @ p.body.heads["root"] + tf[0, :3, 3]
            for p, tf in zip(self.people, transforms)
        ]
        velocity = (after - vertices) / EXPOSURE_S
        return Crowd(_scene(vertices, self.faces), vertices, normals, velocity, np.array(roots))

    def prepare(self, view: View, color: bool) -> None:
        """Trace the empty room for a view; with ``color`` also light and paint it."""
        t, triangle, bary = _cast(self._static, view.rays)
        triangle = triangle.astype(np.int64)
        missed = ~np.isfinite(t)
        view.range_m = np.where(missed, _FAR, t).astype(np.float32)
        triangle[missed] = 0
        view.gloss = self.room.gloss[triangle].astype(np.float32)
        a, b, c = (self.room.vertices[self.room.faces[triangle][..., k]] for k in range(3))
        cosine = _cosine(np.cross(b - a, c - a), view.rays[..., 3:])
        dull = 1 - 0.8 * np.clip(view.gloss, 0, 1)
        view.signal = self.textures.brightness[self.room.material[triangle]] * cosine * dull
        if color:
            view.color = self._paint_room(view, triangle, bary)

    def look(self, view: View, crowd: Crowd) -> Seen:
        """Find the pixels of a view that people cover."""
        index = np.flatnonzero(self._candidates(view, crowd))
        t, triangle, bary = _cast(crowd.scene, view.rays.reshape(-1, 6)[index])
        seen = t < view.range_m.ravel()[index]
        return Seen(index[seen], t[seen], triangle[seen].astype(np.int64), bary[seen])

    def picture(self, view: View, crowd: Crowd, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """Pixels that differ from the empty room: flat indices (N,), linear colours (N, 3)."""
        rays = view.rays.reshape(-1, 6)
        shadow = self._shadow(view, crowd)
        dim = np.flatnonzero(shadow.ravel() < 0.985)
        empty = view.color.reshape(-1, 3)
        index = np.concatenate([dim, seen.index])
        color = np.concatenate(
            [
                empty[dim] * shadow.ravel()[dim, None],
                self._shade(view, crowd, seen, rays[seen.index]),
            ]
        )
        slot = np.full(len(rays), -1, dtype=np.int32)
        slot[index] = np.arange(len(index))
        fine = np.flatnonzero(self._detailed(view, seen))
        new = fine[slot[fine] < 0]
        slot[new] = np.arange(len(index), len(index) + len(new))
        index = np.concatenate([index, new])
        color = np.concatenate([color, empty[new]])
        before = (
            np.where(shadow.ravel()[fine, None] < 0.985, shadow.ravel()[fine, None], 1)
            * empty[fine]
        )
        total = color[slot[fine]] + len(_SUBPIXELS) * before
        sub = np.concatenate([_shifted(view.rays, fine, offset) for offset in _SUBPIXELS])
        pixel = np.tile(np.arange(len(fine)), len(_SUBPIXELS))
        t, triangle, bary = _cast(crowd.scene, sub)
        hit = np.flatnonzero(t < view.range_m.ravel()[fine][pixel])
        pixel = pixel[hit]
        part = Seen(fine[pixel], t[hit], triangle[hit].astype(np.int64), bary[hit])
        gain = self._shade(view, crowd, part, sub[hit]) - before[pixel]
        for channel in range(3):
            total[:, channel] += np.bincount(pixel, gain[:, channel], len(fine))
        color[slot[fine]] = total / (1 + len(_SUBPIXELS))
        keep = np.ones(len(index), dtype=bool)
        keep[slot[index] != np.arange(len(index))] = False
        return index[keep], color[keep]

    def flow(self, view: View, crowd: Crowd, seen: Seen) -> np.ndarray:
        """Way of the covered pixels during the exposure, shape (N, 2), pixels."""
        corners = self.faces[seen.triangle]
        rays = view.rays.reshape(-1, 6)[seen.index]
        points = rays[:, :3] + rays[:, 3:] * seen.range_m[:, None]
        way = crowd.velocity[corners].mean(axis=1) * EXPOSURE_S
        camera = view.camera
        way = way @ camera.tf_camera_world[:3, :3].T
        depth = np.maximum(camera.to_camera(points)[:, 2:], 0.1)
        ahead = camera.to_camera(points)[:, :2] / depth
        focal = camera.matrix[[0, 1], [0, 1]]
        return ((way[:, :2] - ahead * way[:, 2:]) / depth * focal).astype(np.float32)

    def _detailed(self, view: View, seen: Seen) -> np.ndarray:
        """Pixels that one ray is too coarse for: edges and heads, shape (height, width), bool."""
        label = np.zeros(view.range_m.shape, dtype=np.uint8)
        label.ravel()[seen.index] = 1 + self.material[seen.triangle] % 255
        edge = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        head = (self.projection[seen.triangle] <= 2) | (self.face_label[seen.triangle] > 0)
        edge.ravel()[seen.index[head]] = True
        return edge

    def _shadow(self, view: View, crowd: Crowd) -> np.ndarray:
        """How much the people dim the empty room, shape (height, width), 0 to 1."""
        bake = view.bake
        points, normals = bake.points.reshape(-1, 3), bake.normals.reshape(-1, 3)
        factor = np.ones(len(points), dtype=np.float32)
        floor = np.flatnonzero(points[:, 2] < 0.05)
        for root in crowd.roots:
            squared = ((points[floor, :2] - root[:2]) ** 2).sum(axis=1)
            factor[floor] *= 1 - 0.55 * np.exp(-squared / (2 * 0.24**2)).astype(np.float32)
        for lamp, share in zip(self.room.lamps, bake.lamps.reshape(len(bake.lamps), -1)):
            lit = np.flatnonzero(share > 0.05)
            free = self._free(lamp, points[lit], normals[lit], (crowd.scene,), _LAMP_RAYS)[0]
            factor[lit] *= 1 - share[lit] * (1 - free)
        coarse = factor.reshape(bake.points.shape[:2])
        return cv2.resize(coarse, view.range_m.shape[::-1], interpolation=cv2.INTER_LINEAR)

    def _shade(self, view: View, crowd: Crowd, seen: Seen, rays: np.ndarray) -> np.ndarray:
        """Linear colours of what rays (N, 6) saw of people, shape (N, 3), float32."""
        corners = self.faces[seen.triangle]
        bary = seen.bary.astype(np.float32)
        points = rays[:, :3] + rays[:, 3:] * seen.range_m[:, None]
        normals = np.einsum("nk,nkc->nc", bary, crowd.normals[corners])
        normals = _towards(normals, rays[:, 3:])
        coords = np.einsum("nk,nkc->nc", bary, self.coords[corners])
        sky = np.einsum("nk,nk->n", bary, self.occlusion[corners])
        projection = self.projection[seen.triangle]
        uv = texture_coordinates(projection, coords, self.eyes)
        footprint = seen.range_m / view.camera.matrix[0, 0]
        albedo = self.textures.sample(self.material[seen.triangle], uv, footprint)
        light = self._ceiling(points, normals) * (0.35 + 0.65 * sky)[:, None]
        light += _sky(normals, self.room.ceiling) * sky[:, None]
        for lamp in self.room.lamps:
            light += self._lamp(lamp, points, normals, (self._static, crowd.scene), _LAMP_RAYS)
        return albedo * light

    def signal(self, view: View, crowd: Crowd, seen: Seen) -> np.ndarray:
        """Share of a depth camera's light that comes back from people's pixels, shape (N,)."""
        corners = self.faces[seen.triangle]
        normals = crowd.normals[corners].mean(axis=1)
        cosine = _cosine(normals, view.rays.reshape(-1, 6)[seen.index, 3:])
        # Cloth and skin are brighter in the near infrared than to the eye.
        return np.sqrt(self.textures.brightness[self.material[seen.triangle]]) * cosine

    def _candidates(self, view: View, crowd: Crowd) -> np.ndarray:
        """Pixels near a projected vertex, shape (height, width), bool."""
        camera = view.camera
        pixels, _ = camera.project(crowd.vertices)
        rows, columns = -(-camera.height // _TILE), -(-camera.width // _TILE)
        near = np.zeros((rows + 2, columns + 2), dtype=np.uint8)
        cells = np.floor(np.nan_to_num(pixels, nan=-1e6) / _TILE).clip(-1e5, 1e5).astype(int) + 1
        good = (cells >= 0).all(axis=1) & (cells[:, 0] < columns + 2) & (cells[:, 1] < rows + 2)
        near[cells[good, 1], cells[good, 0]] = 1
        # Vertices of the coarse clothes lie up to two tiles apart.
        near = cv2.morphologyEx(near, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        near = cv2.dilate(near, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        near = np.repeat(np.repeat(near, _TILE, axis=0), _TILE, axis=1)
        return near[: camera.height, : camera.width] > 0

    def _paint_room(self, view: View, triangle, bary) -> np.ndarray:
        room, shape = self.room, triangle.shape
        corners = room.faces[triangle]
        normals = np.einsum("hwk,hwkc->hwc", bary, room.normals[corners])
        directions = view.rays[..., 3:]
        normals = _towards(normals.reshape(-1, 3), directions.reshape(-1, 3)).reshape(*shape, 3)
        points = view.rays[..., :3] + directions * view.range_m[..., None]
        uv = np.einsum("hwk,hwkc->hwc", bary, room.uv[corners])
        footprint = view.range_m / view.camera.matrix[0, 0]
        albedo = self.textures.sample(
            room.material[triangle].ravel(), uv.reshape(-1, 2), footprint.ravel()
        ).reshape(*shape, 3)
        step = (slice(_BAKE_STEP // 2, None, _BAKE_STEP),) * 2
        view.bake = self._irradiance(points[step], normals[step])
        light = _upsample(view.bake, points, normals)
        emission = room.emission[triangle][..., None].astype(np.float32)
        gloss = view.gloss[..., None]
        mirror = _mirror(directions, normals)
        color = albedo * light * (1 - 0.4 * gloss) + gloss * mirror * np.minimum(light, 2.0)
        color = np.where(emission > 0, albedo * emission, color).astype(np.float32)
        return _soften_edges(color, view.range_m, normals)

    def _irradiance(self, points, normals) -> Bake:
        """Light on the empty room with soft shadows."""
        shape = points.shape[:-1]
        points, normals = points.reshape(-1, 3), normals.reshape(-1, 3)
        rng = np.random.default_rng(11)
        start = points + 0.01 * normals
        open_sky = np.zeros(len(points), dtype=np.float32)
        for _ in range(_SKY_RAYS):
            direction = rng.normal(size=points.shape)
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            direction = normals + 0.99 * direction
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            open_sky += ~_blocked((self._static,), start, direction, 1.2)
        open_sky /= _SKY_RAYS
        light = _sky(normals, self.room.ceiling) * open_sky[:, None]
        shadow = rng.uniform(-0.3, 0.3, (len(points), 3)) * [1, 1, 0]
        light += self._ceiling(points, normals, shadow)
        lamps = [
            self._lamp(lamp, points, normals, (self._static,), _LAMP_RAYS_ROOM)
            for lamp in self.room.lamps
        ]
        light += sum(lamps)
        total = np.maximum(light.sum(axis=1), 1e-6)
        share = np.stack([(lamp.sum(axis=1) / total).reshape(shape) for lamp in lamps])
        bake = Bake(
            points.reshape(*shape, 3), normals.reshape(*shape, 3),
            light.reshape(*shape, 3).astype(np.float32), share,
        )  # fmt: skip
        bake.light = _denoise(bake)
        return bake

    def _ceiling(self, points, normals, shadow=None) -> np.ndarray:
        """Light of the ceiling's panels, shape (N, 3); with ``shadow`` offsets also shadowed."""
        total = np.zeros(len(points), dtype=np.float32)
        for panel in _PANELS:
            towards = panel - points if shadow is None else panel + shadow - points
            squared = np.einsum("nc,nc->n", towards, towards)
            distance = np.sqrt(squared)
            towards /= np.maximum(distance, 1e-6)[:, None]
            cosine = np.clip(np.einsum("nc,nc->n", towards, normals), 0, None)
            part = cosine * np.clip(towards[:, 2], 0, None) / np.maximum(squared, 0.3)
            if shadow is not None:
                part *= ~_blocked((self._static,), points + 0.01 * normals, towards, 1.8)
            total += part.astype(np.float32)
        warm = np.array([1.0, 0.985, 0.95], dtype=np.float32)
        return 0.85 * self.room.ceiling * total[:, None] * warm

    def _lamp(self, lamp: Lamp, points, normals, scenes, count: int) -> np.ndarray:
        """Light of a surgical lamp with soft shadows, shape (N, 3)."""
        light = np.zeros((len(points), 3), dtype=np.float32)
        along = points - lamp.place
        distance = np.linalg.norm(along, axis=1)
        cosine = along @ lamp.axis / np.maximum(distance, 1e-6)
        beam = np.exp(-((np.arccos(np.clip(cosine, -1, 1)) / lamp.spread) ** 2))
        lit = np.flatnonzero(beam > 0.02)
        if not len(lit):
            return light
        free, facing = self._free(lamp, points[lit], normals[lit], scenes, count)
        power = lamp.power * beam[lit] * facing * free / np.maximum(distance[lit], 0.5) ** 2
        light[lit] = power[:, None] * np.array([1.0, 0.97, 0.90])
        return light

    def _free(self, lamp: Lamp, points, normals, scenes, count: int):
        """Share of a lamp's disc that points see, and cosine to its middle, (N,) each."""
        start = points + 0.006 * normals
        u = np.cross(lamp.axis, [0.0, 1.0, 0.0])
        u /= np.linalg.norm(u)
        v = np.cross(lamp.axis, u)
        free = np.zeros(len(points), dtype=np.float32)
        facing = np.zeros(len(points), dtype=np.float32)
        for k in range(count):
            # Sunflower pattern on the disc.
            radius, angle = _LAMP_RADIUS_M * np.sqrt((k + 0.5) / count), 2.399963 * k
            source = (
                lamp.place + 0.05 * lamp.axis + radius * (np.cos(angle) * u + np.sin(angle) * v)
            )
            towards = source - points
            length = np.linalg.norm(towards, axis=1, keepdims=True)
            towards /= length
            facing += np.clip(np.einsum("nc,nc->n", towards, normals), 0, None)
            free += ~_blocked(scenes, start, towards, max(float(length.min()) - 0.1, 0.1))
        return free / count, facing / count


def _shifted(rays, index, offset) -> np.ndarray:
    """Rays beside pixel centres by ``offset`` (x, y) pixels, shape (N, 6)."""
    height, width = rays.shape[:2]
    y, x = np.divmod(index, width)
    here = rays[y, x]
    right = rays[y, np.minimum(x + 1, width - 1), 3:] - rays[y, np.maximum(x - 1, 0), 3:]
    down = rays[np.minimum(y + 1, height - 1), x, 3:] - rays[np.maximum(y - 1, 0), x, 3:]
    out = here.copy()
    out[:, 3:] += 0.5 * (offset[0] * right + offset[1] * down)
    out[:, 3:] /= np.linalg.norm(out[:, 3:], axis=1, keepdims=True)
    return out


def _soften_edges(color, range_m, normals) -> np.ndarray:
    """Mix pixels at the edges of the empty room with their neighbours, (h, w, 3)."""
    log_range = np.log(np.minimum(range_m, 100.0))
    jump = cv2.morphologyEx(log_range, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0.03
    for axis in range(3):
        turn = cv2.morphologyEx(
            np.ascontiguousarray(normals[..., axis]), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)
        )
        jump |= turn > 0.5
    soft = cv2.GaussianBlur(color, (0, 0), 0.8)
    return np.where(jump[..., None], soft, color)


def _towards(normals, directions) -> np.ndarray:
    """Unit normals turned to the viewer, shape (N, 3)."""
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    away = np.einsum("nc,nc->n", normals, directions) > 0
    return np.where(away[:, None], -normals, normals).astype(np.float32)


def _cosine(normals, directions) -> np.ndarray:
    """Absolute cosine between normals of any length and unit directions, shape (...)."""
    dot = np.einsum("...c,...c->...", normals, directions)
    return np.abs(dot) / np.maximum(np.linalg.norm(normals, axis=-1), 1e-12)


def _sky(normals, ceiling) -> np.ndarray:
    """Diffuse light from all around: brighter and cooler from above, shape (N, 3)."""
    up = (0.5 + 0.5 * normals[:, 2])[:, None]
    above = np.array([0.34, 0.36, 0.38], dtype=np.float32)
    below = np.array([0.12, 0.125, 0.13], dtype=np.float32)
    return ceiling * (below + up * (above - below))


def _mirror(directions, normals) -> np.ndarray:
    """Rough mirror image of a bright ceiling, shape (h, w, 1)."""
    cosine = np.einsum("hwc,hwc->hw", directions, normals)
    up = directions[..., 2] - 2 * cosine * normals[..., 2]
    fresnel = 0.25 + 0.75 * (1 - np.abs(cosine)) ** 5
    return (fresnel * np.clip(0.2 + 0.9 * up, 0.05, 1))[..., None]


def _denoise(bake: Bake) -> np.ndarray:
    """Light averaged over neighbours on the same surface with like light, shape (h, w, 3)."""
    total = np.zeros_like(bake.light)
    weight = np.zeros((*bake.light.shape[:2], 1), dtype=np.float32)
    level = np.log(bake.light.mean(axis=2) + 0.02)
    for di in range(-4, 5):
        for dj in range(-4, 5):
            move = ((di, dj), (0, 1))
            points = np.roll(bake.points, *move)
            off = np.einsum("hwc,hwc->hw", points - bake.points, bake.normals)
            same = np.einsum("hwc,hwc->hw", np.roll(bake.normals, *move), bake.normals) > 0.95
            like = np.exp(-(((np.roll(level, *move) - level) / 0.35) ** 2))
            w = (same * like * (np.abs(off) < 0.02))[..., None].astype(np.float32)
            total += w * np.roll(bake.light, *move)
            weight += w
    return total / np.maximum(weight, 1e-6)


def _upsample(bake: Bake, points, normals) -> np.ndarray:
    """Spread coarse light over all pixels, only along surfaces (joint bilateral), (h, w, 3)."""
    height, width = points.shape[:2]
    rows = (np.arange(height) - _BAKE_STEP // 2) / _BAKE_STEP
    columns = (np.arange(width) - _BAKE_STEP // 2) / _BAKE_STEP
    total = np.zeros((height, width, 3), dtype=np.float32)
    weight = np.zeros((height, width, 1), dtype=np.float32)
    limit = np.array(bake.light.shape[:2]) - 1
    for di in (-1, 0, 1, 2):
        i = np.clip(np.floor(rows).astype(int) + di, 0, limit[0])
        wi = np.clip(2 - np.abs(rows - np.floor(rows) - di), 0, None)
        for dj in (-1, 0, 1, 2):
            j = np.clip(np.floor(columns).astype(int) + dj, 0, limit[1])
            wj = np.clip(2 - np.abs(columns - np.floor(columns) - dj), 0, None)
            pick = np.ix_(i, j)
            off = np.einsum("hwc,hwc->hw", bake.points[pick] - points, normals)
            same = np.clip(np.einsum("hwc,hwc->hw", bake.normals[pick], normals), 0, 1) ** 4
            w = np.exp(-((off / 0.03) ** 2)) * same * wi[:, None] * wj + 1e-6
            w = w[..., None].astype(np.float32)
            total += w * bake.light[pick]
            weight += w
    return total / weight
