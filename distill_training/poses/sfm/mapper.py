"""Runs COLMAP's mappers in a process of their own, and reads the models that they write.

COLMAP ends its process where an assertion fails or memory runs out: only the mapper ends then.
"""

import multiprocessing
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import pycolmap

from distill_training.poses.sfm.disk_space import check_free_space
from mote_localization.errors import ReconstructionError, first_line
from mote_localization.progress import progress_bar

_POLL_S = 0.2
_MIN_MODEL_IMAGES = 3
_MAX_REASON = 100  # characters of an error that a message quotes


Kind = Literal["incremental", "global"]


@dataclass(frozen=True)
class Mapping:
    """One run of a mapper."""

    kind: Kind
    database: Path
    folder: Path  # for the models
    refine_intrinsics: bool


def run_mapper(mapping: Mapping, images: int) -> list[pycolmap.Reconstruction]:
    """Return the models of a mapping, the largest first; those of a finished one are only read.

    Args:
        mapping: What is run.
        images: Number of images in the database, for the progress bar.

    Raises:
        ReconstructionError: The mapper's process has ended before it was finished.
    """
    if not mapping.folder.exists():
        context = multiprocessing.get_context("spawn")
        count, failure = context.Value("i", 0), context.SimpleQueue()
        process = context.Process(target=_run, args=(mapping, count, failure), daemon=True)
        # The global mapper places all images at once.
        total = images if mapping.kind == "incremental" else None
        with progress_bar() as bar:
            task = bar.add_task(f"{mapping.kind} mapping", total=total)
            process.start()
            while process.is_alive():
                process.join(_POLL_S)
                bar.update(task, completed=min(count.value, images))
        if not failure.empty():
            raise ReconstructionError(failure.get())
        if process.exitcode:
            raise ReconstructionError(_why_it_ended(mapping.kind, process.exitcode))
    return _read_models(mapping.folder)


def _why_it_ended(kind: Kind, status: int) -> str:
    """Return the message for a mapper's process that has ended with an exit status."""
    how = f"with exit status {status}"
    if status < 0:
        how = f"by {signal.Signals(-status).name}"
    return (
        f"{kind} mapping was ended {how}, probably because memory ran out; close other programs, "
        "or give fewer or smaller images (--sfm.max-features, --sfm.max-px), and run the command "
        "again: it resumes"
    )


def _run(mapping: Mapping, count: Any, failure: Any) -> None:
    """Run a mapper, and report an error of COLMAP; it ends where its parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _map(mapping, count)
    except ReconstructionError as error:
        failure.put(str(error))
    except (RuntimeError, ValueError, MemoryError, OSError) as error:
        failure.put(
            f"{mapping.kind} mapping failed ({first_line(error, _MAX_REASON)}); check free memory "
            "and disk space, and run the command again: it resumes"
        )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was started by `run_mapper`
    parent.join()
    os._exit(1)


def _map(mapping: Mapping, count: Any) -> None:
    """Run a mapper; the folder exists only when it is finished."""
    partial = mapping.folder.with_name(f"{mapping.folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # in a container, numbers of processes are repeated
    partial.mkdir(parents=True)
    threads = os.cpu_count() or 1
    if mapping.kind == "incremental":
        _map_incrementally(mapping, partial, threads, count)
    else:
        _map_globally(mapping, partial, threads)
    check_free_space(partial)  # COLMAP does not report that a file could not be written
    if mapping.folder.exists():  # another one has finished in the meantime
        shutil.rmtree(partial)
    else:
        os.replace(partial, mapping.folder)


def _map_incrementally(mapping: Mapping, folder: Path, threads: int, count: Any) -> None:
    options = pycolmap.IncrementalPipelineOptions(num_threads=threads, random_seed=0)
    options.extract_colors = False
    options.min_model_size = _MIN_MODEL_IMAGES
    if not mapping.refine_intrinsics:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = False
        options.mapper.abs_pose_refine_extra_params = False
    # The defaults solve to more digits and more often; poses differ by less than a millimetre, and
    # the kitchen takes five times as long.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements = options.ba_local_max_refinements = 1
    options.ba_global_function_tolerance, options.ba_local_function_tolerance = 1e-5, 1e-4
    options.ba_global_max_num_iterations, options.ba_local_max_num_iterations = 30, 15

    def advance() -> None:
        count.value += 1

    pycolmap.incremental_mapping(
        mapping.database, folder, folder, options, next_image_callback=advance
    )


def _map_globally(mapping: Mapping, folder: Path, threads: int) -> None:
    options = pycolmap.GlobalPipelineOptions(num_threads=threads, random_seed=0)
    options.min_model_size = _MIN_MODEL_IMAGES
    options.mapper.global_positioning.use_gpu = False
    adjustment = options.mapper.bundle_adjustment
    adjustment.ceres.use_gpu = False
    adjustment.refine_focal_length = adjustment.refine_extra_params = mapping.refine_intrinsics
    pycolmap.global_mapping(mapping.database, folder, folder, options)


def _read_models(folder: Path) -> list[pycolmap.Reconstruction]:
    """Return the models in a folder, the largest first."""
    found = [pycolmap.Reconstruction(path.parent) for path in folder.glob("*/points3D.bin")]
    return sorted(found, key=lambda one: one.num_reg_images(), reverse=True)
