"""Who belongs to whom, one to one, at the least cost."""

from __future__ import annotations

import lap
import numpy as np


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and columns whose costs have the least sum, as many as there can be.

    Of the package ``lap`` (Jonker and Volgenant 1987): SciPy's assignment gives the same, but
    importing ``scipy.optimize`` takes a stage that was restarted a third of a second and 50 MB.

    Parameters
    ----------
    cost : ndarray, shape (N, M)
        Finite.

    Returns
    -------
    rows, columns : ndarray, shape (min(N, M),), int
        In the order of the rows.

    Raises
    ------
    ValueError
        If a cost is not finite.
    """
    if not np.isfinite(cost).all():
        raise ValueError("costs must be finite")
    column, _ = lap.lapjv(cost, extend_cost=True, return_cost=False)
    rows = np.flatnonzero(column >= 0)
    return rows, column[rows]
