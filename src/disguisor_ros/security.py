"""SROS2 for the graph: a policy of least privilege for the user's cameras, and its keystore."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from disguisor_ros.errors import UserError
from disguisor_ros.run import read_cameras

#: All enclaves lie below this one; launch file and ``disguisor run`` pass ``--enclave``.
ROOT = "/disguisor"

#: What each stage publishes and subscribes; ``{camera}`` stands for each camera in turn, in a
#: renderer for its own. test/test_security.py holds this against the nodes.
STAGES = {
    "synchronizer": (
        ["/disguisor/frame_set", "/disguisor/skeleton"],
        ["/{camera}/color/camera_info", "/{camera}/depth/camera_info", "/{camera}/keypoints2d"],
    ),
    "pose3d": (
        ["/disguisor/persons3d"],
        [
            "/disguisor/frame_set",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/depth/camera_info",
            "/{camera}/depth/image_raw",
            "/{camera}/keypoints2d",
        ],
    ),
    "smpl_fitter": (
        ["/disguisor/bodies", "/disguisor/body_topology", "/disguisor/markers"],
        [
            "/disguisor/persons3d",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/keypoints2d",
        ],
    ),
    "head_registrar": (
        ["/disguisor/heads", "/disguisor/head_topology", "/disguisor/markers"],
        [
            "/disguisor/bodies",
            "/tf_static",
            "/{camera}/depth/camera_info",
            "/{camera}/depth/image_raw",
        ],
    ),
    "face_renderer": (
        [
            "/{camera}/anonymized/image_raw",
            "/{camera}/anonymized/image_raw/compressed",
            "/{camera}/anonymized/camera_info",
            "/{camera}/anonymized/regions",
        ],
        [
            "/disguisor/heads",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/color/image_raw",
            "/{camera}/color/image_raw/compressed",
            "/{camera}/depth/camera_info",
            "/{camera}/depth/image_raw",
            "/{camera}/keypoints2d",
        ],
    ),
    "pose2d": (
        ["/{camera}/keypoints2d"],
        [
            "/disguisor/persons3d",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/color/image_raw",
            "/{camera}/color/image_raw/compressed",
        ],
    ),
}

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
    *STAGES["face_renderer"][0],
    "/disguisor/markers",
    "/disguisor/skeleton",
    "/diagnostics",
    "/rosout",
    "/clock",
    *_TRANSFORMS,
]

_ASK_PARAMETERS = ["describe_parameters", "get_parameter_types", "get_parameters"]
_ASK_PARAMETERS += ["list_parameters"]
_SET_PARAMETERS = ["set_parameters", "set_parameters_atomically"]
_ASK_STATE = ["get_state", "get_available_states", "get_available_transitions"]
_ASK_STATE += ["get_transition_graph"]

#: Services of any node of RViz, rosbag2 or the ros2 command line, whose names change.
_ANY_NODE = [f"/*/{s}" for s in [*_ASK_PARAMETERS, *_SET_PARAMETERS, "get_type_description"]]


def policy(cameras: list[str], pose2d: bool = False) -> str:
    """Policy in the format of ``ros2 security`` (XML).

    Parameters
    ----------
    cameras : list of str
    pose2d : bool
        Whether the graph finds the 2D keypoints itself: then only it may publish them, and it
        reads every camera's colour.
    """
    root = ElementTree.Element("policy", version="0.2.0")
    enclaves = ElementTree.SubElement(root, "enclaves")
    names = [n for n in STAGES if n != "face_renderer" and (n != "pose2d" or pose2d)]
    for name in names:
        _stage(enclaves, name, "/", cameras)
    for camera in cameras:
        _stage(enclaves, "face_renderer", f"/{camera}", [camera])
    raw = _RAW if pose2d else [*_RAW, "/{camera}/keypoints2d"]
    for camera in cameras:
        publish = [*_each(raw, [camera]), *_TRANSFORMS]
        _other(enclaves, f"{camera}/driver", publish, [], reply=_ANY_NODE)
    results = [t for name in names for t in STAGES[name][0] if t.startswith("/disguisor/")]
    _other(
        enclaves,
        "player",
        [*_each(raw, cameras), *_TRANSFORMS, "/clock"],
        [*_each(_SHAREABLE, cameras), "/disguisor/heads", *results]
        + (_each(["/{camera}/keypoints2d"], cameras) if pose2d else []),
        reply=[*_ANY_NODE, "/rosbag2_player/*"],
    )
    _other(enclaves, "viewer", [], _each(_SHAREABLE, cameras), reply=_ANY_NODE)
    nodes = [f"/{n}" for n in names] + [f"/{c}/face_renderer" for c in cameras]
    _other(
        enclaves,
        "operator",
        [],
        [*_each(_SHAREABLE, cameras), *(f"{n}/transition_event" for n in nodes)],
        reply=_ANY_NODE,
        request=[f"{n}/{s}" for n in nodes for s in [*_ASK_STATE, "change_state"]]
        + [f"{n}/{s}" for n in nodes for s in _ASK_PARAMETERS],
    )
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"
    )


def _each(topics: list[str], cameras: list[str]) -> list[str]:
    """The topics, those with ``{camera}`` once for each camera."""
    return list(dict.fromkeys(t.format(camera=c) for t in topics for c in cameras))


def _stage(enclaves, name: str, namespace: str, cameras: list[str]) -> None:
    """Enclave of a stage: its own topics, and the services of a managed node."""
    publish, subscribe = (_each(topics, cameras) for topics in STAGES[name])
    enclave = f"{namespace.lstrip('/')}/{name}".lstrip("/")
    profile = _profile(enclaves, enclave, namespace, name)
    _grant(profile, "topic", "publish", [*publish, "/diagnostics", "~/transition_event"])
    _grant(profile, "topic", "subscribe", [*subscribe, "/clock"])
    services = [*_ASK_PARAMETERS, *_SET_PARAMETERS, *_ASK_STATE]
    services += ["change_state", "get_type_description"]
    _grant(profile, "service", "reply", [f"~/{s}" for s in services])


def _other(enclaves, name: str, publish, subscribe, reply, request=()) -> None:
    """Enclave of a process that is no stage."""
    profile = _profile(enclaves, name, "/", name.rpartition("/")[2])
    _grant(profile, "topic", "publish", publish)
    _grant(profile, "topic", "subscribe", subscribe)
    _grant(profile, "service", "reply", reply)
    _grant(profile, "service", "request", request)


def _profile(enclaves, enclave: str, namespace: str, node: str):
    path = f"{ROOT}/{enclave}"
    profiles = ElementTree.SubElement(
        ElementTree.SubElement(enclaves, "enclave", path=path), "profiles"
    )
    profile = ElementTree.SubElement(profiles, "profile", ns=namespace, node=node)
    # Without these two no node starts.
    _grant(profile, "topic", "publish", ["/rosout", "/parameter_events"])
    return profile


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
    args.keystore.mkdir(parents=True, exist_ok=True)
    file = args.keystore / "policy.xml"
    file.write_text(policy(cameras, args.pose2d))
    command = ["security", "generate_artifacts", "-k", str(args.keystore), "-p", str(file)]
    if ros2 is None:
        raise UserError(
            f"{file} is written, but there is no ros2 command to make keys and permissions of it;"
            f" where ROS 2 with sros2 is installed: ros2 {' '.join(command)}"
        )
    if subprocess.run([ros2, *command]).returncode:
        raise UserError(f"{file} is written, but `ros2 {' '.join(command)}` failed; see above")
    print(f"{args.keystore}: keys and permissions of {len(cameras)} cameras; see docs/privacy.md")
    return 0
