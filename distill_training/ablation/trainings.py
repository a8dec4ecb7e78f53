"""The trainings of an ablation, each in a folder of its own; a finished one is not repeated.

NAME-KEY/checkpoint.pt, history.csv    see `distill_training.training.trainer`
NAME-KEY/map.onnx                      what it learned
NAME-KEY/result.json                   what that costs; written last: the training is finished
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distill_training.ablation.grid import Run
from distill_training.export.onnx_export import export_map, sample_images
from distill_training.pipeline import train_student
from distill_training.students import CellGrid, SceneNormalization, create_student, describe
from distill_training.training.frame_split import split_frames
from distill_training.training.history import read_history
from mote_localization.backends import create_backend
from mote_localization.errors import MoteError
from mote_localization.files import atomic_write
from mote_localization.map_file import read_map

_RESULT, _MAP = "result.json", "map.onnx"
_COSTS = ("parameters", "trained", "macs", "file_bytes", "milliseconds")
_MEASURED = {"step", "epoch", "minutes", "train_cell_cm", "held_out_cell_cm"}
_MOST_RESULT_BYTES = 1 << 20
_WARM_UP, _TIMED = 5, 50  # predictions before the network's time is taken, and of which
_ANYWHERE = SceneNormalization((0.0, 0.0, 0.0), 1.0)


@dataclass(frozen=True)
class Outcome:
    """What a finished training gave."""

    run: Run
    folder: Path
    costs: dict[str, float]  # parameters, trained, macs, file_bytes, milliseconds
    history: list[dict[str, float]]  # a row a check, in the order of training

    @property
    def map(self) -> Path:
        """The map file."""
        return self.folder / _MAP

    @property
    def figures(self) -> dict[str, float]:
        """Costs, and the last check's measurements."""
        return {**self.costs, **self.history[-1]}


def folder_of(run: Run, output: Path) -> Path:
    """Return where a training is, whatever its name was when it was begun, or will be."""
    begun = sorted(output.glob(f"*-{run.key}/"))
    return begun[0] if begun else output / run.folder_name


def state(run: Run, output: Path) -> str:
    """Return how far a training is: finished, begun, or an empty text."""
    folder = folder_of(run, output)
    return "finished" if (folder / _RESULT).exists() else "begun" if folder.exists() else ""


def check(runs: list[Run], output: Path) -> None:
    """Build every student that is still to be trained.

    Raises:
        MoteError: One cannot be built, as of a pretrained file that is none; the message names it.
    """
    built = set()
    for run in runs:
        cells = _cells(run)
        which = (run.student, json.dumps(run.settings), cells)
        if which not in built and not (folder_of(run, output) / _RESULT).exists():
            built.add(which)
            try:
                create_student(run.student, _ANYWHERE, cells, **run.settings)
            except MoteError as error:
                raise type(error)(f"{run.name}: {error}") from error


def finished(runs: list[Run], output: Path) -> dict[str, Outcome]:
    """Return what the finished trainings gave, by key.

    Raises:
        MoteError: Files of one are missing or damaged.
    """
    folders = {run.key: (run, folder_of(run, output)) for run in runs}
    return {
        key: Outcome(run, folder, _read_costs(folder / _RESULT), _read_history(folder))
        for key, (run, folder) in folders.items()
        if (folder / _RESULT).exists()
    }


def do(run: Run, output: Path) -> Outcome:
    """Train, or go on with a training; write its map, and take its time.

    Raises:
        MoteError: It diverged, its folder holds something else, or a file cannot be written.
    """
    folder = folder_of(run, output)
    network, info = train_student(
        run.reconstruction, folder, run.student, run.settings, run.config
    )
    images_bhw3 = sample_images(run.reconstruction)
    export_map(network, info, images_bhw3, folder / _MAP)
    size = describe(network, run.reconstruction.camera)
    costs: dict[str, float] = {
        "parameters": size.parameters,
        "trained": size.trained,
        "macs": size.macs,
        "file_bytes": (folder / _MAP).stat().st_size,
        "milliseconds": round(_milliseconds(folder / _MAP, images_bhw3), 3),
    }
    # What a folder is of is told beside it, though only its costs are read again.
    told = {
        "name": run.name,
        "reconstruction": str(run.reconstruction.folder),
        "student": run.student,
        "settings": run.settings,
        "config": asdict(run.config),
    }
    try:
        with atomic_write(folder / _RESULT) as file:
            file.write(json.dumps({**told, "costs": costs}, indent=1).encode())
    except OSError as error:
        raise MoteError(f"{folder / _RESULT}: cannot be written ({error.strerror})") from error
    return Outcome(run, folder, costs, _read_history(folder))


def held_out_names(run: Run) -> list[str]:
    """Return the frames that a training is measured on."""
    return split_frames(run.reconstruction.poses, run.config).held_out


def _cells(run: Run) -> CellGrid:
    camera = run.reconstruction.camera
    return CellGrid(run.reconstruction.stride, camera.width, camera.height)


def _milliseconds(path: Path, images_bhw3: np.ndarray) -> float:
    """Return the median time, ms, of a map's network on an image, with a thread per core."""
    backend = create_backend(read_map(path))
    seconds = []
    for i in range(_WARM_UP + _TIMED):
        started = time.perf_counter()
        backend.predict(images_bhw3[i % len(images_bhw3)])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP:])


def _read_history(folder: Path) -> list[dict[str, float]]:
    """Return a finished training's history."""
    rows = read_history(folder)
    if not rows or not _MEASURED <= rows[0].keys():
        raise MoteError(
            f"{folder}: its history lacks figures, expected rows with "
            f"{', '.join(sorted(_MEASURED))}; delete the folder to train anew"
        )
    return rows


def _read_costs(path: Path) -> dict[str, float]:
    """Return the costs in a result."""
    try:
        if path.stat().st_size > _MOST_RESULT_BYTES:
            raise ValueError("it is too large")
        costs = json.loads(path.read_bytes())["costs"]
        return {key: float(costs[key]) for key in _COSTS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MoteError(
            f"{path}: is damaged ({error!r}); delete it, and the training's map is measured anew"
        ) from error
