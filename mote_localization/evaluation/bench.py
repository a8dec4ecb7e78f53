"""`mote bench`: times of the stages of a query, and the speed of this machine."""

import resource
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import onnx
import tyro
from rich.console import Console

from mote_localization.backends import BACKEND_HELP, choose_backend, runs_on_cpu
from mote_localization.camera import Camera
from mote_localization.command_line import File, print_table
from mote_localization.errors import MoteError, SceneError
from mote_localization.evaluation.json_figures import write_json
from mote_localization.evaluation.machine import (
    graph_macs,
    machine,
    matrix_product_macs_per_s,
    versions,
)
from mote_localization.evaluation.metrics import percent, percentiles_ms
from mote_localization.evaluation.terminal_tables import times_table
from mote_localization.files import check_output
from mote_localization.localizer import Localizer, Status, Tracking
from mote_localization.map_file import MapFile, read_map
from mote_localization.progress import track
from mote_localization.scenes import open_scene

_ALL_BUT_NETWORK = "all but the network"
_WARM_UP = 10  # images localized before the timed ones
_MAX_SCENE_IMAGES = 100  # kept in memory


@dataclass(frozen=True)
class Bench:
    """Measure the times of the stages of a query, and the speed of this machine.

    Localizes the self-test image of the map, or the test images of a scene, again and again: each
    image as the first of a camera, then tracked from the last image, then, if the map has
    keyframes, without them.
    """

    map: Path  # map file (.onnx), made by `mote-distill map`
    scene: Annotated[Path | None, tyro.conf.arg(metavar="SCENE")] = None  # test images to localize
    backend: Annotated[str, tyro.conf.arg(help=BACKEND_HELP)] = "onnxruntime"
    threads: int = 0  # CPU threads of the network; 0: one per core
    images: int = 300  # images to time, after a few to warm up
    size: tuple[int, int] = (640, 480)  # px, size of the live camera for the self-test image
    # write the numbers to this file
    json: File = None

    def run(self) -> None:
        """Measure, print the tables, write the file."""
        if self.images < 1 or min(self.size) < 1:
            raise MoteError(
                f"found --images {self.images} --size {self.size[0]} {self.size[1]}, expected 1 or "
                "more for each"
            )
        check_output(self.json, "--json")
        started = time.perf_counter()
        map_file = read_map(self.map)
        backend, backend_name, _ = choose_backend(map_file, self.backend, self.threads)
        localizer = Localizer(map_file, backend)
        loaded_s = time.perf_counter() - started
        images = _scene_images(self.scene) if self.scene else _self_test_image(map_file, self.size)
        variants = _variants(localizer)
        count = _WARM_UP + self.images
        for image_hw3, camera in track(islice(cycle(images), count), "localizing", count):
            for variant in variants.values():
                variant.localize(image_hw3, camera)
        memory_mb = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # from KiB
        images_mb = sum(image_hw3.nbytes for image_hw3, _ in images) / 1e6
        product_macs_per_s = max(matrix_product_macs_per_s(self.threads) for _ in range(2))
        stages = {label: variant.percentiles_ms() for label, variant in variants.items()}
        macs = graph_macs(onnx.load_model_from_string(map_file.model))
        # The last variant is without keyframes: nothing runs beside the network.
        macs_per_s = 1000 * macs / stages[list(stages)[-1]]["network"]["p50"]
        console = Console()
        for label, variant in variants.items():
            localized = f"{percent(variant.localized / count)} localized"
            console.print(times_table(stages[label], f"{label}: {localized}"))
        print_table(
            {
                "images": f"{self.images} of {images[0][1].width}x{images[0][1].height} px",
                "network": f"{macs / 1e9:.2f} GMAC, {macs_per_s / 1e9:.0f} GMAC/s",
                "matrix product": f"{product_macs_per_s / 1e9:.0f} GMAC/s, float32, on the CPU"
                + (
                    f"; the network reaches {percent(macs_per_s / product_macs_per_s)}"
                    * runs_on_cpu(backend_name)
                ),
                "map": f"{len(map_file.model) / 2**20:.1f} MiB, loaded in {loaded_s:.2f} s",
                "memory, peak": f"{memory_mb:.0f} MB, {images_mb:.0f} MB of it input images",
                "machine": machine(),
                "backend": f"{backend_name}, {self.threads or 'all'} threads",
            },
            title=str(self.map),
        )
        if self.json:
            write_json(
                self.json,
                {
                    "map": self.map.name,
                    "backend": backend_name,
                    "threads": self.threads,
                    "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                    "machine": machine(),
                    "versions": versions(),
                    "images": self.images,
                    "localized": {label: v.localized / count for label, v in variants.items()},
                    "milliseconds": stages,
                    "network_macs": macs,
                    "network_macs_per_s": macs_per_s,
                    "matrix_product_macs_per_s": product_macs_per_s,
                    "map_bytes": len(map_file.model),
                    "load_s": loaded_s,
                    "peak_memory_mb": memory_mb,
                    "shown_images_mb": images_mb,
                },
            )
            console.print(f"figures: {self.json}")


@dataclass
class _Variant:
    """A way to localize images, and how long its stages took."""

    localizer: Localizer
    tracks: bool  # from the last image
    last: Tracking | None = None
    localized: int = 0
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # s, by stage

    def localize(self, image_hw3: np.ndarray, camera: Camera) -> None:
        found = self.localizer.localize(image_hw3, camera, self.last)
        self.last = found.tracking if self.tracks else None
        self.localized += found.status is Status.LOCALIZED
        total = sum(found.seconds.values())
        sums = {"all": total, _ALL_BUT_NETWORK: total - found.seconds["network"]}
        for stage, seconds in {**found.seconds, **sums}.items():
            self.times[stage].append(seconds)

    def percentiles_ms(self) -> dict[str, dict[str, float]]:
        """Return the percentiles of each stage's times after the warm-up."""
        return {stage: percentiles_ms(seconds[_WARM_UP:]) for stage, seconds in self.times.items()}


def _variants(localizer: Localizer) -> dict[str, _Variant]:
    """Return what is timed, by name."""
    variants = {"first pose": _Variant(localizer, False), "tracked": _Variant(localizer, True)}
    if localizer.info.keyframes:
        variants["first pose, without keyframes"] = _Variant(localizer.student_alone(), False)
    return variants


def _scene_images(path: Path) -> list[tuple[np.ndarray, Camera]]:
    """Return the first test images of a scene and their cameras."""
    frames = islice(open_scene(path).frames("test"), _MAX_SCENE_IMAGES)
    images = [(frame.image(), frame.known_camera()) for frame in frames]
    if not images:
        raise SceneError(
            f"{path}: has no test frames, expected at least one; choose another --scene"
        )
    return images


def _self_test_image(map_file: MapFile, size: tuple[int, int]) -> list[tuple[np.ndarray, Camera]]:
    """Return the self-test image of a map, resized for a camera of another size."""
    if not map_file.info.self_test:
        raise MoteError(
            f"{map_file.path}: has no self-test image, like maps of older versions; give --scene, "
            "or make the map again"
        )
    image_hw3 = cv2.resize(map_file.info.self_test.image_hw3(), size, interpolation=cv2.INTER_CUBIC)
    return [(image_hw3, map_file.info.camera.resized(*size))]
