"""Starts the localizer: `ros2 launch mote_localization localization.launch.py map:=FILE`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("mote_localization"))
PARAMS_FILE = SHARE / "config" / "localizer.yaml"

# name, default (None: required), description
ARGUMENTS = (
    ("map", None, "map (.onnx) or bundle (.mote), made by `mote-distill map`"),
    ("image", "camera/image_raw", "topic of the images"),
    ("camera_info", "camera/camera_info", "topic of the CameraInfo"),
    (
        "cameras",
        "",
        "names of several cameras, as front,left, with the topics NAME/image_raw and "
        "NAME/camera_info; empty: as in params_file",
    ),
    ("namespace", "", "namespace of the node"),
    ("params_file", str(PARAMS_FILE), "YAML file with parameters"),
    ("map_frame", "", "frame of poses and clouds; empty: as in params_file"),
    ("odom_frame", "", "frame of odometry; empty: as in params_file"),
    ("base_frame", "", "frame of the robot whose pose is published; empty: as in params_file"),
    ("camera_frame", "", "optical frame of the camera; empty: as in params_file"),
    (
        "publish_tf",
        "",
        "off, map_to_odom, map_to_base or map_to_camera; empty: as in params_file",
    ),
    ("image_transport", "", "raw or compressed; empty: as in params_file"),
    ("threads", "", "CPU threads of the network; empty: as in params_file"),
    ("backend", "", "runs the network; empty: as in params_file"),
    ("autostart", "", "false: a lifecycle manager starts the node; empty: as in params_file"),
    ("use_sim_time", "", "true: take the time from /clock; empty: as in params_file"),
    ("respawn", "false", "true: start the node again, 2 s after it has ended"),
    ("log_level", "info", "debug, info, warn, error"),
    ("rviz", "false", "true: start RViz with cloud, pose and image"),
)
# parameters that an argument overrides if it is given
OVERRIDES = {
    "map": str,
    "map_frame": str,
    "odom_frame": str,
    "base_frame": str,
    "camera_frame": str,
    "publish_tf": str,
    "image_transport": str,
    "threads": int,
    "autostart": bool,
    "backend": str,
    "use_sim_time": bool,
}


def middleware() -> list[LaunchDescriptionEntity]:
    """Set a Fast DDS profile with shared memory for images, unless the user has set one."""
    names = ["FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"]
    if any(name in os.environ for name in names):
        return []
    if os.environ.get("ROS_DISTRO") not in ("humble", "iron", "jazzy"):
        del names[1]  # Fast DDS 3 warns about the old name
    profile = str(SHARE / "config" / "fastdds.xml")
    return [SetEnvironmentVariable(name, profile) for name in names]


def parameters_of(content: Any, name: str = "") -> Iterator[str]:
    """Yield the names of the localizer's parameters in a params file.

    Args:
        content: Content of the file, or of one of its nodes or namespaces.
        name: Name of that node or namespace.
    """
    for key, value in content.items() if isinstance(content, dict) else ():
        if key != "ros__parameters":
            yield from parameters_of(value, str(key))
        elif name.split("/")[-1] in ("localizer", "*", "**") and isinstance(value, dict):
            yield from value


def check_files(given: dict[str, str]) -> None:
    """Raise RuntimeError if `map` or `params_file` is no file for the localizer.

    Launch files of Nav2 have arguments of the same names, and a parent's arguments also hold in the
    launch files that it includes.
    """
    place, file = given["map"], given["params_file"]
    remedy = "if a parent launch file has set it, give it in the launch_arguments of the include"
    if place and Path(place).suffix not in (".onnx", ".mote"):
        raise RuntimeError(f"map: found {place}, expected a map (.onnx, .mote); {remedy}")
    try:
        names = set(parameters_of(yaml.safe_load(Path(file).read_text())))
        known = set(parameters_of(yaml.safe_load(PARAMS_FILE.read_text())))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(f"params_file: {file} cannot be read ({reason[:150]})") from error
    if not names & known:
        raise RuntimeError(
            f"params_file: {file} has no parameter of the localizer (key /** or localizer); "
            f"{remedy}"
        )


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the nodes for the launch arguments."""
    given = context.launch_configurations
    check_files(given)
    with_rviz = given["rviz"].lower() in ("true", "1")
    if with_rviz:
        get_package_prefix("rviz2")  # fails before anything is started
    overrides: dict[str, Any] = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in OVERRIDES.items()
        if given[name]
    }
    remappings = [(name, given[name]) for name in ("image", "camera_info")]
    cameras = [name.strip() for name in given["cameras"].split(",") if name.strip()]
    if cameras:
        overrides["cameras"] = cameras
        remappings = [(f"{name}/image", f"{name}/image_raw") for name in cameras]
    localizer = Node(
        package="mote_localization",
        executable="localizer",
        name="localizer",
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        respawn=given["respawn"].lower() in ("true", "1"),
        respawn_delay=2.0,
    )
    if not with_rviz:
        return [localizer]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=given["namespace"],
        arguments=["-d", str(SHARE / "rviz" / "localization.rviz")],
        parameters=[{name: value for name, value in overrides.items() if name == "use_sim_time"}],
        remappings=[
            ("/camera/image_raw", given["image"]),
            *((f"/localizer/{name}", f"localizer/{name}") for name in ("points", "pose")),
        ],
    )
    return [localizer, rviz]


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*arguments, *middleware(), OpaqueFunction(function=nodes)])
