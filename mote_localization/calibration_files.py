"""Calibration files of ROS, OpenCV and Kalibr.

The parser of each format returns its entries as a dictionary; `_NAMES` lists their names.
"""

import logging
import re
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import msgspec
import yaml

from mote_localization.camera import DISTORTION_MODELS, MODEL_ALIASES, Camera
from mote_localization.errors import CameraError, first_line
from mote_localization.input_files import read_input

_log = logging.getLogger(__name__)
_MAX_BYTES = 256 << 10
_MAX_NUMBERS = max(map(max, DISTORTION_MODELS.values()))  # of a list
_EXPECTED = (
    "a camera_calibration YAML or ost.txt, a CameraInfo as ros2 topic echo --once prints it, an "
    "OpenCV FileStorage (YAML or XML) or a Kalibr camchain"
)
# Each entry, and what the formats call it, in lower case without _ and spaces.
_NAMES = {
    "image_width": ("imagewidth", "width"),
    "image_height": ("imageheight", "height"),
    "resolution": ("resolution", "cameraresolution", "imagesize"),
    "camera_matrix": ("cameramatrix", "k"),
    "intrinsics": ("intrinsics",),
    "distortion_coefficients": (
        "distortioncoefficients",
        "distortioncoeffs",
        "distcoeffs",
        "distortion",
        "d",
    ),
    "distortion_model": ("distortionmodel",),
    "camera_model": ("cameramodel",),
    "fisheye_model": ("fisheyemodel",),
    "binning_x": ("binningx",),
    "binning_y": ("binningy",),
    "roi": ("roi",),
}
_NO_LENS = ("none", "pinhole")  # models whose distortion model has another name, or none

_Numbers = Annotated[tuple[str, ...], msgspec.Meta(max_length=_MAX_NUMBERS)]  # words of the file
_Size = Annotated[int, msgspec.Meta(ge=0)]


class _Matrix(msgspec.Struct, frozen=True):
    data: _Numbers = ()


class _Region(msgspec.Struct, frozen=True):
    """`sensor_msgs/RegionOfInterest`."""

    x_offset: _Size = 0
    y_offset: _Size = 0
    width: _Size = 0
    height: _Size = 0


class _Calibration(msgspec.Struct, frozen=True):
    """The entries of a calibration file that are used."""

    image_width: int | None = None
    image_height: int | None = None
    resolution: tuple[int, int] | None = None  # instead of both
    camera_matrix: _Matrix | _Numbers = ()  # 9 values, row by row
    intrinsics: _Numbers = ()  # instead: fx, fy, cx, cy
    distortion_coefficients: _Matrix | _Numbers = ()
    distortion_model: str | None = None
    camera_model: str | None = None  # the distortion model in some files
    fisheye_model: int = 0  # not 0: OpenCV's fisheye model
    binning_x: _Size = 0
    binning_y: _Size = 0
    roi: _Region = _Region()


def read_calibration(path: Path | str) -> Camera:
    """Read a calibration file; its content decides which format it has.

    The formats: YAML and ost.txt of ROS camera_calibration, a CameraInfo as `ros2 topic echo`
    prints it, OpenCV FileStorage (YAML or XML), Kalibr camchain. Of several cameras or messages in
    a file, the first is used.

    Raises:
        CameraError: The file is missing, has none of these formats, or holds no usable calibration.
    """
    path = Path(path)
    try:
        text = read_input(path, _MAX_BYTES).decode("utf-8-sig")
        return _camera(_used_entries(_parse(text)))
    except OSError as error:
        raise CameraError(
            f"{path}: cannot be read ({error.strerror}), expected a calibration file"
        ) from error
    except CameraError as error:
        raise CameraError(f"{path}: {error}") from error
    except msgspec.ValidationError as error:
        raise CameraError(
            f"{path}: {str(error)[:120]}; expected image_width, image_height, camera_matrix, "
            "distortion_model and distortion_coefficients, as camera_calibration writes them"
        ) from error
    # the parsers of YAML, XML and numbers have no common base class of errors
    except (yaml.YAMLError, SyntaxError, ValueError, RecursionError) as error:
        raise CameraError(
            f"{path}: is no calibration ({first_line(error, 60)}), expected {_EXPECTED}"
        ) from error


def _parse(text: str) -> Any:
    """Return the entries of a file as a dictionary of texts, or what else it holds."""
    if text.lstrip().startswith("<"):
        return _parse_xml(text)
    if re.search(r"^\[image\]\s*$", text, re.MULTILINE):
        return _parse_ost(text)
    # OpenCV's first line %YAML:1.0 is no YAML; echoed messages end with ---
    # BaseLoader reads texts. SafeLoader refuses OpenCV's tags, takes 1e-05 for a text, and expands
    # merge keys, which can grow without end.
    return next(yaml.load_all(re.sub(r"\A%YAML:.*", "", text), yaml.BaseLoader), None)


def _parse_xml(text: str) -> dict[str, Any]:
    """Return the elements of OpenCV's XML; those with elements inside are dictionaries."""
    if "<!DOCTYPE" in text:  # entities could expand without end
        raise CameraError(f"found a DOCTYPE in XML, expected {_EXPECTED}")
    return {
        entry.tag: {part.tag: _xml_value(part) for part in entry} or _xml_value(entry)
        for entry in ElementTree.fromstring(text)
    }


def _xml_value(element: ElementTree.Element) -> Any:
    """Return the words of an element; a number or word alone is not in a list, except data."""
    words = (element.text or "").split()
    return words[0] if len(words) == 1 and element.tag != "data" else words


def _parse_ost(text: str) -> dict[str, Any]:
    """Return the entries of ost.txt: below [sections], lines with a name, then lines of numbers."""
    sections: list[dict[str, Any]] = []
    numbers: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            sections.append({})
        elif re.match(r"[-+.\d]", line):
            numbers += line.split()
        elif line and sections:
            numbers = sections[-1].setdefault(line, [])
    image, *cameras = sections
    _warn_of_others([f"number {i}" for i, _ in enumerate(cameras, 1)])
    size = {name: values[0] for name, values in image.items() if values}
    return {**next(iter(cameras), {}), **size}


def _warn_of_others(cameras: list[str]) -> None:
    if len(cameras) > 1:
        _log.warning("the calibration file has %d cameras: %s is used", len(cameras), cameras[0])


def _used_entries(content: Any) -> _Calibration:
    """Return the entries that are used.

    Raises:
        CameraError: The content is no dictionary with a camera matrix.
        msgspec.ValidationError: An entry has another type.
    """
    named = _named(content)
    chain = [name for name in named if re.fullmatch(r"cam\d+", name)]
    if chain:  # of Kalibr
        _warn_of_others(chain)
        named = _named(named[chain[0]])
    used = {
        entry: next(named[name] for name in names if name in named)
        for entry, names in _NAMES.items()
        if not named.keys().isdisjoint(names)
    }
    if used.keys().isdisjoint(("camera_matrix", "intrinsics")):
        raise CameraError(f"holds no camera matrix, expected {_EXPECTED}")
    return msgspec.convert(used, _Calibration, strict=False)  # from texts


def _named(content: Any) -> dict[str, Any]:
    """Return the entries of a dictionary with names in lower case, without _ and spaces."""
    if not isinstance(content, dict):
        return {}
    names = {name: re.sub("[_ ]", "", name).lower() for name in content if isinstance(name, str)}
    return {names[name]: content[name] for name in names}


def _camera(found: _Calibration) -> Camera:
    width, height = found.resolution or (found.image_width, found.image_height)
    if width is None or height is None:
        raise CameraError("found no size of the images, expected image_width and image_height")
    K = _floats(found.camera_matrix)
    if found.intrinsics:
        if len(found.intrinsics) != 4:
            raise CameraError(
                f"found {len(found.intrinsics)} intrinsics, expected 4 of a pinhole: fx fy cx cy"
            )
        fx, fy, cx, cy = _floats(found.intrinsics)
        K = (fx, 0, cx, 0, fy, cy, 0, 0, 1)
    coefficients = _floats(found.distortion_coefficients)
    model = _model(found)
    if model is None and len(coefficients) == 4 and any(coefficients):
        _log.warning(
            "the calibration file names no distortion model: 4 coefficients are those of plumb_bob;"
            " for a fisheye lens add distortion_model: equidistant"
        )
    region = found.roi
    return Camera.from_K(width, height, K, model, coefficients).read_out(
        (region.x_offset, region.y_offset),
        (region.width, region.height),
        (found.binning_x, found.binning_y),
    )


def _floats(values: _Matrix | _Numbers) -> tuple[float, ...]:
    data = values.data if isinstance(values, _Matrix) else values
    return tuple(map(float, data))


def _model(found: _Calibration) -> str | None:
    """Return the distortion model; None where no entry names one."""
    names = [found.distortion_model, found.camera_model, "fisheye" if found.fisheye_model else None]
    lower = [name.lower() for name in names if name]
    models = {MODEL_ALIASES.get(name, name) for name in lower if name not in _NO_LENS}
    if len(models) > 1:
        raise CameraError(
            f"found the camera models {', '.join(sorted(models))[:80]}, expected one of "
            f"{', '.join(DISTORTION_MODELS)}"
        )
    return next(iter(models), None)
