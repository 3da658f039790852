"""Start the graph: ros2 launch disguisor_ros disguisor.launch.py cameras_file:=my_cameras.yaml."""

import os
import shutil
import tempfile
from pathlib import Path

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from disguisor_ros.errors import MISCONFIGURED
from disguisor_ros.graph import (
    ENVIRONMENT,
    check_parameters,
    read_cameras,
    read_world_frame,
)
from disguisor_ros.paths import share
from disguisor_ros.run.recording import inspect
from disguisor_ros.security import ROOT
from launch import LaunchDescription

#: Name -> default, choices (None: any), description.
ARGUMENTS = {
    "cameras_file": (str(share("config/cameras.yaml")), None, "file that names the cameras"),
    "config": (str(share("config/disguisor.yaml")), None, "parameter file of the stages"),
    "bag": ("", None, "rosbag2 to play into the graph; empty: live cameras"),
    "rviz": ("false", ["true", "false"], "whether to open RViz"),
    "backend": (
        "",
        ["", "open3d", "pytorch3d", "auto"],
        "what draws the heads; empty: as in the config",
    ),
    "image_transport": (
        "",
        ["", "raw", "compressed"],
        "which colour topics to read; empty: as in the bag, or in the config",
    ),
    "pose2d": (
        "false",
        ["true", "false"],
        "whether to find 2D keypoints too (otherwise /<camera>/keypoints2d must be published)",
    ),
    "use_sim_time": (
        "false",
        ["true", "false"],
        "whether logs and diagnostics follow /clock (images never do)",
    ),
    "discovery": ("LOCALHOST", ["LOCALHOST", "SUBNET"], "who may discover the graph"),
}

#: A bag is played so long after the stages were started, seconds: what comes before all of them
#: listen does not come out.
PLAYED_AFTER_S = 8

#: So that no stage outlives a launch that was killed; Linux only.
DIE_WITH_LAUNCH = "setpriv --pdeathsig TERM" if shutil.which("setpriv") else None


def end_when_misconfigured(event, _):
    """End the launch instead of starting a stage that cannot work again and again."""
    if event.returncode != MISCONFIGURED:
        return None
    reason = f"{event.process_name} cannot work as it is configured, see its line above"
    return [LogInfo(msg=f"error: {reason}"), EmitEvent(event=Shutdown(reason=reason))]


def rviz_config(cameras, world_frame):
    """Path of RViz's configuration, in the user's world with an image for each of his cameras."""
    config = yaml.safe_load(share("rviz/disguisor.rviz").read_text())
    config["Visualization Manager"]["Global Options"]["Fixed Frame"] = world_frame
    displays = config["Visualization Manager"]["Displays"]
    image = next(d for d in displays if d["Class"].endswith("/Image"))
    displays[:] = [d for d in displays if not d["Class"].endswith("/Image")]
    for camera in cameras:
        topic = {**image["Topic"], "Value": f"/{camera}/anonymized/image_raw"}
        displays.append({**image, "Name": f"{camera} anonymized", "Topic": topic})
    with tempfile.NamedTemporaryFile("w", suffix=".rviz", delete=False) as file:
        yaml.safe_dump(config, file, sort_keys=False)
    return file.name


def processes(context):
    """The stages, one face_renderer for each camera; a bag and RViz when asked for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    cameras = read_cameras(Path(given["cameras_file"]))
    # One line about a file that is none of parameters; each stage would print a page.
    check_parameters(Path(given["config"]))
    world_frame = read_world_frame(Path(given["config"]))
    bag = None
    if given["bag"]:
        bag = inspect(given["bag"], cameras, given["pose2d"] != "true", world_frame)
        given["image_transport"] = given["image_transport"] or bag.transport
    shared = [
        given["config"],
        given["cameras_file"],
        {"use_sim_time": given["use_sim_time"] == "true"},
    ]

    def stage(name, camera="", *arguments):
        parameters = {a: given[a] for a in arguments if given[a]}
        enclave = "/".join(filter(None, [ROOT, camera, name]))
        return Node(
            package="disguisor_ros",
            executable=name,
            exec_name=enclave.removeprefix(f"{ROOT}/"),
            name=name,
            namespace=camera,
            parameters=[*shared, {**parameters, **({"camera": camera} if camera else {})}],
            ros_arguments=["--enclave", enclave],
            prefix=DIE_WITH_LAUNCH,
            output="screen",
            respawn=True,
            respawn_delay=0.1,
            on_exit=end_when_misconfigured,
        )

    out = [stage(n) for n in ("synchronizer", "pose3d", "smpl_fitter", "head_registrar")]
    out += [stage("face_renderer", c, "backend", "image_transport") for c in cameras]
    if given["pose2d"] == "true":
        out.append(stage("pose2d", "", "image_transport"))
    if bag:
        # A bag may also hold what a graph said while it was recorded, which nobody must hear.
        only = ["--topics", "/tf_static", *sorted(bag.topics)]
        after = ["--delay", str(PLAYED_AFTER_S)]
        out.append(
            ExecuteProcess(
                cmd=["ros2", "bag", "play", str(bag.path), "--clock", *after, *only],
                additional_env={"ROS_SECURITY_ENCLAVE_OVERRIDE": f"{ROOT}/player"},
                output="screen",
            )
        )
    if given["rviz"] == "true":
        out.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", rviz_config(cameras, world_frame)],
                ros_arguments=["--enclave", f"{ROOT}/viewer"],
                output="log",
            )
        )
    return out


def generate_launch_description():
    """Entry point of ros2 launch."""
    environment = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    # Raw images are nobody's business outside this machine unless somebody says so.
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = LaunchConfiguration("discovery")
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(n, default_value=default, choices=choices, description=text)
                for n, (default, choices, text) in ARGUMENTS.items()
            ),
            *(SetEnvironmentVariable(name, value) for name, value in environment.items()),
            OpaqueFunction(function=processes),
        ]
    )
