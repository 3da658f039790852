"""Scenarios: how many people, what they wear and do, and where the cameras hang."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from disguisor_ros.core.cameras import Camera, invert_rigid, look_at, rigid
from disguisor_ros.sim import room as rooms
from disguisor_ros.sim.motion import Choreography, Floor, Stay
from disguisor_ros.sim.people import Look, random_look
from disguisor_ros.sim.skeleton import Pose


@dataclass(frozen=True)
class Scenario:
    """What distinguishes the scenarios.

    Parameters
    ----------
    name : str
    staff : int
    masked : float
        Probability that staff who need not wear a mask wear one.
    hard : bool
        Low lamps, light box, dim ceiling.
    screen : bool
        An ether screen stands before the patient's head.
    """

    name: str
    staff: int
    masked: float
    hard: bool
    screen: bool


SCENARIOS = {
    "easy": Scenario("easy", 3, 0.35, False, False),
    "medium": Scenario("medium", 5, 0.55, False, True),
    "hard": Scenario("hard", 7, 0.75, True, True),
}

_MONITOR = (0.6, 2.9, 1.8)
_OUTSIDE = (4.7, 1.95)


@dataclass(frozen=True)
class CameraPair:
    """The colour and the depth camera of one device."""

    color: Camera
    depth: Camera


def cameras(
    count: int, width: int, height: int, rng: np.random.Generator
) -> dict[str, CameraPair]:
    """Ceiling cameras around the table, ``cn01`` first; up to eight.

    Parameters
    ----------
    count : int
    width, height : int
        Of the colour images, pixels.
    rng : numpy Generator
    """
    places = [
        (-2.2, -1.9, 2.40),
        (2.1, -1.85, 2.35),
        (2.15, 1.9, 2.45),
        (-2.1, 1.85, 2.38),
        (0.1, -2.3, 2.70),
        (0.0, 2.3, 2.65),
        (-2.6, 0.2, 2.55),
        (1.5, 0.3, 2.90),
    ]
    out = {}
    for k, place in enumerate(places[:count]):
        place = np.array(place) + rng.normal(0, 0.06, 3) * [1, 1, 0.5]
        aim = np.array([0.0, 0.0, 1.15]) + rng.normal(0, 0.1, 3)
        name = f"cn{k + 1:02d}"
        out[name] = _device(name, _look_at(place, aim, rng.normal(0, 0.02)), width, height, rng)
    return out


def _look_at(place, aim, roll) -> np.ndarray:
    """Pose world <- optical frame of a camera at ``place`` that looks at ``aim``."""
    upright = look_at(place, aim)[:3, :3].T
    return rigid(upright @ Rotation.from_rotvec([0, 0, roll]).as_matrix(), place)


def _device(name, tf_world_color, width, height, rng) -> CameraPair:
    focal = 0.475 * max(width, height * 4 / 3) * (1 + rng.normal(0, 0.003))
    center = np.array([width / 2, height / 2]) - 0.5 + rng.normal(0, 0.003, 2) * width
    matrix = np.array(
        [[focal, 0, center[0]], [0, focal * (1 + rng.normal(0, 5e-4)), center[1]], [0, 0, 1]]
    )
    distortion = np.array([0.08, -0.09, 3e-4, -2e-4, 0.03]) * (1 + rng.normal(0, 0.05, 5))
    color = Camera(name, width, height, matrix, invert_rigid(tf_world_color), distortion)
    # Azure Kinect: the depth camera sits 32 mm beside the colour camera and looks 6 degrees down.
    turn = Rotation.from_rotvec(np.radians([-6.0, 0, 0]) + rng.normal(0, 0.003, 3))
    beside = np.array([-0.032, -0.002, 0.004]) + rng.normal(0, 0.0005, 3)
    tf_color_depth = rigid(turn.as_matrix(), beside)
    focal = 504.5 + rng.normal(0, 1)
    center = np.array([320.0, 330.0]) - 0.5 + rng.normal(0, 3, 2)
    matrix = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
    tf_depth_world = invert_rigid(tf_world_color @ tf_color_depth)
    return CameraPair(color, Camera(name, 640, 576, matrix, tf_depth_world))


def looks(scenario: Scenario, rng: np.random.Generator) -> list[Look]:
    """Looks of the staff, sterile ones first, and then of the patient."""
    sterile = {3: 2, 5: 3, 7: 4}[scenario.staff]
    garments = ["gown"] * sterile + ["scrubs"] * (scenario.staff - sterile)
    return [random_look(rng, g, scenario.masked) for g in garments] + [
        random_look(rng, "patient", 0.0)
    ]


def choreography(scenario: Scenario, seconds: float, rng: np.random.Generator) -> Choreography:
    """Motion of the staff, in the order of :func:`looks`."""
    bounds = (-rooms.WIDTH_M / 2 + 0.1, 5.4, -rooms.DEPTH_M / 2 + 0.1, rooms.DEPTH_M / 2 - 0.1)
    floor = Floor(bounds, [*rooms.FURNITURE, rooms.MAYO, *rooms.WALLS])
    plans = _plans(scenario, seconds, rng)
    return Choreography(floor, plans, seconds, rng)


def _plans(scenario, seconds, rng) -> list[list[Stay]]:
    forever = seconds + 100.0
    field = rooms.FIELD
    head = (-0.85, 0.0, 1.0)
    surgeon = [Stay(forever, (0.12, 0.60), field, "work")]
    assistant = [Stay(forever, (0.20, -0.60), field, "work")]
    scrub_nurse = _handing_over(
        (0.84, -0.62), (0.95, 0.05, 1.18), (0.45, -0.22, 1.20), seconds, rng
    )
    second = [Stay(forever, (-0.42, -0.62), field, "work")]
    anaesthetist = _errands(
        [
            ((-1.42, 0.12), head, "reach"),
            ((-1.45, -0.95), (-2.0, -0.8, 1.5), "reach"),
            ((-1.35, 0.45), head, "rest"),
        ],
        seconds,
        rng,
        (7, 14),
    )
    circulating = _errands(
        [
            ((1.75, -0.25), (1.75, -1.0, 0.95), "reach"),
            ((0.3, 1.9), _MONITOR, "rest"),
            ((-2.3, 1.6), (-3.3, 1.3, 0.9), "reach"),
            ((1.3, 1.3), field, "rest"),
            ((-0.6, -1.9), field, "rest"),
            ((2.1, 0.2), (2.7, -0.1, 1.1), "reach"),
        ],
        seconds,
        rng,
        (3, 8),
    )
    visitor = _errands(
        [
            (_OUTSIDE, (3.0, 1.9, 1.5), "down"),
            ((1.9, 1.5), field, "rest"),
            ((0.65, 1.15), field, "rest"),
            (_OUTSIDE, (6.0, 1.9, 1.5), "down"),
        ],
        seconds,
        rng,
        (4, 7),
        shuffle=False,
    )
    if scenario.staff == 3:
        return [surgeon, assistant, circulating]
    if scenario.staff == 5:
        return [surgeon, assistant, scrub_nurse, anaesthetist, circulating]
    return [surgeon, assistant, scrub_nurse, second, anaesthetist, circulating, visitor]


def _handing_over(place, table, hand, seconds, rng) -> list[Stay]:
    """Stay at a place and turn between the instruments and the surgeon's hand."""
    plan, time = [], 0.0
    while time < seconds + 10:
        for focus, least, most in ((table, 3.0, 6.0), (hand, 1.4, 2.2)):
            time += rng.uniform(least, most)
            plan.append(Stay(time, place, focus, "work" if focus is hand else "reach"))
    return plan


def _errands(stations, seconds, rng, stay_s, shuffle=True) -> list[Stay]:
    """Go from station to station, each time for ``stay_s`` (least, most) seconds."""
    plan, time, at = [], 0.0, 0
    order = list(range(len(stations)))
    while time < seconds + 10:
        if at % len(order) == 0 and shuffle:
            last = order[-1]
            order = [int(k) for k in rng.permutation(len(stations))]
            if at and order[0] == last:
                order = order[1:] + order[:1]
        place, focus, hands = stations[order[at % len(order)]]
        time += rng.uniform(*stay_s)
        plan.append(Stay(time, place, focus, hands))
        at += 1
    return plan


def patient_pose(time_s: float) -> Pose:
    """The patient lies on the back, head towards -x, and turns the head a little."""
    turn = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    root = np.array([-0.16, 0.0, rooms.TABLE_TOP_M + 0.115])
    wrists = root + np.array([[0.06, 0.30, 0.0], [0.06, -0.30, 0.0]])
    ankles = root + np.array([[0.86, 0.12, -0.05], [0.86, -0.12, -0.05]])
    return Pose(
        root,
        turn,
        head_yaw=0.18 * np.sin(0.5 * time_s),
        head_pitch=0.12,
        wrists=wrists,
        ankles=ankles,
    )
