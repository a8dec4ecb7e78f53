"""Measure the processor time of DUSt3R pairs with images encoded once, or again for each pair.

Usage: `python benchmarks/bench_encode_once.py`. Prints a table.

The network has random weights and DUSt3R's proportions, but is small, and runs on one CPU core. Its
dpt head is as wide as the published one, so this head takes most of the time.
"""

import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from distill_training.teachers.dust3r import DUSt3R

IMAGES, PAIRS_PER_IMAGE = 20, 10
HEIGHT, WIDTH = 96, 128  # px
BATCH = 5  # pairs that are decoded together, in both orders
# Depths, and ratio of widths (4 to 3), of the published networks
NET = {
    "enc_embed_dim": 256,
    "enc_depth": 24,
    "enc_num_heads": 4,
    "dec_embed_dim": 192,
    "dec_depth": 12,
    "dec_num_heads": 3,
}


def pairs() -> list[tuple[int, int]]:
    """Return pairs of images on a ring: each with its nearest ones on both sides."""
    steps = range(1, PAIRS_PER_IMAGE // 2 + 1)
    return [(i, (i + step) % IMAGES) for i in range(IMAGES) for step in steps]


def encode_per_pair(network: DUSt3R, images_n3hw: torch.Tensor) -> None:
    """Run the whole network on every pair, in both orders."""
    for i, j in pairs():
        network(images_n3hw[i, None], images_n3hw[j, None])
        network(images_n3hw[j, None], images_n3hw[i, None])


def encode_once(network: DUSt3R, images_n3hw: torch.Tensor) -> None:
    """Encode every image once, then decode the pairs in batches, both orders together."""
    tokens, grid = zip(*(network.encode(image[None]) for image in images_n3hw), strict=True)
    for start in range(0, len(pairs()), BATCH):
        one, other = (
            torch.cat([tokens[k] for k in side])
            for side in zip(*pairs()[start : start + BATCH], strict=True)
        )
        network.decode(torch.cat([one, other]), grid[0], torch.cat([other, one]), grid[0])


def cpu_seconds(run: Callable[[DUSt3R, torch.Tensor], None], *arguments) -> float:
    """Return the processor time of a run, in seconds; other processes do not change it."""
    start = time.process_time()
    run(*arguments)
    return time.process_time() - start


@torch.inference_mode()
def main() -> None:
    """Print a table: head, seconds either way, and their ratio."""
    torch.set_num_threads(1)
    images_n3hw = 2 * torch.rand(IMAGES, 3, HEIGHT, WIDTH) - 1
    table = Table("head", "encoded for each pair (s)", "encoded once (s)", "times faster")
    for head in ("linear", "dpt"):
        network = DUSt3R(head_type=head, **NET).eval()
        network(images_n3hw[:1], images_n3hw[1:2])  # warm up
        runs = (encode_per_pair, encode_once)
        slow, fast = (cpu_seconds(run, network, images_n3hw) for run in runs)
        table.add_row(head, f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}")
    Console().print(f"{IMAGES} images of {WIDTH}x{HEIGHT} px, {PAIRS_PER_IMAGE} pairs per image")
    Console().print(table)


if __name__ == "__main__":
    main()
