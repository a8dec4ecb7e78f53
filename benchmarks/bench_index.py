"""Measure the index of a large place: time and memory to make it, and the time of a query.

usage: bench_index.py [--keyframes N]. The features are random, so that only the index is measured:
those of an image take about 40 ms. Prints Markdown.
"""

import resource
import time
from dataclasses import dataclass

import numpy as np
import tyro

from mote_localization.bundles.place_index import PlaceIndex
from mote_localization.command_line import one_line_errors
from mote_localization.image_features import DESCRIPTOR_SIZE

_FEATURES = 500  # of a keyframe
_QUERIES = 20


@dataclass(frozen=True)
class Bench:
    """Measure an index of synthetic keyframes."""

    keyframes: int = 20_000

    def run(self) -> None:
        """Print the table."""
        began = time.perf_counter()
        index = PlaceIndex.made([range(self.keyframes)], _descriptors)
        made_s = time.perf_counter() - began
        times = []
        for number in range(0, self.keyframes, max(1, self.keyframes // _QUERIES)):
            query_md = _descriptors(number)
            began = time.perf_counter()
            similar = index.most_similar(query_md, 24)
            times.append(1e3 * (time.perf_counter() - began))
            assert similar.keyframe_n[0] == number
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            "| keyframes | s | peak MB | index MB | ms of a query |\n|---:|---:|---:|---:|---:|\n"
            f"| {self.keyframes} | {made_s:.1f} | {peak_mb:.0f} | {len(index.encoded()) / 1e6:.1f} "
            f"| {np.median(times):.1f} |"
        )


def _descriptors(number: int) -> np.ndarray:
    """Return descriptors (m, 128) of length 1, the same for the same keyframe."""
    rng = np.random.default_rng(number)
    found_md = rng.random((_FEATURES, DESCRIPTOR_SIZE), np.float32) ** 2
    return np.sqrt(found_md / found_md.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench).run()
