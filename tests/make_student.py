"""Small students for tests, and images for them."""

import numpy as np
import torch
from make_wall import SMALL as SMALL_CNN
from torch import Tensor, nn

from distill_training.students import CellGrid, SceneNormalization, Student, create_student

TINY = (  # options of `mote-distill map` for a map in a second
    "--width 64 --set stem=8 fine=16 coarse=16 fine-blocks=1 coarse-blocks=1 --steps 1 --batch 2 "
    "--poses given"
)
NORMALIZATION = SceneNormalization((1.0, 2.0, 3.0), 1.5)
SMALL: dict[str, dict] = {
    "cnn": SMALL_CNN,
    "mobilenet": {"width": 16, "blocks": 1},
    "vit": {
        "width": 32,
        "heads": 2,
        "encoder_blocks": 2,
        "decoder_blocks": 1,
        "stem": 8,
        "fine": 16,
        "fine_blocks": 1,
    },
}


def student(family: str, stride: int = 8, size: tuple[int, int] = (64, 48), **settings) -> Student:
    """Return a small untrained student for images of a width and height; its seed is 0."""
    torch.manual_seed(0)
    return create_student(
        family, NORMALIZATION, CellGrid(stride, *size), **{**SMALL[family], **settings}
    ).eval()


def images(count: int = 1, size: tuple[int, int] = (64, 48), seed: int = 0) -> Tensor:
    """Return random images (count, height, width, 3) uint8."""
    shape = (count, size[1], size[0], 3)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, shape, np.uint8))


def as_if_trained(network: Student) -> Student:
    """Return the student with batch statistics of images and points far from the mean."""
    network.train()(images(2, seed=1))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.01)
    nn.init.normal_(network.head.out.weight, std=0.1)
    return network.eval()
