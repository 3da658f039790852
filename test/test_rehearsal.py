"""The first second of a bag, played backwards before it begins."""

import small_room

from disguisor_ros.bridge.bags import header_of, open_bag, raw_messages
from disguisor_ros.run.recording import inspect
from disguisor_ros.run.rehearsal import rehearsal

COLOR = "/cn01/color/image_raw"


def played(bag):
    """What is played of a bag as (topic, stamp, bag time, message without its stamp)."""
    with open_bag(bag) as reader:
        recording = inspect(bag)
        connections = [c for c in reader.connections if c.topic in recording.topics]
        return [(c.topic, header_of(raw)[0], time_ns, bytes(raw[12:]))
                for c, time_ns, raw in rehearsal(reader, connections, recording)]  # fmt: skip


def test_the_first_second_runs_backwards_up_to_the_beginning(tmp_path):
    """Instants 1 to 9 of ten a second, mirrored at instant 0, which the bag begins with."""
    bag = small_room.write(tmp_path / "in", frames=14)
    rehearsed = played(bag)
    images = [(stamp, data) for topic, stamp, _, data in rehearsed if topic == COLOR]
    begin = small_room.stamp(0)
    assert [s for s, _ in images] == [2 * begin - small_room.stamp(k) for k in range(9, 0, -1)]
    with open_bag(bag) as reader:
        colors = [c for c in reader.connections if c.topic == COLOR]
        own = [bytes(raw[12:]) for *_, raw in raw_messages(reader, colors)]
    assert [data for _, data in images] == own[9:0:-1]
    assert all(stamp == time_ns < begin for _, stamp, time_ns, _ in rehearsed)
    assert len({topic for topic, *_ in rehearsed}) == 15  # five of each of three cameras


def test_a_bag_of_one_instant_has_nothing_to_rehearse(tmp_path):
    assert played(small_room.write(tmp_path / "in", frames=1)) == []


def test_a_clock_that_begins_at_zero_has_nothing_before(tmp_path, monkeypatch):
    """Simulated time: 0.25 s and two instants later, no stamp may be negative."""
    monkeypatch.setattr(small_room, "START_NS", 250_000_000)
    stamps = {stamp for _, stamp, *_ in played(small_room.write(tmp_path / "in", frames=8))}
    assert stamps == {50_000_000, 150_000_000}
