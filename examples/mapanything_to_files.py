"""Depth by MapAnything, for `--files`: `python examples/mapanything_to_files.py PHOTOS FOLDER`.

Needs a GPU and github.com/facebookresearch/map-anything. Code and these weights are Apache-2.0.
"""

import json
import sys
from pathlib import Path

import numpy as np

MODEL = "facebook/map-anything-apache"
INDEX = {"format": "mote-depth", "version": 1, "model": MODEL, "licence": "Apache-2.0"}
KEYS = {"depth_hw": "depth_z", "confidence_hw": "conf"}
KEYS |= {"intrinsics_33": "intrinsics", "T_map_cam_44": "camera_poses"}


def write_depth(folder: Path, name: str, size: tuple[int, int], arrays: dict) -> None:
    """Write one image's arrays; load_images reduces it, and cuts off two sides evenly."""
    found = {key: arrays[source].squeeze() for key, source in KEYS.items()}
    fraction = np.array(found["depth_hw"].shape[::-1]) / size
    margin_2 = (size - size * fraction / fraction.max()) / 2  # px of the image: left, top
    np.savez(folder / f"{name}.npz", **found, window_4=np.concatenate([margin_2, size - margin_2]))


if __name__ == "__main__":
    from mapanything.models import MapAnything
    from mapanything.utils.image import load_images
    from PIL import Image, ImageOps

    photos, folder = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    paths = sorted(p for p in photos.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    model = MapAnything.from_pretrained(MODEL).to("cuda")
    made = model.infer(load_images([str(p) for p in paths]), memory_efficient_inference=True)
    for path, one in zip(paths, made, strict=True):
        arrays = {key: one[key].float().cpu().numpy() for key in KEYS.values()}
        write_depth(folder, path.stem, ImageOps.exif_transpose(Image.open(path)).size, arrays)
    (folder / "index.json").write_text(json.dumps({**INDEX, "scale": "metric", "poses": True}))
