"""TensorRT engines: really built, cached, and refused when outdated, damaged or another's."""

import errno
import fcntl
import logging
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT
from make_map import with_doubled_points, write_constant_map
from onnx import helper

from mote_localization.backends import engines
from mote_localization.backends.engine_builder import Gpu, engine_for
from mote_localization.backends.engines import EngineKey, cache_folder, load_or_build
from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile, read_map

KEY = EngineKey("0" * 64, "library 1.0", "sm_86", "fp16")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/mote"


class Builder:
    """Returns a different engine each time, and counts the calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return b"engine \n %d" % self.count


@pytest.fixture
def build() -> Builder:
    return Builder()


def only_engine(cache: Path) -> Path:
    (path,) = cache.glob("*.engine")
    return path


# The cache


def test_engine_is_built_once(build: Builder, cache: Path):
    assert load_or_build(KEY, build) == load_or_build(KEY, build) == b"engine \n 1"
    assert only_engine(cache).stat().st_size < 500


@pytest.mark.parametrize("part", ["graph_sha256", "builder", "gpu", "precision"])
def test_engines_of_different_keys_are_different(build: Builder, part: str):
    load_or_build(KEY, build)
    assert load_or_build(replace(KEY, **{part: "other"}), build) == b"engine \n 2"
    assert load_or_build(KEY, build) == b"engine \n 1"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content[:-1] + b"9",
        lambda content: content + b"1",
        lambda content: content.replace(b"sm_86", b"sm_89"),
        lambda content: b'{"sha256": 5}\n' + content,
        lambda content: b"[" * 100_000,
        lambda content: np.random.default_rng(0).bytes(10_000),
    ],
)
def test_damaged_or_other_engine_is_built_again(
    build: Builder, cache: Path, spoil, caplog: pytest.LogCaptureFixture
):
    load_or_build(KEY, build)
    path = only_engine(cache)
    path.write_bytes(spoil(path.read_bytes()))
    assert load_or_build(KEY, build) == b"engine \n 2"
    assert f"{path}: the cached engine cannot be used" in caplog.text
    assert load_or_build(KEY, build) == b"engine \n 2"


def test_too_large_engine_is_not_read(build: Builder, cache: Path, monkeypatch: pytest.MonkeyPatch):
    load_or_build(KEY, build)
    monkeypatch.setattr(engines, "_MAX_ENGINE_BYTES", 5)
    assert load_or_build(KEY, build) == b"engine \n 2"


def test_failed_build_stores_nothing(cache: Path):
    def fail() -> bytes:
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        load_or_build(KEY, fail)
    assert not list(cache.glob("*.engine"))


def test_unwritable_folder_only_logs_a_warning(
    build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    (tmp_path / "file").write_bytes(b"")  # a file in place of a folder stops root, too
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for count in (1, 2):
        assert load_or_build(KEY, build) == b"engine \n %d" % count
    assert caplog.text.count("the engine cannot be stored") == 2
    assert "set XDG_CACHE_HOME" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_cache_is_read(build: Builder, cache: Path):
    load_or_build(KEY, build)
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert load_or_build(KEY, build) == b"engine \n 1"
        assert load_or_build(replace(KEY, gpu="other"), build) == b"engine \n 2"
    finally:
        cache.chmod(stat.S_IRWXU)


def test_cache_of_another_user_is_read(build: Builder, monkeypatch: pytest.MonkeyPatch, caplog):
    load_or_build(KEY, build)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert load_or_build(KEY, build) == b"engine \n 1"
    assert not caplog.text


def test_least_recently_used_engines_are_removed(
    build: Builder, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "_MAX_ENGINES", 2)
    for i in range(4):
        key = replace(KEY, precision=f"{i}")
        load_or_build(key, build)
        os.utime(cache / key.file_name(), (i, i))
    load_or_build(replace(KEY, precision="4"), build)
    kept = {replace(KEY, precision=f"{i}").file_name() for i in (3, 4)}
    assert {path.name for path in cache.glob("*.engine")} == kept


def test_two_processes_build_once(cache: Path, tmp_path: Path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mote_localization.backends.engines import EngineKey, load_or_build\n"
        "def build():\n"
        f"    with open({str(tmp_path / 'builds')!r}, 'a') as file: file.write('x')\n"
        "    time.sleep(1)\n"
        "    return b'built'\n"
        "print(load_or_build(EngineKey('m', 'l', 'g', 'p'), build))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in started]
    assert [out for out, _ in outputs] == ["b'built'\n"] * 2
    assert (tmp_path / "builds").read_text() == "x"
    assert sum("another process builds the same engine" in err for _, err in outputs) == 1


def test_killed_builder_releases_the_lock(build: Builder, cache: Path):
    script = (
        "import os\n"
        "from mote_localization.backends.engines import EngineKey, load_or_build\n"
        f"load_or_build(EngineKey(**{vars(KEY)}), lambda: os._exit(9))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert run.returncode == 9
    started = time.monotonic()
    assert load_or_build(KEY, build) == b"engine \n 1"
    assert time.monotonic() - started < 5
    assert cache_folder() == cache


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_file_system_without_locks_is_no_error(build: Builder, monkeypatch, error: int):
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert load_or_build(KEY, build) == load_or_build(KEY, build) == b"engine \n 1"


def test_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/robot")
    assert cache_folder() == Path("/home/robot/.cache/mote")


# The builder

SM_86 = Gpu((8, 6))


@pytest.fixture
def room(tmp_path: Path) -> MapFile:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return read_map(write_constant_map(tmp_path / "room.onnx"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_is_built_and_cached(room: MapFile, cache: Path, precision, caplog):
    engine = engine_for(room, "tensorrt_rtx", SM_86, precision)
    assert len(engine) > 1000 and engine in only_engine(cache).read_bytes()
    assert engine_for(room, "tensorrt_rtx", Gpu((8, 6), "some card"), precision) == engine
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    engine_for(room, "tensorrt_rtx", Gpu((8, 9)), precision)
    assert len(list(cache.glob("*.engine"))) == 2


def test_unsupported_capability_is_refused(room: MapFile):
    with pytest.raises(BackendError, match="builds no engines for sm_35, only for sm_75, .*sm_86"):
        engine_for(room, "tensorrt_rtx", Gpu((3, 5)), "fp32")


def test_message_names_an_unsupported_layer(room: MapFile):
    model = onnx.load_model_from_string(room.model)
    nodes = [
        helper.make_node("Cast", ["image"], ["whole"], to=onnx.TensorProto.INT32),
        helper.make_node("BitShift", ["image", "image"], ["odd"], "layer_odd", direction="LEFT"),
        helper.make_node("Cast", ["odd"], ["float"], to=onnx.TensorProto.FLOAT),
    ]
    kept = [node for node in model.graph.node if "float" not in node.output]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[1:], *kept])
    onnx.checker.check_model(model, full_check=True)
    odd = replace(room, model=model.SerializeToString())
    with pytest.raises(
        BackendError, match="room.onnx: tensorrt_rtx cannot take its graph: .*BitShift"
    ):
        engine_for(odd, "tensorrt_rtx", SM_86, "fp32")


def test_graph_with_other_output_shapes_than_declared_is_refused(room: MapFile):
    odd = replace(room, model=with_doubled_points(room.model))
    with pytest.raises(
        BackendError, match=r"gives its graph the inputs and outputs .*'points': \(1, 60, 40, 3, "
    ):
        engine_for(odd, "tensorrt_rtx", SM_86, "fp32")


@pytest.mark.parametrize("text", ["86", "sm_8", "sm_8600", "sm_x6", "SM_86", ""])
def test_gpu_is_parsed_from_its_capability(text: str):
    with pytest.raises(BackendError, match="expected its compute capability, as in sm_86"):
        Gpu.parse(text)
    assert Gpu.parse("sm_120") == Gpu((12, 0)) and str(Gpu((8, 6), "RTX")) == "sm_86 RTX"


def test_message_about_a_missing_library_explains_how_to_install_it(room: MapFile, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="backend tensorrt: .*JetPack"):
        engine_for(room, "tensorrt", SM_86, "fp16")
