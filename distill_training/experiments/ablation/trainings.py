"""Runs the trainings of an ablation, each in its folder; a finished one is not repeated.

NAME-KEY/checkpoint.pt, history.csv    see `distill_training.training.trainer`
NAME-KEY/map.onnx                      the map
NAME-KEY/result.json                   cost of the map; written last, when the training is finished
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distill_training.experiments.ablation.grid import Run
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
_REQUIRED_COLUMNS = {"step", "epoch", "minutes", "train_cell_cm", "held_out_cell_cm"}
_MAX_RESULT_BYTES = 1 << 20
_WARM_UP, _TIMED = 5, 50  # number of predictions before the time is measured, and measured
_ANY_PLACE = SceneNormalization((0.0, 0.0, 0.0), 1.0)


@dataclass(frozen=True)
class Outcome:
    """Results of a finished training."""

    run: Run
    folder: Path
    costs: dict[str, float]  # parameters, trained, macs, file_bytes, milliseconds
    history: list[dict[str, float]]  # measurements, one row per check, in order

    @property
    def map(self) -> Path:
        """The map file."""
        return self.folder / _MAP

    @property
    def figures(self) -> dict[str, float]:
        """Costs and the measurements of the last check."""
        return {**self.costs, **self.history[-1]}


def folder_of(run: Run, output: Path) -> Path:
    """Return the folder of a training; an existing one is found by its key under any name."""
    existing = sorted(output.glob(f"*-{run.key}/"))
    return existing[0] if existing else output / run.folder_name


def training_state(run: Run, output: Path) -> str:
    """Return the state of a training: "finished", "begun", or an empty text."""
    folder = folder_of(run, output)
    return "finished" if (folder / _RESULT).exists() else "begun" if folder.exists() else ""


def check_students(runs: list[Run], output: Path) -> None:
    """Create each student that is not trained yet.

    Raises:
        MoteError: One cannot be created, for example because its pretrained file is unusable.
    """
    created = set()
    for run in runs:
        camera = run.reconstruction.camera
        cells = CellGrid(run.reconstruction.stride, camera.width, camera.height)
        student = (run.student, json.dumps(run.settings), cells)
        if student not in created and training_state(run, output) != "finished":
            created.add(student)
            try:
                create_student(run.student, _ANY_PLACE, cells, **run.settings)
            except MoteError as error:
                raise type(error)(f"{run.name[:60]}: {error}") from error


def finished_outcomes(runs: list[Run], output: Path) -> dict[str, Outcome]:
    """Return the results of the finished trainings, by key.

    Raises:
        MoteError: A file of a finished training is missing or damaged.
    """
    folders = {run.key: (run, folder_of(run, output)) for run in runs}
    return {
        key: Outcome(run, folder, _read_costs(folder / _RESULT), _read_history(folder))
        for key, (run, folder) in folders.items()
        if (folder / _RESULT).exists()
    }


def run_training(run: Run, output: Path) -> Outcome:
    """Start or resume a training, write its map, and measure the map's cost.

    Raises:
        MoteError: The training diverges, its folder contains something else, or a file cannot be
            written.
    """
    folder = folder_of(run, output)
    network, info = train_student(run.reconstruction, folder, run.student, run.settings, run.config)
    images_bhw3 = sample_images(run.reconstruction)
    export_map(network, info, images_bhw3, folder / _MAP)
    costs: dict[str, float] = {
        **asdict(describe(network, run.reconstruction.camera)),
        "file_bytes": (folder / _MAP).stat().st_size,
        "milliseconds": round(_milliseconds(folder / _MAP, images_bhw3), 3),
    }
    description = {  # for users; only the costs are read again
        "name": run.name,
        "reconstruction": str(run.reconstruction.folder),
        "student": run.student,
        "settings": run.settings,
        "config": asdict(run.config),
    }
    with atomic_write(folder / _RESULT) as file:
        file.write(json.dumps({**description, "costs": costs}, indent=1).encode())
    return Outcome(run, folder, costs, _read_history(folder))


def held_out_names(run: Run) -> list[str]:
    """Return the names of the held-out frames of a training."""
    return split_frames(run.reconstruction.poses, run.config).held_out


def _milliseconds(path: Path, images_bhw3: np.ndarray) -> float:
    """Return the median time, ms, of a map's network per image, with one thread per core."""
    backend = create_backend(read_map(path))
    seconds = []
    for i in range(_WARM_UP + _TIMED):
        started = time.perf_counter()
        backend.predict(images_bhw3[i % len(images_bhw3)])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP:])


def _read_history(folder: Path) -> list[dict[str, float]]:
    """Return the history of a finished training."""
    rows = read_history(folder)
    if not rows or not _REQUIRED_COLUMNS <= rows[0].keys():
        raise MoteError(
            f"{folder}: found a history without figures, expected the columns "
            f"{', '.join(sorted(_REQUIRED_COLUMNS))}; delete the folder to train again"
        )
    return rows


def _read_costs(path: Path) -> dict[str, float]:
    """Return the costs of a result file."""
    try:
        if path.stat().st_size > _MAX_RESULT_BYTES:
            raise ValueError("it is too large")
        costs = json.loads(path.read_bytes())["costs"]
        return {key: float(costs[key]) for key in _COSTS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MoteError(
            f"{path}: is damaged ({str(error)[:60]!r}); delete it to measure the map again"
        ) from error
