"""Time pairs whose images are encoded once against pairs that encode their images each time.

A network of DUSt3R's proportions, made small, on one core of a CPU, whose time it takes:
`python tools/bench_encode_once.py`. The dpt head is as wide as in the published networks whatever
the network's width, so beside a small encoder it takes most of the time.
"""

import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from distill_training.teachers.dust3r import DUSt3R

IMAGES, PAIRS_AN_IMAGE = 20, 10
HEIGHT, WIDTH = 96, 128  # px
BATCH = 5  # pairs, decoded in both orders together
# Depths, and widths 4 to 3, as the published networks
NET = {
    "enc_embed_dim": 256,
    "enc_depth": 24,
    "enc_num_heads": 4,
    "dec_embed_dim": 192,
    "dec_depth": 12,
    "dec_num_heads": 3,
}


def pairs() -> list[tuple[int, int]]:
    """Return the pairs of images on a ring, each with the nearest on both sides."""
    steps = range(1, PAIRS_AN_IMAGE // 2 + 1)
    return [(i, (i + step) % IMAGES) for i in range(IMAGES) for step in steps]


def each_time(network: DUSt3R, images_n3hw: torch.Tensor) -> None:
    """Look at the images of every pair, in both orders."""
    for i, j in pairs():
        network(images_n3hw[i, None], images_n3hw[j, None])
        network(images_n3hw[j, None], images_n3hw[i, None])


def once(network: DUSt3R, images_n3hw: torch.Tensor) -> None:
    """Encode every image alone, then decode the pairs in batches, both orders together."""
    tokens, grid = zip(*(network.encode(image[None]) for image in images_n3hw), strict=True)
    for start in range(0, len(pairs()), BATCH):
        one, other = (
            torch.cat([tokens[k] for k in side])
            for side in zip(*pairs()[start : start + BATCH], strict=True)
        )
        network.decode(torch.cat([one, other]), grid[0], torch.cat([other, one]), grid[0])


def seconds(run: Callable[[DUSt3R, torch.Tensor], None], *given) -> float:
    """Return the processor time of a run, which others on the machine do not lengthen."""
    start = time.process_time()
    run(*given)
    return time.process_time() - start


@torch.inference_mode()
def main() -> None:
    """Print a table: head, seconds each way, and how many times faster."""
    torch.set_num_threads(1)
    images_n3hw = 2 * torch.rand(IMAGES, 3, HEIGHT, WIDTH) - 1
    table = Table("head", "each time (s)", "once (s)", "times faster")
    for head in ("linear", "dpt"):
        network = DUSt3R(head_type=head, **NET).eval()
        network(images_n3hw[:1], images_n3hw[1:2])  # warm up
        slow, fast = (seconds(run, network, images_n3hw) for run in (each_time, once))
        table.add_row(head, f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}")
    Console().print(f"{IMAGES} images of {WIDTH}x{HEIGHT} px, {PAIRS_AN_IMAGE} pairs an image")
    Console().print(table)


if __name__ == "__main__":
    main()
