"""The node graph: what parameter files say of it; its processes started, watched, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from disguisor_ros.bridge.calibration import WORLD_FRAME
from disguisor_ros.errors import UserError
from disguisor_ros.paths import share
from disguisor_ros.shared_memory import free_shared_memory, leave_no_core

_PAGE = os.sysconf("SC_PAGE_SIZE")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # malloc.h

#: Environment of every process of the graph: only this machine is discovered, big images go by
#: shared memory, and each process keeps to one thread (the graph itself is the parallelism).
ENVIRONMENT = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "FASTDDS_DEFAULT_PROFILES_FILE": str(share("config/fastdds.xml")),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    # Images are allocated again and again: memory once got is kept, not mapped and cleared anew.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "RCUTILS_LOGGING_BUFFERED_STREAM": "1",
}


def set_environment() -> None:
    """Give this process :data:`ENVIRONMENT`, where the user has not chosen."""
    leave_no_core()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What malloc reads from the environment it has read already.
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, int(os.environ["MALLOC_MMAP_THRESHOLD_"]))
        libc.mallopt(_M_TRIM_THRESHOLD, int(os.environ["MALLOC_TRIM_THRESHOLD_"]))


@contextlib.contextmanager
def own_domain(asked: int | None = None) -> Iterator[None]:
    """Enter a ROS domain in which no other graph of a command is: each would hear both's images.

    Without ``asked``, and with no ``ROS_DOMAIN_ID``, a free one is looked for.

    Raises
    ------
    UserError
        If another command is in the domain.
    """
    given = os.environ.get("ROS_DOMAIN_ID") if asked is None else str(asked)
    domains = [given] if given else [str(1 + (os.getpid() + i) % 100) for i in range(100)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        for domain in domains:
            try:
                claim.bind(f"\0disguisor-run-{domain}")  # no file: it ends with the process
            except OSError:
                continue
            os.environ["ROS_DOMAIN_ID"] = domain
            yield
            return
    raise UserError(
        f"another disguisor run is in ROS domain {given}; name another one with --domain-id"
        " or ROS_DOMAIN_ID"
    )


_TOPIC_NAME = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)

#: What rclpy puts before a line of a log.
_LOG_PREFIX = re.compile(r"^\[\w+\] \[[\d.]+\] \[[^]]+\]: |^error: ")


def _parameters(path: Path) -> dict:
    """What a parameter file says to all stages, under ``/**``; others' parameters are left out."""
    try:
        return dict(_load(path)["/**"]["ros__parameters"])
    except (KeyError, TypeError, ValueError):
        return {}


def check_parameters(path: Path) -> None:
    """Refuse a parameter that a stage does not have: ROS would ignore it without a word.

    Parameters of nodes that are no stages may stand in the file, too.
    """
    known: dict[str, set] = {}
    for section, names in _sections(_load(share("config/disguisor.yaml"))):
        known[section.rpartition("/")[2]] = set(names)
    of_all = known["**"] | {"cameras", "camera", "use_sim_time", "qos_overrides"}
    known["**"] = known["*"] = set().union(*known.values())
    for section, names in _sections(_load(path)):
        stage = section.rpartition("/")[2]
        if stage not in known:
            if meant := difflib.get_close_matches(stage, known, 1, 0.8):
                raise UserError(f"{path}: {section}: there is no such stage; {meant[0]} is one")
            continue
        if section == "/face_renderer":
            raise UserError(f"{path}: {section} reaches no renderer; write /**/face_renderer")
        for name in sorted({name.split(".")[0] for name in names} - known[stage] - of_all):
            raise UserError(
                f"{path}: {section} has no parameter {name!r}; it has"
                f" {', '.join(sorted(known[stage]))}"
            )


def _load(path: Path) -> dict:
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a parameter file: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a parameter file; see config/disguisor.yaml")
    return found


def _sections(tree: dict, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Full names of the nodes in a parameter file, and of the parameters of each."""
    for key, value in tree.items():
        if key == "ros__parameters":
            yield above, [str(name) for name in value] if isinstance(value, dict) else []
        elif isinstance(value, dict):
            yield from _sections(value, f"{above}/{str(key).strip('/')}")


def read_cameras(path: Path) -> list[str]:
    """Names of cameras in a parameter file; UserError where it names none, or wrong ones."""
    cameras = _parameters(path).get("cameras")
    if not isinstance(cameras, list) or not {type(c) for c in cameras} == {str}:
        raise UserError(f"{path}: names no cameras in a list; see config/cameras.yaml")
    for camera in cameras:
        if not _TOPIC_NAME.fullmatch(camera):
            raise UserError(
                f"{path}: camera {camera!r} cannot begin a topic's name; write it like room1/cn01"
            )
        if cameras.count(camera) > 1:
            raise UserError(f"{path}: names camera {camera!r} twice")
    return cameras


def read_world_frame(path: Path) -> str:
    """Frame of all 3D results by a parameter file."""
    return _parameters(path).get("world_frame", WORLD_FRAME)


def stages(
    cameras: list[str], parameters: dict[str, dict], pose2d: bool = False
) -> dict[str, dict]:
    """The stages of a graph, by their full names, and the parameters of each.

    Parameters
    ----------
    cameras : list of str
    parameters : dict of str to dict
        Parameters by stage (``synchronizer``, ... ``face_renderer``); ``"*"`` for all.
    pose2d : bool
        Whether 2D keypoints are found here, too.
    """
    common = {"cameras": cameras, **parameters.get("*", {})}
    names = ["synchronizer", "pose3d", "smpl_fitter", "head_registrar"] + ["pose2d"] * pose2d
    renderer = {**common, **parameters.get("face_renderer", {})}
    return {name: {**common, **parameters.get(name, {})} for name in names} | {
        f"{camera}/face_renderer": {**renderer, "camera": camera} for camera in cameras
    }


class Graph:
    """Runs stages as processes.

    Parameters
    ----------
    stages : dict of str to dict
        Parameters of each stage, by :func:`stages`.
    folder : Path
        For parameter files and the logs of the stages, one of each a stage.
    config : Path, optional
        Parameter file that holds for all stages, before their own parameters.
    """

    def __init__(self, stages: dict[str, dict], folder: Path, config: Path | None = None):
        self.stages = stages
        self.folder = folder
        self.config = config or share("config/disguisor.yaml")
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, name: str) -> None:
        """Start one stage."""
        camera, _, stage = name.rpartition("/")
        stem = name.replace("/", "_")
        own = self.folder / f"{stem}.yaml"
        # Under its full name: a wildcard would lose to the wildcards of the configuration.
        own.write_text(yaml.safe_dump({f"/{name}": {"ros__parameters": self.stages[name]}}))
        command = [
            sys.executable, "-m", f"disguisor_ros.nodes.{stage}", "--ros-args",
            "--params-file", str(self.config), "--params-file", str(own),
            "--enclave", f"/disguisor/{name}",
        ]  # fmt: skip
        if camera:
            command += ["-r", f"__ns:=/{camera}"]
        log = (self.folder / f"{stem}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**ENVIRONMENT, **os.environ},
            preexec_fn=_die_with_parent,
        )
        log.close()

    def dead(self) -> list[str]:
        """Names of the stages whose process has ended."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def restart_dead(self) -> list[str]:
        """Start stages anew whose process has ended; returns their names.

        Called again and again this is a supervisor. Output stays closed meanwhile: a renderer
        publishes an image only with heads of its own instant, which need every stage.
        """
        names = self.dead()
        for name in names:
            self.start(name)
        return names

    def why(self, name: str) -> str:
        """Last telling line of a stage's log."""
        log = self.folder / f"{name.replace('/', '_')}.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "it left no message")
        return _LOG_PREFIX.sub("", last)

    def memory_bytes(self) -> int:
        """Memory of all stages: what each has for itself, and once what they share."""
        pages = [_pages(process.pid) for process in self.processes.values()]
        shared = max((shared for _, shared in pages), default=0)
        return _PAGE * (sum(own for own, _ in pages) + shared)

    def memory_by_stage(self) -> dict[str, int]:
        """Memory that each running stage has for itself, bytes."""
        return {name: _PAGE * _pages(p.pid)[0] for name, p in self.processes.items()}

    def stop(self) -> None:
        """Stop all stages, gently first."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 5.0
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        free_shared_memory()

    def __enter__(self):
        free_shared_memory()  # a run that was killed has left raw images in it
        for name in self.stages:
            self.start(name)
        return self

    def __exit__(self, *_):
        self.stop()


def _pages(pid: int) -> tuple[int, int]:
    """Pages of a process in memory, its own and shared ones; smaps would be exact, and slow."""
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except (OSError, ValueError):
        return 0, 0
    return resident - shared, shared


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is gone, however that ended."""
    PR_SET_PDEATHSIG = 1  # noqa: N806 (its name in prctl(2))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
