"""Starts the localizer in AMCL's place, with the map server of a grid and their lifecycle manager.

`ros2 launch mote_localization mote_nav2.launch.py map:=place.onnx grid:=place_grid.yaml`
"""

from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("mote_localization"))

# name, default (None: required), description
ARGUMENTS = (
    ("map", None, "map (.onnx) or bundle (.mote), made by `mote-distill map`"),
    ("grid", None, "occupancy grid in the map's frame (.yaml), as `mote grid` writes it"),
    ("image", "camera/image_raw", "topic of the images"),
    ("camera_info", "camera/camera_info", "topic of the CameraInfo"),
    ("image_transport", "raw", "raw or compressed"),
    ("params_file", str(SHARE / "config" / "localizer.yaml"), "parameters of the localizer"),
    ("odom_frame", "odom", "frame of odometry"),
    ("base_frame", "base_link", "frame of the robot"),
    ("use_sim_time", "false", "true: take the time from /clock"),
)
PASSED = [name for name, _, _ in ARGUMENTS if name != "grid"]


def check_packages(_: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Fail before anything is started where a package is missing."""
    for package in ("nav2_map_server", "nav2_lifecycle_manager"):
        get_package_prefix(package)
    return []


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    use_sim_time = {"use_sim_time": LaunchConfiguration("use_sim_time")}
    localizer = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "localization.launch.py")),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in PASSED},
            "publish_tf": "map_to_odom",
            "autostart": "false",  # the lifecycle manager starts it
        }.items(),
    )
    map_server = Node(
        package="nav2_map_server",
        executable="map_server",
        name="map_server",
        parameters=[{"yaml_filename": LaunchConfiguration("grid")}, use_sim_time],
        output="screen",
    )
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_localization",
        # the localizer serves no bond
        parameters=[
            {"node_names": ["map_server", "localizer"], "autostart": True, "bond_timeout": 0.0},
            use_sim_time,
        ],
        output="screen",
    )
    check = OpaqueFunction(function=check_packages)
    return LaunchDescription([*arguments, check, localizer, map_server, manager])
