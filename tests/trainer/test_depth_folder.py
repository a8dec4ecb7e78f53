"""The folder of the teacher `files`: what it may contain, and what is refused."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from make_depth_files import INDEX, NAMES, SMALL, depth_of, pose, read_files, write_folder

from distill_training.teachers.depth_files.depth_folder import DepthFolder
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import invert


def test_a_pointmap_is_read_as_its_depth(tmp_path: Path):
    folder = write_folder(tmp_path / "d")
    depth_hw = depth_of(pose(0)).astype(np.float32)
    points_hw3 = SMALL.cell_rays(1).astype(np.float32) * depth_hw[..., None]
    np.savez(folder / "view0.npz", points_hw3=points_hw3)
    np.testing.assert_array_equal(read_files(folder, ["view0"])["view0"].depth_hw, depth_hw)


def test_confidence_has_median_1_and_no_value_without_depth(tmp_path: Path):
    folder = write_folder(tmp_path / "d")
    depth_hw = np.array([[1, 2, np.nan], [3, 4, -1]], np.float16)
    confidence_hw = np.array([[6, 6, 6], [9, np.nan, 6]])
    np.savez(folder / "a.npz", depth_hw=depth_hw, confidence_hw=confidence_hw)
    one = read_files(folder, ["a"])["a"]
    np.testing.assert_allclose(one.confidence_hw, [[1, 1, 0], [1.5, 0, 0]])
    np.testing.assert_allclose(one.depth_hw, [[1, 2, np.nan], [3, 4, np.nan]])


@pytest.mark.parametrize("place", ["exports/mini_npz/results.npz", "results.npz"])
def test_mini_npz_of_depth_anything_3_holds_the_same(tmp_path: Path, place: str):
    more = {"poses": True, "layout": "mini_npz", "images": NAMES[::-1]}
    folder = write_folder(tmp_path / "d", "global", **more)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / place,
        depth=np.stack([depth_of(pose(i)) for i in range(6)][::-1]).astype(np.float32),
        conf=np.stack([np.full((120, 160), 1.0 + i) for i in range(6)][::-1]).astype(np.float32),
        extrinsics=np.stack([invert(pose(i))[:3] for i in range(6)][::-1]),
        intrinsics=np.stack([SMALL.K_33] * 6),
    )
    depth = DepthFolder(folder)
    assert depth.available(["view9", "view1", "view4"]) == ["view1", "view4"]
    found = list(depth.read(["view1", "view4"]))
    assert [name for name, _ in found] == ["view4", "view1"]
    for name, one in found:
        i = NAMES.index(name)
        np.testing.assert_array_equal(one.depth_hw, depth_of(pose(i)).astype(np.float32))
        np.testing.assert_allclose(one.T_map_cam_44, pose(i), atol=1e-9)
        np.testing.assert_allclose(one.intrinsics_33, SMALL.K_33)
        assert (one.confidence_hw == 1).all()


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"extrinsics": np.ones((6, 3, 3))}, "expected floats of shape (6, 3, 4)"),
        ({"intrinsics": np.ones((5, 3, 3))}, "expected floats of shape (6, 3, 3)"),
        ({"depth": np.ones((5, 6, 8))}, "found depth of 5 images, expected depth of the 6 images"),
        ({"depth": np.ones((6, 8))}, "expected floats of shape (n, h, w)"),
    ],
)
def test_a_wrong_mini_npz_is_one_clear_error(tmp_path: Path, arrays: dict, expected: str):
    folder = write_folder(tmp_path, "global", layout="mini_npz", images=NAMES)
    np.savez(folder / "results.npz", **{"depth": np.ones((6, 6, 8)), **arrays})
    with pytest.raises(ReconstructionError) as error:
        read_files(folder)
    assert expected in str(error.value) and len(str(error.value)) < 300


def test_settings_differ_for_other_values_of_the_same_size(tmp_path: Path):
    folder, found = write_folder(tmp_path), []
    for value in (1, 2, 1):
        np.savez(folder / "a.npz", depth_hw=np.full((6, 8), value, np.float32))
        found.append(DepthFolder(folder).settings(["a"]))
    assert found[0] == found[2] != found[1]


def broken_index(**changes: object) -> str:
    index = {**INDEX, "scale": "global", **changes}
    return json.dumps({key: value for key, value in index.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "index.json: No such file or directory; expected an index such as"),
        ("{", "index.json: Input data was truncated"),
        (broken_index(licence=None), "missing required field `licence`"),
        (broken_index(licence=""), "Expected `str` of length >= 1 - at `$.licence`"),
        (broken_index(scale="big"), "Invalid enum value 'big' - at `$.scale`"),
        (broken_index(version=2), "Invalid enum value 2 - at `$.version`"),
        (broken_index(scale="per_image", poses=True), "found poses with the scale per_image"),
        (broken_index(layout="mini_npz"), "is missing, but the index has the layout mini_npz"),
    ],
)
def test_a_wrong_index_is_one_clear_error(tmp_path: Path, text: str | None, expected: str):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(ReconstructionError) as error:
        DepthFolder(tmp_path)
    assert expected in str(error.value) and len(str(error.value)) < 300


HALF = np.ones((6, 8), np.float32)
NAN_POSE = np.full((4, 4), np.nan)


@pytest.mark.parametrize(
    ("arrays", "poses", "expected"),
    [
        ({}, False, "found arrays of other names, expected depth_hw or points_hw3"),
        ({"depth_hw": HALF, "points_hw3": np.ones((6, 8, 3))}, False, "and not both"),
        ({"depth_hw": HALF[None]}, False, "(1, 6, 8) float32, expected floats of shape (h, w)"),
        ({"depth_hw": HALF.astype(int)}, False, "int64, expected floats of shape (h, w)"),
        ({"depth_hw": HALF.astype(object)}, False, "object, expected floats of shape (h, w)"),
        ({"depth_hw": HALF[:0]}, False, "of shape (0, 8) is empty"),
        ({"depth_hw": np.ones((1, 9000), "f4")}, False, "at most 8192 px a side"),
        ({"points_hw3": np.ones((6, 8, 4))}, False, "float64, expected floats of shape (h, w, 3)"),
        ({"depth_hw": HALF, "confidence_hw": HALF.T}, False, "expected floats of shape (6, 8)"),
        ({"depth_hw": HALF, "intrinsics_33": np.ones((2, 3))}, False, "floats of shape (3, 3)"),
        ({"depth_hw": HALF, "window_4": NAN_POSE[0]}, False, "window_4 has values that are not"),
        ({"depth_hw": HALF}, True, "has no pose, but the index states"),
        ({"depth_hw": HALF, "T_map_cam_44": NAN_POSE}, True, "the pose holds NaN or infinity"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, arrays: dict, poses: bool, expected: str):
    folder = write_folder(tmp_path, "global", poses=poses)
    np.savez(folder / "a.npz", **arrays)
    with pytest.raises(ReconstructionError) as error:
        read_files(folder, ["a"])
    assert expected in str(error.value) and len(str(error.value)) < 300


def write_header(path: Path, key: str, header: bytes, version: int = 1, stored: int = 9) -> None:
    """Write an array whose header is followed by zeros, `stored` bytes of them."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY" + bytes([version, 0]) + length + header
        archive.writestr(f"{key}.npy", start + bytes(stored))


def header_of(shape: str, kind: str = "<f4") -> bytes:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        ("points_hw3", "(8192, 8192, 8192)", "expected floats of shape (h, w, 3)"),
        ("points_hw3", "(8192, 8192, 3)", "at most 8192 px a side and 256 MiB an image"),
        ("T_map_cam_44", "(8192, 8192)", "expected floats of shape (4, 4)"),
        ("depth_hw", "(-1, -9)", "is empty, cut off"),
    ],
)
def test_no_array_is_read_before_its_size_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, shape: str, expected: str
):
    folder, sizes = write_folder(tmp_path), []
    write_header(folder / "a.npz", key, header_of(shape), stored=1 << 20)
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: sizes.append(n) or read(self, n)
    )
    with pytest.raises(ReconstructionError) as error:
        read_files(folder, ["a"])
    assert expected in str(error.value)
    assert sizes and all(0 <= size < 1000 for size in sizes)


@pytest.mark.parametrize(
    ("version", "header"),
    [(2, header_of("(3, 3)")), (1, b"("), (1, b"{[]: 1}"), (1, header_of("(3, 3)", ","))],
)
def test_a_wrong_header_is_one_clear_error(tmp_path: Path, version: int, header: bytes):
    folder = write_folder(tmp_path)
    write_header(folder / "a.npz", "depth_hw", header, version)
    with pytest.raises(ReconstructionError, match=r"a\.npz: missing or damaged \((found f|header)"):
        read_files(folder, ["a"])


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", None])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes | None):
    folder = write_folder(tmp_path)
    (folder / "a.npz").write_bytes(content or b"")
    if content is None:  # a header that announces more than the file has
        np.save(tmp_path / "x.npy", np.ones((8000, 4), np.float32))
        with zipfile.ZipFile(folder / "a.npz", "w") as archive:
            header = (tmp_path / "x.npy").read_bytes()[:128]
            archive.writestr(
                "depth_hw.npy", header.replace(b"(8000, 4)", b"(8000,8000)") + b"0" * 9
            )
    with pytest.raises(
        ReconstructionError, match=r"a\.npz: (missing or damaged|depth_hw of shape)"
    ):
        read_files(folder, ["a"])


def test_names_that_do_not_fit_are_an_error(tmp_path: Path):
    folder = write_folder(tmp_path)
    np.savez(folder / "other.npz", depth_hw=HALF)
    with pytest.raises(ReconstructionError, match=r"none of the 6 images \(such as 'view0'\), but"):
        DepthFolder(folder).available(NAMES)
