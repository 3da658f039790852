"""Whether a person wears a surgical mask: one bit per track, and all that is taken from a face."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from disguisor_ros.core.face_cover import Cover

#: Skin is redder than any cloth in use; a mask lowers the share of red over blue by this much.
_LESS_RED = 0.06

#: Images that must agree before what is drawn changes.
_VOTES = 5

#: Pixels that both halves of a face must show to be compared.
_PIXELS = 40

#: Heads less sure than this are not looked at, metres.
_MAX_SIGMA_M = 0.025

#: Tracks that are remembered.
_TRACKS = 64


class MaskWatch:
    """Watches which tracks wear a surgical mask.

    People in an operating room wear masks until seen otherwise. An image never decides about
    itself: the bit that its faces are drawn with comes from at least :data:`_VOTES` earlier ones.
    """

    def __init__(self):
        self._votes: OrderedDict[int, int] = OrderedDict()
        self._bare: set[int] = set()

    def reset(self) -> None:
        """Forget all tracks."""
        self._votes.clear()
        self._bare.clear()

    def masked(self, track_ids) -> frozenset[int]:
        """Those of the tracks that are drawn with a mask."""
        return frozenset(track_ids) - self._bare

    def __call__(self, image: np.ndarray, covers: list[Cover], rgb: tuple[int, ...]) -> None:
        """Look at the faces of an image before they are replaced.

        Parameters
        ----------
        image : ndarray, shape (height, width, channels), uint8
        covers : list of Cover
        rgb : tuple of int
            Channels of red, green and blue.
        """
        for cover in covers:
            track_id = cover.region.track_id
            if cover.upper is None or track_id < 0 or cover.sigma_m > _MAX_SIGMA_M:
                continue
            pixels = image[cover.slices]
            upper, lower = pixels[cover.upper], pixels[cover.lower]
            if min(len(upper), len(lower)) < _PIXELS:
                continue
            # A cap may hide part of the forehead: skin is the redder part of what is above.
            skin, below = np.quantile(_redness(upper, rgb), 0.75), np.median(_redness(lower, rgb))
            bare = skin - below < _LESS_RED
            votes = self._votes.pop(track_id, 0) + (1 if bare else -1)
            self._votes[track_id] = int(np.clip(votes, -_VOTES, _VOTES))
            if votes >= _VOTES:
                self._bare.add(track_id)
            elif votes <= -_VOTES:
                self._bare.discard(track_id)
        while len(self._votes) > _TRACKS:
            self._bare.discard(self._votes.popitem(last=False)[0])


def _redness(pixels: np.ndarray, rgb: tuple[int, ...]) -> np.ndarray:
    """Share by which red exceeds blue in pixels (N, channels), shape (N,)."""
    colors = pixels[:, list(rgb)].astype(np.float32)
    return (colors[:, 0] - colors[:, 2]) / np.maximum(colors.sum(axis=1), 1)
