"""A folder of depth that another network wrote: its index, and one file an image.

index.json      what the depth is, see `DepthIndex`
NAME.npz        depth of the training image NAME, see `FileDepth`

or, in the layout mini_npz of Depth Anything 3, one file for all images, in the order of the index:

exports/mini_npz/results.npz    depth (n, h, w); optional: conf (n, h, w), intrinsics (n, 3, 3),
                                extrinsics (n, 3, 4), map to camera

Sizes and types are checked before memory is allocated, and nothing in the files is executed.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
import numpy as np

from distill_training.common.array_folder import BAD_HEADER, DAMAGED, reason_of
from mote_localization.errors import ReconstructionError, SceneError
from mote_localization.geometry import check_pose, invert, rigid
from mote_localization.input_files import check_input, read_input

_INDEX = "index.json"
_MINI_NPZ = ("exports/mini_npz/results.npz", "results.npz")
_MAX_INDEX_BYTES = 16 << 20
_MAX_SIDE = 8192  # px of a depth map
_MAX_ARRAY_BYTES = 256 << 20  # of an array of one image
_MAX_IMAGES = 1 << 20
# Sides of an array; those with a letter may have any length, the same in all arrays of a file.
_Shape = tuple[int | str, ...]
_SHAPES: dict[str, _Shape] = {  # of the arrays of an image's file
    "depth_hw": ("h", "w"),
    "points_hw3": ("h", "w", 3),
    "confidence_hw": ("h", "w"),
    "window_4": (4,),
    "intrinsics_33": (3, 3),
    "T_map_cam_44": (4, 4),
}
_MINI_NPZ_SHAPES: dict[str, _Shape] = {
    "depth": ("n", "h", "w"),
    "conf": ("n", "h", "w"),
    "intrinsics": ("n", 3, 3),
    "extrinsics": ("n", 3, 4),
}
_Line = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class DepthIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `index.json`; further keys are ignored."""

    format: Literal["mote-depth"]
    version: Literal[1]
    model: _Line  # name of the network
    licence: _Line  # of the network's weights; the map carries it
    # metric: metres; global: one unknown unit for all images; per_image: one for each image
    scale: Literal["metric", "global", "per_image"]
    poses: bool = False  # the files have poses, in the unit of the depth
    layout: Literal["npz", "mini_npz"] = "npz"
    images: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MAX_IMAGES)] = ()  # of mini_npz


@dataclass(frozen=True)
class FileDepth:
    """Depth of one image, as the folder holds it."""

    depth_hw: np.ndarray  # along the optical axis, unit of the folder, NaN = none
    confidence_hw: np.ndarray  # 1 in the median, 0 = no information
    # left, top, right, bottom edge of the part of the image that the depth shows, px; None: whole
    window_4: np.ndarray | None = None
    intrinsics_33: np.ndarray | None = None  # px of the depth map
    T_map_cam_44: np.ndarray | None = None


class DepthFolder:
    """Depth of the images of a scene; it is read one image at a time."""

    def __init__(self, path: Path) -> None:
        """Open the folder; only its index is read.

        Raises:
            ReconstructionError: The index is missing or damaged, or lacks the licence.
        """
        self.path = path
        self.index = _read_index(path / _INDEX)
        self._single: Path | None = None
        if self.index.layout == "mini_npz":
            found = [path / name for name in _MINI_NPZ if (path / name).is_file()]
            if not found:
                raise ReconstructionError(
                    f"{path / _MINI_NPZ[0]}: is missing, but the index has the layout mini_npz"
                )
            self._single = found[0]

    def available(self, names: Sequence[str]) -> list[str]:
        """Return those of the names for which the folder has depth.

        Raises:
            ReconstructionError: There is none.
        """
        listed = set(self.index.images)
        have = [name for name in names if (name in listed if self._single else self._has(name))]
        if not have:
            some = self.index.images[0] if listed else next(self._stems(), "no .npz file")
            raise ReconstructionError(
                f"{self.path}: found depth of none of the {len(names)} images (such as "
                f"'{names[0][:40]}'), but of '{some[:40]}'; expected files named NAME.npz as the "
                "training images"
            )
        return have

    def settings(self, names: Sequence[str]) -> dict[str, str]:
        """Return a hash of what decides the depth: the index, and the checksums of all arrays.

        The archives state the checksums, so that no array is read.

        Raises:
            ReconstructionError: A file is damaged.
        """
        paths = [self._single] if self._single else [self._path(name) for name in names]
        files = [(path.name, _checksums(path)) for path in paths]
        content = (self.path / _INDEX).read_bytes() + json.dumps(files).encode()
        return {"files_sha256": hashlib.sha256(content).hexdigest()}

    def read(self, names: Collection[str]) -> Iterator[tuple[str, FileDepth]]:
        """Yield name and depth of the named images, in the order of the files.

        Raises:
            ReconstructionError: A file is damaged, or its arrays are not as documented.
        """
        if self._single:
            yield from self._read_mini_npz(self._single, names)
            return
        for name in names:
            with _arrays(self._path(name), _SHAPES) as arrays:
                found = {key: arrays.read(key) for key in arrays.keys}
            yield name, _file_depth(str(self._path(name)), found, self.index.poses)

    def _read_mini_npz(self, path: Path, names: Collection[str]) -> Iterator[tuple[str, FileDepth]]:
        wanted = set(names)
        with _arrays(path, _MINI_NPZ_SHAPES) as arrays:
            streams = {key: arrays.rows(key) for key in arrays.keys}
            count = arrays.sides["n"] if "depth" in streams else 0
            if count != len(self.index.images):
                raise ReconstructionError(
                    f"{path}: found depth of {count} images, expected depth of the "
                    f"{len(self.index.images)} images that the index lists"
                )
            for name in self.index.images:
                row = {key: next(stream) for key, stream in streams.items()}
                if name not in wanted:
                    continue
                found = {"depth_hw": row["depth"]}
                if "conf" in row:
                    found["confidence_hw"] = row["conf"]
                if "intrinsics" in row:
                    found["intrinsics_33"] = row["intrinsics"]
                if "extrinsics" in row:
                    T_cam_map = row["extrinsics"].astype(np.float64)
                    found["T_map_cam_44"] = invert(rigid(T_cam_map[:3, :3], T_cam_map[:3, 3]))
                yield name, _file_depth(f"{path}, {name[:40]}", found, self.index.poses)

    def _path(self, name: str) -> Path:
        return self.path / f"{name}.npz"

    def _has(self, name: str) -> bool:
        return Path(name).name == name and self._path(name).is_file()

    def _stems(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.path.glob("*.npz")))


def _file_depth(where: str, arrays: dict[str, np.ndarray], poses: bool) -> FileDepth:
    """Check the values of an image's arrays and return them as depth."""
    if ("depth_hw" in arrays) == ("points_hw3" in arrays):
        raise ReconstructionError(
            f"{where}: found arrays {', '.join(sorted(arrays)) or 'of other names'}, expected "
            "depth_hw or points_hw3, and not both"
        )
    depth_hw = arrays["depth_hw"] if "depth_hw" in arrays else arrays["points_hw3"][..., 2:]
    size = depth_hw.shape[:2]
    for key in ("window_4", "intrinsics_33"):
        if key in arrays and not np.isfinite(arrays[key]).all():
            raise ReconstructionError(f"{where}: {key} has values that are not finite")
    depth_hw = depth_hw.reshape(size).astype(np.float32)
    valid_hw = np.isfinite(depth_hw) & (depth_hw > 0)
    confidence_hw = np.ones(size, np.float32)
    if "confidence_hw" in arrays:
        confidence_hw = np.nan_to_num(arrays["confidence_hw"], posinf=0).clip(0)
        median = float(np.median(confidence_hw[valid_hw])) if valid_hw.any() else 0.0
        confidence_hw = (confidence_hw / max(median, 1e-12)).astype(np.float32)
    T_map_cam = None
    if poses:
        if "T_map_cam_44" not in arrays:
            raise ReconstructionError(
                f"{where}: has no pose, but the index states that the files have poses; expected "
                "T_map_cam_44"
            )
        try:
            T_map_cam = check_pose(arrays["T_map_cam_44"].astype(np.float64), where)
        except SceneError as error:
            raise ReconstructionError(str(error)) from error
    return FileDepth(
        np.where(valid_hw, depth_hw, np.nan),
        np.where(valid_hw, confidence_hw, 0),
        arrays.get("window_4"),
        arrays.get("intrinsics_33"),
        T_map_cam,
    )


def _read_index(path: Path) -> DepthIndex:
    """Read and check the index."""
    example = (
        '{"format": "mote-depth", "version": 1, "model": "...", "licence": "...", "scale": '
        '"per_image"}'
    )
    try:
        index = msgspec.json.decode(read_input(path, _MAX_INDEX_BYTES), type=DepthIndex)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReconstructionError(
            f"{path}: {reason_of(error)}; expected an index such as {example}"
        ) from error
    if index.poses and index.scale == "per_image":
        raise ReconstructionError(
            f"{path}: found poses with the scale per_image, expected poses in the unit of the "
            "depth (scale metric or global), or no poses"
        )
    return index


class _Arrays:
    """Arrays of floating point numbers in a file of numpy, read after their size is checked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, shapes: Mapping[str, _Shape]) -> None:
        self._path, self._archive, self._shapes = path, archive, shapes
        names = set(archive.namelist())
        self.keys = [key for key in shapes if f"{key}.npy" in names]
        self.sides: dict[str, int] = {}  # letter -> length, of the arrays that are opened

    def read(self, key: str) -> np.ndarray:
        """Return an array."""
        (value,) = self._rows(key, whole=True)
        return value

    def rows(self, key: str) -> Iterator[np.ndarray]:
        """Return an iterator over the first axis of an array; one item is in memory at a time."""
        return self._rows(key, whole=False)

    def _rows(self, key: str, whole: bool) -> Iterator[np.ndarray]:
        stream = self._archive.open(f"{key}.npy")
        shape, fortran, dtype = _read_header(stream)
        item = shape if whole else shape[1:]
        found = f"{self._path}: found {key} of shape {str(shape)[:40]} {str(dtype)[:20]}, expected"
        expected = [self.sides.get(n, n) if isinstance(n, str) else n for n in self._shapes[key]]
        sides = list(zip(expected, shape, strict=False))
        if (
            dtype.kind != "f"
            or len(shape) != len(expected)
            or any(n != length for n, length in sides if isinstance(n, int))
        ):
            raise ReconstructionError(f"{found} floats of shape ({', '.join(map(str, expected))})")
        size = math.prod(item) * dtype.itemsize
        if max(item) > _MAX_SIDE or size > _MAX_ARRAY_BYTES:
            raise ReconstructionError(
                f"{found} at most {_MAX_SIDE} px a side and {_MAX_ARRAY_BYTES >> 20} MiB an image; "
                "write smaller depth"
            )
        count = 1 if whole else shape[0]
        stored = self._archive.getinfo(f"{key}.npy").file_size
        if min(shape) < 1 or count * size > stored or (fortran and not whole):
            raise ReconstructionError(
                f"{self._path}: {key} of shape {str(shape)[:40]} is empty, cut off or in Fortran "
                "order; write it again with numpy.savez"
            )
        self.sides |= {n: length for n, length in sides if isinstance(n, str)}
        return self._items(stream, count, size, item, dtype, "F" if fortran else "C")

    def _items(
        self,
        stream: IO[bytes],
        count: int,
        size: int,
        item: tuple[int, ...],
        dtype: np.dtype,
        order: Literal["C", "F"],
    ) -> Iterator[np.ndarray]:
        with stream:
            for _ in range(count):
                try:
                    content = stream.read(size)
                    yield np.frombuffer(content, dtype).reshape(item, order=order)
                except DAMAGED as error:
                    raise _damaged(self._path, error) from error


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type of an array; types that need pickle have kind O.

    Raises:
        ValueError: The header is damaged. It has at most 64 KiB in version 1.0, the only one that
            numpy writes for arrays of floats; other versions may have up to 4 GiB.
    """
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"found format version {version}, expected (1, 0)")
    try:
        return np.lib.format.read_array_header_1_0(stream)
    except BAD_HEADER as error:
        raise ValueError(f"header of an array: {reason_of(error)}") from error


def _checksums(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and CRC of each array of a file."""
    with _archive(path) as archive:
        return [(one.filename, one.file_size, one.CRC) for one in archive.infolist()]


@contextmanager
def _arrays(path: Path, shapes: Mapping[str, _Shape]) -> Iterator[_Arrays]:
    """Open a file of arrays of these shapes."""
    with _archive(path) as archive:
        yield _Arrays(path, archive, shapes)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; errors of numpy and zipfile become a `ReconstructionError`."""
    try:
        check_input(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ReconstructionError:
    return ReconstructionError(
        f"{path}: missing or damaged ({reason_of(error)}); expected a file of numpy.savez"
    )
