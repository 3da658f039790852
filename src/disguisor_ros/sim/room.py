"""The operating room: furniture, materials, lamps and where things stand."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from disguisor_ros.core.head_template import vertex_normals
from disguisor_ros.sim import mesh
from disguisor_ros.sim.textures import TextureSet, cloth, linear, noise, speckle

WIDTH_M, DEPTH_M, HEIGHT_M = 7.0, 6.0, 3.0

#: Height of the table top and place of the operating field, metres.
TABLE_TOP_M = 0.80
FIELD = (0.18, 0.0, 1.06)

#: Furniture that one walks around: x_min, x_max, y_min, y_max.
TABLE = (-1.05, 1.10, -0.32, 0.32)
ANAESTHESIA = (-2.35, -1.75, -1.15, -0.45)
BACK_TABLE = (1.45, 2.05, -1.9, -0.7)
MAYO = (0.75, 1.2, 0.30, 0.62)
CART = (-3.45, -2.95, 0.6, 1.9)
IV_POLE = (-1.55, -1.35, -0.65, -0.45)
DOOR_Y = (1.3, 2.6)
FURNITURE = (TABLE, ANAESTHESIA, BACK_TABLE, CART, IV_POLE)

#: Walls as obstacles; the gap in the wall at +x is the door.
WALLS = ((3.42, 3.6, -3.0, DOOR_Y[0]), (3.42, 3.6, DOOR_Y[1], 3.0))


@dataclass(frozen=True)
class Lamp:
    """A surgical lamp: a spot with a soft edge.

    Parameters
    ----------
    place, aim : ndarray, shape (3,), metres, world
    power : float
        Irradiance at 1 m on the axis, in units where white under the ceiling light is about 1.
    spread : float
        Angle at which the beam has fallen to 1/e, radians.
    """

    place: np.ndarray
    aim: np.ndarray
    power: float
    spread: float = 0.20

    @property
    def axis(self) -> np.ndarray:
        """Unit direction of the beam."""
        along = self.aim - self.place
        return along / np.linalg.norm(along)


@dataclass
class Room:
    """Static geometry with its materials, and the light.

    Parameters
    ----------
    vertices, normals : ndarray, shape (V, 3)
    uv : ndarray, shape (V, 2), metres
        Texture coordinates.
    faces : ndarray, shape (F, 3), int32
    material : ndarray, shape (F,), int
        Texture of each triangle.
    gloss, emission : ndarray, shape (F,)
        Strength of the mirror-like part, and own light in units of the texture's colour.
    lamps : list of Lamp
    ceiling : float
        Brightness of the ceiling's light.
    """

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    gloss: np.ndarray
    emission: np.ndarray
    lamps: list[Lamp]
    ceiling: float


class _Builder:
    def __init__(self, textures: TextureSet):
        self.textures = textures
        self.parts = []
        self.count = 0

    def paint(self, image, texels_per_m=256.0) -> int:
        if np.ndim(image) == 1:
            image = np.tile(linear(image), (4, 4, 1))
        return self.textures.add(image, texels_per_m)

    def add(self, shape, texture, gloss=0.0, emission=0.0, uv=None):
        vertices, faces = shape
        normals = vertex_normals(vertices, faces)
        if uv is None:
            flat = np.abs(normals)
            up = flat[:, 2] > np.maximum(flat[:, 0], flat[:, 1])
            side = np.where(flat[:, 0] > flat[:, 1], vertices[:, 1], vertices[:, 0])
            uv = np.stack(
                [np.where(up, vertices[:, 0], side), np.where(up, vertices[:, 1], vertices[:, 2])],
                1,
            )
        n = len(faces)
        of_faces = (np.full(n, value) for value in (texture, gloss, emission))
        self.parts.append((vertices, normals, uv, faces + self.count, *of_faces))
        self.count += len(vertices)

    def box(self, size, center, texture, yaw=0.0, gloss=0.0, emission=0.0):
        self.add(mesh.box(size, center, yaw), texture, gloss, emission)

    def tube(self, points, radius, texture, gloss=0.0, sides=8):
        self.add(mesh.tube(points, radius, sides), texture, gloss)

    def lathe(self, profile, sides, center, texture, gloss=0.0):
        self.add(mesh.lathe(profile, sides, center), texture, gloss)

    def screen(self, center, size, yaw, image, emission=1.6):
        """A flat screen that faces +x turned by ``yaw``."""
        width, height = size
        self.box((0.05, width + 0.05, height + 0.05), center, self.dark, yaw)
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        corners = np.array([[0.03, y, z] for y, z in ((-1, -1), (1, -1), (1, 1), (-1, 1))], float)
        corners[:, 1:] *= np.array(size) / 2
        uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.array(size) * 0.999 + 0.0005
        texture = self.textures.add(
            cv2.resize(image, (int(width * 600), int(height * 600)))[::-1], 600.0
        )
        quad = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
        self.add((corners @ turn.T + center, quad), texture, 0.0, emission, uv)

    def finish(self, lamps, ceiling) -> Room:
        return Room(*(np.concatenate(c) for c in zip(*self.parts)), lamps, ceiling)


def build_room(textures: TextureSet, rng: np.random.Generator, hard: bool, screen: bool) -> Room:
    """Build the room.

    Parameters
    ----------
    textures : TextureSet
        Takes the textures of the room.
    rng : numpy Generator
    hard : bool
        Lamps hang low in the cameras' way, dimmer ceiling, a bright light box on a wall.
    screen : bool
        An ether screen stands between field and the patient's head.
    """
    b = _Builder(textures)
    b.dark = b.paint((34, 36, 40))
    b.steel = b.paint(speckle(rng, (176, 182, 188), 0.04))
    b.white = b.paint(speckle(rng, (222, 226, 228), 0.02))
    b.drape = b.paint(cloth(rng, (56, 122, 132), 0.22), 384.0)
    b.blue = b.paint(cloth(rng, (62, 104, 150), 0.2), 384.0)
    _shell(b, rng, 1.0 if not hard else 0.6)
    _table(b, rng, screen)
    _anaesthesia(b, rng)
    _instruments(b, rng)
    _wall_things(b, rng, hard)
    height = 1.98 if hard else 2.12
    lamps = [
        Lamp(np.array([-0.35, 0.42, height]), np.array(FIELD), 9.0),
        Lamp(np.array([0.62, -0.40, height + 0.1]), np.array(FIELD), 8.0),
    ]
    for lamp, post in zip(lamps, ((-0.2, 1.1), (0.3, -1.1))):
        _lamp(b, lamp, np.array(post))
    return b.finish(lamps, 0.55 if hard else 0.8)


def _shell(b, rng, light):
    floor = speckle(rng, (126, 142, 150), 0.07)
    b.box((10, DEPTH_M + 2, 0.1), (1, 0, -0.05), b.paint(floor, 128.0), gloss=0.25)
    tiles = np.ones((256, 256, 1)) * linear((196, 208, 202))
    tiles[:3], tiles[:, :3] = linear((168, 180, 176)), linear((168, 180, 176))
    tiles *= 1 + 0.012 * noise(rng, (256, 256), (20, 60))[..., None]
    wall = b.paint(tiles, 427.0)
    x, y = WIDTH_M / 2, DEPTH_M / 2
    b.box((0.1, DEPTH_M, HEIGHT_M), (-x - 0.05, 0, HEIGHT_M / 2), wall)
    for sign in (-1, 1):
        b.box((WIDTH_M, 0.1, HEIGHT_M), (0, sign * (y + 0.05), HEIGHT_M / 2), wall)
    low, high = DOOR_Y
    for y0, y1 in ((-y, low), (high, y)):
        b.box((0.1, y1 - y0, HEIGHT_M), (x + 0.05, (y0 + y1) / 2, HEIGHT_M / 2), wall)
    b.box(
        (0.1, high - low, HEIGHT_M - 2.2),
        (x + 0.05, (low + high) / 2, 2.2 + (HEIGHT_M - 2.2) / 2),
        wall,
    )
    b.box((0.1, 4.0, HEIGHT_M), (x + 2.0, 2.0, HEIGHT_M / 2), wall)
    for side in DOOR_Y:
        b.box((0.12, 0.08, 2.2), (x, side, 1.1), b.steel)
    b.box((10, DEPTH_M + 2, 0.1), (1, 0, HEIGHT_M + 0.05), b.paint((214, 216, 214)))
    for px in (-1.9, 0.0, 1.9):
        for py in (-1.7, 1.7):
            b.box((1.2, 0.6, 0.04), (px, py, HEIGHT_M), b.white, emission=2.2 * light)
    for sign in (-1, 1):
        b.box((WIDTH_M, 0.03, 0.12), (0, sign * (y - 0.01), 0.06), b.dark)


def _table(b, rng, screen):
    top = TABLE_TOP_M
    b.box((2.1, 0.52, 0.08), (0.0, 0, top - 0.06), b.dark)
    b.box((0.35, 0.30, top - 0.15), (0.1, 0, (top - 0.1) / 2), b.steel, gloss=0.4)
    b.box((1.0, 0.55, 0.12), (0.1, 0, 0.06), b.white)
    b.box((0.34, 0.40, 0.07), (-0.88, 0, top + 0.015), b.paint(cloth(rng, (214, 222, 226), 0.1)))
    x = np.linspace(-0.68, 1.12, 90)
    s = np.linspace(-0.92, 0.92, 110)
    gx, gs = np.meshgrid(x, s, indexing="ij")
    body = np.interp(
        gx, (-0.68, -0.6, -0.4, 0.2, 0.5, 1.05, 1.12), (0.20, 0.25, 0.26, 0.235, 0.19, 0.16, 0.05)
    )
    ripple = noise(rng, (90, 110), (3, 7)) * 0.006
    side = np.clip(np.abs(gs) - 0.30, 0, None)
    z = top + body * np.exp(-((gs / 0.26) ** 4)) - side + ripple
    folds = 0.028 * np.sin(19 * gx + 2 * np.sin(5 * gx)) * np.clip(side / 0.3, 0, 1)
    y = np.sign(gs) * (np.minimum(np.abs(gs), 0.30) + 0.10 * np.sqrt(side) + folds * (side > 0))
    vertices, faces = mesh.grid(z, x, s)
    vertices[:, 1] = y.ravel()
    b.add((vertices, faces), b.drape, uv=np.stack([gx.ravel(), gs.ravel()], axis=1))
    field = b.paint(speckle(rng, (176, 112, 66), 0.08))
    wound = b.paint(speckle(rng, (118, 18, 16), 0.25))
    for texture, size, lift in ((field, (0.17, 0.10), 0.006), (wound, (0.10, 0.035), 0.012)):
        profile = [
            (0.001, FIELD[2] + lift),
            (0.7, FIELD[2] + lift - 0.002),
            (1.0, FIELD[2] + lift - 0.02),
        ]
        v, f = mesh.lathe(profile, 20)
        v[:, :2] = v[:, :2] * size + FIELD[:2]
        b.add((v, f), texture, gloss=0.35)
    if screen:
        hang = np.linspace(-0.55, 0.55, 40)
        drop = np.linspace(0, 0.62, 14)
        gy, gd = np.meshgrid(hang, drop, indexing="ij")
        v, f = mesh.grid(1.46 - gd - 0.10 * gy**2, hang, drop)
        v[:, 0] = -0.50 + (0.02 * np.sin(14 * gy) * (0.3 + gd)).ravel()
        v[:, 1] = gy.ravel()
        both = np.concatenate([f, f[:, ::-1] + len(v)])
        b.add((np.concatenate([v, v + [-0.004, 0, 0]]), both), b.drape)
        frame = ((-0.56, 0.8), (-0.56, 1.45), (0, 1.475), (0.56, 1.45), (0.56, 0.8))
        b.tube([[-0.5, y, z] for y, z in frame], 0.012, b.steel, gloss=0.5)


def _anaesthesia(b, rng):
    x0, x1, y0, y1 = ANAESTHESIA
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    grey, teal = b.paint(speckle(rng, (198, 202, 206), 0.02)), b.paint((70, 120, 140))
    b.box((x1 - x0, y1 - y0, 0.78), (cx, cy, 0.47), grey)
    for k in range(3):
        b.box((0.02, 0.5, 0.17), (x1 + 0.005, cy, 0.25 + 0.21 * k), teal)
        b.box((0.03, 0.2, 0.015), (x1 + 0.02, cy, 0.29 + 0.21 * k), b.steel, gloss=0.5)
    b.box((0.7, 0.78, 0.03), (cx, cy, 0.89), b.white)
    b.box((0.35, 0.6, 0.55), (cx - 0.12, cy, 1.18), grey)
    for k, color in enumerate(((200, 60, 50), (210, 180, 60), (80, 100, 190))):
        b.box((0.1, 0.09, 0.16), (cx + 0.1, cy - 0.2 + 0.13 * k, 1.04), b.paint(color))
    vessel = [(0.001, 1.3), (0.07, 1.3), (0.08, 1.0), (0.09, 0.92)]
    b.lathe(vessel, 16, (cx + 0.22, cy + 0.25, 0), b.dark)
    b.screen(np.array([cx + 0.05, cy, 1.62]), (0.46, 0.3), 0.5, _vitals(rng))
    for k, start in enumerate(((x1, cy + 0.2, 0.95), (x1, cy + 0.28, 0.9))):
        t = np.linspace(0, 1, 14)[:, None]
        end = np.array([-0.98, 0.05 * k - 0.02, 0.98])
        hose = (1 - t) * np.array(start) + t * end
        hose[:, 2] += 0.12 * np.sin(np.pi * t[:, 0]) - 0.1 * t[:, 0] * (1 - t[:, 0])
        b.tube(hose, 0.013, b.paint((206, 214, 220)))
    px, py = (IV_POLE[0] + IV_POLE[1]) / 2, (IV_POLE[2] + IV_POLE[3]) / 2
    b.tube([[px, py, 0], [px, py, 2.05]], 0.014, b.steel, gloss=0.5)
    b.tube([[px, py - 0.18, 2.03], [px, py, 2.0], [px, py + 0.18, 2.03]], 0.008, b.steel)
    b.box((0.05, 0.14, 0.24), (px, py + 0.17, 1.88), b.paint((214, 220, 196)), gloss=0.3)
    b.box((0.12, 0.12, 0.2), (px, py, 1.3), b.paint((210, 214, 220)))
    for k in range(5):
        a = 2 * np.pi * k / 5
        foot = [px + 0.26 * np.cos(a), py + 0.26 * np.sin(a), 0.04]
        b.tube([[px, py, 0.08], foot], 0.015, b.steel)


def _instruments(b, rng):
    x0, x1, y0, y1 = BACK_TABLE
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    b.box((x1 - x0, y1 - y0, 0.42), (cx, cy, 0.73), b.blue)
    for sx in (-1, 1):
        for sy in (-1, 1):
            leg = [cx + sx * 0.25, cy + sy * 0.52]
            b.tube([[*leg, 0], [*leg, 0.6]], 0.018, b.steel)
    mayo = np.array([(MAYO[0] + MAYO[1]) / 2, 0.12, 1.13])
    b.box((0.42, 0.62, 0.02), mayo, b.steel, gloss=0.5)
    b.box((0.40, 0.60, 0.012), mayo + [0, 0, 0.014], b.blue)
    post = mayo[0] + 0.18
    b.tube([mayo + [0.18, 0.3, 0], [post, 0.75, 1.12], [post, 0.75, 0.04]], 0.02, b.steel)
    b.box((0.5, 0.4, 0.05), (post, 0.62, 0.03), b.steel)
    for top, center, count in ((0.945, (cx, cy), 34), (1.155, mayo[:2], 12)):
        span = np.array([0.24, 0.52]) if count > 20 else np.array([0.16, 0.25])
        for _ in range(count):
            place = np.array(center) + rng.uniform(-1, 1, 2) * span
            length = rng.uniform(0.08, 0.2)
            yaw = rng.uniform(-0.4, 0.4)
            b.box((length, 0.012, 0.01), (*place, top + 0.008), b.steel, yaw, gloss=0.8)
    for place, radius in (((cx, cy + 0.4), 0.09), ((cx - 0.1, cy - 0.42), 0.07)):
        bowl = [(radius * 0.9, 0.99), (radius, 1.01), (radius * 0.6, 0.95)]
        b.lathe(bowl, 20, (*place, 0), b.steel, gloss=0.7)
    for place, color in (((2.9, -2.4), (190, 40, 40)), ((2.4, -2.6), (210, 180, 50))):
        b.lathe([(0.18, 0.62), (0.21, 0.6), (0.17, 0.0)], 20, (*place, 0), b.paint(color))
    stool = [(0.001, 0.52), (0.17, 0.52), (0.17, 0.46), (0.03, 0.45), (0.03, 0.1), (0.24, 0.03)]
    b.lathe(stool, 20, (-3.1, -2.6, 0), b.dark)


def _wall_things(b, rng, hard):
    x0, x1, y0, y1 = CART
    b.box((x1 - x0, y1 - y0, 1.0), ((x0 + x1) / 2, (y0 + y1) / 2, 0.55), b.white)
    for k in range(4):
        drawer = (x1 + 0.005, (y0 + y1) / 2, 0.2 + 0.23 * k)
        b.box((0.02, 1.2, 0.19), drawer, b.paint((120, 150, 180)))
    b.box((0.4, 1.5, 1.0), (-3.3, -1.9, 1.7), b.white)
    for k in range(3):
        b.box((0.02, 0.46, 0.94), (-3.09, -2.4 + 0.5 * k, 1.7), b.steel, gloss=0.6)
    b.screen(np.array([0.6, 2.92, 1.85]), (1.1, 0.65), -np.pi / 2, _scope(rng))
    b.screen(np.array([-1.6, 2.92, 1.8]), (0.6, 0.42), -np.pi / 2, _vitals(rng))
    b.screen(np.array([1.4, -2.92, 1.8]), (0.9, 0.55), np.pi / 2, _scan(rng), 1.3)
    b.tube([[2.3, 0.9, 3.0], [2.3, 0.9, 2.1], [1.75, 0.75, 1.95]], 0.03, b.white)
    b.screen(np.array([1.75, 0.75, 1.75]), (0.62, 0.38), np.pi + 0.35, _scope(rng))
    if hard:
        b.screen(np.array([-3.46, -0.2, 1.7]), (1.3, 1.1), 0.0, np.full((64, 64, 3), 0.95), 7.0)
    b.box((0.5, 0.45, 1.3), (2.75, -0.1, 0.65), b.paint((206, 208, 212)))
    b.screen(np.array([2.52, -0.1, 1.1]), (0.3, 0.22), np.pi, _vitals(rng), 1.2)
    for start, end in (
        ((2.5, -0.1, 0.02), (1.0, 0.1, 0.02)),
        ((-1.8, -0.9, 0.02), (-3.4, -2.6, 0.02)),
        ((2.5, 0.05, 0.02), (3.4, -1.2, 0.02)),
    ):
        t = np.linspace(0, 1, 24)[:, None]
        line = (1 - t) * np.array(start) + t * np.array(end)
        line[:, :2] += 0.15 * np.sin(t * 9 + rng.uniform(0, 6)) * np.array([0.4, 1.0])
        b.tube(line, 0.009, b.dark, sides=6)
    b.lathe([(0.001, 3.62), (0.16, 3.62), (0.16, 3.6)], 24, (-1.0, 2.95, -1.0), b.white)


def _lamp(b, lamp, post):
    axis = lamp.axis
    u = np.cross(axis, [0.0, 1.0, 0.0])
    u /= np.linalg.norm(u)
    basis = np.stack([u, np.cross(axis, u), axis], axis=1)
    shell = mesh.lathe(
        [(0.001, -0.11), (0.15, -0.10), (0.27, -0.04), (0.30, 0.0), (0.28, 0.012)], 32
    )
    disc = mesh.lathe([(0.28, 0.012), (0.20, 0.006), (0.001, 0.004)], 32)
    shell = (shell[0] @ basis.T + lamp.place - 0.02 * axis, shell[1][:, ::-1])
    disc = (disc[0] @ basis.T + lamp.place - 0.02 * axis, disc[1][:, ::-1])
    b.add(shell, b.white, gloss=0.4)
    b.add(disc, b.paint((255, 250, 235)), emission=4.0)
    back = lamp.place - 0.12 * axis
    joint = np.array(
        [back[0] * 0.4 + post[0] * 0.6, back[1] * 0.4 + post[1] * 0.6, back[2] + 0.35]
    )
    top = np.array([*post, joint[2]])
    b.tube([back, back + [0, 0, 0.2], joint, top], 0.03, b.white, gloss=0.3)
    b.tube([[*post, HEIGHT_M], top - [0, 0, 0.05]], 0.05, b.white, gloss=0.3)


def _vitals(rng):
    image = np.full((200, 300, 3), 0.01, dtype=np.float32)
    t = np.arange(300)
    for k, color in enumerate(
        ((0.1, 0.9, 0.2), (0.9, 0.2, 0.15), (0.2, 0.7, 0.9), (0.9, 0.8, 0.1))
    ):
        wave = np.exp(-((((t % 60) - 20) / 3.0) ** 2)) * 22 + 5 * np.sin(t / (8 + 3 * k))
        line = np.stack([t[:220], 40 + 45 * k - wave[:220]], axis=1).astype(np.int32)
        cv2.polylines(image, [line], False, color, 2)
        cv2.putText(image, str(int(rng.integers(60, 130))), (232, 50 + 45 * k), 0, 1.0, color, 2)
    return image


def _scope(rng):
    base = noise(rng, (200, 320), (12, 30, 60))[..., None]
    image = np.clip(np.array([0.55, 0.16, 0.10]) * (1 + 0.5 * base), 0, 1).astype(np.float32)
    y, x = np.mgrid[:200, :320]
    image[np.hypot(x - 160, y - 100) > 98] = 0.01
    cv2.line(image, (290, 180), (180, 110), (0.6, 0.6, 0.62), 9)
    return image


def _scan(rng):
    y, x = np.mgrid[:200, :320]
    rib = np.exp(-((((y % 26) - 13 + 0.001 * (x - 160) ** 2) / 5.0) ** 2))
    lung = 1 - 0.7 * np.exp(-(((np.abs(x - 160) - 60) / 42.0) ** 2 + ((y - 95) / 70.0) ** 2))
    value = np.clip(0.5 * lung * (0.7 + 0.3 * rib) + 0.03 * noise(rng, (200, 320), (2,)), 0, 1)
    return np.repeat(value[..., None], 3, axis=2).astype(np.float32)
