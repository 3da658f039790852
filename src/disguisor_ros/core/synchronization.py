"""Which images show the same instant, and waiting for data by their stamps."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np

#: A stamp this far behind the newest one of its topic is a clock jump (a bag that loops): all
#: starts anew.
JUMP_NS = 1_000_000_000


@dataclass
class FrameSet:
    """Stamps of the images that belong together.

    Parameters
    ----------
    stamp_ns : int
        Earliest colour stamp of the set.
    color_ns, depth_ns, keypoints_ns : dict of str to int
        Camera -> header stamp.
    moves : dict of str to ndarray, shape (4, 4)
        Camera -> how it is moved in the world from where its calibration has it, for
        :meth:`disguisor_ros.core.cameras.Camera.moved`; those that are not are left out.
    arrived_ns : int
        Monotonic time at which the set was opened.
    """

    stamp_ns: int
    color_ns: dict[str, int] = field(default_factory=dict)
    depth_ns: dict[str, int] = field(default_factory=dict)
    keypoints_ns: dict[str, int] = field(default_factory=dict)
    moves: dict[str, np.ndarray] = field(default_factory=dict)
    arrived_ns: int = 0

    @property
    def usable(self) -> list[str]:
        """Cameras that have both colour and keypoints."""
        return [c for c, stamp in self.color_ns.items() if self.keypoints_ns.get(c) == stamp]


@dataclass
class _UnderWay:
    """When a set left, and the colour stamps of those of its cameras that have yet to answer."""

    left_ns: int
    waits_for: dict[str, int]


class FrameSynchronizer:
    """Groups stamps of several cameras into frame sets.

    Matching looks at header stamps only. Monotonic time decides one thing: how long to wait for
    a camera that is late. Sets leave in the order of their stamps, and every colour stamp is in
    at most one set.

    When cameras are faster than what becomes of their images, whole instants are left out, so
    that those that leave stay fresh: at most ``in_flight`` sets are under way, and of those that
    wait only the newest goes on.

    Parameters
    ----------
    cameras : iterable of str
    slop_ns : int
        Stamps of a set differ by no more than this.
    max_wait_ns : int
        How long an incomplete set is held back. What was waited for in vain is not waited for
        again until it is heard.
    in_flight : int
        Sets that may be under way at once.
    answer_ns : int
        How long a set is under way when a camera's image does not come out; the same holds.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        slop_ns: int,
        max_wait_ns: int,
        in_flight: int,
        answer_ns: int,
    ):
        self.cameras = tuple(cameras)
        self.slop_ns = slop_ns
        self.max_wait_ns = max_wait_ns
        self.in_flight = in_flight
        self.answer_ns = answer_ns
        self.late = self.skipped = self.ahead = 0
        self._newest_left_ns: int | None = None
        self._left: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything but which images have left: after a clock jump."""
        self._pending: list[FrameSet] = []
        self._last_seen: dict[tuple[str, str], int] = {}
        self._heard_ns: dict[str, int] = {}
        self._expected = {(c, kind) for c in self.cameras for kind in ("color", "keypoints")}
        self._last_emitted: FrameSet | None = None
        self._complete: list[FrameSet] = []
        self._under_way: list[_UnderWay] = []
        self._answering: set[str] = set()

    def add(self, camera: str, kind: str, stamp_ns: int, now_ns: int) -> None:
        """Take note of a stamp.

        Parameters
        ----------
        camera : str
        kind : {"color", "depth", "keypoints"}
        stamp_ns : int
            Header stamp.
        now_ns : int
            Monotonic time.
        """
        if camera not in self.cameras:
            return
        if any(getattr(s, f"{kind}_ns").get(camera) == stamp_ns for s in self._pending):
            return  # a duplicate
        last = self._last_seen.get((camera, kind), stamp_ns)
        if stamp_ns < last - JUMP_NS:
            self.reset()
            last = stamp_ns
        self._last_seen[camera, kind] = max(last, stamp_ns)
        self._heard_ns[camera] = now_ns
        self._expected.add((camera, kind))
        frame_set = self._place(camera, kind, stamp_ns)
        if frame_set is None:
            last_set = self._last_emitted
            if last_set is not None and stamp_ns <= last_set.stamp_ns + self.slop_ns:
                self.late += kind == "color"
                if self._is_ahead(last_set):
                    self.reset()
                return
            frame_set = FrameSet(stamp_ns, arrived_ns=now_ns)
            self._pending.append(frame_set)
            self._pending.sort(key=lambda s: s.stamp_ns)
        getattr(frame_set, f"{kind}_ns")[camera] = stamp_ns
        frame_set.stamp_ns = min(frame_set.color_ns.values(), default=frame_set.stamp_ns)

    def finished(self, camera: str, stamp_ns: int) -> None:
        """Take note that a camera's image of a set has come out."""
        self._answering.add(camera)
        for one in self._under_way:
            if one.waits_for.get(camera) == stamp_ns:
                del one.waits_for[camera]

    def pop(self, now_ns: int) -> list[FrameSet]:
        """Sets that are complete or have waited long enough, as far as there is room for them."""
        self._complete += self._completed(now_ns)
        for one in self._under_way:
            if now_ns - one.left_ns > self.answer_ns:
                self._answering -= one.waits_for.keys()
                one.waits_for.clear()
        self._under_way = [one for one in self._under_way if one.waits_for]
        # As long as nobody answers nothing tells how much there is room for.
        room = self.in_flight if self._answering else len(self._complete)
        room = max(room - len(self._under_way), 0)
        stale = max(len(self._complete) - max(room, 1), 0)
        self.skipped += stale
        leaving = self._complete[stale:][:room]
        self._complete = self._complete[stale + len(leaving) :]
        out = [frame_set for frame_set in leaving if self._leaves(frame_set)]
        for frame_set in out:
            answering = self._answering.intersection(frame_set.usable)
            waits_for = {c: frame_set.color_ns[c] for c in answering}
            self._under_way.append(_UnderWay(now_ns, waits_for))
        return out

    def _leaves(self, frame_set: FrameSet) -> bool:
        """Note that a set leaves, unless a stage would have to take it for another graph's.

        A clock that steps back by about a second is a jump for some cameras and not for others,
        nor for the stages: images left again, or before those that had left.
        """
        newest_ns, color_ns = self._newest_left_ns, frame_set.color_ns
        if newest_ns is None or frame_set.stamp_ns < newest_ns - JUMP_NS:
            self._left, newest_ns = {}, frame_set.stamp_ns
        elif again := [c for c in frame_set.usable if color_ns[c] <= self._left.get(c, -1)]:
            self.late += len(again)
            return False
        self._newest_left_ns = max(newest_ns, frame_set.stamp_ns)
        self._left |= {c: color_ns[c] for c in frame_set.usable}
        return True

    def _completed(self, now_ns: int) -> list[FrameSet]:
        """Take the sets that need not be held back any longer, oldest first."""
        out = []
        while self._pending:
            first = self._pending[0]
            missing = self._missing(first)
            if missing and now_ns - first.arrived_ns <= self.max_wait_ns:
                break
            self._pending.pop(0)
            if self._is_ahead(first):
                self.ahead += len(first.color_ns)
                continue
            self._expected -= missing
            if first.usable:
                self._last_emitted = first
                out.append(first)
        return out

    def _is_ahead(self, frame_set: FrameSet) -> bool:
        """Whether more cameras than it has live before it, and were heard since it was opened."""
        behind = [
            camera
            for camera, heard_ns in self._heard_ns.items()
            if heard_ns > frame_set.arrived_ns
            and self._newest(camera) < frame_set.stamp_ns - JUMP_NS
        ]
        return len(behind) > len(frame_set.color_ns)

    def _newest(self, camera: str) -> int:
        return max(ns for (name, _), ns in self._last_seen.items() if name == camera)

    def _place(self, camera: str, kind: str, stamp_ns: int) -> FrameSet | None:
        """The pending set of a stamp: for keypoints by equality, for others by nearness."""
        taken = [s for s in self._pending if camera not in getattr(s, f"{kind}_ns")]
        if kind != "depth":
            twin = "color" if kind == "keypoints" else "keypoints"
            for s in taken:
                if getattr(s, f"{twin}_ns").get(camera) == stamp_ns:
                    return s
            taken = [s for s in taken if camera not in getattr(s, f"{twin}_ns")]
        near = [s for s in taken if abs(s.stamp_ns - stamp_ns) <= self.slop_ns]
        return min(near, key=lambda s: abs(s.stamp_ns - stamp_ns), default=None)

    def _missing(self, frame_set: FrameSet) -> set[tuple[str, str]]:
        """What may still come for a set; a topic whose stamps are past it has no more."""
        return {
            (camera, kind)
            for camera, kind in self._expected
            if camera not in getattr(frame_set, f"{kind}_ns")
            and self._last_seen.get((camera, kind), 0) <= frame_set.stamp_ns + self.slop_ns
        }


@dataclass
class _Job:
    payload: object
    wants: set
    submitted_ns: int


class Rendezvous:
    """Holds jobs until the data that they want have arrived, whichever comes first.

    Data and jobs meet by keys: a topic and a stamp. Both are bounded: the oldest data and jobs are
    dropped first, and the jobs are told. Nothing is waited for that will not come: when
    a topic has given a newer stamp, or was waited for in vain and not heard since.

    Parameters
    ----------
    capacity : int
        Number of data kept for each topic, and of waiting jobs.
    patience_ns : int
        How long a job waits for what it wants.
    """

    def __init__(self, capacity: int, patience_ns: int):
        self.capacity = capacity
        self.patience_ns = patience_ns
        self.reset()

    def reset(self) -> None:
        """Forget all data and jobs."""
        self._data: dict[Hashable, OrderedDict] = {}
        self._newest: dict[Hashable, int] = {}
        self._jumped: set[Hashable] = set()
        self._silent: set[Hashable] = set()
        self._jobs: deque[_Job] = deque()

    def jump(self, stamp_ns: int) -> None:
        """Forget all jobs and all data of before a clock jump backwards, to a stamp.

        Data of a topic that has jumped already stay: they are what the next jobs want.
        """
        for topic in list(self._data):
            if topic not in self._jumped or self._newest[topic] > stamp_ns + JUMP_NS:
                del self._data[topic], self._newest[topic]
        self._jumped.clear()
        self._silent.clear()
        self._jobs.clear()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, topic: Hashable, stamp_ns: int, datum) -> None:
        """Store a datum; the oldest of its topic make room."""
        queue = self._data.setdefault(topic, OrderedDict())
        if stamp_ns < self._newest.get(topic, stamp_ns) - JUMP_NS:
            queue.clear()
            del self._newest[topic]
            self._jumped.add(topic)
        queue[stamp_ns] = datum
        self._newest[topic] = max(stamp_ns, self._newest.get(topic, stamp_ns))
        self._silent.discard(topic)
        while len(queue) > self.capacity:
            queue.popitem(last=False)

    def get(self, topic: Hashable, stamp_ns: int):
        """A stored datum, or None."""
        return self._data.get(topic, {}).get(stamp_ns)

    def submit(self, payload, wants: Iterable, now_ns: int) -> list:
        """Add a job that waits for keys ``(topic, stamp_ns)``; returns payloads that made room."""
        self._jobs.append(_Job(payload, set(wants), now_ns))
        dropped = []
        while len(self._jobs) > self.capacity:
            dropped.append(self._jobs.popleft().payload)
        return dropped

    def ready(self, now_ns: int) -> list:
        """Payloads that need not wait any longer, as submitted; a late one holds back the rest."""
        out = []
        while self._jobs:
            job = self._jobs[0]
            missing = {topic for topic, stamp_ns in job.wants if self._may_come(topic, stamp_ns)}
            if missing and now_ns - job.submitted_ns <= self.patience_ns:
                break
            self._silent |= missing
            out.append(self._jobs.popleft().payload)
        return out

    def _may_come(self, topic: Hashable, stamp_ns: int) -> bool:
        """Whether a datum is not there but may still be on its way."""
        return (
            self.get(topic, stamp_ns) is None
            and topic not in self._silent
            and self._newest.get(topic, stamp_ns) <= stamp_ns
        )
