"""Scene folders in the layout of 12Scenes.

camera-intrinsics.txt         3x3 or 4x4 K of colour and depth; all images have one size then
                              (optional)
data/NAME.color.jpg|png       8-bit colour
data/NAME.depth.png           16-bit millimetres along the optical axis, 0 = no depth (optional)
data/NAME.pose.txt            4x4 camera-to-map, metres, OpenCV axes (optional for each frame);
                              -inf: not known
train.txt test.txt            frame names, one a line

Images are read as stored, without the EXIF rotation: K and poses refer to the sensor's axes.
"""

from pathlib import Path

from mote_localization.errors import SceneError
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    make_frames,
    natural_key,
    size_of_image,
)
from mote_localization.scenes.scene import NOMINAL_RATE_HZ
from mote_localization.scenes.text_files import read_intrinsics, read_pose, read_text


class FolderScene(FileScene):
    """A scene folder. Names, camera and poses are read on opening, images on demand."""

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a pose is not a rigid transform.
        """
        path = Path(path)
        splits = {split: set(_read_names(path, split)) for split in ("train", "test")}
        both = splits["train"] & splits["test"]
        if both:
            raise SceneError(
                f"{path}: frame {min(both)[:60]} is in train.txt and in test.txt, expected in "
                "one of them"
            )
        ordered = sorted(splits["train"] | splits["test"], key=natural_key)
        if not ordered:
            raise SceneError(f"{path}: train.txt and test.txt name no frame, expected at least one")
        intrinsics = path / "camera-intrinsics.txt"
        camera = None
        if intrinsics.exists():
            camera = read_intrinsics(intrinsics, size_of_image(_image_path(path, ordered[0])))

        def frame(index: int, name: str) -> FileFrame:
            return FileFrame(
                name,
                index / NOMINAL_RATE_HZ,
                camera,
                read_pose(path / f"data/{name}.pose.txt"),
                _image_path(path, name),
                path / f"data/{name}.depth.png",
            )

        frames = make_frames(path, ordered, frame)
        train, test = ([f for f in frames if f.name in splits[s]] for s in ("train", "test"))
        super().__init__(path, train, test)


def _read_names(folder: Path, split: str) -> list[str]:
    path = folder / f"{split}.txt"
    if not path.exists():
        if split == "test":
            return []
        raise SceneError(f"{path}: is missing, expected the names of the training frames")
    names = read_text(path).split()
    if any(Path(name).name != name or name.startswith(".") for name in names):
        raise SceneError(f"{path}: contains a frame name with a folder, expected plain names")
    return names


def _image_path(folder: Path, name: str) -> Path:
    return find_image(folder, f"data/{name}.color", (".jpg", ".png"))
