"""Height of the floor, learnt from the people who stand on it."""

from __future__ import annotations

from collections import deque

import numpy as np

from disguisor_ros.core.skeleton import SIZE_SIGMA, STANDING_M

#: Joints whose height over the floor varies least between people who stand.
_USED = np.array([5, 6, 11, 12, 15, 16])

#: So many bodies that stand are needed before the floor is known, and such a share of all: in a
#: world that is not z-up nobody stands but bodies that were made up.
_ENOUGH, _MOST = 3, 0.5

#: So many bodies are remembered.
_MEMORY = 300

#: Who is less high than this share of who stands, from ankles or hips to shoulders, lies.
_STANDS = 0.5

#: Standard deviation of the heights of joints of people of one size, metres.
_HEIGHT_SIGMA_M = 0.03


class FloorEstimator:
    """Running median of the floor below bodies that several views see.

    Sitting people and bad bodies are outvoted as long as most stand. Who lies tells nothing.

    Parameters
    ----------
    known_z_m : float, optional
        Height of the floor where it is known: then nothing is learnt.

    Attributes
    ----------
    z_m : float or None
        Height of the floor in the world, metres; None while it is not known.
    """

    def __init__(self, known_z_m: float | None = None):
        self._samples: deque[float] = deque(maxlen=_MEMORY)
        self._known = known_z_m is not None
        self.z_m = known_z_m

    def add(self, joints: np.ndarray, confidence: np.ndarray) -> None:
        """Learn from one person or several.

        Parameters
        ----------
        joints : ndarray, shape (..., 17, 3), metres, world z-up
        confidence : ndarray, shape (..., 17)
            0 for joints that were not seen.
        """
        if self._known:
            return
        for body, sure in zip(joints.reshape(-1, 17, 3), confidence.reshape(-1, 17), strict=True):
            self._measure(body, sure)
        floors = np.array(self._samples)
        floors = floors[np.isfinite(floors)]
        if len(floors) >= max(_ENOUGH, _MOST * len(self._samples)):
            self.z_m = float(np.median(floors))

    def _measure(self, joints: np.ndarray, confidence: np.ndarray) -> None:
        used = _USED[confidence[_USED] > 0]
        if len(used) < 2:
            return
        height = STANDING_M[used, 2]
        off = height - height.mean()
        # Tall people must not lift the floor: size and floor are found together.
        taller = off @ (joints[used, 2] - height)
        size = 1.0 + taller / (off @ off + (_HEIGHT_SIGMA_M / SIZE_SIGMA) ** 2)
        stands = off @ joints[used, 2] >= _STANDS * off @ off
        floor = np.median(joints[used, 2] - size * height) if stands else np.nan
        self._samples.append(float(floor))
