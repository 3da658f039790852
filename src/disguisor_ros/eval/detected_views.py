"""In how many views a 2D detector has found people whose joints are known in 3D."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.assignment import assign
from disguisor_ros.core.cameras import Camera

#: A view's detector has found a person when the keypoints are off by less on average, metres
#: at the person's distance.
_DETECTED_M = 0.25

#: Farther off is no worse, metres: a detection that is nobody's must not push others about.
_FAR_M = 1.0


def detected_views(
    persons: np.ndarray, keypoints: dict[str, np.ndarray], cameras: dict[str, Camera]
) -> np.ndarray:
    """In how many views the 2D detector found each person.

    People and detections of a view are matched one to one by the mean distance of their
    keypoints, at the person's depth.

    Parameters
    ----------
    persons : ndarray, shape (A, K, 3), metres, world
        NaN where a joint is not known.
    keypoints : dict of str to ndarray, shape (P, K, 3)
        x, y (pixels), score (0 = missing) of the same K joints.
    cameras : dict of str to Camera

    Returns
    -------
    ndarray, shape (A,), int
    """
    views = np.zeros(len(persons), dtype=int)
    for name, found in keypoints.items():
        if not len(found) or not len(persons):
            continue
        pixels, depth = cameras[name].project(persons)
        metres = depth / cameras[name].matrix[0, 0]
        off = np.linalg.norm(found[None, ..., :2] - pixels[:, None], axis=-1) * metres[:, None]
        usable = (found[None, ..., 2] > 0) & np.isfinite(off)
        count = usable.sum(axis=-1)
        mean = np.where(usable, off, 0.0).sum(axis=-1) / np.maximum(count, 1)
        cost = np.where(count >= 3, np.minimum(mean, _FAR_M), _FAR_M)
        rows, columns = assign(cost)
        views[rows] += cost[rows, columns] < _DETECTED_M
    return views
