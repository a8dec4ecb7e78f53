"""Folders of photographs: frames, names, orientation, calibration, damaged files."""

import base64
import shutil
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.image_files import image_size
from mote_localization.image_headers import Lens
from mote_localization.scenes import open_scene
from mote_localization.scenes.photos import PhotoScene

RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (90, 90, 90)
ORIENTATION = 0x0112  # of EXIF
CALIBRATION = """\
image_width: 60
image_height: 40
camera_matrix: {rows: 3, cols: 3, data: [50.0, 0, 29.5, 0, 50, 19.5, 0, 0, 1]}
"""


def photograph() -> np.ndarray:
    """Return an upright image (40, 60, 3), red at the top left and green at the bottom right."""
    image_hw3 = np.full((40, 60, 3), GREY, np.uint8)
    image_hw3[:20, :20], image_hw3[20:, 40:] = RED, GREEN
    return image_hw3


def write(path: Path, image: np.ndarray, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(image).save(path, exif=exif, quality=95, subsampling=0)


def stored_image(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return the image that a sensor stores for an EXIF orientation (EXIF 2.3, table 6)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    steps = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    rows, columns = steps.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::rows, ::columns])


def only_image(folder: Path) -> np.ndarray:
    (frame,) = open_scene(folder).frames("train")
    image_hw3 = frame.image()
    assert image_hw3.dtype == np.uint8 and image_hw3.flags["C_CONTIGUOUS"]
    return image_hw3


def test_photographs_are_frames_in_the_order_of_their_numbers(tmp_path):
    for name in ("img10.JPG", "img2.jpeg", "img1.png", "Übung 3.PNG"):
        write(tmp_path / name, photograph())
    (tmp_path / "notes.txt").write_text("the kitchen")
    (tmp_path / "._img1.png").write_text("what another system left")
    (tmp_path / "more.jpg").mkdir()
    write(tmp_path / "more.jpg" / "img3.png", photograph())
    scene = open_scene(tmp_path)
    assert isinstance(scene, PhotoScene) and not scene.sequential
    frames = list(scene.frames("train"))
    assert [f.name for f in frames] == ["img1", "img2", "img10", "Übung 3"]
    assert [f.name for f in scene.frames("all")] == [f.name for f in frames]
    assert list(scene.frames("test")) == []
    assert [scene.count(split) for split in ("train", "test", "all")] == [4, 0, 4]
    assert np.allclose(np.diff([f.stamp_s for f in frames]), 1 / 30)
    assert all(f.camera is f.T_map_cam is f.depth() is None for f in frames)


def test_numbers_and_case_decide_the_order_of_names(tmp_path):
    ordered = ["2", "10", "a", "A2", "a10b3", "a10B20", "a-1", "b"]
    for name in reversed(ordered):
        write(tmp_path / f"{name}.png", photograph())
    assert [f.name for f in PhotoScene(tmp_path).frames("all")] == ordered


@pytest.mark.parametrize("other", ["a.png", "A.png"])
def test_frame_names_are_distinct_without_regard_to_case(tmp_path, other):
    for name in ("a.jpg", other):
        write(tmp_path / name, photograph())
    names = {f.name for f in PhotoScene(tmp_path).frames("all")}
    assert names == {"a.jpg", other}


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    write(tmp_path / "a.png", photograph())
    (tmp_path / "a.png").rename(tmp_path / "K\udcfcche.png")
    (frame,) = PhotoScene(tmp_path).frames("all")
    assert frame.name == r"K\xfcche"
    assert frame.image().shape == (40, 60, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_rotated_upright(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    write(path, stored_image(photograph(), orientation), orientation)
    found_hw3 = only_image(tmp_path)
    assert found_hw3.shape == (40, 60, 3)
    assert image_size(path, upright=True) == (60, 40)
    for place, colour in (((5, 5), RED), ((35, 55), GREEN), ((35, 5), GREY)):
        np.testing.assert_allclose(found_hw3[place], colour, atol=6)


GRADIENT = np.arange(240, dtype=np.uint8).reshape(12, 20)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    "stored",
    [
        GRADIENT,
        GRADIENT.astype(np.uint16) << 8,
        np.dstack([GRADIENT] * 3).astype(np.uint16) << 8,
        np.dstack([GRADIENT] * 3 + [GRADIENT // 2]),  # alpha of every value
        np.dstack([GRADIENT] * 3 + [GRADIENT]).astype(np.uint16) << 8,
    ],
    ids=["grey", "grey, 16 bits", "16 bits", "alpha", "alpha, 16 bits"],
)
def test_every_kind_of_pixel_is_read_as_rgb(tmp_path, stored, suffix):
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), stored)
    rounding = 1 if suffix == "tif" else 0
    np.testing.assert_allclose(only_image(tmp_path), np.dstack([GRADIENT] * 3), atol=rounding)


def test_a_grey_jpeg_is_read_as_rgb(tmp_path):
    write(tmp_path / "a.jpg", GRADIENT)
    np.testing.assert_allclose(only_image(tmp_path), np.dstack([GRADIENT] * 3), atol=5)


def test_the_first_page_of_a_tiff_is_read(tmp_path):
    pages = [Image.fromarray(photograph()), Image.fromarray(photograph()[:20])]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(only_image(tmp_path), photograph())


def test_the_content_of_a_file_decides_its_format(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "a.webp").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(only_image(tmp_path), photograph())


@pytest.fixture
def without_pi_heif(monkeypatch):
    """Let the import of pi-heif fail."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.delitem(sys.modules, "pi_heif.as_plugin", raising=False)


def write_other_files(folder: Path) -> None:
    """Write files that are no readable photographs, of which only some are images."""
    names = ("IMG_1.HEIC", "IMG_2.heic", "IMG_10.HEIC", "IMG_11.HEIC", "a.gif", "b.DNG")
    for name in (*names, "c.mov", "d.txt", ".DS_Store", "e.aae", "._f.heic"):
        (folder / name).write_bytes(b"?")


def test_images_that_cannot_be_read_are_named_in_one_warning(tmp_path, caplog, without_pi_heif):
    write(tmp_path / "a.jpg", photograph())
    write_other_files(tmp_path)
    assert [f.name for f in PhotoScene(tmp_path).frames("all")] == ["a"]
    (warning,) = caplog.messages
    assert "4 heic (IMG_1.HEIC, IMG_2.heic, IMG_10.HEIC, ...; pip install pi-heif)" in warning
    assert "1 gif (a.gif; convert them to jpg), 1 dng (b.DNG; convert them to jpg)" in warning
    assert not any(name in warning for name in ("mov", "txt", "DS_Store", "aae", "._f"))


def test_photographs_beside_videos_and_notes_give_no_warning(tmp_path, caplog):
    write(tmp_path / "a.jpg", photograph())
    for name in ("b.mov", "c.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"?")
    assert PhotoScene(tmp_path).count("all") == 1
    assert not caplog.messages


def test_a_folder_of_images_that_cannot_be_read_is_an_error_that_names_them(
    tmp_path, without_pi_heif
):
    write_other_files(tmp_path)
    with pytest.raises(SceneError, match=r"4 heic \(IMG_1.HEIC.*pip install pi-heif") as caught:
        open_scene(tmp_path)
    assert len(str(caught.value).removeprefix(str(tmp_path))) <= 300


HEIC = base64.b64decode(  # photograph() of 64x48 px, with the EXIF data of a phone
    """
    AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA
    AAAAAAAAADRpbG9jAAAAAERAAAIAAQAAAAAB4gABAAAAAAAAAHsAAgAAAAACXQABAAAAAAAAAHwAAAA4aWluZgAAAAAA
    AgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADd
    aXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAq
    QgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQAN
    AAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBp
    eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAA/21kYXQA
    AAB3KAGvCeAjT7/+hE//oNND50+3uUHekZ2Kt/7JM37fdSo+WEMPiGZ/0gXekEkkomuAARk/zraK2+xcL9Y+jxBteGmC
    Lt3nx8vts7pBbMFenk90cCRWzpVGtpKzzK8Vf8sqZyoIq7igcndIllKNeNuIHG2fWoKTArAAAAAGRXhpZgAATU0AKgAA
    AAgABAEPAAIAAAAGAAAAPgEQAAIAAAAIAAAARAESAAMAAAABAAEAAIdpAAQAAAABAAAATAAAAABNYWtlcgBQaG9uZSAx
    AAACkgoADAAAAAEAAABqpAUAAwAAAAEAGgAAAAAAAEARAAAAAAAA
    """
)


def test_heic_is_read_where_pi_heif_is_installed(tmp_path):
    pytest.importorskip("pi_heif", reason="pi-heif is not installed")
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    image_hw3 = only_image(tmp_path)
    assert image_hw3.shape == (48, 64, 3)
    for place, colour in (((5, 5), RED), ((40, 60), GREEN), ((40, 5), GREY)):
        np.testing.assert_allclose(image_hw3[place], colour, atol=6)
    (frame,) = PhotoScene(tmp_path).frames("all")
    assert (frame.size(), frame.lens()) == ((64, 48), Lens("Maker Phone 1", 4.25, 26.0))


def test_the_error_for_heic_without_pi_heif_names_the_package(tmp_path, without_pi_heif):
    (tmp_path / "a.jpg").write_bytes(HEIC)  # under the name of another format
    (frame,) = PhotoScene(tmp_path).frames("all")
    with pytest.raises(SceneError, match="a.jpg: is HEIC.*pip install pi-heif"):
        frame.image()


def test_a_calibration_applies_to_upright_photographs_of_its_size(tmp_path):
    (tmp_path / "camera.yaml").write_text(CALIBRATION)
    write(tmp_path / "a.jpg", photograph())
    write(tmp_path / "b.jpg", stored_image(photograph(), 6), 6)
    write(tmp_path / "c.jpg", photograph(), 6)  # a portrait
    write(tmp_path / "d.png", photograph()[:20])
    (tmp_path / "e.jpg").write_bytes(b"no image")
    cameras = {f.name: f.camera for f in PhotoScene(tmp_path).frames("all")}
    camera = Camera(60, 40, 50.0, 50.0, 29.5, 19.5)
    assert cameras == {"a": camera, "b": camera, "c": None, "d": None, "e": None}


def test_a_calibration_that_fits_no_photograph_is_named(tmp_path, caplog):
    (tmp_path / "camera.yaml").write_text(CALIBRATION)
    write(tmp_path / "a.jpg", photograph()[:20])
    assert next(open_scene(tmp_path).frames("all")).camera is None
    assert "no photograph has the size of the calibration" in caplog.text


def test_a_damaged_calibration_is_an_error(tmp_path):
    (tmp_path / "camera.yaml").write_text("{}")
    write(tmp_path / "a.jpg", photograph())
    with pytest.raises(SceneError, match="camera.yaml: holds no camera matrix"):
        PhotoScene(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 400, -2])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_damaged_photograph_is_named_and_the_others_are_read(tmp_path, suffix, kept):
    write(tmp_path / f"a.{suffix}", photograph())
    path = tmp_path / f"b.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    write(path, noise)
    path.write_bytes(path.read_bytes()[:kept])
    whole, damaged = PhotoScene(tmp_path).frames("train")
    assert whole.image().shape == (40, 60, 3)
    with pytest.raises(SceneError, match=f"b.{suffix}: is damaged or no image"):
        damaged.image()


def test_damaged_photographs_are_counted_where_a_folder_is_described(tmp_path):
    write(tmp_path / "a.jpg", photograph())
    assert PhotoScene(tmp_path).described()["images"] == "1, 60x40 px"
    (tmp_path / "b.jpg").write_bytes(b"")
    assert PhotoScene(tmp_path).described()["images"] == "2, 60x40 px, 1 cannot be read"


def write_black_png(path: Path, width: int, height: int) -> None:
    """Write a black image, which takes few bytes at any size."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    row = bytes(1 + (width + 7) // 8)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0),
        b"IDAT": zlib.compress(row * height),
        b"IEND": b"",
    }
    with open(path, "ab") as file:
        for kind, content in parts.items():
            file.write(struct.pack(">I", len(content)) + kind + content)
            file.write(struct.pack(">I", zlib.crc32(kind + content)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("width", "height"), [(16385, 1), (1, 16385), (16000, 12501)])
def test_an_image_of_too_many_pixels_is_rejected_before_decoding(
    tmp_path, monkeypatch, width, height
):
    write_black_png(tmp_path / "a.png", width, height)
    assert (tmp_path / "a.png").stat().st_size < 100_000
    monkeypatch.setattr(cv2, "imdecode", None)
    (frame,) = PhotoScene(tmp_path).frames("train")
    for read in (frame.image, frame.size):
        with pytest.raises(
            SceneError, match=f"a.png: is {width}x{height} px, expected at most 163"
        ):
            read()


@pytest.mark.filterwarnings("error")
def test_reading_the_size_of_a_large_photograph_gives_no_warning(tmp_path):
    write_black_png(tmp_path / "a.png", 10000, 5000)
    assert image_size(tmp_path / "a.png") == (10000, 5000)


def test_the_error_for_a_missing_photograph_names_it(tmp_path):
    write(tmp_path / "a.jpg", photograph())
    (frame,) = PhotoScene(tmp_path).frames("train")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(SceneError, match="a.jpg: cannot be read"):
        frame.image()


def test_the_images_of_a_scene_folder_can_be_read_as_photographs(kitchen, tmp_path):
    for path in sorted(kitchen.glob("data/*.color.*"))[:3]:
        shutil.copy(path, tmp_path)
    scene = open_scene(tmp_path)
    assert scene.count("train") == 3
    assert {frame.image().shape for frame in scene.frames("train")} == {(480, 640, 3)}
