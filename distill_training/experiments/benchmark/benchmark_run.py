"""Runs a benchmark: one scene after the other, with a table after each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from distill_training.experiments.benchmark.benchmark_table import (
    FIGURES,
    benchmark_table,
    write_table,
)
from distill_training.experiments.benchmark.scene_results import BenchmarkScene, MakeMap
from mote_localization.command_line import say
from mote_localization.errors import MoteError, first_line


def option_values(**parts: Any) -> dict[str, object]:
    """Return all fields of option classes by name, as JSON stores them: "train.steps" and so on."""
    nested = {name: asdict(part) for name, part in parts.items()}
    return dict(_flat(msgspec.json.decode(msgspec.json.encode(nested, enc_hook=str))))


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_options(options: Mapping[str, object], output: Path) -> None:
    """Check that the maps in the folder of a benchmark are made with the same options.

    Args:
        options: From `option_values`; one that an earlier version did not have may have any value.
        output: Folder of the benchmark.

    Raises:
        MoteError: They are not, or the file of the earlier run is damaged.
    """
    path = output / FIGURES
    if not path.exists():
        return
    try:
        before = msgspec.json.decode(path.read_bytes(), type=_Earlier).options
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise MoteError(
            f"{path}: is damaged ({str(error)[:80]}); delete it if the options are the same"
        ) from error
    for name, value in options.items():
        if value != before.get(name, value):
            raise MoteError(
                f"{output}: holds maps made with {name} {str(before[name])[:60]}, found "
                f"{str(value)[:60]}; choose another --output, or the earlier options"
            )


def run_benchmark(
    scenes: Sequence[BenchmarkScene],
    make_map: MakeMap,
    options: Mapping[str, object],
    output: Path,
) -> None:
    """Make and evaluate the map of each scene that is not finished; write and print the table.

    Args:
        scenes: The scenes.
        make_map: Makes the map of a scene, or resumes it.
        options: With which it makes the maps, for later runs; see `check_options`.
        output: Folder of the benchmark.

    Raises:
        MoteError: Some scenes failed; the table holds the others.
    """
    found: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}

    def write() -> dict[str, dict[str, float]]:
        in_order = {scene.name: found[scene.name] for scene in scenes if scene.name in found}
        write_table(in_order, failed, options, output)
        return in_order

    write()
    for i, scene in enumerate(sorted(scenes, key=lambda scene: not scene.has_figures), 1):
        say(f"{i} of {len(scenes)}: {scene.name}")
        try:
            found[scene.name] = scene.result(make_map)
        except (MoteError, RuntimeError, ValueError) as error:  # from torch: out of memory
            failed[scene.name] = first_line(error, 300)
            say(f"failed: {failed[scene.name]}")
        write()
    results = write()
    if results:
        Console().print(benchmark_table(results))
    if failed:
        name, reason = next(iter(failed.items()))
        raise MoteError(
            f"{len(failed)} of {len(scenes)} scenes failed; {name[:60]}: {reason[:200]}"
        )


class _Earlier(msgspec.Struct):
    options: dict[str, object]
