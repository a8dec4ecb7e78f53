"""Architecture: import contracts with planted violations; cycles, dependencies and names."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from test_package import PACKAGES, PROJECTS, ROOT, ROS_MODULE, TOOLS, requirement_names

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
CONTRACTS = {contract["id"]: contract["name"] for contract in TOOLS["importlinter"]["contracts"]}

# contract, file of the copy, line added to it
VIOLATIONS = [
    ("runtime", "mote_localization/camera.py", "import distill_training.common"),
    ("runtime", "mote_localization/nodes/process.py", "from demo_room.views import drive"),
    ("demo-room", "demo_room/renderer.py", "import distill_training.common.robust"),
    ("room-command", "distill_training/poses/gauge.py", "import demo_room.palette"),
    ("ros", "mote_localization/localizer.py", "import rclpy"),
    ("ros", "mote_localization/evaluation/metrics.py", "from sensor_msgs.msg import Image"),
    ("ros", "demo_room/record.py", "from tf2_msgs.msg import TFMessage"),
    ("torch", "mote_localization/pose.py", "import torch"),
    ("torch", "demo_room/renderer.py", "import lightning_fabric"),
    ("stages", "distill_training/common/robust.py", "import distill_training.poses"),
    ("stages", "distill_training/reconstruction/format.py", "import distill_training.poses"),
    ("stages", "distill_training/poses/gauge.py", "import distill_training.teachers.rgbd"),
    ("stages", "distill_training/students/cnn.py", "import distill_training.teachers.rgbd"),
    ("stages", "distill_training/teachers/rgbd.py", "import distill_training.students.cnn"),
    ("stages", "distill_training/training/losses.py", "import distill_training.calibration"),
    ("stages", "distill_training/training/losses.py", "import distill_training.export"),
    ("stages", "distill_training/calibration/scales.py", "import distill_training.export"),
    ("stages", "distill_training/export/quantization.py", "import distill_training.pipeline"),
    ("stages", "distill_training/pipeline.py", "import distill_training.experiments.ablation"),
    ("stages", "distill_training/pipeline.py", "import distill_training.submaps.partition"),
    ("stages", "distill_training/submaps/place.py", "import distill_training.experiments.ablation"),
    ("stages", "distill_training/experiments/ablation/grid.py", "import distill_training.cli"),
    ("stages", "distill_training/sixteenth.py", ""),  # a module without a layer
    ("cycles", "mote_localization/errors.py", "import mote_localization.map_file"),
    ("cycles", "mote_localization/camera.py", "import mote_localization.scenes"),
    ("cycles", "demo_room/palette.py", "import demo_room.model"),
]


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Check the contracts of a folder's pyproject.toml on the packages in it."""
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--no-logo", *options],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Return a folder with a copy of the three packages and of pyproject.toml."""
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Return the import graph of the three packages, other packages included by their names."""
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def find_cycle(imports: dict[str, set[str]]) -> list[str]:
    """Return the modules of one import cycle, first and last the same; empty without a cycle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def imported_packages(graph: grimp.ImportGraph, package: str) -> set[str]:
    """Return the top-level packages that the modules of a package import."""
    modules = {package, *graph.find_descendants(package)}
    imported = set().union(*map(graph.find_modules_directly_imported_by, modules))
    return {name.split(".")[0] for name in imported}


def test_import_contracts_hold():
    run = lint_imports(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in run.stdout


def test_every_contract_has_a_planted_violation():
    assert {contract for contract, _, _ in VIOLATIONS} == CONTRACTS.keys()


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS)
def test_contract_fails_on_a_violation(copy, contract, file, line):
    path = copy / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        run = lint_imports(copy, "--contract", contract)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{CONTRACTS[contract]} BROKEN" in run.stdout


def test_no_module_imports_itself_through_others(graph):
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert not find_cycle(imports)
    imports["mote_localization.errors"] = {"mote_localization.localizer"}
    assert "mote_localization.errors" in find_cycle(imports)


def test_only_nodes_import_ros_packages_of_any_name(graph):
    allowed = re.compile(r"mote_localization\.nodes\b")
    wrong = [
        f"{importer} imports {name}"
        for name in graph.modules
        if ROS_MODULE.fullmatch(name)
        for importer in graph.find_modules_that_directly_import(name)
        if not allowed.match(importer)
    ]
    assert not wrong


# imported where installed: a message names the package to install
OPTIONAL = {"cuda", "pi_heif", "ray", "rerun", "tensorrt", "tensorrt_rtx"}
# imported by another dependency: torch's SummaryWriter needs it
UNSEEN = {"tensorboard"}


@pytest.mark.parametrize(
    ("distribution", "packages", "foundation"),
    [
        ("mote_localization", ["mote_localization"], []),
        ("mote-distill", ["distill_training", "demo_room"], ["mote_localization"]),
    ],
)
def test_imported_packages_are_declared_dependencies(graph, distribution, packages, foundation):
    names = set().union(*(imported_packages(graph, package) for package in packages))
    names -= {*sys.stdlib_module_names, *packages, *OPTIONAL}
    distributions = packages_distributions()
    imported = requirement_names(
        distributions.get(name, [name])[0] for name in names if not ROS_MODULE.fullmatch(name)
    )
    declared = requirement_names(PROJECTS[distribution]["dependencies"])
    inherited = set().union(
        *(requirement_names(PROJECTS[name]["dependencies"]) for name in foundation)
    )
    assert imported - inherited == declared - UNSEEN


def test_trainer_has_at_most_15_entries_at_its_top_level():
    entries = {path.name for path in (ROOT / "distill_training").iterdir()} - {"__pycache__"}
    assert len(entries) <= 15, sorted(entries)


def test_module_names_are_unique():
    names = Counter(path.stem for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    twice = {name for name, count in names.items() if count > 1}
    assert twice <= {"__init__", "__main__", *TOOLS["mote"]["same-role-in-sibling-packages"]}
