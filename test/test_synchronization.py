import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disguisor_ros.core.synchronization import FrameSynchronizer, Rendezvous

MS = 1_000_000
KINDS = ("color", "depth", "keypoints")


def synchronizer(cameras="ab", slop_ms=20, max_wait_ms=500):
    return FrameSynchronizer(cameras, slop_ms * MS, max_wait_ms * MS, 2, 1000 * MS)


def feed(sync, stamps, now=0):
    """Add (camera, kind, stamp in ms) one by one; returns the sets that came out."""
    out = []
    for camera, kind, stamp in stamps:
        sync.add(camera, kind, stamp * MS, now * MS)
        out += sync.pop(now * MS)
    return out


def test_images_of_one_instant_come_out_as_one_set():
    sets = feed(synchronizer(), [("a", "color", 1000), ("b", "color", 1005),
                                 ("b", "keypoints", 1005), ("a", "keypoints", 1000)])  # fmt: skip
    assert [(s.stamp_ns // MS, sorted(s.usable)) for s in sets] == [(1000, ["a", "b"])]


def test_images_further_apart_than_the_slop_are_not_one_instant():
    sync = synchronizer()
    sets = feed(sync, [(c, k, t) for c, t in (("a", 1000), ("b", 1030)) for k in KINDS])
    sets += feed(sync, [(c, k, t) for c, t in (("a", 1100), ("b", 1130)) for k in KINDS])
    assert [s.usable for s in sets][:3] == [["a"], ["b"], ["a"]]


def test_a_camera_that_skips_an_image_does_not_hold_the_others_up():
    sync = synchronizer()
    feed(sync, [(c, k, 1000) for c in "ab" for k in KINDS])
    sets = feed(sync, [("a", k, 1100) for k in KINDS])
    sets += feed(sync, [(c, k, 1200) for c in "ab" for k in KINDS])
    assert [s.usable for s in sets] == [["a"], ["a", "b"]]


def test_a_dead_camera_is_waited_for_once():
    sync = synchronizer(max_wait_ms=500)
    assert feed(sync, [("a", "color", 1000), ("a", "keypoints", 1000)], now=0) == []
    assert sync.pop(499 * MS) == []
    assert [s.usable for s in sync.pop(501 * MS)] == [["a"]]
    sets = feed(sync, [("a", "color", 1100), ("a", "keypoints", 1100)], now=600)
    assert [s.usable for s in sets] == [["a"]]


def test_a_camera_without_keypoints_is_not_usable():
    sync = synchronizer()
    feed(sync, [("a", "color", 1000), ("a", "keypoints", 1000), ("b", "color", 1000)])
    assert [s.usable for s in sync.pop(10**12)] == [["a"]]


def test_a_late_image_joins_no_set():
    sync = synchronizer()
    feed(sync, [(c, k, 1000) for c in "ab" for k in ("color", "keypoints")])
    assert feed(sync, [("a", "color", 990), ("a", "keypoints", 990)]) == []
    assert sync.late == 1 and sync.pop(10**12) == []


def complete_sets(sync, stamps, now=0):
    return feed(sync, [(c, k, t) for t in stamps for c in "ab" for k in KINDS], now)


def answer(sync, *stamps):
    for stamp in stamps:
        for camera in "ab":
            sync.finished(camera, stamp * MS)


def stamps_of(sets):
    return [s.stamp_ns // MS for s in sets]


def test_cameras_that_are_too_fast_lose_whole_instants_and_the_newest_goes_on():
    sync = synchronizer()
    assert stamps_of(complete_sets(sync, [0, 100])) == [0, 100]  # nobody answers yet: no limit
    answer(sync, 0, 100)
    assert stamps_of(complete_sets(sync, [200, 300, 400, 500, 600])) == [200, 300]
    sync.finished("a", 200 * MS)
    assert sync.pop(0) == []  # b is not done with it
    sync.finished("b", 200 * MS)
    assert stamps_of(sync.pop(0)) == [600] and sync.skipped == 2


def test_a_slow_room_loses_nothing():
    sync = synchronizer()
    for stamp in range(0, 3000, 100):
        assert stamps_of(complete_sets(sync, [stamp])) == [stamp]
        answer(sync, stamp)
    assert sync.skipped == 0


def test_a_renderer_that_died_holds_the_others_up_once():
    sync = synchronizer()
    complete_sets(sync, [0])
    answer(sync, 0)
    complete_sets(sync, [100, 200], now=0)
    for stamp in (100, 200):
        sync.finished("a", stamp * MS)  # b never answers again
    assert complete_sets(sync, [300], now=999) == []
    assert stamps_of(sync.pop(1001 * MS)) == [300]
    sync.finished("a", 300 * MS)
    assert stamps_of(complete_sets(sync, [400], now=1002)) == [400]  # b is not waited for
    assert sync.skipped == 0


def test_a_bag_that_loops_starts_anew():
    sync = synchronizer()
    loop = [(c, k, t) for t in range(1000, 4000, 100) for c in "ab" for k in KINDS]
    assert len(feed(sync, loop)) == len(feed(sync, loop)) == 30


@pytest.mark.parametrize("first", ["ab", "c"])
def test_a_camera_whose_clock_is_ahead_does_not_silence_the_others(first):
    """Its sets left alone, whereupon all images of the others came too late for ever."""
    sync, out = synchronizer("abc"), []
    for now in range(0, 5000, 100):
        for camera in first if now < 1000 else "abc":
            stamp = now + 3_600_000 * (camera == "c")
            out += feed(sync, [(camera, k, stamp) for k in ("color", "keypoints")], now)
    last = [sorted(s.usable) for s in out][-30:]
    assert last == [["a", "b"]] * 30 and stamps_of(out)[-1] == 4900 and sync.ahead > 0


@pytest.mark.parametrize("back_ms", [500, 1000, 1050, 1300, 1800, 1900, 5000])
def test_a_clock_that_steps_back_lists_no_image_twice_and_none_before_another(back_ms):
    """By that a second graph is told, which closes this one for 10 s."""
    sync = synchronizer()
    left = complete_sets(sync, [10_000])
    answer(sync, 10_000)
    left += complete_sets(sync, range(10_100, 11_000, 100))  # of which two leave
    left += complete_sets(sync, range(11_000 - back_ms, 15_000, 100))
    left += sync.pop(2000 * MS)
    taken, newest = {}, 0
    for one in left:  # as pose3d looks at it
        if one.stamp_ns < newest - 1000 * MS:
            taken, newest = {}, 0
        assert all(taken.get(c, 0) < one.color_ns[c] for c in one.usable)
        taken |= {c: one.color_ns[c] for c in one.usable}
        newest = max(newest, one.stamp_ns)
    assert left[-1].stamp_ns >= 14_900 * MS


def test_an_image_that_comes_twice_is_listed_once():
    """Its set began with another camera's image, by more than the slop before it."""
    sync = synchronizer("abc")
    stamps = [(1020, "a"), (1040, "b"), (1001, "c")]
    sets = feed(sync, [(c, k, t) for k in KINDS for t, c in stamps])
    assert [s.usable for s in sets] == [["a", "b", "c"]]
    assert feed(sync, [("b", k, 1040) for k in KINDS]) + sync.pop(10**12) == []


def test_instants_a_minute_apart_are_matched_in_any_order_of_cameras():
    sync = synchronizer()
    instants, kinds = (1000, 61000, 121000), ("color", "keypoints")
    stamps = [(c, k, t) for c in "ab" for t in instants for k in kinds]
    assert [s.usable for s in feed(sync, stamps)] == [["a", "b"]] * 3


@given(st.integers(0, 2**32 - 1))
def test_every_image_is_in_exactly_one_set_whatever_the_order_between_topics(seed):
    rng = random.Random(seed)
    queues = [[(c, k, 1000 + 100 * i + 3 * n) for i in range(5)]
              for (n, c), k in itertools.product(enumerate("abc"), KINDS)]  # fmt: skip
    mixed = []
    while queues:
        queue = rng.choice(queues)
        mixed.append(queue.pop(0))
        queues = [q for q in queues if q]
    sync = synchronizer("abc")
    sets = feed(sync, mixed) + sync.pop(10**12)
    assert [sorted(s.usable) for s in sets] == [["a", "b", "c"]] * 5
    assert [s.stamp_ns // MS for s in sets] == [1000, 1100, 1200, 1300, 1400]


def test_a_job_waits_for_what_it_wants_whichever_comes_first():
    meeting = Rendezvous(capacity=4, patience_ns=10)
    meeting.submit("job", [("image", 5)], now_ns=0)
    assert meeting.ready(10) == []
    meeting.put("image", 5, "pixels")
    assert meeting.ready(10) == ["job"] and meeting.get("image", 5) == "pixels"


def test_a_job_does_without_what_it_wants_after_a_while():
    meeting = Rendezvous(capacity=4, patience_ns=10)
    meeting.submit("job", [("depth", 5)], now_ns=0)
    assert meeting.ready(10) == [] and meeting.ready(11) == ["job"]


def test_a_topic_that_was_waited_for_in_vain_is_not_waited_for_until_it_is_heard():
    """A camera without depth must not cost every image the whole patience, at every stage."""
    meeting = Rendezvous(capacity=4, patience_ns=10)
    meeting.submit("first", [("depth", 5)], now_ns=0)
    assert meeting.ready(11) == ["first"]
    meeting.submit("second", [("depth", 6)], now_ns=12)
    assert meeting.ready(12) == ["second"]
    meeting.put("depth", 7, "metres")
    meeting.submit("third", [("depth", 8)], now_ns=13)
    assert meeting.ready(13) == []


def test_what_a_topic_has_gone_past_is_not_waited_for():
    meeting = Rendezvous(capacity=4, patience_ns=10)
    meeting.put("depth", 6, "metres")
    meeting.submit("job", [("depth", 5)], now_ns=0)
    assert meeting.ready(0) == ["job"]


def test_at_a_clock_jump_data_of_after_it_stay():
    """The first job after a jump comes after its data: they must not be thrown away with it."""
    meeting = Rendezvous(capacity=9, patience_ns=10)
    for stamp_s in (57, 58, 59):
        meeting.put("image", stamp_s * 1000 * MS, "old image")
        meeting.put("depth", stamp_s * 1000 * MS, "old depth")
    meeting.submit("old", [("image", 60_000 * MS)], now_ns=0)
    meeting.put("image", 57_500 * MS, "image")
    wants = [("image", 57_500 * MS), ("depth", 57_500 * MS)]
    meeting.jump(57_500 * MS)
    assert len(meeting) == 0 and meeting.get("image", 57_500 * MS) == "image"
    assert all(meeting.get(t, s * 1000 * MS) is None for t in ("image", "depth") for s in (57, 59))
    meeting.submit("new", wants, now_ns=0)
    assert meeting.ready(1) == []  # the depth image is on its way, not past
    meeting.put("depth", 57_500 * MS, "depth")
    assert meeting.ready(1) == ["new"]


def test_at_a_clock_jump_nothing_stays_of_a_topic_that_has_not_jumped():
    meeting = Rendezvous(capacity=9, patience_ns=10)
    meeting.put("image", 50_000 * MS, "old")
    meeting.jump(10_000 * MS)
    assert meeting.get("image", 50_000 * MS) is None
    meeting.put("image", 10_000 * MS, "new")
    meeting.put("image", 20_000 * MS, "newer")
    meeting.jump(5_000 * MS)  # of which this topic does not know yet
    assert meeting.get("image", 10_000 * MS) is None


@given(st.lists(st.integers(0, 1000), max_size=60, unique=True))
def test_memory_is_bounded_and_the_oldest_goes_first(stamps):
    meeting = Rendezvous(capacity=5, patience_ns=10)
    dropped = []
    for stamp in stamps:
        meeting.put("image", stamp, stamp)
        dropped += meeting.submit(stamp, [("never", 2000)], 0)
    assert [s for s in stamps if meeting.get("image", s) is not None] == stamps[-5:]
    assert dropped == stamps[:-5] and meeting.ready(11) == stamps[-5:]
