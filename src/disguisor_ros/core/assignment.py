"""Who belongs to whom, one to one, at the least cost."""

from __future__ import annotations

import lap
import numpy as np


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and columns, as many as there can be, whose costs have the least sum.

    Of the package ``lap`` (Jonker and Volgenant 1987): SciPy's assignment gives the same, but
    importing ``scipy.optimize`` takes a stage that was restarted a third of a second and 50 MB.

    Parameters
    ----------
    cost : ndarray, shape (N, M)
        Not finite where two do not go together.

    Returns
    -------
    rows, columns : ndarray, shape (K,), int
        In the order of the rows.
    """
    return lap.lapjvc(cost, return_cost=False)
