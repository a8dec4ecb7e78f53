"""Depth by MoGe-2, for `--files`: `python examples/moge_to_files.py IMAGES FOLDER`.

Needs a GPU and `pip install git+https://github.com/microsoft/MoGe.git`. Code and weights are MIT.
"""

import json
import sys
from pathlib import Path

import numpy as np

INDEX = {"format": "mote-depth", "version": 1, "model": "MoGe-2", "licence": "MIT"}


def write_depth(folder: Path, image: Path, depth_hw: np.ndarray) -> None:
    """Write the depth of an image; infinite where the model has none."""
    name = image.stem.removesuffix(".color")
    np.savez_compressed(folder / f"{name}.npz", depth_hw=depth_hw.astype(np.float32))


def main(images: Path, folder: Path) -> None:
    """Predict the depth of each image; its scale differs a little from image to image."""
    import cv2
    import torch
    from moge.model.v2 import MoGeModel

    folder.mkdir(exist_ok=True)
    model = MoGeModel.from_pretrained("Ruicheng/moge-2-vitl").to("cuda").eval()
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in {".jpg", ".jpeg", ".png"}:
            continue
        rgb_hw3 = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        rgb_3hw = torch.tensor(rgb_hw3 / 255, dtype=torch.float32, device="cuda").permute(2, 0, 1)
        write_depth(folder, path, model.infer(rgb_3hw)["depth"].cpu().numpy())
    (folder / "index.json").write_text(json.dumps({**INDEX, "scale": "per_image"}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
