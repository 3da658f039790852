"""Backwards through the beginning of a bag, so that who is in the room is known when it begins."""

from __future__ import annotations

from disguisor_ros.bridge.bags import raw_messages, with_stamp
from disguisor_ros.run.recording import Recording, stamp_of

#: How much of the bag is played before it begins, nanoseconds.
REHEARSAL_NS = 1_000_000_000
#: ... and how much of that is kept in memory at a time.
_CHUNK_NS = 100_000_000


def rehearsal(reader, connections, recording: Recording):
    """Iterate ``(connection, time_ns, rawdata)`` of the first second of a bag, mirrored in time.

    Somebody whom no camera finds in the first image was found a moment later; played backwards
    that comes first, and he is where the bag then begins.

    Parameters
    ----------
    reader : rosbags.highlevel.AnyReader
        Opened.
    connections : list
        What to play; all their messages begin with a std_msgs/Header.
    recording : Recording

    Yields
    ------
    connection, time_ns, rawdata
        Stamps and bag times run up to the beginning of the bag, which itself is left out.
    """
    start, end = recording.start_ns, recording.start_ns + REHEARSAL_NS
    stamps = (
        stamp_of(connection.topic, raw)
        for connection, _, raw in raw_messages(reader, connections, start, end)
    )
    first = min(stamps, default=0)
    nearest, farthest = first + int(0.5e9 * recording.period_s), first + 2 * REHEARSAL_NS
    for chunk in range(end, start, -_CHUNK_NS):
        played = [
            (stamp_of(connection.topic, raw), connection, time_ns, raw)
            for connection, time_ns, raw in raw_messages(
                reader, connections, chunk - _CHUNK_NS, chunk
            )
        ]
        for stamp, connection, time_ns, raw in sorted(played, key=lambda one: -one[0]):
            # A clock that begins at zero has nothing before; one that jumps is not followed.
            if nearest < stamp < min(farthest, 2 * first):
                yield connection, 2 * start - time_ns, with_stamp(raw, 2 * first - stamp)
