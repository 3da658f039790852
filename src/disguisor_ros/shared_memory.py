"""The memory of processes that were killed, as far as it stays: Fast DDS's, and core dumps."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/dev/shm")

#: So many ports are avoided at most, the youngest: on this machine alone (LOCALHOST) nobody finds
#: a participant with a number above 31, and files may lie about for ever.
MOST = 20


def free_shared_memory() -> None:
    """Remove the shared memory that killed processes of Fast DDS have left behind."""
    for lock in _abandoned():
        lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
        lock.unlink(missing_ok=True)  # another graph may do the same


def hide_shared_memory() -> None:
    """Let no other user read what this process publishes: images lie there as they are.

    Fast DDS lets everybody, whatever the umask; and there it stays when the process is killed.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        file = Path(line.split(maxsplit=5)[-1])
        if file.parent == FOLDER and file.name.startswith("fastdds_") and not _number(file):
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                file.chmod(0o600)


def leave_no_core() -> None:
    """Let this process, and those it starts, write no core dump: it would hold raw images."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def avoiding_dead_ports() -> Iterator[None]:
    """Create a node in here, and it does not take the ports of one that was killed lately.

    Who writes to a process goes on filling its port in shared memory for up to two seconds after
    it was killed, before Fast DDS (3.2) takes note. Another process that opens the same port
    makes it anew and hears nothing meanwhile, or for ever when both do so at once. So the
    discovery port beside each port whose file is there, by which a participant chooses its
    number, is occupied until the node has found another one. (Those of the living are already.)
    """
    base = 7400 + 250 * int(os.environ.get("ROS_DOMAIN_ID") or 0)  # RTPS 9.6.2.3
    files = {f: _number(f) for f in FOLDER.glob("fastdds_port*") if _number(f)}
    mine = sorted((f for f, n in files.items() if base <= n < base + 250), key=_changed)
    with contextlib.ExitStack() as stack:
        for file in mine[-MOST:]:
            occupied = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            with contextlib.suppress(OSError):  # somebody who is alive has it: as good
                occupied.bind(("", files[file] - 1))
        yield


def _number(file: Path) -> int:
    """Number of a port from the name of its file; 0 when it is another kind of file."""
    digits = file.name.removeprefix("fastdds_port")
    return int(digits) if digits.isdecimal() else 0


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0


def _abandoned() -> Iterator[Path]:
    """Lock files whose owner is gone: he holds the lock for as long as he lives."""
    for lock in FOLDER.glob("fastdds_*_el"):
        with contextlib.suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock
