"""Rosbags with this project's messages: read, checked and written with the rosbags library."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import ReaderError, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from disguisor_ros.errors import UserError

_SOURCES = Path(__file__).resolve().parents[2] / "disguisor_msgs" / "msg"

_FOREVER = QosTime(2147483647, 4294967295)
#: Of topics whose last message late listeners get, too. `ros2 bag play` offers what a bag says,
#: and who listens to /tf_static hears nothing of a player that offers less.
LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False,
)  # fmt: skip


@cache
def typestore():
    """Typestore of ROS 2 Kilted with disguisor_msgs."""
    folder = _SOURCES
    if not folder.is_dir():
        from ament_index_python import get_package_share_directory

        folder = Path(get_package_share_directory("disguisor_msgs")) / "msg"
    store, types = get_typestore(Stores.ROS2_KILTED), {}
    for path in sorted(folder.glob("*.msg")):
        types |= get_types_from_msg(path.read_text(), f"disguisor_msgs/msg/{path.stem}")
    store.register(types)
    return store


@contextmanager
def open_bag(path: str | Path) -> Iterator[AnyReader]:
    """Open a rosbag2 (directory, MCAP or sqlite3) for reading, in a ``with`` statement.

    Raises
    ------
    UserError
        If there is no bag, or it is empty or corrupt.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such bag")
    if path.is_file() and path.suffix in (".mcap", ".db3"):
        path = path.parent
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise UserError(
            f"{path}: not a rosbag2 (it has no metadata.yaml; `ros2 bag reindex` makes one)"
        )
    try:
        reader = AnyReader([path], default_typestore=typestore())
        reader.open()
    except (AnyReaderError, ReaderError, OSError, ValueError, AssertionError) as error:
        raise UserError(f"{path}: the bag cannot be read ({_one_line(error)})") from error
    except Exception as error:  # parsers of corrupt files raise whatever they trip over
        raise UserError(f"{path}: the bag is corrupt ({_one_line(error)})") from error
    try:
        if not reader.is2:
            raise UserError(f"{path}: a bag of ROS 1; `rosbags-convert` makes a rosbag2 of it")
        if reader.message_count == 0:
            raise UserError(f"{path}: the bag is empty")
        yield reader
    finally:
        reader.close()


def raw_messages(
    reader: AnyReader,
    connections: Iterable | None = None,
    start_ns: int | None = None,
    stop_ns: int | None = None,
):
    """Iterate ``(connection, time_ns, rawdata)``; a corrupt part raises :class:`UserError`.

    Bag times are not before ``start_ns`` and before ``stop_ns``.
    """
    try:
        yield from reader.messages(connections, start_ns, stop_ns)
    except GeneratorExit:
        raise
    except Exception as error:
        raise UserError(f"{reader.paths[0]}: the bag is corrupt ({_one_line(error)})") from error


class BagWriter:
    """Write a rosbag2 in MCAP, with one connection for every topic.

    The bag grows in the folder ``<path>.partial`` and moves to its place when it is closed without
    an error, so that nothing half-written looks complete.

    Parameters
    ----------
    path : path
        Folder of the bag, which must not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.exists():
            raise UserError(f"{self.path}: exists already; remove it or choose another name")
        # Its storage file and metadata.yaml carry the bag's name: it grows under that.
        self._partial = self.path.with_name(self.path.name + ".partial") / self.path.name
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._claim = _claimed(self._partial.parent)
        if self._partial.exists():  # of a command that was killed
            _remove_bag(self._partial)
        self._writer = Writer(self._partial, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = {}

    def write(self, topic: str, typename: str, time_ns: int, message, qos=()) -> None:
        """Append a message, given as a rosbags message object or as CDR bytes.

        Raises
        ------
        UserError
            When the disk is full; :meth:`close` does, too.
        """
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._connections[topic] = self._writer.add_connection(
                topic, typename, typestore=typestore(), offered_qos_profiles=list(qos)
            )
        if not isinstance(message, (bytes, bytearray, memoryview)):
            message = typestore().serialize_cdr(message, typename)
        with self._told():
            self._writer.write(connection, time_ns, bytes(message))

    def close(self) -> None:
        """Finish the bag and give it its name."""
        if self._writer is not None:
            try:
                with self._told():
                    self._writer.close()
            except UserError:
                self.discard()
                raise
            self._writer = None
            self._partial.rename(self.path)
            self._release()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            with suppress(Exception):  # it may be here because the disk is full
                self._writer.close()
            self._writer = None
            _remove_bag(self._partial)
            self._release()

    def _release(self) -> None:
        self._partial.parent.rmdir()
        os.close(self._claim)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name the bag where the operating system says why it cannot be written."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None:
            self.close()
        else:
            self.discard()


def rename_topics(bag: str | Path, out: str | Path, renamed: Callable[[str], str]) -> None:
    """Copy a rosbag2 under other names of its topics.

    Topics of types that are not known here, such as a camera driver's own, are left out.

    Parameters
    ----------
    bag, out : path
    renamed : callable
        From a topic's name to its new one.

    Raises
    ------
    UserError
        If the bag cannot be read, or ``out`` exists.
    """
    with open_bag(bag) as reader, BagWriter(out) as writer:
        known = [c for c in reader.connections if c.msgtype in typestore().types]
        for connection, time_ns, message in raw_messages(reader, known):
            qos = connection.ext.offered_qos_profiles
            writer.write(renamed(connection.topic), connection.msgtype, time_ns, message, qos)


def header_of(rawdata) -> tuple[int, str]:
    """Stamp (nanoseconds) and frame_id of a CDR message that begins with a std_msgs/Header.

    Raises
    ------
    ValueError
        If the message ends within its header.
    """
    view = memoryview(rawdata)
    if len(view) < 16:
        raise ValueError(f"a message has {len(view)} bytes, its header alone needs 16")
    order = "<" if view[1] & 1 else ">"
    sec, nanosec, length = np.frombuffer(view[4:16], dtype=f"{order}i4")
    frame = bytes(view[16 : 16 + max(int(length) - 1, 0)]).decode(errors="replace")
    return int(sec) * 1_000_000_000 + int(nanosec), frame


def with_stamp(rawdata, stamp_ns: int) -> bytes:
    """The CDR message, which begins with a std_msgs/Header, under another stamp."""
    out = bytearray(rawdata)
    order = "<" if out[1] & 1 else ">"
    out[4:12] = np.array(divmod(stamp_ns, 1_000_000_000), dtype=f"{order}i4").tobytes()
    return bytes(out)


def _claimed(folder: Path) -> int:
    """Lock a folder against other commands; returns what to close, the end of a process does."""
    claim = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(claim)
        raise UserError(f"{folder}: another command is writing there") from error
    except OSError:  # a file system without locks
        pass
    return claim


def _remove_bag(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
