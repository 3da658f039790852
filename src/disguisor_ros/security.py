"""SROS2 for the graph: a policy of least privilege for the user's cameras, and its keystore."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from disguisor_ros.bridge.topics import STAGES
from disguisor_ros.errors import UserError
from disguisor_ros.graph import read_cameras

#: All enclaves lie below this one; launch file and ``disguisor run`` pass ``--enclave``.
ROOT = "/disguisor"

#: What a camera's driver publishes (its keypoints too, unless pose2d finds them).
_RAW = [
    "/{camera}/color/image_raw",
    "/{camera}/color/image_raw/compressed",
    "/{camera}/color/camera_info",
    "/{camera}/depth/image_raw",
    "/{camera}/depth/camera_info",
]
_TRANSFORMS = ["/tf", "/tf_static"]

#: What somebody may see who must not see a face.
_SHAREABLE = [
    "/*/anonymized/*",
    "/disguisor/markers",
    "/disguisor/skeleton",
    "/diagnostics",
    "/rosout",
    "/clock",
    *_TRANSFORMS,
]

#: Services of any node of RViz, rosbag2 or the ros2 command line, whose names change.
_ANY_NODE = ["/*/get_type_description", "/*_parameters", "/*/get_parameter_types"]
_ANY_NODE += ["/*/set_parameters_atomically"]

#: What the operator may ask of a stage: to say and change its state, and to tell its parameters.
_OPERATE = ["get_state", "get_available_states", "get_available_transitions", "change_state"]
_OPERATE += ["get_parameters", "list_parameters", "describe_parameters", "get_parameter_types"]


def policy(cameras: list[str], pose2d: bool = False) -> str:
    """Policy in the format of ``ros2 security`` (XML).

    Parameters
    ----------
    cameras : list of str
    pose2d : bool
        Whether the graph finds the 2D keypoints itself: then only it may publish them, and it
        reads every camera's colour.
    """
    # Fast DDS cannot send permissions of more than about 6 kB: hence "*", which matches any text,
    # wherever an enclave has to do with all cameras or with its own services only.
    root = ElementTree.Element("policy", version="0.2.0")
    enclaves = ElementTree.SubElement(root, "enclaves")
    for name in STAGES:
        if name != "face_renderer" and (name != "pose2d" or pose2d):
            _stage(enclaves, name)
    raw = _RAW if pose2d else [*_RAW, "/{camera}/keypoints2d"]
    for camera in cameras:
        _stage(enclaves, "face_renderer", camera)
        driver = [*_of(raw, camera), *_TRANSFORMS]
        _enclave(enclaves, f"{camera}/driver", driver, [], [*_ANY_NODE, f"/{camera}/*"])
    _enclave(
        enclaves,
        "player",
        [*_of(raw), *_TRANSFORMS, "/clock", "/disguisor/bag_id"],
        [*_SHAREABLE, "/disguisor/*", "/*/keypoints2d"],
        [*_ANY_NODE, "/rosbag2_player/*"],
    )
    _enclave(enclaves, "viewer", [], _SHAREABLE, _ANY_NODE)
    watched = [*_SHAREABLE, "/*/transition_event"]
    _enclave(enclaves, "operator", [], watched, _ANY_NODE, [f"/*/{s}" for s in _OPERATE])
    ElementTree.indent(root)
    text = ElementTree.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _of(topics: list[str], camera: str = "*") -> list[str]:
    """The topics, of one camera or of any."""
    return [t.format(camera=camera) for t in topics]


def _stage(enclaves, name: str, camera: str = "") -> None:
    """Enclave of a stage: its own topics, and the services of a managed node."""
    publish, subscribe = (_of(topics, camera or "*") for topics in STAGES[name])
    publish += ["/diagnostics", "~/transition_event"]
    subscribe += ["/clock", "/diagnostics"]
    path = f"{camera}/{name}".lstrip("/")
    _enclave(enclaves, path, publish, subscribe, ["~/*"], namespace=f"/{camera}")


def _enclave(
    enclaves, name: str, publish, subscribe, reply, request=(), namespace: str = "/"
) -> None:
    """Add an enclave that may publish and subscribe topics, and serve and call services."""
    enclave = ElementTree.SubElement(enclaves, "enclave", path=f"{ROOT}/{name}")
    profiles = ElementTree.SubElement(enclave, "profiles")
    node = name.rpartition("/")[2]
    profile = ElementTree.SubElement(profiles, "profile", ns=namespace, node=node)
    # Without the first two no node starts.
    _grant(profile, "topic", "publish", ["/rosout", "/parameter_events", *publish])
    _grant(profile, "topic", "subscribe", subscribe)
    _grant(profile, "service", "reply", reply)
    _grant(profile, "service", "request", request)


def _grant(profile, kind: str, access: str, names) -> None:
    """Allow one kind of access to topics or services."""
    if not names:
        return
    element = ElementTree.SubElement(profile, f"{kind}s", {access: "ALLOW"})
    for name in sorted(set(names)):
        ElementTree.SubElement(element, kind).text = name


def add_arguments(parser) -> None:
    """Arguments of ``disguisor secure``."""
    parser.add_argument(
        "cameras_file",
        type=Path,
        help="parameter file that names the cameras (config/cameras.yaml)",
    )
    parser.add_argument("keystore", type=Path, help="folder of the keystore, made or renewed")
    parser.add_argument(
        "--pose2d", action="store_true", help="the graph finds the 2D keypoints itself"
    )


def main(args) -> int:
    """Run ``disguisor secure``: write policy.xml into the keystore, then keys and permissions."""
    cameras = read_cameras(args.cameras_file)
    ros2 = shutil.which("ros2")
    args.keystore.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = args.keystore / "policy.xml"
    file.write_text(policy(cameras, args.pose2d))
    command = ["security", "generate_artifacts", "-k", str(args.keystore), "-p", str(file)]
    if ros2 is None:
        raise UserError(
            f"{file} is written, but there is no ros2 command to make keys and permissions of it;"
            f" where ROS 2 with sros2 is installed: ros2 {' '.join(command)}"
        )
    # sros2 leaves the keys readable to all users of the machine otherwise.
    if subprocess.run([ros2, *command], umask=0o077).returncode:
        raise UserError(f"{file} is written, but `ros2 {' '.join(command)}` failed; see above")
    print(f"{args.keystore}: keys and permissions of {len(cameras)} cameras; see docs/privacy.md")
    return 0
