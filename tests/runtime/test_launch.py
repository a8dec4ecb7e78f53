"""The launch files: their arguments, and files of other packages under the same names."""

import ast
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
from conftest import ROOT

NAMES = ["localization", "mote_nav2"]
NAV2 = """
amcl: {ros__parameters: {base_frame_id: base_footprint, odom_frame: odom}}
/**: {ros__parameters: {use_sim_time: true}}
"""
OWN = {
    "every node": "/**: {ros__parameters: {min_inliers: 60}}",
    "name": "localizer: {ros__parameters: {backend: auto}}",
    "with Nav2's": NAV2 + "/robot/localizer: {ros__parameters: {base_frame: base_link}}",
    "namespace": "robot: {localizer: {ros__parameters: {rectified: true}}}",
}


def load(name: str) -> ModuleType:
    """Return the module of a launch file."""
    pytest.importorskip("launch_ros", reason="launch comes with a ROS 2 installation")
    spec = spec_from_file_location(name, ROOT / "launch" / f"{name}.launch.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(name: str) -> list[str]:
    """Return the names of a launch file's arguments, also where launch is not installed."""
    content = ast.parse((ROOT / "launch" / f"{name}.launch.py").read_text())
    (value,) = (
        node.value
        for node in content.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"
    )
    return [argument.elts[0].value for argument in value.elts]


def refused(module: ModuleType, **given: str) -> str:
    with pytest.raises(RuntimeError) as error:
        module.check_files({"map": "room.onnx", "params_file": "none.yaml", **given})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_launch_files_load(name):
    module = load(name)
    described = {a.name: a for a in module.generate_launch_description().get_launch_arguments()}
    assert set(described) >= set(arguments(name))
    assert not described["map"].default_value
    assert all(argument.description for argument in described.values())


def test_every_launch_argument_is_in_the_documentation():
    page = (ROOT / "docs" / "robot.md").read_text()
    table = page.split("## Launch arguments")[1].split("## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = [name.strip("` ") for row in rows for name in row.split(",")]
    assert sorted(documented) == sorted(arguments("localization"))


@pytest.mark.parametrize("content", OWN.values(), ids=OWN)
def test_files_with_parameters_of_the_localizer_are_accepted(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    load("localization").check_files({"map": "room.onnx", "params_file": str(path)})


def test_files_of_other_packages_are_refused(tmp_path):
    module = load("localization")
    path = tmp_path / "nav2_params.yaml"
    path.write_text(NAV2)
    assert "has no parameter of the localizer" in refused(module, params_file=str(path))
    assert "expected a map (.onnx, .mote)" in refused(module, map="/maps/office.yaml")
    path.write_text("amcl: [")
    assert "cannot be read" in refused(module, params_file=str(path))
    assert "No such file" in refused(module)


def test_arguments_of_a_parent_do_not_reach_the_node_unseen(tmp_path, caplog):
    load("localization")
    from launch import LaunchDescription, LaunchService
    from launch.actions import IncludeLaunchDescription, SetLaunchConfiguration
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    (tmp_path / "nav2_params.yaml").write_text(NAV2)
    included = PythonLaunchDescriptionSource(str(ROOT / "launch" / "localization.launch.py"))
    service = LaunchService()
    service.include_launch_description(
        LaunchDescription(
            [
                SetLaunchConfiguration("params_file", str(tmp_path / "nav2_params.yaml")),
                IncludeLaunchDescription(included, launch_arguments=[("map", "room.onnx")]),
            ]
        )
    )
    assert service.run() == 1
    assert "nav2_params.yaml has no parameter of the localizer" in caplog.text
