"""Height of the floor, learnt from the people who stand on it."""

from __future__ import annotations

from collections import deque

import numpy as np

from disguisor_ros.core.skeleton import STANDING_M

#: Joints whose height over the floor varies least between people who stand.
_USED = np.array([5, 6, 11, 12, 15, 16])

#: So many bodies are needed before the floor is known.
_ENOUGH = 8


class FloorEstimator:
    """Running median of the floor below bodies that several views see.

    Sitting people and bad bodies are outvoted as long as most stand.
    """

    def __init__(self, memory: int = 300):
        self._samples: deque[float] = deque(maxlen=memory)
        self.z_m: float | None = None

    def add(self, joints: np.ndarray, confidence: np.ndarray) -> None:
        """Learn from a person.

        Parameters
        ----------
        joints : ndarray, shape (17, 3), metres, world z-up
        confidence : ndarray, shape (17,)
            0 for joints that were not seen.
        """
        used = _USED[confidence[_USED] > 0]
        if len(used) < 2:
            return
        self._samples.append(float(np.median(joints[used, 2] - STANDING_M[used, 2])))
        if len(self._samples) >= _ENOUGH:
            self.z_m = float(np.median(self._samples))
