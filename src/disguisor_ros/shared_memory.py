"""The shared memory of Fast DDS, as far as processes that were killed leave it behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/dev/shm")


def free_shared_memory() -> None:
    """Remove the shared memory that killed processes of Fast DDS have left behind."""
    for lock in _abandoned("fastdds_*_el"):
        lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
        lock.unlink()


@contextlib.contextmanager
def avoiding_dead_ports() -> Iterator[None]:
    """Create a node in here, and it does not take the ports of one that was killed just now.

    Who writes to a process goes on filling its port in shared memory for up to two seconds after
    it was killed, before Fast DDS (3.2) takes note. Another process that opens the same port
    makes it anew and hears nothing meanwhile, nor do the writers get back the memory that the
    dead one was reading. So the discovery port beside it, by which a participant chooses its
    number, is occupied until the node has found another one. When a writer takes note the lock
    file goes.
    """
    base = 7400 + 250 * int(os.environ.get("ROS_DOMAIN_ID") or 0)  # RTPS 9.6.2.3
    with contextlib.ExitStack() as stack:
        for lock in _abandoned("fastdds_port*_el"):
            port = int(lock.name.removeprefix("fastdds_port").removesuffix("_el"))
            if base <= port < base + 250:
                occupied = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                with contextlib.suppress(OSError):  # by somebody who is alive: as good
                    occupied.bind(("", port - 1))
        yield


def _abandoned(pattern: str) -> Iterator[Path]:
    """Lock files whose owner is gone: he holds the lock for as long as he lives."""
    for lock in FOLDER.glob(pattern):
        with contextlib.suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock
