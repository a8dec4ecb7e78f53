"""The scenes of a benchmark: subfolders of one folder, and the files of their true poses."""

import os
from pathlib import Path

from natsort import natsorted

from distill_training.experiments.benchmark.benchmark_table import FIGURES
from mote_localization.errors import SceneError
from mote_localization.scenes.layouts import layout_of


def find_scenes(folder: Path, output: Path) -> dict[str, Path]:
    """Return the scenes in a folder by name, in natural order.

    A subfolder of any layout that `open_scene` opens is a scene. Another subfolder may hold scenes:
    `apt1/kitchen`, as in 12Scenes, has the name `apt1_kitchen`.

    Args:
        folder: Folder of the scenes.
        output: Folder of the benchmark, which is no scene.

    Raises:
        SceneError: The folder holds no scene, cannot be read, or two scenes have the same name.
    """
    if os.path.realpath(folder) == os.path.realpath(output):
        raise SceneError(f"{folder}: found the scenes in the folder of --output, expected another")
    if layout_of(folder):
        raise SceneError(f"{folder}: is a scene, expected a folder of scenes; give the one above")
    found: list[tuple[str, Path]] = []
    for path in _subfolders(folder):
        if layout_of(path):
            found.append((path.name, path))
        elif os.path.realpath(path) != os.path.realpath(output):
            nested = [inner for inner in _subfolders(path) if layout_of(inner)]
            found += [(f"{path.name}_{inner.name}", inner) for inner in nested]
    scenes = dict(found)
    if not scenes:
        raise SceneError(
            f"{folder}: holds no scenes, expected a subfolder for each scene, of a layout that "
            "`mote-distill map` takes"
        )
    if len(scenes) < len(found):
        names = [name for name, _ in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise SceneError(f"{folder}: two scenes have the name {twice[:60]}; rename one of them")
    if Path(FIGURES).stem in scenes:
        raise SceneError(f"{scenes[Path(FIGURES).stem]}: has the name of the table; rename it")
    return {name: scenes[name] for name in natsorted(scenes)}


def true_poses_of(name: str, truth: Path | None) -> Path | None:
    """Return the file of a scene's true poses; None: the scene's own poses.

    Args:
        name: Name of the scene.
        truth: A file for all scenes, or a folder with NAME.txt, or NAME_test.txt as in the pseudo
            ground truth of Brachmann et al., ICCV 2021.

    Raises:
        SceneError: There is no such file, or the folder has none for the scene.
    """
    if truth is None or truth.is_file():
        return truth
    for path in (truth / f"{name}.txt", truth / f"{name}_test.txt"):
        if path.is_file():
            return path
    if not truth.is_dir():
        raise SceneError(f"--truth {truth}: does not exist")
    raise SceneError(f"--truth {truth}: has no file {name[:60]}.txt or {name[:60]}_test.txt")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read ({error.strerror})") from error
