"""Who is where and does what: smooth, collision-free motion of everybody in the room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from disguisor_ros.core.rotations import yaw_matrix
from disguisor_ros.sim.skeleton import Pose

RATE_HZ = 25.0
_LEAD_S = 2.0
_CELL_M = 0.1
_STRIDE_M = 1.25
_CLEARANCE_M = 0.28

#: Two people standing come no closer than this, middle to middle, metres.
DISTANCE_M = 0.5


@dataclass
class Stay:
    """Being at one place for a while.

    Parameters
    ----------
    until_s : float
        Time at which the person leaves for the next place.
    place : tuple of float
        x, y in the world, metres.
    focus : tuple of float
        Point that the person works on and mostly looks at, world, metres.
    hands : str
        ``work`` (over the focus), ``rest`` (folded), ``down``, ``reach`` (now and then to it).
    """

    until_s: float
    place: tuple[float, float]
    focus: tuple[float, float, float]
    hands: str = "rest"


class Floor:
    """Where one can walk: a grid of the floor with the furniture blocked.

    Parameters
    ----------
    bounds : tuple
        x_min, x_max, y_min, y_max of the walkable floor, metres.
    blocked : list of tuple
        Rectangles x_min, x_max, y_min, y_max.
    """

    def __init__(self, bounds, blocked):
        self.low = np.array([bounds[0], bounds[2]])
        size = np.ceil((np.array([bounds[1], bounds[3]]) - self.low) / _CELL_M).astype(int)
        xs = self.low[0] + (np.arange(size[0]) + 0.5) * _CELL_M
        ys = self.low[1] + (np.arange(size[1]) + 0.5) * _CELL_M
        x, y = np.meshgrid(xs, ys, indexing="ij")
        away = np.full(x.shape, np.inf)
        for x0, x1, y0, y1 in blocked:
            dx = np.maximum(np.maximum(x0 - x, x - x1), 0)
            dy = np.maximum(np.maximum(y0 - y, y - y1), 0)
            away = np.minimum(away, np.hypot(dx, dy))
        # Walking close to furniture is possible but dear.
        self._cost = 1 + 30 * np.clip((_CLEARANCE_M - away) / _CLEARANCE_M, 0, 1) ** 2
        self._cost[away <= 0.02] = 1000.0
        self.blocked = blocked
        self._fields = {}

    def direction(self, position: np.ndarray, goal) -> np.ndarray:
        """Unit direction of the shortest way to the goal, shape (2,)."""
        straight = np.asarray(goal) - position
        distance = np.linalg.norm(straight)
        if distance < 0.35:
            return straight / max(distance, 1e-9)
        gradient = self._field(tuple(goal))
        cell = np.clip(
            (position - self.low) / _CELL_M - 0.5, 0, np.array(gradient.shape[:2]) - 1.001
        )
        i, j = cell.astype(int)
        f, g = cell - (i, j)
        value = (
            gradient[i, j] * (1 - f) * (1 - g)
            + gradient[i + 1, j] * f * (1 - g)
            + gradient[i, j + 1] * (1 - f) * g
            + gradient[i + 1, j + 1] * f * g
        )
        return -value / max(np.linalg.norm(value), 1e-9)

    def push_out(self, position: np.ndarray, margin: float) -> np.ndarray:
        """The place, moved out of the furniture by at least ``margin`` metres."""
        for x0, x1, y0, y1 in self.blocked:
            gaps = np.array([position[0] - x0 + margin, x1 + margin - position[0],
                             position[1] - y0 + margin, y1 + margin - position[1]])  # fmt: skip
            if (gaps > 0).all():
                side = int(np.argmin(gaps))
                position = position.copy()
                position[side // 2] += gaps[side] * (-1 if side % 2 == 0 else 1)
        return position

    def _field(self, goal) -> np.ndarray:
        if goal not in self._fields:
            cost = self._cost
            shape = cost.shape
            index = np.arange(cost.size).reshape(shape)
            rows, columns, weights = [], [], []
            for di, dj in ((1, 0), (0, 1), (1, 1), (1, -1)):
                a = index[: shape[0] - di, max(-dj, 0) : shape[1] - max(dj, 0)]
                b = index[di:, max(dj, 0) : shape[1] + min(dj, 0)]
                w = 0.5 * (cost.flat[a] + cost.flat[b]) * np.hypot(di, dj) * _CELL_M
                rows.append(a.ravel()), columns.append(b.ravel()), weights.append(w.ravel())
            graph = coo_matrix(
                (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
                shape=(cost.size, cost.size),
            ).tocsr()
            cell = np.clip((np.array(goal) - self.low) / _CELL_M, 0, np.array(shape) - 1).astype(
                int
            )
            distance = dijkstra(graph, directed=False, indices=index[tuple(cell)]).reshape(shape)
            distance = gaussian_filter1d(gaussian_filter1d(distance, 1, axis=0), 1, axis=1)
            self._fields[goal] = np.stack(np.gradient(distance), axis=-1)
        return self._fields[goal]


class Choreography:
    """Motion of all staff, worked out once and then asked for any instant.

    Parameters
    ----------
    floor : Floor
    plans : list of list of Stay
        One plan a person; the first stay is where the person begins.
    seconds : float
    rng : numpy Generator
    """

    def __init__(self, floor: Floor, plans: list[list[Stay]], seconds: float, rng):
        self.start_s = -_LEAD_S
        self.times = np.arange(self.start_s, seconds + _LEAD_S, 1 / RATE_HZ)
        places, stays = _walk(floor, plans, self.times, rng)
        self.tracks = [
            _behaviour(places[:, k], [s[k] for s in stays], self.times, rng)
            for k in range(len(plans))
        ]

    def pose(self, person: int, time_s: float, hip_height: float, ankle_height: float,
             shoulder: float) -> Pose:  # fmt: skip
        """Pose of a person at an instant; heights in metres over the floor."""
        tick = (time_s - self.start_s) * RATE_HZ
        i = int(np.clip(np.floor(tick), 0, len(self.times) - 2))
        f = np.clip(tick - i, 0, 1)
        track = {
            key: (1 - f) * value[i] + f * value[i + 1]
            for key, value in self.tracks[person].items()
        }
        turn = yaw_matrix(track["heading"])
        ahead = np.array([*track["velocity"], 0.0])
        speed = np.linalg.norm(ahead)
        ahead = ahead / speed if speed > 1e-6 else turn[:, 0]
        walking = np.clip(speed / 0.5, 0, 1)
        bob = -0.015 - 0.02 * walking * np.cos(4 * np.pi * track["phase"]) - 0.02 * walking
        bob -= 0.10 * np.clip(track["lean"], 0, 1) ** 2
        back = -0.10 * np.clip(track["lean"], 0, 1) * turn[:, 0]
        position = np.array([*track["place"], hip_height + bob]) + back
        ankles = _feet(track, turn, ahead, walking, ankle_height)
        scale = shoulder / 1.45
        wrists = track["wrists"].copy()
        wrists[:, 2] *= scale
        world = wrists @ turn.T + np.array([*track["place"], 0.0])
        weight = track["hold"][:, None]
        world = (1 - weight) * world + weight * track["target"]
        return Pose(
            position, turn, lean=track["lean"], twist=track["twist"], head_yaw=track["yaw"],
            head_pitch=track["pitch"], head_roll=track["roll"], wrists=world, ankles=ankles,
        )  # fmt: skip


def _walk(floor, plans, times, rng):
    """Places (T, P, 2) of everybody and the stays that they are in, by a simple social force."""
    n, dt = len(plans), 1 / RATE_HZ
    place = np.array([plan[0].place for plan in plans], dtype=float)
    speed_limit = rng.uniform(0.8, 1.15, n)
    velocity = np.zeros((n, 2))
    places, stays = np.empty((len(times), n, 2)), []
    for step, time in enumerate(times):
        now = [next((s for s in plan if time < s.until_s), plan[-1]) for plan in plans]
        goals = np.array([s.place for s in now])
        away = np.linalg.norm(goals - place, axis=1)
        wanted = np.stack([
            floor.direction(place[k], now[k].place) * min(speed_limit[k], 1.6 * away[k])
            for k in range(n)
        ])  # fmt: skip
        offset = place[:, None] - place[None]
        distance = np.linalg.norm(offset, axis=2) + np.eye(n)
        moving = away > 0.15
        push = np.clip((0.85 - distance) / 0.85, 0, 1) * (1 - np.eye(n)) * 2.0
        side = np.stack([-offset[..., 1], offset[..., 0]], axis=-1)
        force = (push / distance)[..., None] * (offset + 0.6 * side)
        wanted += force.sum(axis=1) * np.where(moving, 1.0, 0.1)[:, None]
        velocity += (wanted - velocity) * min(dt / 0.25, 1)
        place = place + velocity * dt
        place = _separate(place, moving)
        place = np.stack([floor.push_out(p, 0.20) for p in place])
        places[step] = place
        stays.append(now)
    return gaussian_filter1d(places, 0.16 * RATE_HZ, axis=0, mode="nearest"), stays


def _separate(place, moving):
    """Push people apart that are closer than they can stand; who stands hardly gives way."""
    n = len(place)
    for a in range(n):
        for b in range(a + 1, n):
            offset = place[a] - place[b]
            distance = np.linalg.norm(offset)
            lack = DISTANCE_M + 0.03 - distance
            if lack > 0:
                give_a, give_b = (0.9 if moving[a] else 0.1), (0.9 if moving[b] else 0.1)
                step = lack * offset / max(distance, 1e-6) / (give_a + give_b)
                place[a] = place[a] + give_a * step
                place[b] = place[b] - give_b * step
    return place


def _wander(rng, count, seconds, spread):
    """Smooth random signal of standard deviation ``spread``, shape (count,)."""
    signal = gaussian_filter1d(rng.normal(size=count + 400), seconds * RATE_HZ)[200 : 200 + count]
    return signal * spread * np.sqrt(2 * np.sqrt(np.pi) * seconds * RATE_HZ)


def _behaviour(place, stays, times, rng) -> dict[str, np.ndarray]:
    """Heading, gaze, lean, hands and gait of a person along its way, per tick."""
    count = len(times)
    velocity = np.gradient(place, 1 / RATE_HZ, axis=0)
    speed = np.linalg.norm(velocity, axis=1)
    focus = np.array([s.focus for s in stays], dtype=float)
    to_focus = focus[:, :2] - place
    near = np.linalg.norm(to_focus, axis=1)
    facing = to_focus / np.maximum(near, 0.05)[:, None]
    weight = np.clip((speed - 0.15) / 0.3, 0, 1)[:, None]
    direction = (1 - weight) * facing + weight * velocity / np.maximum(speed, 0.05)[:, None]
    direction = gaussian_filter1d(direction, 0.3 * RATE_HZ, axis=0, mode="nearest")
    heading = _turn_to(np.arctan2(direction[:, 1], direction[:, 0]))
    heading = heading + _wander(rng, count, 1.5, 0.08)
    hands = np.array([s.hands for s in stays])
    still = gaussian_filter1d(1 - weight[:, 0], 0.25 * RATE_HZ, mode="nearest")
    working = (
        gaussian_filter1d((hands == "work").astype(float), 0.4 * RATE_HZ, mode="nearest") * still
    )
    lean = np.clip(0.03 + 0.22 * working + 0.12 * working * _wander(rng, count, 2.5, 1.0), 0, 0.65)
    yaw, pitch = _gaze(place, focus, heading, lean, still, times, rng)
    wrists, hold, target = _hands(focus, hands, heading, still, times, rng)
    phase = np.cumsum(speed) / RATE_HZ / _STRIDE_M
    return {
        "place": place, "velocity": velocity, "heading": heading, "lean": lean,
        "twist": 0.3 * np.clip(yaw, -0.6, 0.6), "yaw": 0.7 * yaw, "pitch": pitch,
        "roll": _wander(rng, count, 1.0, 0.05), "phase": phase, "wrists": wrists, "hold": hold,
        "target": target,
    }  # fmt: skip


def _turn_to(wanted: np.ndarray) -> np.ndarray:
    """Heading that follows the wanted angles at no more than 3.5 radians a second, (T,)."""
    heading = np.empty_like(wanted)
    now = wanted[0]
    for k, angle in enumerate(wanted):
        off = (angle - now + np.pi) % (2 * np.pi) - np.pi
        now += np.clip(off, -3.5 / RATE_HZ, 3.5 / RATE_HZ)
        heading[k] = now
    return gaussian_filter1d(heading, 0.15 * RATE_HZ, mode="nearest")


def _gaze(place, focus, heading, lean, still, times, rng):
    """Yaw to the left and pitch down of the gaze against the body, (T,) each, radians."""
    target = focus.copy()
    target[still < 0.5] = np.nan
    time = times[0]
    while time < times[-1]:
        pause = rng.uniform(1.5, 5.0)
        glance = rng.uniform(0.8, 2.5)
        inside = (times >= time + pause) & (times < time + pause + glance)
        target[inside] = [rng.uniform(-3, 3), rng.uniform(-2.5, 2.5), rng.uniform(1.0, 2.6)]
        time += pause + glance
    offset = target[:, :2] - place
    yaw = np.arctan2(offset[:, 1], offset[:, 0]) - heading
    yaw = np.clip((yaw + np.pi) % (2 * np.pi) - np.pi, -1.2, 1.2)
    distance = np.maximum(np.linalg.norm(offset, axis=1), 0.3)
    pitch = np.clip(np.arctan2(1.6 - target[:, 2], distance), -0.5, 0.85) - lean
    yaw, pitch = np.nan_to_num(yaw, nan=0.0), np.nan_to_num(pitch, nan=0.08)
    smooth = 0.16 * RATE_HZ
    yaw = gaussian_filter1d(yaw, smooth, mode="nearest")
    pitch = gaussian_filter1d(pitch, smooth, mode="nearest")
    return yaw, np.clip(pitch, -0.55, 0.75)


def _hands(focus, hands, heading, still, times, rng):
    """Wrists in body axes, weights and world targets of reaching: (T,2,3), (T,2), (T,2,3)."""
    count = len(times)
    relaxed = np.array([[0.06, 0.27, 0.84], [0.06, -0.27, 0.84]])
    folded = np.array([[0.30, 0.06, 1.04], [0.30, -0.06, 1.06]])
    fold = ((hands == "rest") | (hands == "reach")).astype(float)
    fold = gaussian_filter1d(fold, 0.35 * RATE_HZ, mode="nearest") * still
    wrists = relaxed + fold[:, None, None] * (folded - relaxed)
    swing = np.sin(2 * np.pi * np.cumsum(1 - still) / RATE_HZ * 0.9)
    walking = (1 - still)[:, None]
    wrists[:, :, 0] += 0.18 * walking * np.stack([swing, -swing], axis=1)
    for hand in range(2):
        for axis in range(3):
            wrists[:, hand, axis] += _wander(rng, count, 0.8, 0.02)
    target = np.repeat(focus[:, None], 2, axis=1)
    left = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    for hand, side in enumerate((1, -1)):
        target[:, hand, :2] += side * 0.12 * left - 0.12 * ahead
        for axis in range(3):
            spread = (0.06, 0.06, 0.035)[axis]
            target[:, hand, axis] += _wander(rng, count, 0.5, spread)
        target[:, hand, 2] = np.maximum(target[:, hand, 2], 1.02)
    hold = np.zeros((count, 2))
    hold[hands == "work"] = 1
    time = times[0] + rng.uniform(0, 3)
    while time < times[-1]:
        inside = (hands == "reach") & (times >= time) & (times < time + 1.4)
        hold[inside, int(rng.integers(2))] = 1
        time += rng.uniform(2.5, 5)
    hold = gaussian_filter1d(hold, 0.25 * RATE_HZ, axis=0, mode="nearest") * still[:, None]
    return wrists, hold, target


def _feet(track, turn, ahead, walking, ankle_height):
    """Ankle places in the world, shape (2, 3): feet that stand do not slide."""
    ankles = np.empty((2, 3))
    half = 0.6 * _STRIDE_M / 2
    for i, side in enumerate((1, -1)):
        cycle = (track["phase"] + 0.5 * i) % 1
        if cycle < 0.6:
            along, lift = half * (1 - 2 * cycle / 0.6), 0.0
        else:
            swing = (cycle - 0.6) / 0.4
            along = half * (2 * swing * swing * (3 - 2 * swing) - 1)
            lift = 0.09 * np.sin(np.pi * swing)
        apart = 0.115 - 0.03 * walking
        ankles[i] = [*track["place"], ankle_height + lift * walking]
        ankles[i] += walking * along * ahead + side * apart * turn[:, 1]
    return ankles
