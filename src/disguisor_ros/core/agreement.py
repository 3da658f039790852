"""Whether the cameras of a room show the same people: if not, something about them is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.types import Person3D

#: A detection with so many joints of this score is somebody whom other cameras should find, too.
_SURE_SCORE = 0.5
_SURE_JOINTS = 6

#: Cameras that are right confirm 0.92 to 1.0 of such detections of simulated rooms, 0.6 to 0.9 of
#: real ones; 0.0 to 0.2 by chance, when all keypoints are of a smaller image or all poses wrong.
_AGREED = 0.25

#: Of people whom two others see, and whom it should show, a right camera sees 0.68 to 0.93; none
#: when its pose is 5 degrees off, or its keypoints are of a smaller image.
_MET = 0.1

#: Nose, ears, shoulders and hips. Of people whom several cameras see so well 1.0 have the face on
#: the side that shoulders tell; 0.00 to 0.04 when left and right are exchanged in all keypoints.
_FRONT = [0, 3, 4, 5, 6, 11, 12]

#: A camera shows somebody whose nose, shoulders and hips lie in its image.
_TRUNK = [0, 5, 6, 11, 12]

#: Nobody is believed who has no better score; detectors give more than this to somebody.
_LEAST_SCORE = 0.1

#: Judged after so many seconds of detections, of each camera and of all together: with fewer real
#: cameras were closed that saw somebody else for a while ...
_ENOUGH_S, _ENOUGH_OF_ALL_S = 20.0, 50.0

#: ... of the last so many seconds in which there was somebody to judge by: an empty room does not
#: make a camera right. One look counts for no longer than this.
_MEMORY_S = 60.0
_LOOK_S = 0.4


@dataclass
class _Share:
    """Seconds in which something was met, of those in which it could be, in both of late."""

    met: float = 0.0
    of: float = 0.0

    def add(self, met: int, of: int, seconds: float) -> None:
        if of:
            self.met += seconds * (met - self.met / _MEMORY_S)
            self.of += seconds * (of - self.of / _MEMORY_S)

    def below(self, share: float, enough_s: float) -> bool:
        return self.of >= enough_s and self.met < share * self.of


class Agreement:
    """Counts how many of those whom a camera sees other cameras see in the same place; seconds.

    Only instants at which two cameras see somebody count, and of these no more people than
    another camera sees: who stands in one view alone proves nothing. A clock that jumps changes
    nothing: a recording that is played in a loop would never be judged.
    """

    def __init__(self):
        self._confirmed: dict[str, _Share] = defaultdict(_Share)
        self._met: dict[str, _Share] = defaultdict(_Share)
        self._facing = _Share()
        self._seen: Counter[str] = Counter()
        self._detected_s, self._best_score = 0.0, 0.0
        self._reach: dict[str, np.ndarray] = {}
        self._stamp_ns: int | None = None

    def look(
        self,
        keypoints: dict[str, np.ndarray],
        cameras: dict[str, Camera],
        persons: list[Person3D],
        stamp_ns: int,
    ) -> None:
        """Note the detections (P, 17, 3) of an instant and the people that were made of them."""
        seconds = min(max((stamp_ns - (self._stamp_ns or stamp_ns)) * 1e-9, 0.0), _LOOK_S)
        self._stamp_ns = stamp_ns
        every = np.concatenate([np.zeros((0, 17)), *(k[..., 2] for k in keypoints.values())])
        self._detected_s += seconds * len(every)
        self._best_score = max(self._best_score, every.max(initial=0.0))
        several = [person for person in persons if person.status == "multiview"]
        clear = [p.joints for p in several if p.confidence[_FRONT].min() >= _SURE_SCORE]
        self._facing.add(sum(map(_faces_ahead, clear)), len(clear), seconds)
        sure = {
            camera: set(np.flatnonzero((found[..., 2] >= _SURE_SCORE).sum(1) >= _SURE_JOINTS))
            for camera, found in keypoints.items()
        }
        for camera, mine in sure.items():
            others = max((len(s) for other, s in sure.items() if other != camera), default=0)
            expected = min(len(mine), others)
            shared = {person.detections.get(camera) for person in several}
            self._seen[camera] += seconds * len(mine)
            size = (cameras[camera].width, cameras[camera].height)
            joints = keypoints[camera][keypoints[camera][..., 2] >= _SURE_SCORE][:, :2] / size
            self._reach[camera] = np.vstack([joints, self._reach.get(camera, np.zeros(2))]).max(0)
            there = _within(
                cameras[camera], [p for p in persons if len(p.detections.keys() - {camera}) > 1]
            )
            self._confirmed[camera].add(min(len(mine & shared), expected), expected, seconds)
            met = sum(camera in person.detections for person in there)
            self._met[camera].add(met, len(there), seconds)

    @property
    def shares(self) -> dict[str, float]:
        """Of each camera that saw enough: the share of its people whom others confirm."""
        return {
            camera: confirmed.met / confirmed.of
            for camera, confirmed in sorted(self._confirmed.items())
            if confirmed.of >= _ENOUGH_S
        }

    @property
    def none(self) -> bool:
        """Whether the cameras agree on nobody, or hardly."""
        every = self._confirmed.values()
        all_cameras = _Share(sum(s.met for s in every), sum(s.of for s in every))
        return all_cameras.below(_AGREED, _ENOUGH_OF_ALL_S)

    @property
    def exchanged(self) -> bool:
        """Whether people have their faces behind: left is right in all keypoints."""
        return self._facing.below(_AGREED, _ENOUGH_S)

    @property
    def unscored(self) -> bool:
        """Whether scores are in another scale: the room would be empty."""
        return self._detected_s >= _ENOUGH_S and self._best_score < _LEAST_SCORE

    @property
    def problem(self) -> str:
        """Why nothing may go out of any camera, for the user; empty while it may."""
        if self.unscored:
            return UNSCORED
        return DISAGREEMENT if self.none else EXCHANGED if self.exchanged else ""

    def quartered(self, camera: str) -> bool:
        """Whether all that a camera ever saw, and nobody confirms, was in its upper left quarter.

        Such are keypoints of images of half the size.
        """
        confirmed = self._confirmed[camera]
        unconfirmed = confirmed.of < _ENOUGH_S or confirmed.below(_AGREED, _ENOUGH_S)
        enough = self._seen[camera] >= _ENOUGH_S
        return enough and unconfirmed and bool((self._reach[camera] <= 0.5).all())

    def wrong(self, camera: str) -> bool:
        """Whether a camera sees people, but none of those whom others have before it."""
        unconfirmed = self._confirmed[camera].below(_AGREED, _ENOUGH_S)
        return unconfirmed and self._met[camera].below(_MET, _ENOUGH_S)


def _faces_ahead(joints: np.ndarray) -> bool:
    """Whether the nose lies before the ears, as shoulders and hips tell what is before."""
    ears, shoulders, hips = (joints[k : k + 2].mean(axis=0) for k in (3, 5, 11))
    ahead = np.cross(joints[5] - joints[6], shoulders - hips)
    return bool(ahead @ (joints[0] - ears) > 0)


def _within(camera: Camera, persons: list[Person3D]) -> list[Person3D]:
    """Those whose head and trunk lie in the image of a camera."""
    joints = np.array([person.joints[_TRUNK] for person in persons]).reshape(-1, 5, 3)
    inside = camera.inside(camera.project(joints)[0]).all(axis=1)
    return [person for person, shown in zip(persons, inside, strict=True) if shown]


#: What to tell the user of cameras that agree on nobody.
DISAGREEMENT = (
    "the cameras do not find the same people in the same places: are /tf_static and camera_info"
    " right, and keypoints2d in pixels of the whole image? (Cameras that show different places:"
    " run each by itself)"
)

#: ... of scores ...
UNSCORED = (
    "no score in keypoints2d has ever reached 0.1: are they 0 to 1? (Else it goes on when somebody"
    " is found)"
)

#: ... of keypoints that turn everybody round ...
EXCHANGED = (
    "everybody's face is behind: left and right are exchanged in keypoints2d (coco17 names them as"
    " the person does)"
)

#: ... and of one camera that nobody confirms.
QUARTERED = (
    "everybody is in the upper left quarter of its images: is keypoints2d of images of half the"
    " size? (Else it goes on when somebody is elsewhere)"
)


def doubt(share: float) -> str:
    """What to tell of a camera of whose people others confirm such a share; empty if nothing."""
    if share >= _AGREED:
        return ""
    return (
        f"other cameras confirm only {100 * share:.0f} % of the people whom it sees: are its"
        " /tf_static, camera_info and keypoints2d right? (Else leave it out and run it by itself)"
    )
