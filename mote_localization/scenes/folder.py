"""Scene folders in the layout of 12Scenes.

camera-intrinsics.txt         3x3 K of colour and depth; all images have one size then (optional)
data/NAME.color.jpg|png       8-bit colour
data/NAME.depth.png           16-bit millimetres along the optical axis, 0 = no depth (optional)
data/NAME.pose.txt            4x4 camera-to-map, metres, OpenCV axes (optional for each frame)
train.txt test.txt            frame names, one a line

Images are read as stored, without the EXIF rotation: K and poses refer to the sensor's axes.
"""

from pathlib import Path

from natsort import natsort_keygen, ns

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.geometry import check_pose
from mote_localization.image_files import read_image
from mote_localization.scenes.frame_files import FileFrame, FileScene
from mote_localization.scenes.scene import NOMINAL_RATE_HZ
from mote_localization.scenes.text_files import read_matrix, read_text

_natural_key = natsort_keygen(alg=ns.IGNORECASE)


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
        ordered = sorted(splits["train"] | splits["test"], key=_natural_key)
        if not ordered:
            raise SceneError(f"{path}: train.txt and test.txt name no frame, expected at least one")
        camera = _read_camera(path, ordered[0])
        frames = [_frame(path, i, name, camera) for i, name in enumerate(ordered)]
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


def _read_camera(folder: Path, first: str) -> Camera | None:
    path = folder / "camera-intrinsics.txt"
    if not path.exists():
        return None
    K = read_matrix(path, (3, 3))
    height, width = read_image(_image_path(folder, first)).shape[:2]
    try:
        return Camera.from_K(width, height, K)
    except CameraError as error:
        raise SceneError(f"{path}: {error}") from error


def _frame(folder: Path, index: int, name: str, camera: Camera | None) -> FileFrame:
    path = folder / f"data/{name}.pose.txt"
    return FileFrame(
        name,
        index / NOMINAL_RATE_HZ,
        camera,
        check_pose(read_matrix(path, (4, 4)), str(path)) if path.exists() else None,
        _image_path(folder, name),
        folder / f"data/{name}.depth.png",
    )


def _image_path(folder: Path, name: str) -> Path:
    for suffix in ("jpg", "png"):
        path = folder / f"data/{name}.color.{suffix}"
        if path.exists():
            return path
    raise SceneError(
        f"{folder}/data/{name[:60]}.color.jpg (or .png): is missing, but train.txt or "
        "test.txt names it"
    )
