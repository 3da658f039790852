"""Start the graph: ros2 launch disguisor_ros disguisor.launch.py cameras_file:=my_cameras.yaml."""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("disguisor_ros"))

ARGUMENTS = {
    "cameras_file": (str(SHARE / "config/cameras.yaml"), "parameter file that names the cameras"),
    "config": (str(SHARE / "config/disguisor.yaml"), "parameter file of the stages"),
    "bag": ("", "rosbag2 to play into the graph; empty: live cameras"),
    "rviz": ("false", "whether to open RViz"),
    "backend": ("open3d", "what draws the heads: open3d, pytorch3d or auto"),
    "image_transport": ("raw", "which colour topics to read: raw or compressed"),
    "pose2d": (
        "false",
        "whether to find 2D keypoints too (otherwise /<camera>/keypoints2d must be published)",
    ),
    "use_sim_time": ("false", "whether logs and diagnostics follow /clock (images never do)"),
    "discovery": ("LOCALHOST", "who may discover the graph: LOCALHOST, SUBNET"),
}


def stages(context):
    """The nodes; one face_renderer for each camera of the cameras file."""
    file = LaunchConfiguration("cameras_file").perform(context)
    try:
        cameras = yaml.safe_load(Path(file).read_text())["/**"]["ros__parameters"]["cameras"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RuntimeError(
            f"{file}: no list of cameras in it (see config/cameras.yaml)"
        ) from error

    # Boolean by construction, whatever is written on the command line.
    sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    shared = [LaunchConfiguration("config"), file, {"use_sim_time": sim_time}]

    def node(name, **kwargs):
        parameters = shared + [kwargs.pop("parameters", {})]
        return Node(
            package="disguisor_ros",
            executable=name,
            name=name,
            parameters=parameters,
            output="screen",
            respawn=True,
            respawn_delay=0.5,
            **kwargs,
        )

    out = [node(n) for n in ("synchronizer", "pose3d", "smpl_fitter", "head_registrar")]
    for camera in cameras:
        out.append(
            node(
                "face_renderer",
                namespace=camera,
                parameters={
                    "camera": camera,
                    "backend": LaunchConfiguration("backend"),
                    "image_transport": LaunchConfiguration("image_transport"),
                },
            )
        )
    out.append(
        node(
            "pose2d",
            condition=IfCondition(LaunchConfiguration("pose2d")),
            parameters={"image_transport": LaunchConfiguration("image_transport")},
        )
    )
    return out


def generate_launch_description():
    """Entry point of ros2 launch."""
    bag = LaunchConfiguration("bag")
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in ARGUMENTS.items()
            ),
            # Raw images are nobody's business outside this machine unless somebody says so.
            SetEnvironmentVariable(
                "ROS_AUTOMATIC_DISCOVERY_RANGE", LaunchConfiguration("discovery")
            ),
            SetEnvironmentVariable(
                "FASTDDS_DEFAULT_PROFILES_FILE", str(SHARE / "config/fastdds.xml")
            ),
            SetEnvironmentVariable("OMP_NUM_THREADS", "1"),
            OpaqueFunction(function=stages),
            ExecuteProcess(
                cmd=["ros2", "bag", "play", bag, "--clock"],
                output="screen",
                condition=IfCondition(PythonExpression(["'", bag, "' != ''"])),
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(SHARE / "rviz/disguisor.rviz")],
                condition=IfCondition(LaunchConfiguration("rviz")),
                output="log",
            ),
        ]
    )
