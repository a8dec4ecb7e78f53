"""Runs COLMAP's mappers in processes of their own, and reads the models that they write.

COLMAP ends its process where an assertion fails. A mapper that ends this way makes no model, and
the others go on.
"""

import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pycolmap

from mote_localization.progress import progress_bar

_log = logging.getLogger(__name__)
_POLL_S = 0.2
_MIN_MODEL_IMAGES = 3


Kind = Literal["incremental", "global"]


@dataclass(frozen=True)
class Mapping:
    """One run of a mapper."""

    kind: Kind
    database: Path
    folder: Path  # for the models
    refine_intrinsics: bool


def run_mappers(mappings: Sequence[Mapping], images: int) -> list[list[pycolmap.Reconstruction]]:
    """Return the models of each mapping; those that are finished already are only read.

    Args:
        mappings: Run at the same time.
        images: Number of images in the databases, for the progress bar.
    """
    context = multiprocessing.get_context("spawn")
    waiting = [one for one in mappings if not one.folder.exists()]
    threads = max(1, (os.cpu_count() or 1) // max(len(waiting), 1))
    running = []
    with progress_bar() as bar:
        for one in waiting:
            count = context.Value("i", 0)
            process = context.Process(target=_run, args=(one, threads, count), daemon=True)
            process.start()
            # The global mapper places all images at once.
            total = images if one.kind == "incremental" else None
            task = bar.add_task(f"{one.kind} mapping", total=total)
            running.append((one, process, count, task))
        while any(process.is_alive() for _, process, _, _ in running):
            time.sleep(_POLL_S)
            for _, _, count, task in running:
                bar.update(task, completed=min(count.value, images))
    for one, process, _, _ in running:
        process.join()
        if process.exitcode:
            _log.warning("%s mapping failed (exit status %d)", one.kind, process.exitcode)
    return [_read_models(one.folder) for one in mappings]


def _run(mapping: Mapping, threads: int, count: Any) -> None:
    """Run a mapper; the folder exists only when it is finished."""
    # A mapper whose parent was killed goes on: each has its own folder.
    partial = mapping.folder.with_name(f"{mapping.folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    if mapping.kind == "incremental":
        _map_incrementally(mapping, partial, threads, count)
    else:
        _map_globally(mapping, partial, threads)
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
