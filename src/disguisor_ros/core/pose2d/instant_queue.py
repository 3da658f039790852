"""A short queue of images of several cameras that, when it overflows, loses whole instants."""

from __future__ import annotations

from collections import OrderedDict


class InstantQueue:
    """Images wait here for a stage that may be slower than the cameras.

    What is processed must be the same instants in every camera, or nothing matches downstream.
    So the oldest stamp goes first, an instant once begun is finished, and when a camera has
    too many images waiting the oldest instant is dropped in all cameras.

    Parameters
    ----------
    capacity : int
        Images of one camera that may wait.
    slop_ns : int
        Stamps of one instant differ by no more than this.
    """

    def __init__(self, capacity: int, slop_ns: int):
        self.capacity = capacity
        self.slop_ns = slop_ns
        self.reset()

    def reset(self) -> None:
        """Forget everything: after a clock jump."""
        self._waiting: dict[str, OrderedDict[int, object]] = {}
        self._begun_ns: int | None = None
        self._dropped_ns: int | None = None

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def put(self, camera: str, stamp_ns: int, item) -> int:
        """Add an image; returns how many had to go, this one possibly among them."""
        if self._dropped_ns is not None and self._same(stamp_ns, self._dropped_ns):
            return 1
        queue = self._waiting.setdefault(camera, OrderedDict())
        queue[stamp_ns] = item
        if len(queue) <= self.capacity:
            return 0
        old = [s for s in queue if self._begun_ns is None or not self._same(s, self._begun_ns)]
        self._dropped_ns = min(old)
        before = len(self)
        for other in self._waiting.values():
            for stamp in [s for s in other if self._same(s, self._dropped_ns)]:
                del other[stamp]
        return before - len(self)

    def pop(self) -> tuple[str, int, object] | None:
        """The camera, stamp and image to process next; None when nothing waits."""
        stamps = [(s, camera) for camera, queue in self._waiting.items() for s in queue]
        if not stamps:
            return None
        begun = [
            entry
            for entry in stamps
            if self._begun_ns is not None and self._same(entry[0], self._begun_ns)
        ]
        stamp, camera = min(begun or stamps)
        if not begun:
            self._begun_ns = stamp
        return camera, stamp, self._waiting[camera].pop(stamp)

    def _same(self, a_ns: int, b_ns: int) -> bool:
        return abs(a_ns - b_ns) <= self.slop_ns
